"""The tables of the suite, made from its result file alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
"""A result file: parts by name, each with ``rows`` and where they come from."""
Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], object]]
"""What stands in a row, by the heading of its column."""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ratio(found: Mapping[str, float], digits: int = 2) -> str:
    """Median and quartiles: ``1.23 (1.10 to 1.30)``."""
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _percent(found: Mapping[str, float]) -> str:
    return f"{100 * found['median']:.0f} % ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def _met(met: bool | None) -> str:
    return "-" if met is None else "yes" if met else "no"


def _network(row: Row) -> str:
    return f"{row['network']} (`{' '.join([row['recipe'], *row['overrides']])}`)"


def _part(name: str, text: str, columns: Columns) -> Callable[[Result], str]:
    """The table of a part, below a text in which ``{device}`` is the part's."""

    def page(result: Result) -> str:
        part = result[name]
        rows = [[cell(row) for cell in columns.values()] for row in part["rows"]]
        return f"{text.format(device=part.get('device'))}\n\n{table(list(columns), rows)}"

    return page


speed = _part(
    "speed",
    "**Training speed**, images/s of our loop over those of two others. The DataLoader loop is what people write: "
    "torchvision's transforms, two workers, plain optimizers. The bare loop has its images ready as tensors, fused "
    "optimizers, and no augmentation: being level with it (0.98 or more) means that loading and bookkeeping cost "
    "nothing. The arithmetic is what multiplications and additions (MACs x 2 x 3) would take at the rate of "
    "this machine's matrix product.",
    {
        "network": _network,
        "batch": lambda row: row["batch_size"],
        "method": lambda row: f"`{row['method']}`",
        "over a DataLoader loop": lambda row: ratio(row["over_loader"]),
        "over a bare loop": lambda row: ratio(row["over_bare"]),
        "of the arithmetic": lambda row: _percent(row["share_of_arithmetic"]),
        "met": lambda row: _met(row["met"]),
    },
)
methods = _part(
    "methods",
    "**A training step of `local_critic`** over one of `backprop`: the critics are more work, and 1.05 times that "
    "is the limit. Critics with BatchNorm (`vgg_cifar10_small` as it ships) take two backward passes.",
    {
        "network": _network,
        "batch": lambda row: row["batch_size"],
        "ratio of times": lambda row: ratio(row["lc_over_bp"], digits=3),
        "ratio of MACs": lambda row: f"{row['mac_ratio']:.3f}",
        "1.05 x MACs": lambda row: f"{row['limit']:.3f}",
        "met": lambda row: _met(row["met"]),
    },
)
analysis = _part(
    "analysis",
    "**Evaluation, calibration and selection** at the size of ImageNet (limits: 10 s and 4 GiB, so that seconds "
    "are given).",
    {
        "logits": lambda row: f"{row['samples']:,} x {row['classes']:,}, {row['exits']} exits",
        "evaluate": lambda row: f"{row['evaluate_s']:.1f} s",
        "calibrate": lambda row: f"{row['calibrate_s']:.1f} s",
        "select": lambda row: f"{row['select_s']:.1f} s",
        "all three": lambda row: f"{row['total_s']:.1f} s",
        "peak of the process": lambda row: f"{row['peak_bytes'] / 2**30:.1f} GiB",
        "met": lambda row: _met(row["met"]),
    },
)
start = _part(
    "start",
    "**Start** of a command, that of Python included.",
    {
        "command": lambda row: f"`{row['what']}`",
        "over `python -c pass`": lambda row: ratio(row["over_python"], digits=1),
        "seconds": lambda row: f"{row['median_s']:.3f} s",
        "limit": lambda row: "-" if row["limit_s"] is None else f"{row['limit_s']:g} s",
        "met": lambda row: _met(row["met"]),
    },
)
export = _part(
    "export",
    "**Export**: the time of writing all exits as one ONNX graph over that of exporting main alone.",
    {"export": lambda row: row["what"], "over main alone": lambda row: ratio(row["over_main"])},
)
variants = _part(
    "variants",
    "**A training step on {device}**, `vgg_cifar10` at paper width, batch 128. The rate is "
    "that of a bf16 matrix product measured in the same process.",
    {
        "method": lambda row: f"`{row['method']}`",
        "step": lambda row: row["variant"],
        "ms": lambda row: ratio(row["step_ms"], digits=3),
        "images/s": lambda row: f"{row['images_per_s']:,.0f}",
        "of the bf16 matrix rate": lambda row: _percent(row["share_of_bf16_rate"]),
    },
)
protocol = _part(
    "protocol",
    "**The paper's protocol on {device}**: 80,000 steps of `vgg_cifar10` with three critics.",
    {
        "how": lambda row: row["how"],
        "step": lambda row: row["variant"],
        "steps measured": lambda row: f"{row['measured_steps']:,}",
        "minutes for 80,000 steps": lambda row: f"{row['minutes']:.2f}",
        "4 minutes or less": lambda row: _met(row["met"]),
    },
)


def memory(result: Result) -> str:
    """Groups against memory and speed: the parts ``memory`` and, where it is there, ``memory time``."""
    rows = result["memory"]["rows"]
    times = {_key(row): ratio(row["lc_over_bp"]) for row in result.get("memory time", {"rows": ()})["rows"]}
    header = ("network", "groups", "critics after", "memory, fast", "memory, lean", "time, fast", "time, lean")
    lines = []
    for network, groups in dict.fromkeys((row["network"], row["groups"]) for row in rows if row["groups"] > 1):
        of_mode = {r["mode"]: r for r in rows if (r["network"], r["groups"]) == (network, groups)}
        shares = [f"{of_mode[mode]['over_backprop']:.3f}" for mode in ("fast", "lean")]
        taken = [times.get((network, groups, mode), "-") for mode in ("fast", "lean")]
        lines.append((network, groups, ", ".join(map(str, of_mode["fast"]["after"])), *shares, *taken))
    whole = {row["network"]: row for row in rows if row["groups"] == 1}
    least = {name: min(row["over_backprop"] for row in rows if row["network"] == name) for name in whole}
    of_networks = "; ".join(
        f"{name}: {row['peak_bytes'] / 1e6:,.0f} MB, and {least[name]:.3f} of it at best "
        f"(limit {row['limit']:g}: {_met(least[name] <= row['limit'])})"
        for name, row in whole.items()
    )
    return (
        "**Peak memory of a step of `local_critic`** over that of `backprop`, batch 128, pooled critics: the bytes of "
        "all tensors alive at once, weights, optimizer state, gradients and activations, as torch's allocator reports "
        "them. A group's activations are dead once it has its gradients, so that more groups need less, until the "
        "critics' own weights outgrow it. `train.memory: lean` has them a little sooner, for a second backward pass "
        "through each critic. Time is that of a step over `backprop`'s. `backprop` takes, by network: "
        f"{of_networks}.\n\n{table(header, lines)}"
    )


def fast(result: Result) -> str:
    """Time to accuracy."""
    columns: Columns = {
        "iterations": lambda row: f"{row['iterations']:,}",
        "test accuracy %, by seed": lambda row: ", ".join(f"{pct:.2f}" for pct in row["test_accuracy_pct"]),
        "mean": lambda row: f"{row['mean_pct']:.2f}",
        "seconds of training": lambda row: ", ".join(f"{seconds:.1f}" for seconds in row["train_s"]),
    }
    reached = "; ".join(
        f"{target} %: {'not reached' if seconds is None else f'{seconds:.1f} s'}"
        for target, seconds in result["fast"]["time_to_pct"].items()
    )
    text = (
        "**`vgg_cifar10_fast` on {device}**, main's accuracy, by the length of the run. Time of the "
        f"shortest run whose mean reaches a target: {reached}."
    )
    return _part("fast", text, columns)(result)


TABLES: dict[str, Callable[[Result], str]] = {
    "speed": speed,
    "methods": methods,
    "variants": variants,
    "protocol": protocol,
    "fast": fast,
    "memory": memory,
    "analysis": analysis,
    "start": start,
    "export": export,
}
"""By the part of the result that each needs."""


def _key(row: Row) -> tuple[str, int, str]:
    return row["network"], row["groups"], row["mode"]
