"""What early exits cost by themselves: onnxruntime, one thread, batch 1, the paper's VGG with random weights.

    python -m benchmarks.progressive_latency [--rounds 1500]

An image that stops at the first exit is compared with the stand-alone sub-model 1, and one that takes no early exit
with a plain graph that computes main and all critics. Both run in turns in one process.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.networks import SEED
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from benchmarks.timing import Timed, in_turn, repeated
from lcprune.exporters.progressive import stitch
from lcprune.exporters.stages import export_module, export_stages
from lcprune_runtime.session import open_session

SHAPE = (3, 32, 32)
LIMITS = {1.0: {"exit_1": 1.05, "end": 1.06}, 0.25: {"exit_1": 1.20, "end": 1.15}}


class AllExits(nn.Sequential):
    """Main and all critics, one after the other, as a plain graph without branches."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(N, C, H, W)`` to K times ``(N, classes)``."""
        return tuple(super().forward(image))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the result file."""
    parser = command_line("benchmarks.progressive_latency", __doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each comparison")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measure(width, head, options.rounds) for width in LIMITS for head in ("paper", "pooled")]
    save(RESULTS / "progressive_latency.json", {**provenance("benchmarks.progressive_latency", SEED), "rows": rows})


def measure(width: float, head: str, rounds: int) -> Row:
    """Ratios and times, in ms, for one network; its critics are as narrow as the rest."""
    overrides = [f"model.width={width}", f"critics.head={head}", f"critics.channels={round(128 * width)}"]
    network = networks.make_network(networks.load("vgg_cifar10", overrides), torch.device("cpu")).eval()
    progressive = stitch(export_stages(network, [0, 1, 2], SHAPE), [0.5] * 3, "optional")
    submodel = export_module(network.submodel(1), SHAPE, ("logits",))
    all_exits = export_module(AllExits(network).eval(), SHAPE, tuple(f"logits_{k}" for k in range(4)))
    return {
        "width": width,
        "head": head,
        "exit_1": {**compare(progressive, 0.0, submodel, rounds), "limit": LIMITS[width]["exit_1"]},
        "end": {**compare(progressive, 1.1, all_exits, rounds), "limit": LIMITS[width]["end"]},
    }


def compare(progressive: Any, threshold: float, plain: Any, rounds: int) -> Row:
    """Medians in ms of a progressive graph with one threshold for all exits and of a plain graph, and their ratio."""
    image = {"image": np.random.default_rng(SEED).random((1, *SHAPE), dtype=np.float32)}
    thresholds = {"threshold": np.full(3, threshold, np.float32)}
    timed = {"progressive": _session(progressive, image | thresholds), "plain": _session(plain, image)}
    ours_ms, plain_ms = (1000 * float(np.median(seconds)) for seconds in in_turn(timed, rounds, burst=2).values())
    return {"progressive_ms": ours_ms, "plain_ms": plain_ms, "ratio": ours_ms / plain_ms, "runs": rounds}


def _session(graph: Any, feed: dict[str, Any]) -> Timed:
    session = open_session(graph.SerializeToString(), "graph", threads=1)
    run = partial(session.run, None, feed)
    return repeated(run, first=run)  # which refills the caches


if __name__ == "__main__":
    main()
