"""The figures of README.md and of pages in docs/, made from the result files: none stands there without its source.

python -m benchmarks.tables    writes the parts of all of them between the two marks
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import critic_losses, markdown, matrix, scaling_page
from benchmarks.provenance import RESULTS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: made by python -m benchmarks.tables -->", "<!-- end of results -->"
CPU, GPU = "intel-xeon-2-cores", "nvidia-h200"
"""Machines whose result files of the suite are shown; the second once it has one."""


def main() -> None:
    """Puts the tables into all pages."""
    for page, tables in PAGES.items():
        path = ROOT / page
        path.write_text(with_tables(path.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        print(page)


def with_tables(text: str, tables: str) -> str:
    """A page with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def readme() -> str:
    """What the README shows, each with the file that it comes from."""
    small = _read("cifar10_small_cpu.json")
    parts = [_small(small["recipe"]), _methods(small["methods_at_equal_time"])]
    parts += [
        _edge(_read("edge_cifar10.json")),
        *([_asked(_read("budget_cifar10.json"))] if (RESULTS / "budget_cifar10.json").exists() else []),
        _rival(_read("rival_cifar10.json")),
        _progressive(_read("progressive_latency.json")),
    ]
    return "\n\n".join(parts + _suite(CPU, ("speed",)) + _suite(GPU, ("protocol", "fast")))


def speed() -> str:
    """What docs/speed.md shows."""
    parts = _suite(CPU, ("methods", "memory", "analysis", "start", "export")) + _suite(
        GPU, ("variants", "speed", "memory")
    )
    return "\n\n".join([_trials(_read("fast_recipe_trials.json")), *parts])


def losses() -> str:
    """What docs/methods.md shows."""
    parts = []
    for name in ("critic_losses.json", "critic_losses_screen.json"):
        parts.append(f"{critic_losses.page(_read(name))}\n\nFrom `benchmarks/results/{name}`.")
    return "\n\n".join(parts)


def own_images() -> str:
    """What docs/own-images.md shows beside what its commands print."""
    return _own_images(_read("own_images.json"))


def scaling() -> str:
    """What docs/scaling.md shows, once it was measured."""
    files = (scaling_page.PARALLEL, scaling_page.MODEL)
    if not all((RESULTS / name).exists() for name in files):
        return ""
    return scaling_page.page(*map(_read, files))


def budgets() -> str:
    """What benchmarks/README.md shows of accuracy budgets, of the runs that were measured."""
    names = ("budget_cifar10.json", "budget_photos.json")
    return "\n\n".join(_budgets(name, _read(name)) for name in names if (RESULTS / name).exists())


def development() -> str:
    """What docs/development.md shows, once it was measured."""
    if not matrix.RESULT.exists():
        return ""
    result = _read("matrix.json")
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    return f"`make matrix` on {machine} (`benchmarks/results/matrix.json`).\n\n{matrix.table(result['rows'])}"


PAGES = {
    "README.md": readme,
    "docs/development.md": development,
    "docs/speed.md": speed,
    "docs/methods.md": losses,
    "docs/own-images.md": own_images,
    "docs/scaling.md": scaling,
    "benchmarks/README.md": budgets,
}


def _small(result: dict[str, Any]) -> str:
    train, selected, progressive = result["train"], result["select"], result["export_progressive"]
    candidates = selected["candidates"]
    rows = [
        "**CIFAR-10, `vgg_cifar10_small`** "
        f"({train['iterations']:,} iterations, {train['seconds'] / 60:.0f} minutes of training on {_machine(result)}; "
        "`benchmarks/results/cifar10_small_cpu.json`). MACs are those of convolutions and linear layers, critics "
        "included.",
        "",
        "| network | test accuracy % | MACs | of main | parameters |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {c['name']} | {c['test_accuracy_pct']:.2f} | {c['macs'] / 1e6:.2f}M | {100 * c['macs_ratio']:.1f} % "
        f"| {c['params'] / 1e6:.3f}M |"
        for c in candidates
    ]
    for row in (progressive, result["export_progressive_2_points"]):
        name = f"progressive, `{_option(row['command'], '--max-drop')}`"
        macs = f"{row['mean_macs'] / 1e6:.2f}M (mean) | {100 * row['macs_ratio']:.1f} %"
        params = f"{result['profile']['cascade']['params'] / 1e6:.3f}M"
        rows.append(f"| {name} | {row['test_accuracy_pct']:.2f} | {macs} | {params} |")
    return "\n".join(rows)


def _methods(result: dict[str, Any]) -> str:
    rows = [
        f"**Training methods at equal time** (the same recipe and file, cut to a short run; {_machine(result)}).",
        "",
        "| method | iterations | sub-model 1 | 2 | 3 | main |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in result["rows"].items():
        accuracies = run["test_accuracy_pct"]
        cells = ["-"] * (4 - len(accuracies)) + [f"{accuracy:.2f}" for accuracy in accuracies]
        rows.append(f"| {name} | {run['iterations']:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _edge(result: dict[str, Any]) -> str:
    """What the edge recipe exports, against its main in float32."""
    exports, latency = result["exports"], result["latency"]
    size = exports["main fp32"]["size_bytes"]
    rows = [
        f"**For a device, `vgg_cifar10_edge`** ({result['train']['iterations']:,} iterations; "
        "`benchmarks/results/edge_cifar10.json`): what was exported, against main in float32. Latency is the mean over "
        "test images in onnxruntime, batch 1, one thread, in turn, with the quartiles of the rounds in brackets. "
        "Thresholds are from validation, by the search of version 0.1, which loses more than its budget on new images; "
        "the accuracy is that of the test images.",
        "",
        "| file | test accuracy % | MACs of main | latency to main's | of a row that leaves nowhere | kB | of main |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in exports.items():
        nowhere = latency.get(f"{name}, no early exit")
        times = f"{_ratio(latency[name])} | {_ratio(nowhere) if nowhere else '-'}"
        sizes = f"{row['size_bytes'] / 1000:,.0f} | {row['size_bytes'] / size:.2f}"
        rows.append(f"| {name} | {row['test_accuracy_pct']:.2f} | {row['macs_ratio']:.3f} | {times} | {sizes} |")
    wide = result["paper_width"]["latency"]
    rows += [
        "",
        "At the paper's width, hardly trained and with thresholds that let as many images leave at each exit: "
        + "; ".join(f"{name} {_ratio(found)}" for name, found in wide.items() if name != "main fp32")
        + ".",
    ]
    return "\n".join(rows)


def _asked(result: dict[str, Any]) -> str:
    """Budgets: asked, expected, and lost on the test images."""
    rows = [
        f"**What a budget loses** (`vgg_cifar10_edge`, cut to {result['iterations']:,} iterations, "
        "`--criterion margin`, float32; `benchmarks/results/budget_cifar10.json`): asked for, "
        "expected by cross-validation over the 5,000 validation images with one standard error, and "
        "lost on the test images, which had no part in it.",
        "",
        "| `--max-drop` | points expected to be lost | lost on test | MACs of main, on test |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {row['max_drop_pct']:g} | {row['expected_drop_pct']:.2f}, give or take {row['expected_drop_se_pct']:.2f} "
        f"| {row['test_drop_pct']:.2f} | {row['test_macs_ratio']:.3f} |"
        for row in result["sweep"]
    ]
    return "\n".join(rows)


def _budgets(name: str, result: dict[str, Any]) -> str:
    """What is really lost, by size of the deciding set and budget, beside the search that was before."""
    oracle, length = result["oracle"], f", {result['iterations']:,} iterations" if result["iterations"] else ""
    rows = [
        f"**`{result['recipe']}`**{length} (`benchmarks/results/{name}`): {result['images']:,} images; accuracies "
        f"{' / '.join(f'{value:.1f}' for value in result['accuracy_pct'])} %. Mean and standard deviation of the "
        "points lost on the images that did not decide; share of the splits that lose more than the "
        "budget; MACs of main, 1 "
        "where nothing could be defended; in brackets the share of the splits in which that was so. "
        f"Criterion: margin. If the exits were perfect judges: {oracle['accuracy_pct']:.1f} % at "
        f"{oracle['macs_ratio']:.3f}.",
        "",
        "| images, budget | lost | expected | over | MACs | `--confidence 0.95`: over | MACs | 0.1: lost | over | MACs "
        "| MACs at that loss |",
        "|" + "---|" * 11,
    ]
    found = {
        (row["deciding_images"], row["max_drop_pct"], row["confidence"]): row
        for row in result["rows"]
        if row["criterion"] == "margin"
    }
    drawn = {(row["deciding_images"], row["max_drop_pct"]): row for row in result["draw_rows"]}
    before = {
        (row["deciding_images"], row["max_drop_pct"]): row
        for row in result["before"]["rows"]
        if row["criterion"] == "margin" and row["confidence"] is None
    }
    for (images, budget_pct, confidence), row in found.items():
        if confidence is None:
            draw, old = drawn[images, budget_pct], before[images, budget_pct]
            expected = row["expected_pct_where_exported"]
            cells = [
                f"{images:,}, {budget_pct:g}",
                f"{row['lost_pct']:.2f} ± {row['lost_sd_pct']:.2f}",
                "-" if expected is None else f"{expected:.2f}",
                f"{100 * row['over_budget_share']:.0f} %",
                f"{row['macs_ratio']:.3f} ({100 * row['refused_share']:.0f} %)",
                f"{100 * draw['over_budget_share']:.1f} %",
                f"{draw['macs_ratio']:.3f} ({100 * draw['refused_share']:.0f} %)",
                f"{old['lost_pct']:.2f} ± {old['lost_sd_pct']:.2f}",
                f"{100 * old['over_budget_share']:.0f} %",
                f"{old['macs_ratio']:.3f}",
                f"{old['ours_macs_ratio_at_equal_loss']:.3f}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _rival(result: dict[str, Any]) -> str:
    """Pruned networks beside what one training gives."""
    times, standing = result["time_to_model"], {row["name"]: row for row in result["standing"]}
    rows = [
        f"**Beside structured pruning** (torch-pruning {result['versions']['torch-pruning']} on main of the same run, "
        f"{result['fine_tuning_s']:.0f} s of fine-tuning each; `benchmarks/results/rival_cifar10.json`, "
        f"[docs/pruning.svg](docs/pruning.svg)): {times['pruned_s']:.0f} s to a pruned model, "
        f"{times['ours_s']:.1f} s to one of ours, {times['ratio']:.0f} x; the search for the pruning criterion is not "
        "counted. How far our models lie above each pruned one:",
        "",
        "| pruned to | MACs of main | latency to main's | test accuracy % | ours, same MACs | ours, same latency |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row["kind"] == "torch-pruning":
            ahead = standing[row["name"]]
            cells = [_points(ahead["ahead_at_macs_ratio_pct"]), _points(ahead["ahead_at_latency_ratio_pct"])]
            costs = f"{row['macs_ratio']:.3f} | {row['latency_ratio']:.3f} | {row['test_accuracy_pct']:.2f}"
            rows.append(f"| {row['name'].removeprefix('pruned to ')} | {costs} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _own_images(result: dict[str, Any]) -> str:
    """A network that was fine-tuned beside one of initial weights: every exit, and what was exported."""
    runs = {name: result[name] for name in ("fine-tuned", "initial weights")}
    counts, learned, tuned = result["images"], result["backbone"]["train"], runs["fine-tuned"]
    rows = [
        "**Fine-tuned, and from initial weights** (`benchmarks/results/own_images.json`, which has the commands): "
        f"{counts['photos']['train']:,} images to learn from and validate, {counts['photos']['test']:,} to test, "
        f"{' and '.join(format(_last(run)['step'], ',') for run in runs.values())} steps; {_machine(result)} that "
        f"others shared. The backbone got {learned['iterations']:,} steps on {counts['others']['train']:,} images of "
        f"seven other classes (test accuracy {learned['test_accuracy_pct'][-1]:.2f} %).",
        "",
        f"| exit | MACs of main | {' | '.join(f'{name}, test accuracy %' for name in runs)} |",
        "|---" * (2 + len(runs)) + "|",
    ]
    for same in zip(*(run["select"]["candidates"] for run in runs.values()), strict=True):
        accuracies = " | ".join(f"{each['test_accuracy_pct']:.2f}" for each in same)
        rows.append(f"| {same[0]['name']} | {same[0]['macs_ratio']:.3f} | {accuracies} |")
    rows += [
        "",
        "What is shown while it trains may be far below what the network is worth, since BatchNorm's statistics lag. "
        "Accuracy of main on the validation images, %:",
        "",
        "| network | at the last step | with averaged weights and statistics measured anew |",
        "|---|---|---|",
        _lag("the backbone", result["backbone"], learned["val_accuracy_pct"][-1]),
        *(_lag(name, run, run["select"]["candidates"][-1]["val_accuracy_pct"]) for name, run in runs.items()),
        "",
        "Exported from the fine-tuned run with `--progressive --max-drop 1`, and main alone. Latency is the mean over "
        "test images in onnxruntime, batch 1, one thread, in turn, with the quartiles of the rounds in brackets.",
        "",
        "| file | test accuracy % | MACs of main | latency to main's | kB |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *(_own_export(what, row, tuned["latency"]) for what, row in tuned["exports"].items())])


def _last(run: dict[str, Any]) -> dict[str, Any]:
    """The evaluation at the last step."""
    return dict(run["evaluations"][-1])


def _lag(name: str, run: dict[str, Any], final_pct: float) -> str:
    """What the statistics that BatchNorm collects on the way are worth."""
    return f"| {name} | {_last(run)['accuracy_pct'][-1]:.2f} | {final_pct:.2f} |"


def _own_export(what: str, row: dict[str, Any], latency: dict[str, dict[str, float]]) -> str:
    if what not in latency:
        return f"| {what} | - | - | - | - |"
    cells = f"{row['test_accuracy_pct']:.2f} | {row['macs_ratio']:.3f} | {_ratio(latency[what])}"
    return f"| {what} | {cells} | {row['size_bytes'] / 1000:,.0f} |"


def _points(ahead_pct: float | None) -> str:
    return "-" if ahead_pct is None else f"{ahead_pct:+.2f} points"


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _progressive(result: dict[str, Any]) -> str:
    rows = [
        "**What stopping early costs by itself** in onnxruntime, batch 1, one thread "
        "(`benchmarks/results/progressive_latency.json`): a row that leaves at exit 1 against the stand-alone "
        "sub-model 1, and a row that goes to the end against a plain graph of main and all critics.",
        "",
        "| width | critics | leaves at exit 1 | goes to the end |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {row['width']:g} | {row['head']} | {row['exit_1']['ratio']:.3f} | {row['end']['ratio']:.3f} |"
        for row in result["rows"]
    ]
    return "\n".join(rows)


def _trials(result: dict[str, Any]) -> str:
    """What each ingredient of the fast recipe does by itself to a short run."""
    rows = [
        "**Ingredients of the fast recipe, each by itself**, on a short run at quarter width "
        f"(`benchmarks/results/fast_recipe_trials.json`, {_machine(result)}, one seed: differences of a few tenths "
        "are noise).",
        "",
        "| added | sub-model 1, validation % | main, validation % | main, test % | seconds |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {row['change']} | {row['val_accuracy_pct'][0]:.2f} | {row['val_accuracy_pct'][-1]:.2f} "
        f"| {row['test_accuracy_pct'][-1]:.2f} | {row['seconds']:.0f} |"
        for row in result["rows"]
    ]
    return "\n".join(rows)


def _suite(machine: str, shown: Sequence[str]) -> list[str]:
    """Parts of the suite as they were measured on a machine, if they were."""
    if not (RESULTS / f"{machine}.json").exists():
        return []
    result = _read(f"{machine}.json")
    tables = [markdown.TABLES[part](result) for part in shown if part in result]
    return [*tables, f"From `benchmarks/results/{machine}.json`."] if tables else []


def _machine(result: dict[str, Any]) -> str:
    threads = result["machine"]["threads"]
    return f"{threads} CPU thread{'s' if threads != '1' else ''}"


def _option(command: str, name: str) -> str:
    words = command.split()
    return f"{name} {words[words.index(name) + 1]}"


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / name).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
