"""The figures of the README, made from the result files, so that none stands there without its source.

python -m benchmarks.tables    writes the part of README.md between the two marks
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- results: made by python -m benchmarks.tables -->", "<!-- end of results -->"


def main() -> None:
    """Puts the tables into the README."""
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(README)


def with_tables(text: str) -> str:
    """A README with the tables between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"


def markdown() -> str:
    """All tables, each with the file that it comes from."""
    small = _read("cifar10_small_cpu.json")
    parts = [_small(small["recipe"]), _methods(small["methods_at_equal_time"])]
    parts += [
        _progressive(_read("progressive_latency.json")),
        _train_step(_read("train_step.json"), _read("train_step_quarter_width.json")),
    ]
    return "\n\n".join(parts)


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


def _train_step(result: dict[str, Any], alone: dict[str, Any]) -> str:
    rows = [
        "**A training step** of `local_critic` against one of `backprop` (`benchmarks/results/train_step.json`). "
        "Critics with BatchNorm, as in `vgg_cifar10_small`, take two backward passes. "
        "The paper's critics at quarter width come out lower "
        "after the other networks than in a process of their own, which is what a user has "
        "(`benchmarks/results/train_step_quarter_width.json`); why is not settled.",
        "",
        "| network | ratio of times | ratio of MACs | 1.10 x MACs | within it |",
        "|---|---|---|---|---|",
    ]
    measured = [*((row, "") for row in result["rows"]), *((row, ", alone") for row in alone["rows"])]
    for row, how in measured:
        name = f"`{' '.join([row['recipe'], *row['overrides']])}`{how}"
        within = f"{row['limit']:.3f} | {'yes' if row['met'] else 'no'}"
        rows.append(f"| {name} | {row['lc_over_bp']:.3f} | {row['mac_ratio']:.3f} | {within} |")
    return "\n".join(rows)


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
