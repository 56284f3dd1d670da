"""The tables of docs/scaling.md, from ``parallel.json`` and ``scaling_model.json``."""

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import ratio, table

PARALLEL, MODEL = "parallel.json", "scaling_model.json"


def page(measured: dict[str, Any], model: dict[str, Any]) -> str:
    """All of them."""
    parts = [
        _speed(measured["speed"]["rows"]),
        _slow_links(measured["slow links"]["rows"]),
        _memory(measured["memory"]["rows"]),
        f"From `benchmarks/results/{PARALLEL}`, measured on {measured['machine']['cpu']}, one thread for each process.",
        _check(model),
        _prediction(model),
        f"From `benchmarks/results/{MODEL}`.",
    ]
    return "\n\n".join(parts)


def _speed(cases: Sequence[dict[str, Any]]) -> str:
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
    return _titled(title, ["network", "processes", "over one of", "ratio", "images/s"], rows)


def _slow_links(cases: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            case["case"],
            str(case["batch_size"]),
            str(row["staleness"]),
            f"{row['step_ms']:.0f} ms",
            f"{row['delayed_step_ms']:.0f} ms",
            ratio(row["kept"]),
        ]
        for case in cases
        for row in case["rows"]
    ]
    delay = cases[0]["rows"][0]["delay_ms"]
    title = (
        f"**Slow links**: layer parallel on two processes, every message handed over {delay:.0f} ms late in both "
        "directions; throughput with the delay over that without."
    )
    return _titled(title, ["network", "batch", "staleness", "step", "delayed step", "throughput kept"], rows)


def _memory(cases: Sequence[dict[str, Any]]) -> str:
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
    return _titled(title, heads, rows)


def _check(model: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['case']}, batch {row['batch_size']}",
            row["what"],
            f"{row['model']:.2f}",
            f"{row['measured']:.2f}",
            f"{row['off_pct']:+.0f} %",
        ]
        for row in model["check"]
    ]
    link = model["link"]
    title = (
        "**The model beside what was measured.** It starts from the time of single groups in one process and from the "
        f"link: a message takes {1e6 * link['latency_s']:.0f} µs and its bytes at {link['bytes_per_s'] / 1e9:.1f} GB/s."
    )
    return _titled(title, ["network", "what", "model", "measured", "off by"], rows)


def _prediction(model: dict[str, Any]) -> str:
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
    return _titled(title, ["links", "GPUs", "batches divided", "grid", "layers and batches divided"], rows)


def _titled(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"{title}\n\n{table(heads, rows)}"


def _counts(groups_per_rank: Sequence[int]) -> str:
    return "+".join(str(count) for count in groups_per_rank)
