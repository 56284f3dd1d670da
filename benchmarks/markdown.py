"""The tables of the suite, made from its result file alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
"""A result file: parts by name, each with ``rows`` and where they come from."""
Rows = Sequence[Mapping[str, Any]]

HOW_TO_READ = (
    "Times from a busy machine mean little, so that nearly everything here is a ratio of two things that ran in turn "
    "in one process: the median, and in brackets the quartiles. Absolute times are given for a GPU, and where a "
    "limit is in seconds. Images are noise, of the size of CIFAR-10's."
)


def page(result: Result) -> str:
    """The whole page of one machine."""
    first = next(iter(result.values()))
    machine, versions = first["machine"], first["versions"]
    where = (
        f"{first.get('device', machine['cpu'])}, CPU threads: {machine['threads']} of {machine['cores']}, "
        f"torch {versions['torch']}, Python {versions['python']}; `{first['command']}`"
    )
    parts = [table(result) for part, table in TABLES.items() if part in result]
    return "\n\n".join(["# Measured on this machine", where, HOW_TO_READ, *parts]) + "\n"


def speed(result: Result) -> str:
    """Our loop against plain ones."""
    header = ("network", "batch", "method", "over a DataLoader loop", "over a bare loop", "of the arithmetic", "met")
    rows = [
        (
            _network(row),
            row["batch_size"],
            f"`{row['method']}`",
            _ratio(row["over_loader"]),
            _ratio(row["over_bare"]),
            _percent(row["share_of_arithmetic"]),
            _met(row["met"]),
        )
        for row in result["speed"]["rows"]
    ]
    return (
        "**Training speed**, images/s of our loop over those of two others. The DataLoader loop is what people write: "
        "torchvision's transforms, two workers, plain optimizers. The bare loop has its images ready as tensors, fused "
        "optimizers, and no augmentation: being level with it (0.98 or more) means that loading and bookkeeping cost "
        "nothing. The arithmetic is what multiplications and additions (MACs x 2 x 3) would take at the rate of "
        f"this machine's matrix product.\n\n{table(header, rows)}"
    )


def methods(result: Result) -> str:
    """local_critic against backprop."""
    header = ("network", "batch", "ratio of times", "ratio of MACs", "1.05 x MACs", "met")
    rows = [
        (
            _network(row),
            row["batch_size"],
            _ratio(row["lc_over_bp"], digits=3),
            f"{row['mac_ratio']:.3f}",
            f"{row['limit']:.3f}",
            _met(row["met"]),
        )
        for row in result["methods"]["rows"]
    ]
    return (
        "**A training step of `local_critic`** over one of `backprop`: the critics are more work, and 1.05 times that "
        "is the limit. Critics with BatchNorm (`vgg_cifar10_small` as it ships) take two backward passes.\n\n"
        f"{table(header, rows)}"
    )


def memory(result: Result) -> str:
    """Groups against memory and speed."""
    rows = result["memory"]["rows"]
    times = {_key(row): row["lc_over_bp"] for row in result.get("memory time", {"rows": ()})["rows"]}
    header = ("network", "groups", "critics after", "memory, fast", "memory, lean", "time, fast", "time, lean")
    lines = []
    for network, groups in dict.fromkeys((row["network"], row["groups"]) for row in rows if row["groups"] > 1):
        of_mode = {r["mode"]: r for r in rows if (r["network"], r["groups"]) == (network, groups)}
        taken = [times.get((network, groups, mode)) for mode in ("fast", "lean")]
        lines.append(
            (
                network,
                groups,
                ", ".join(map(str, of_mode["fast"]["after"])),
                *(f"{of_mode[mode]['over_backprop']:.3f}" for mode in ("fast", "lean")),
                *("-" if spread is None else _ratio(spread) for spread in taken),
            )
        )
    return f"{_memory_text(rows)}\n\n{table(header, lines)}"


def _memory_text(rows: Rows) -> str:
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
        f"through each critic. Time is that of a step over `backprop`'s. `backprop` takes, by network: {of_networks}."
    )


def analysis(result: Result) -> str:
    """Arithmetic on stored logits."""
    lines = [
        (
            f"{row['samples']:,} x {row['classes']:,}, {row['exits']} exits",
            *(f"{row[f'{name}_s']:.1f} s" for name in ("evaluate", "calibrate", "select", "total")),
            f"{row['peak_bytes'] / 2**30:.1f} GiB",
            _met(row["met"]),
        )
        for row in result["analysis"]["rows"]
    ]
    header = ("logits", "evaluate", "calibrate", "select", "all three", "peak of the process", "met")
    return (
        "**Evaluation, calibration and selection** at the size of ImageNet (limits: 10 s and 4 GiB, so that seconds "
        f"are given).\n\n{table(header, lines)}"
    )


def start(result: Result) -> str:
    """Commands and import."""
    lines = [
        (
            f"`{row['what']}`",
            _ratio(row["over_python"], digits=1),
            f"{row['median_s']:.3f} s",
            "-" if row["limit_s"] is None else f"{row['limit_s']:g} s",
            _met(row["met"]),
        )
        for row in result["start"]["rows"]
    ]
    header = ("command", "over `python -c pass`", "seconds", "limit", "met")
    return f"**Start** of a command, that of Python included.\n\n{table(header, lines)}"


def export(result: Result) -> str:
    """Progressive export."""
    lines = [(row["what"], _ratio(row["over_main"])) for row in result["export"]["rows"]]
    return (
        "**Export**: the time of writing all exits as one ONNX graph over that of exporting main alone.\n\n"
        f"{table(('export', 'over main alone'), lines)}"
    )


def variants(result: Result) -> str:
    """Steps on a GPU."""
    lines = [
        (
            f"`{row['method']}`",
            row["variant"],
            f"{row['step_ms']['median']:.3f} ({row['step_ms']['low']:.3f} to {row['step_ms']['high']:.3f})",
            f"{row['images_per_s']:,.0f}",
            _percent(row["share_of_bf16_rate"]),
        )
        for row in result["variants"]["rows"]
    ]
    header = ("method", "step", "ms", "images/s", "of the bf16 matrix rate")
    return (
        f"**A training step on {result['variants']['device']}**, `vgg_cifar10` at paper width, batch 128. The rate is "
        f"that of a bf16 matrix product measured in the same process.\n\n{table(header, lines)}"
    )


def protocol(result: Result) -> str:
    """The paper's run."""
    lines = [
        (row["how"], row["variant"], f"{row['measured_steps']:,}", f"{row['minutes']:.2f}", _met(row["met"]))
        for row in result["protocol"]["rows"]
    ]
    header = ("how", "step", "steps measured", "minutes for 80,000 steps", "4 minutes or less")
    return (
        f"**The paper's protocol on {result['protocol']['device']}**: 80,000 steps of `vgg_cifar10` with three critics."
        f"\n\n{table(header, lines)}"
    )


def fast(result: Result) -> str:
    """Time to accuracy."""
    lines = [
        (
            f"{row['iterations']:,}",
            ", ".join(f"{accuracy:.2f}" for accuracy in row["test_accuracy_pct"]),
            f"{row['mean_pct']:.2f}",
            ", ".join(f"{seconds:.1f}" for seconds in row["train_s"]),
        )
        for row in result["fast"]["rows"]
    ]
    reached = "; ".join(
        f"{target} %: {'not reached' if seconds is None else f'{seconds:.1f} s'}"
        for target, seconds in result["fast"]["time_to_pct"].items()
    )
    header = ("iterations", "test accuracy %, by seed", "mean", "seconds of training")
    return (
        f"**`vgg_cifar10_fast` on {result['fast']['device']}**, main's accuracy, by the length of the run. Time of the "
        f"shortest run whose mean reaches a target: {reached}.\n\n{table(header, lines)}"
    )


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


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _ratio(spread: Mapping[str, float], digits: int = 2) -> str:
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f} to {spread['high']:.{digits}f})"


def _percent(spread: Mapping[str, float]) -> str:
    return f"{100 * spread['median']:.0f} % ({100 * spread['low']:.0f} to {100 * spread['high']:.0f})"


def _met(met: bool | None) -> str:
    return "-" if met is None else "yes" if met else "no"


def _network(row: Mapping[str, Any]) -> str:
    return f"{row['network']} (`{' '.join([row['recipe'], *row['overrides']])}`)"


def _key(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["network"], row["groups"], row["mode"]
