"""Random networks, stitched: onnxruntime says what torch says, for every row, at every batch size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lcprune.exporters.progressive import stitch
from lcprune.exporters.stages import cpu_copy, export_stages
from lcprune.models.network import Network, Normalize
from lcprune_runtime.session import open_session

NETWORKS = max(2, settings().max_examples // 40)
"""torch takes seconds to export one, so each is asked often."""
QUESTIONS = 12
MOST_ROWS = 33
UNSURE = 1e-5


@dataclass(frozen=True)
class Shape:
    """Of a network and its images."""

    image: tuple[int, int, int]
    classes: int
    channels: tuple[int, ...]
    """Of each group."""
    pools: tuple[bool, ...]
    seed: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    exits = draw(st.integers(2, 6))
    return Shape(
        image=(draw(st.sampled_from([1, 3])), draw(st.integers(4, 12)), draw(st.integers(4, 12))),
        classes=draw(st.integers(2, 11)),
        channels=tuple(draw(st.integers(1, 5)) for _ in range(exits)),
        pools=tuple(draw(st.booleans()) for _ in range(exits)),
        seed=draw(st.integers(0, 2**31)),
    )


def head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def network_of(shape: Shape) -> Network:
    """Convolutions with statistics of their own; some groups halve the image while it has 4 pixels and more."""
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        groups, critics, side, before = [], [], min(shape.image[1:]), shape.image[0]
        for channels, pool in zip(shape.channels, shape.pools, strict=True):
            halves = pool and side >= 4
            side = side // 2 if halves else side
            group = [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            groups.append(nn.Sequential(*([nn.MaxPool2d(2)] if halves else []), *group))
            critics.append(nn.Sequential(*head(channels, shape.classes)))
            before = channels
        groups[-1] = nn.Sequential(*groups[-1], *critics.pop())
        mean, std = [0.4] * shape.image[0], [0.25] * shape.image[0]
        network = Network(Normalize(mean, std), groups, critics)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.1, 0.5)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=2.0)
    return network.eval()


def thresholds_for(confidences: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Under all, over all, or among them, for each exit ``(exits, N)``."""
    return [
        float(
            rng.choice(
                [rng.uniform(of_exit.min(), of_exit.max()), rng.choice(of_exit), 0.0, 2.0], p=[0.6, 0.2, 0.1, 0.1]
            )
        )
        for of_exit in confidences
    ]


def leaves(confidences: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    reached = confidences >= np.array(thresholds)[:, None]
    return np.concatenate([reached, np.ones((1, confidences.shape[1]), bool)]).argmax(axis=0)


@settings(max_examples=NETWORKS)
@given(shapes(), st.sampled_from(["nested", "flat"]), st.data())
def test_onnxruntime_says_what_torch_says(shape: Shape, layout: str, data: st.DataObject) -> None:
    network = network_of(shape)
    early = len(shape.channels) - 1
    kept = sorted(data.draw(st.sets(st.integers(0, early - 1), min_size=1)))
    rng = np.random.default_rng(shape.seed)
    images = rng.random((MOST_ROWS, *shape.image), dtype=np.float32)
    with torch.no_grad():
        logits = torch.stack(network(torch.from_numpy(images))).numpy()[[*kept, early]]  # (exits, N, classes)
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    confidences = (exponents / exponents.sum(-1, keepdims=True)).max(-1)[:-1]
    stages = export_stages(cpu_copy(network), kept, shape.image)
    session = open_session(
        stitch(stages, [0.5] * len(kept), "required", layout=layout).SerializeToString(), "m", threads=1
    )
    for question in range(QUESTIONS):
        rows = rng.permutation(MOST_ROWS)[: data.draw(st.integers(0, MOST_ROWS), label=f"rows {question}")]
        thresholds = thresholds_for(confidences, rng)
        feed = {"image": images[rows], "threshold": np.array(thresholds, np.float32)}
        got, exits = session.run(["logits", "exit_index"], feed)
        early_limit, late_limit = (leaves(confidences[:, rows] + sign * UNSURE, thresholds) for sign in (1, -1))
        assert got.shape == (len(rows), shape.classes)
        assert ((early_limit <= exits) & (exits <= late_limit)).all()
        sure = early_limit == late_limit
        np.testing.assert_array_equal(exits[sure], early_limit[sure])
        np.testing.assert_allclose(got, logits[exits, rows], rtol=0, atol=1e-4 * max(1.0, np.abs(logits).max()))
