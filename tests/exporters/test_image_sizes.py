"""Progressive graphs over several input sizes: every layout and precision makes the smaller images itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lcprune.exporters.graphs import subgraphs
from lcprune.exporters.parts import reads_image
from lcprune.exporters.progressive import write_model, write_network
from lcprune.exporters.quantize import Reduction, reduce
from lcprune.exporters.segments import write_segments
from lcprune.exporters.stages import cascade_stages, cpu_copy, export_stages
from lcprune.exporters.verify import Reference
from lcprune.models.network import Network, Normalize
from lcprune_runtime.metadata import ExitInfo, InputInfo, ModelInfo
from lcprune_runtime.segment_session import SegmentedSession
from lcprune_runtime.session import ProgressiveSession

SIZES = (4, 6, 8)
"""A whole divisor of the image, one that is none, and the image itself; each has two exits."""
CLASSES = 5


def _network() -> Network:
    torch.manual_seed(0)
    groups: list[nn.Module] = []
    critics: list[nn.Module] = []
    for size in SIZES:
        first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        last = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(size), nn.Flatten(), nn.Linear(8, CLASSES)]
        groups += [nn.Sequential(*first), nn.Sequential(*last)]
        critics += [nn.Sequential(nn.AvgPool2d(size), nn.Flatten(), nn.Linear(8, CLASSES)), nn.Identity()]
    return Network(Normalize((0.4,) * 3, (0.2,) * 3), groups, critics[:-1], image_sizes=np.repeat(SIZES, 2).tolist())


@pytest.fixture(scope="module")
def network() -> Network:
    return cpu_copy(_network())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)


def _info(network: Network, exits: Sequence[int], thresholds: Sequence[float], **changes: object) -> ModelInfo:
    names = network.exit_names
    fields = {
        "classes": tuple("abcde"),
        "mean": (0.4,) * 3,
        "std": (0.2,) * 3,
        "exits": tuple(ExitInfo(names[k], k, 10 + k, 5, image_size=network.image_sizes[k]) for k in exits),
        "input": InputInfo(8, 3),
        "recipe_sha256": "0" * 64,
        "main_macs": 100,
        "exit_macs": tuple(10 + k for k in exits),
        "thresholds": tuple(thresholds),
    }
    return ModelInfo(**{**fields, **changes})


def _middle(network: Network, images: np.ndarray, kept: Sequence[int]) -> list[float]:
    """Thresholds at which about a third of the images leave at each exit."""
    with torch.no_grad():
        logits = network(torch.from_numpy(images).float() / 255)
    return [float(torch.quantile(logits[k].softmax(1).amax(1), 0.66)) for k in kept]


@pytest.mark.parametrize("kept", [(0, 1, 2, 3, 4), (0, 3), (1,), (2, 4), (0,), (4,)])
def test_stages_read_the_image_where_a_size_begins(network: Network, images: np.ndarray, kept: tuple[int, ...]) -> None:
    stages, reference = cascade_stages(network, kept, images)  # compares the logits with torch
    sizes = [network.image_sizes[k] for k in (*kept, 5)]
    begins = [k == 0 or sizes[k] != sizes[k - 1] for k in range(len(sizes))]
    assert [reads_image(stages, k) for k in range(len(stages))] == begins
    assert reference.logits.shape == (len(kept) + 1, 40, CLASSES)


@pytest.mark.parametrize("criterion", ["softmax", "agreement"])
@pytest.mark.parametrize("changes", [{}, {"layout": "flat"}, {"batch": 1}])
@pytest.mark.parametrize("kept", [(0, 1, 2, 3, 4), (0, 3)])
def test_every_layout_agrees_with_torch(
    network: Network,
    images: np.ndarray,
    tmp_path: Path,
    kept: tuple[int, ...],
    changes: dict[str, object],
    criterion: str,
) -> None:
    thresholds = _middle(network, images, kept)
    info = _info(network, (*kept, 5), thresholds, criterion=criterion, **changes)
    parity = write_network(network, kept, tmp_path / "p.onnx", info, images)
    assert parity.exits_agree
    taken = ProgressiveSession(tmp_path / "p.onnx")(images).exit_indices
    assert len(set(taken.tolist())) > 1


@pytest.mark.parametrize("precision", ["int8", "fp16", "w8"])
def test_every_precision_agrees_with_its_stages(
    network: Network, images: np.ndarray, tmp_path: Path, precision: Reduction
) -> None:
    kept = (0, 1, 3, 4)
    stages, _ = cascade_stages(network, kept, images)
    fewer = reduce(stages, precision, images)
    reference = Reference.of_stages(fewer.stages, images, precision)
    info = _info(network, (*kept, 5), _middle(network, images, kept))
    write_model(fewer.stages, reference, tmp_path / "p.onnx", info, quantization=fewer.quantization)
    with torch.no_grad():
        exact = torch.stack(network(torch.from_numpy(images).float() / 255)).numpy()[[*kept, 5]]
    assert np.abs(reference.logits - exact).max() < 0.05 * np.abs(exact).max()


def _of_shared_convolutions() -> Network:
    """Sizes whose normalisation alone differs, as training on several sizes makes them."""
    torch.manual_seed(0)
    body, head = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Linear(16, CLASSES)
    groups = []
    for _ in SIZES:
        norm = nn.BatchNorm2d(16)
        nn.init.uniform_(norm.weight, 0.3, 1.5)
        groups.append(nn.Sequential(body, norm, nn.ReLU()))
    critics = [nn.Sequential(nn.AvgPool2d(size), nn.Flatten(), head) for size in SIZES]
    groups[-1].extend(critics.pop())
    return Network(Normalize((0.4,) * 3, (0.2,) * 3), groups, critics, image_sizes=SIZES)


@pytest.mark.parametrize("batch", [None, 1])
def test_int8_of_several_sizes_shares_its_integers(images: np.ndarray, tmp_path: Path, batch: int | None) -> None:
    """Once in the file, outside of the branches, and the results stay as they are to the bit."""
    network = cpu_copy(_of_shared_convolutions())
    stages, _ = cascade_stages(network, (0, 1), images)
    fewer = reduce(stages, "int8", images)
    reference = Reference.of_stages(fewer.stages, images, "int8")
    found, counts = {}, {}
    for layout in ("nested", "shared"):
        path = tmp_path / f"{layout}.onnx"
        info = _info(network, (0, 1, 2), _middle(network, images, (0, 1)), layout=layout, batch=batch)
        write_model(fewer.stages, reference, path, info, quantization=fewer.quantization)
        session = ProgressiveSession(path)
        found[layout] = session(images)
        graphs = enumerate(subgraphs(onnx.load(path).graph))
        counts[layout] = [k == 0 for k, graph in graphs for tensor in graph.initializer if _is_int8(tensor)]
        assert session.info.layout == layout
    assert len(set(found["nested"].exit_indices.tolist())) == 3
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found["nested"].logits, found["shared"].logits)
    # A convolution, an average pool and a linear layer of each size; the first stage is in no branch.
    assert sorted(counts["nested"]) == [False] * 6 + [True] * 3
    assert sorted(counts["shared"]) == [False] * 2 + [True] * 3  # pools of other shapes


def _is_int8(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1


def test_segments_read_the_image_where_a_size_begins(network: Network, images: np.ndarray, tmp_path: Path) -> None:
    kept = (0, 2)
    stages, reference = cascade_stages(network, kept, images)
    info = _info(network, (*kept, 5), _middle(network, images, kept), temperatures=(1.0,) * 3, kind="progressive")
    write_segments(stages, reference, tmp_path / "segments", info)
    session = SegmentedSession(tmp_path / "segments")
    np.testing.assert_allclose(session.exit_logits(images), reference.logits, atol=1e-5)
    inputs = [onnx.load(path).graph.input[0].name for path in sorted((tmp_path / "segments").glob("*.onnx"))]
    assert inputs == ["image", "image", "image"]


def test_one_exit_at_a_smaller_size_takes_the_whole_image(network: Network, images: np.ndarray) -> None:
    (stage,) = export_stages(network.truncated(3), (), (3, 8, 8))
    shape = [dim.dim_value for dim in stage.graph.input[0].type.tensor_type.shape.dim]
    assert shape[1:] == [3, 8, 8]
    assert sum(node.op_type == "Conv" for node in stage.graph.node) == 1  # not those of the smallest size
