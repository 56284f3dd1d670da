"""The figures of README.md and of pages in docs/, made from the result files: none stands there without its source.

python -m benchmarks.tables    writes the parts of all of them between the two marks
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import critic_losses, int8, markdown, matrix, processors
from benchmarks.phone import page as phone
from benchmarks.provenance import RESULTS, Row, command_line, read

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: made by python -m benchmarks.tables -->", "<!-- end of results -->"
CPU, GPU = "intel-xeon-2-cores", "nvidia-h200"
"""Machines whose result files of the suite are shown; the second once it has one."""


def main() -> None:
    """Puts the tables into all pages."""
    command_line("benchmarks.tables", __doc__).parse_args()
    for page, tables in PAGES.items():
        path = ROOT / page
        path.write_text(with_tables(path.read_text(encoding="utf-8"), tables()), encoding="utf-8")
        print(page)


def with_tables(text: str, tables: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with what stands between two marks made anew."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{tables}\n{end}{after}"


def readme() -> str:
    """What the README shows, each with the file that it comes from."""
    small = _read("cifar10_small_cpu.json")
    parts = [_small(small["recipe"]), _methods(small["methods_at_equal_time"])]
    parts += [_edge(_read("edge_cifar10.json")), _asked(_read("budget_cifar10.json"))]
    parts += [_rival(_read("rival_cifar10.json")), _progressive(_read("progressive_latency.json"))]
    return "\n\n".join(parts + _suite(CPU, ("speed",)) + _suite(GPU, ("protocol", "fast")))


def speed() -> str:
    """What docs/speed.md shows."""
    on_cpu = _suite(CPU, ("methods", "memory", "analysis", "start", "export"))
    return "\n\n".join(
        [_trials(_read("fast_recipe_trials.json")), *on_cpu, *_suite(GPU, ("variants", "speed", "memory"))]
    )


def losses() -> str:
    """What docs/methods.md shows."""
    names = ("critic_losses.json", "critic_losses_screen.json")
    return "\n\n".join(f"{critic_losses.page(_read(name))}\n\nFrom `benchmarks/results/{name}`." for name in names)


def budgets() -> str:
    """What benchmarks/README.md shows of accuracy budgets."""
    return "\n\n".join(_budgets(name, _read(name)) for name in ("budget_cifar10.json", "budget_photos.json"))


def development() -> str:
    """What docs/development.md shows, once it was measured."""
    result = read(matrix.RESULT)
    if not result:
        return ""
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    return f"`make matrix` on {machine} (`benchmarks/results/matrix.json`).\n\n{matrix.table(result['rows'])}"


def files() -> str:
    """What docs/onnx.md shows."""
    pages = (("processors.json", processors.page), ("int8.json", int8.page))
    found = [(name, page, read(RESULTS / name)) for name, page in pages]
    return "\n\n".join(f"{page(result)}\n\nFrom `benchmarks/results/{name}`." for name, page, result in found if result)


def photographs() -> str:
    """What docs/phone.md shows."""
    result = _read("phone_trash.json")
    return phone.page(result) if result else "Not measured yet: `benchmarks/results/phone_trash.json` is missing."


def from_outside() -> str:
    """What docs/reliability.md shows of faults that were looked for from outside."""
    name = "faults_from_outside.json"
    rows = [[row["kind"], row["tried"], f"{row['trials']:,}", row["failures"]] for row in _read(name)["rows"]]
    return f"{markdown.table(['kind', 'tried', 'trials', 'failures'], rows)}\n\nFrom `benchmarks/results/{name}`."


PAGES = {
    "README.md": readme,
    "docs/development.md": development,
    "docs/speed.md": speed,
    "docs/methods.md": losses,
    "docs/onnx.md": files,
    "docs/own-images.md": lambda: _own_images(_read("own_images.json")),
    "docs/phone.md": photographs,
    "docs/reliability.md": from_outside,
    "docs/scaling.md": lambda: markdown.scaling(_read("parallel.json"), _read("scaling_model.json")),
    "benchmarks/README.md": budgets,
}


def _table(title: str, header: str, rows: Iterable[Sequence[str]]) -> str:
    """A table below its title; the headings stand between bars."""
    return markdown.titled(title, header.split(" | "), rows, rule="---")


def _small(result: Row) -> str:
    train, params = result["train"], result["profile"]["cascade"]["params"]
    rows = [
        [c["name"], f"{c['test_accuracy_pct']:.2f}", f"{c['macs'] / 1e6:.2f}M"]
        + [f"{100 * c['macs_ratio']:.1f} %", f"{c['params'] / 1e6:.3f}M"]
        for c in result["select"]["candidates"]
    ]
    for row in (result["export_progressive"], result["export_progressive_2_points"]):
        words = row["command"].split()
        name = f"progressive, `--max-drop {words[words.index('--max-drop') + 1]}`"
        macs = [f"{row['mean_macs'] / 1e6:.2f}M (mean)", f"{100 * row['macs_ratio']:.1f} %"]
        rows.append([name, f"{row['test_accuracy_pct']:.2f}", *macs, f"{params / 1e6:.3f}M"])
    return _table(
        "**CIFAR-10, `vgg_cifar10_small`** "
        f"({train['iterations']:,} iterations, {train['seconds'] / 60:.0f} minutes of training on {_machine(result)}; "
        "`benchmarks/results/cifar10_small_cpu.json`). MACs are those of convolutions and linear layers, critics "
        "included.",
        "network | test accuracy % | MACs | of main | parameters",
        rows,
    )


def _methods(result: Row) -> str:
    rows = []
    for name, run in result["rows"].items():
        accuracies = [f"{accuracy:.2f}" for accuracy in run["test_accuracy_pct"]]
        rows.append([name, f"{run['iterations']:,}", *["-"] * (4 - len(accuracies)), *accuracies])
    return _table(
        f"**Training methods at equal time** (the same recipe and file, cut to a short run; {_machine(result)}).",
        "method | iterations | sub-model 1 | 2 | 3 | main",
        rows,
    )


def _edge(result: Row) -> str:
    """What the edge recipe exports, against its main in float32."""
    exports, latency = result["exports"], result["latency"]
    rows = []
    for name, row in exports.items():
        to_the_end = latency.get(f"{name}, no early exit")
        costs = [f"{row['macs_ratio']:.3f}", _ratio(latency[name]), _ratio(to_the_end) if to_the_end else "-"]
        sizes = [f"{row['size_bytes'] / 1000:,.0f}", f"{row['size_bytes'] / exports['main fp32']['size_bytes']:.2f}"]
        rows.append([name, f"{row['test_accuracy_pct']:.2f}", *costs, *sizes])
    table = _table(
        f"**For a device, `vgg_cifar10_edge`** ({result['train']['iterations']:,} iterations; "
        "`benchmarks/results/edge_cifar10.json`): what was exported, against main in float32. Latency is the mean over "
        "test images in onnxruntime, batch 1, one thread, in turn, with the quartiles of the rounds in brackets. "
        "Thresholds are from validation, by the search of version 0.1, which loses more than its budget on new images; "
        "the accuracy is that of the test images.",
        "file | test accuracy % | MACs of main | latency to main's | without an early exit | kB | of main",
        rows,
    )
    wide = result["paper_width"]["latency"].items()
    return (
        f"{table}\n\nAt the paper's width, hardly trained and with thresholds that let as many images leave at each "
        f"exit: {'; '.join(f'{name} {_ratio(found)}' for name, found in wide if name != 'main fp32')}."
    )


def _asked(result: Row) -> str:
    """Budgets: asked, expected, and lost on the test images."""
    rows = []
    for row in result["sweep"]:
        expected = f"{row['expected_drop_pct']:.2f}, give or take {row['expected_drop_se_pct']:.2f}"
        lost = [f"{row['test_drop_pct']:.2f}", f"{row['test_macs_ratio']:.3f}"]
        rows.append([f"{row['max_drop_pct']:g}", expected, *lost])
    return _table(
        f"**What a budget loses** (`vgg_cifar10_edge`, cut to {result['iterations']:,} iterations, "
        "`--criterion margin`, float32; `benchmarks/results/budget_cifar10.json`): asked for, "
        "expected by cross-validation over the 5,000 validation images with one standard error, and "
        "lost on the test images, which had no part in it.",
        "`--max-drop` | points expected to be lost | lost on test | MACs of main, on test",
        rows,
    )


def _budgets(name: str, result: Row) -> str:
    """What is really lost, by size of the deciding set and budget, beside the search that was before."""
    found, drawn, before = (
        {
            (row["deciding_images"], row["max_drop_pct"]): row
            for row in rows
            if (row["criterion"], row["confidence"]) == ("margin", confidence)
        }
        for rows, confidence in (
            (result["rows"], None),
            (result["draw_rows"], 0.95),
            (result["before"]["rows"], None),
        )
    )
    rows = []
    for (images, budget_pct), row in found.items():
        draw, old = drawn[images, budget_pct], before[images, budget_pct]
        expected = row["expected_pct_where_exported"]
        rows.append(
            [
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
        )
    oracle, length = result["oracle"], f", {result['iterations']:,} iterations" if result["iterations"] else ""
    return _table(
        f"**`{result['recipe']}`**{length} (`benchmarks/results/{name}`): {result['images']:,} images; accuracies "
        f"{' / '.join(f'{value:.1f}' for value in result['accuracy_pct'])} %. Mean and standard deviation of the "
        "points lost on the images that did not decide; share of the splits that lose more than the "
        "budget; MACs of main, 1 "
        "where nothing could be defended; in brackets the share of the splits in which that was so. "
        f"Criterion: margin. If the exits were perfect judges: {oracle['accuracy_pct']:.1f} % at "
        f"{oracle['macs_ratio']:.3f}.",
        "images, budget | lost | expected | over | MACs | `--confidence 0.95`: over | MACs | 0.1: lost | over | MACs "
        "| MACs at that loss",
        rows,
    )


def _rival(result: Row) -> str:
    """Pruned networks beside what one training gives."""
    times, standing = result["time_to_model"], {row["name"]: row for row in result["standing"]}
    rows = []
    for row in result["rows"]:
        if row["kind"] == "torch-pruning":
            costs = [f"{row[cost]:.3f}" for cost in ("macs_ratio", "latency_ratio")]
            ahead = [standing[row["name"]][f"ahead_at_{cost}_pct"] for cost in ("macs_ratio", "latency_ratio")]
            points = ["-" if each is None else f"{each:+.2f} points" for each in ahead]
            name = row["name"].removeprefix("pruned to ")
            rows.append([name, *costs, f"{row['test_accuracy_pct']:.2f}", *points])
    return _table(
        f"**Beside structured pruning** (torch-pruning {result['versions']['torch-pruning']} on main of the same run, "
        f"{result['fine_tuning_s']:.0f} s of fine-tuning each; `benchmarks/results/rival_cifar10.json`, "
        f"[docs/pruning.svg](docs/pruning.svg)): {times['pruned_s']:.0f} s to a pruned model, "
        f"{times['ours_s']:.1f} s to one of ours, {times['ratio']:.0f} x; the search for the pruning criterion is not "
        "counted. How far our models lie above each pruned one:",
        "pruned to | MACs of main | latency to main's | test accuracy % | ours, same MACs | ours, same latency",
        rows,
    )


def _own_images(result: Row) -> str:
    """A network that was fine-tuned beside one of initial weights: every exit, and what was exported."""
    runs = {name: result[name] for name in ("fine-tuned", "initial weights")}
    counts, learned, tuned = result["images"], result["backbone"]["train"], runs["fine-tuned"]
    candidates = {name: run["select"]["candidates"] for name, run in runs.items()}
    steps = " and ".join(format(run["evaluations"][-1]["step"], ",") for run in runs.values())
    exits = _table(
        "**Fine-tuned, and from initial weights** (`benchmarks/results/own_images.json`, which has the commands): "
        f"{counts['photos']['train']:,} images to learn from and validate, {counts['photos']['test']:,} to test, "
        f"{steps} steps; {_machine(result)} that "
        f"others shared. The backbone got {learned['iterations']:,} steps on {counts['others']['train']:,} images of "
        f"seven other classes (test accuracy {learned['test_accuracy_pct'][-1]:.2f} %).",
        f"exit | MACs of main | {' | '.join(f'{name}, test accuracy %' for name in runs)}",
        [
            [same[0]["name"], f"{same[0]['macs_ratio']:.3f}", *(f"{each['test_accuracy_pct']:.2f}" for each in same)]
            for same in zip(*candidates.values(), strict=True)
        ],
    )
    final_pct = {name: found[-1]["val_accuracy_pct"] for name, found in candidates.items()}
    trained = {"the backbone": (result["backbone"], learned["val_accuracy_pct"][-1])}
    trained |= {name: (run, final_pct[name]) for name, run in runs.items()}
    lag = _table(
        "BatchNorm's statistics lag in a short run. Accuracy of main on the validation images with the weights and "
        "statistics of the last step, and as the run ends, %:",
        "network | at the last step | with averaged weights and statistics measured anew",
        [
            [name, f"{run['evaluations'][-1]['accuracy_pct'][-1]:.2f}", f"{final:.2f}"]
            for name, (run, final) in trained.items()
        ],
    )
    files = _table(
        "Exported from the fine-tuned run with `--progressive --max-drop 1`, and main alone. Latency is the mean over "
        "test images in onnxruntime, batch 1, one thread, in turn, with the quartiles of the rounds in brackets.",
        "file | test accuracy % | MACs of main | latency to main's | kB",
        [
            [name, f"{row['test_accuracy_pct']:.2f}", f"{row['macs_ratio']:.3f}", _ratio(tuned["latency"][name])]
            + [f"{row['size_bytes'] / 1000:,.0f}"]
            if name in tuned["latency"]
            else [name, *"----"]
            for name, row in tuned["exports"].items()
        ],
    )
    return "\n\n".join([exits, lag, files])


def _progressive(result: Row) -> str:
    return _table(
        "**What stopping early costs by itself** in onnxruntime, batch 1, one thread "
        "(`benchmarks/results/progressive_latency.json`): a row that leaves at exit 1 against the stand-alone "
        "sub-model 1, and a row that goes to the end against a plain graph of main and all critics.",
        "width | critics | leaves at exit 1 | goes to the end",
        [
            [f"{row['width']:g}", row["head"], *(f"{row[where]['ratio']:.3f}" for where in ("exit_1", "end"))]
            for row in result["rows"]
        ],
    )


def _trials(result: Row) -> str:
    """What each ingredient of the fast recipe does by itself to a short run."""
    rows = []
    for row in result["rows"]:
        val_pct, test_pct = row["val_accuracy_pct"], row["test_accuracy_pct"]
        accuracies = [f"{pct:.2f}" for pct in (val_pct[0], val_pct[-1], test_pct[-1])]
        rows.append([row["change"], *accuracies, f"{row['seconds']:.0f}"])
    return _table(
        "**Ingredients of the fast recipe, each by itself**, on a short run at quarter width "
        f"(`benchmarks/results/fast_recipe_trials.json`, {_machine(result)}, one seed: differences of a few tenths "
        "are noise).",
        "added | sub-model 1, validation % | main, validation % | main, test % | seconds",
        rows,
    )


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _suite(machine: str, shown: Sequence[str]) -> list[str]:
    """Parts of the suite as they were measured on a machine, if they were."""
    result = _read(f"{machine}.json")
    tables = [markdown.TABLES[part](result) for part in shown if part in result]
    return [*tables, f"From `benchmarks/results/{machine}.json`."] if tables else []


def _machine(result: Row) -> str:
    threads = result["machine"]["threads"]
    return f"{threads} CPU thread{'s' if threads != '1' else ''}"


def _read(name: str) -> Row:
    return read(RESULTS / name)


if __name__ == "__main__":
    main()
