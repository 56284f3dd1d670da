"""What stopping early costs by itself: onnxruntime, one thread, batch 1, the paper's VGG with random weights.

A row that leaves at the first exit is held against the stand-alone sub-model 1, and a row that goes to the end
against a plain graph that computes main and all critics. Both sides run in turns in one process, so that a busy
machine slows both, and the ratio is that of the medians.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.provenance import provenance
from lcprune import recipe
from lcprune.export.progressive import stitch
from lcprune.export.segments import export_module, export_stages
from lcprune.export.session import open_session
from lcprune.models.build import build
from lcprune.models.network import Network

SHAPE = (3, 32, 32)
SEED = 0
LIMITS = {1.0: {"exit_1": 1.05, "end": 1.06}, 0.25: {"exit_1": 1.20, "end": 1.15}}
RESULT = Path(__file__).parent / "results" / "progressive_latency.json"
RECIPE = """
name: latency
data: {{source: cifar10}}
model: {{width: {width}}}
critics: {{head: {head}, channels: {channels}}}
train: {{iterations: 1, seed: {seed}}}
"""
WARMUP = 10
BURST = 3  # calls of one side in a row; the first refills the caches and is not counted


class AllExits(nn.Module):
    """Main and all critics, one after the other, as a plain graph without branches."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(N, C, H, W)`` to K times ``(N, classes)``."""
        return tuple(self.network(image))


def main() -> None:
    """Measures, prints a table or JSON, and saves with ``--save``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--width", type=float, nargs="+", default=[1.0, 0.25], help="widths of the VGG")
    parser.add_argument("--runs", type=int, default=200, help="rounds of each comparison")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(RESULT.parents[2])}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(width, head, options.runs) for width in options.width for head in ("paper", "pooled")]
    result = {
        **provenance("benchmarks.progressive_latency", SEED),
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    if options.save:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result) if options.json else table(rows))


def measure(width: float, head: str, runs: int) -> dict[str, Any]:
    """Ratios and times, in ms, for one network."""
    network = make_network(width, head)
    progressive = stitch(export_stages(network, [0, 1, 2], SHAPE), [0.5] * 3, "optional")
    graphs = {
        "progressive": progressive,
        "sub-model 1": export_module(network.submodel(1), SHAPE, ("logits",)),
        "all exits": export_module(AllExits(network).eval(), SHAPE, tuple(f"logits_{k}" for k in range(4))),
    }
    sessions = {name: open_session(graph.SerializeToString(), name, threads=1) for name, graph in graphs.items()}
    image = np.random.default_rng(SEED).random((1, *SHAPE), dtype=np.float32)
    plain = {"image": image}
    leave, stay = ({**plain, "threshold": np.full(3, value, np.float32)} for value in (0.0, 1.1))

    def call(name: str, feed: dict[str, Any]) -> Callable[[], Any]:
        return lambda: sessions[name].run(None, feed)

    exit_1 = compare(call("progressive", leave), call("sub-model 1", plain), runs)
    end = compare(call("progressive", stay), call("all exits", plain), runs)
    limits = LIMITS.get(width, {})
    return {
        "width": width,
        "head": head,
        "exit_1": {**exit_1, "limit": limits.get("exit_1")},
        "end": {**end, "limit": limits.get("end")},
        "batch_32": batches(sessions["progressive"]),
    }


def make_network(width: float, head: str) -> Network:
    """The paper's VGG in eval mode; its critics are as narrow as the rest."""
    text = RECIPE.format(width=width, head=head, channels=max(1, round(128 * width)), seed=SEED)
    return build(recipe.parse(text), 10, SHAPE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()


def compare(first: Callable[[], Any], second: Callable[[], Any], runs: int) -> dict[str, float]:
    """Medians of both sides in ms, run in turns, and their ratio."""
    sides = (first, second)
    times_ms: tuple[list[float], list[float]] = ([], [])
    for round_ in range(WARMUP + runs):
        for side in (0, 1) if round_ % 2 else (1, 0):
            for call in range(BURST):
                start = time.perf_counter()
                sides[side]()
                if call and round_ >= WARMUP:
                    times_ms[side].append((time.perf_counter() - start) * 1000)
    medians = [float(np.median(times)) for times in times_ms]
    return {"progressive_ms": medians[0], "plain_ms": medians[1], "ratio": medians[0] / medians[1], "runs": runs}


def batches(session: Any) -> dict[str, Any]:
    """A batch of 32 whose rows leave at different exits, against the same 32 rows one by one."""
    images = np.random.default_rng(SEED + 1).random((32, *SHAPE), dtype=np.float32)
    images *= np.linspace(0.02, 1, 32, dtype=np.float32)[:, None, None, None]  # so that confidences differ
    thresholds = median_thresholds(session, images)
    whole_logits, whole_exits = session.run(None, {"image": images, "threshold": thresholds})
    singles = [session.run(None, {"image": images[n : n + 1], "threshold": thresholds}) for n in range(32)]
    logits, exits = (np.concatenate(parts) for parts in zip(*singles, strict=True))
    timed = {
        name: compare_batches(session, images, np.asarray(limits, np.float32))
        for name, limits in {"mixed": thresholds, "to_the_end": [1.1] * 3, "exit_1": [0.0] * 3}.items()
    }
    return {
        "exits_equal": bool((whole_exits == exits).all()),
        "max_abs_diff": float(np.abs(whole_logits - logits).max()),
        "largest_logit": float(np.abs(logits).max()),
        "rows_per_exit": np.bincount(whole_exits, minlength=4).tolist(),
        "batch_ms": timed,
    }


def median_thresholds(session: Any, images: np.ndarray) -> np.ndarray:
    """For each early exit the middle of the confidences of the rows that come to it: half of them leave."""
    thresholds = np.full(3, 1.1, np.float32)
    for k in range(3):
        probe = thresholds.copy()
        _, came = session.run(None, {"image": images, "threshold": probe})
        probe[k] = 0.0
        logits, exits = session.run(None, {"image": images, "threshold": probe})
        rows = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidences = np.sort(1 / rows.sum(axis=1)[(came == 3) & (exits == k)])
        middle = len(confidences) // 2
        thresholds[k] = confidences[middle - 1 : middle + 1].mean()
    return thresholds


def compare_batches(session: Any, images: np.ndarray, thresholds: np.ndarray) -> float:
    """Median of a few runs, in ms."""
    times_ms = []
    for _ in range(7):
        start = time.perf_counter()
        session.run(None, {"image": images, "threshold": thresholds})
        times_ms.append((time.perf_counter() - start) * 1000)
    return float(np.median(times_ms))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per network."""
    lines = [f"{'width':>6} {'head':>7} {'leaves at':>10} {'progressive':>12} {'plain':>10} {'ratio':>7} {'limit':>6}"]
    for row in rows:
        for key, name in (("exit_1", "exit 1"), ("end", "the end")):
            side = row[key]
            times = f"{side['progressive_ms']:9.3f} ms {side['plain_ms']:7.3f} ms {side['ratio']:7.3f}"
            lines.append(f"{row['width']:6} {row['head']:>7} {name:>10} {times} {side['limit'] or '':>6}")
        batch = row["batch_32"]
        same = "the same exits" if batch["exits_equal"] else "OTHER EXITS"
        lines.append(
            f"{'':14} 32 rows: {same} as one by one, logits within {batch['max_abs_diff']:.1e}; {batch['batch_ms']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
