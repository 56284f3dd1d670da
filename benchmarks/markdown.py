"""Tables of the suite and of docs/scaling.md, made from the result files alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
"""A result file: parts by name, each with ``rows`` and where they come from."""
Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], object]]
"""What stands in a row, by the heading of its column."""


def table(header: Sequence[str], rows: Iterable[Sequence[object]], rule: str = " --- ") -> str:
    """A table in Markdown."""
    head, *lines = (f"| {' | '.join(map(str, line))} |" for line in (header, *rows))
    return "\n".join([head, f"|{'|'.join([rule] * len(header))}|", *lines])


def titled(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], rule: str = " --- ") -> str:
    """A table below its title."""
    return f"{title}\n\n{table(header, rows, rule)}"


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
        return titled(text.format(device=part.get("device")), list(columns), rows)

    return page


def memory(result: Result) -> str:
    """Groups against memory and speed: the parts ``memory`` and, where it is there, ``memory time``."""
    rows = result["memory"]["rows"]
    timed = result.get("memory time", {"rows": ()})["rows"]
    times = {(row["network"], row["groups"], row["mode"]): ratio(row["lc_over_bp"]) for row in timed}
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
    "speed": _part(
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
    ),
    "methods": _part(
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
    ),
    "analysis": _part(
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
    ),
    "start": _part(
        "start",
        "**Start** of a command, that of Python included.",
        {
            "command": lambda row: f"`{row['what']}`",
            "over `python -c pass`": lambda row: ratio(row["over_python"], digits=1),
            "seconds": lambda row: f"{row['median_s']:.3f} s",
            "limit": lambda row: "-" if row["limit_s"] is None else f"{row['limit_s']:g} s",
            "met": lambda row: _met(row["met"]),
        },
    ),
    "export": _part(
        "export",
        "**Export**: the time of writing all exits as one ONNX graph over that of exporting main alone.",
        {"export": lambda row: row["what"], "over main alone": lambda row: ratio(row["over_main"])},
    ),
    "variants": _part(
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
    ),
    "protocol": _part(
        "protocol",
        "**The paper's protocol on {device}**: 80,000 steps of `vgg_cifar10` with three critics.",
        {
            "how": lambda row: row["how"],
            "step": lambda row: row["variant"],
            "steps measured": lambda row: f"{row['measured_steps']:,}",
            "minutes for 80,000 steps": lambda row: f"{row['minutes']:.2f}",
            "4 minutes or less": lambda row: _met(row["met"]),
        },
    ),
    "memory": memory,
    "fast": fast,
}
"""By the part of the result that each needs."""


def scaling(measured: Result, model: Result) -> str:
    """The tables of docs/scaling.md, from ``parallel.json`` and ``scaling_model.json``."""
    parts = [
        _speed(measured["speed"]["rows"]),
        _slow_links(measured["slow links"]["rows"]),
        _held(measured["memory"]["rows"]),
        "From `benchmarks/results/parallel.json`, measured on "
        f"{measured['machine']['cpu']}, one thread for each process.",
        _check(model),
        _prediction(model),
        "From `benchmarks/results/scaling_model.json`.",
    ]
    return "\n\n".join(parts)


def _speed(cases: Sequence[Row]) -> str:
    rows = []
    for case in cases:
        cut = _counts(case["groups_per_rank"])
        for row in case["rows"]:
            name = row["side"].replace("the same cut", cut)
            for which, counts in case["pipeline_groups_per_rank"].items():
                name = name.replace(which, _counts(counts))
            if row["side"].startswith("layers"):
                name = f"{name}, {cut}"
            over = "local_critic" if row["over"] == "one process" else "backprop"
            rows.append([case["case"], name, f"`{over}`", ratio(row["speedup"]), f"{row['images_per_s']:,.0f}"])
    title = (
        "**Two processes over one** (images/s over those of one process that trains with the method named; batch "
        f"{cases[0]['batch_size']} in all; median of the rounds, quartiles in brackets). Two that share nothing are "
        "what the machine allows; numbers such as 1+3 are the layer groups of each process."
    )
    return titled(title, ["network", "processes", "over one of", "ratio", "images/s"], rows)


def _slow_links(cases: Sequence[Row]) -> str:
    rows = []
    for case in cases:
        for row in case["rows"]:
            steps = [f"{row[key]:.0f} ms" for key in ("step_ms", "delayed_step_ms")]
            rows.append([case["case"], case["batch_size"], row["staleness"], *steps, ratio(row["kept"])])
    delay = cases[0]["rows"][0]["delay_ms"]
    title = (
        f"**Slow links**: layer parallel on two processes, every message handed over {delay:.0f} ms late in both "
        "directions; throughput with the delay over that without."
    )
    return titled(title, ["network", "batch", "staleness", "step", "delayed step", "throughput kept"], rows)


def _held(cases: Sequence[Row]) -> str:
    rows = [
        [
            case["case"],
            f"{case['backprop_bytes'] / 1e6:.0f} MB",
            ", ".join(f"{peak / case['backprop_bytes']:.2f}" for peak in case["peak_bytes"]),
            f"{case['largest_over_backprop']:.3f}",
            ", ".join(f"{sent:,}" for sent in case["sent_bytes"]),
            "yes" if case["sent_bytes"] == case["bytes_sent_per_step"] else "no",
        ]
        for case in cases
    ]
    title = (
        "**Memory and messages of four processes with one layer group each**: most bytes of tensors alive at once in a "
        f"step (weights, gradients, optimizer state, activations, messages, scratch; batch {cases[0]['batch_size']}) "
        "over those of `backprop` in one process, rank by rank, and the bytes that each was seen to send in a step."
    )
    heads = ["network", "`backprop`", "of it, by rank", "largest", "bytes sent, by rank", "as `parallel.json` says"]
    return titled(title, heads, rows)


def _check(model: Row) -> str:
    rows = []
    for row in model["check"]:
        found = [f"{row['model']:.2f}", f"{row['measured']:.2f}", f"{row['off_pct']:+.0f} %"]
        rows.append([f"{row['case']}, batch {row['batch_size']}", row["what"], *found])
    link = model["link"]
    title = (
        "**The model beside what was measured.** It starts from the time of single groups in one process and from the "
        f"link: a message takes {1e6 * link['latency_s']:.0f} µs and its bytes at {link['bytes_per_s'] / 1e9:.1f} GB/s."
    )
    return titled(title, ["network", "what", "model", "measured", "off by"], rows)


def _prediction(model: Row) -> str:
    rows = []
    for row in model["rows"]:
        said = f"{row['images_per_s']:,.0f} ({row['efficiency_pct']:.0f} %)"
        if row["stages"] == 1:
            rows.append([row["machine"], str(row["gpus"]), said])
        else:
            rows[-1] += [f"{row['stages']} x {row['replicas']}", said]
    title = (
        f"**Predicted, not measured**: ResNet-50 on ImageNet with its three critics, {model['batch']:,} images in a "
        "batch of all GPUs, images/s; in brackets the share of what as many single GPUs would do. The grid is layers "
        "x batches."
    )
    return titled(title, ["links", "GPUs", "batches divided", "grid", "layers and batches divided"], rows)


def _counts(groups_per_rank: Sequence[int]) -> str:
    return "+".join(str(count) for count in groups_per_rank)
