"""Figures 3, 5, 6 and 7 of a run: what is read from its folder, and what is said where there is nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcprune import models, runs
from lcprune import recipe as recipes
from lcprune.data.sources import Split, read_digits
from lcprune.errors import RunError
from lcprune.models import Network
from lcprune.models.network import Normalize
from lcprune.pipeline import rdm
from lcprune.pipeline.curves import read_curves
from lcprune.pipeline.stored import load_network


def images(n_samples: int = 12, size: int = 32) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (n_samples, 3, size, size), dtype=np.uint8), np.arange(n_samples) // 2)


def network(*overrides: str) -> Network:
    recipe = recipes.load("vgg_cifar10", ["model.width=0.0625", "critics.channels=4", *overrides])
    return models.build(recipe, 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3).eval()


def distances(activations: Tensor) -> np.ndarray:
    found = 1 - np.corrcoef(activations.flatten(1).double().numpy())
    np.fill_diagonal(found, 0)
    return found


def test_layers_of_the_vgg_by_hand() -> None:
    trunk, split = network(), images()
    found = rdm.of_network(trunk, split, "test")
    assert found.layers == (*(f"layer {n}" for n in range(1, 12)), "output")
    assert found.critic_after == (1, 4, 7)  # after convolutions 2, 5 and 8
    with torch.inference_mode():
        hidden = trunk.normalize(torch.from_numpy(split.images).float() / 255)
        first_two = [trunk.groups[0][:3](hidden), trunk.groups[0](hidden)]
        ends = [trunk.groups[0](hidden)]
        for group in trunk.groups[1:]:
            ends.append(group(ends[-1]))
    np.testing.assert_allclose(found.matrices[0], distances(first_two[0]), atol=1e-6)
    for place, end in zip((*found.critic_after, 11), ends, strict=True):
        np.testing.assert_allclose(found.matrices[place], distances(end), atol=1e-6)
    assert (found.matrices.dtype, found.split) == (np.float32, "test")


@pytest.mark.parametrize("trunk", ["vgg", "resnet50"])
def test_batches_and_passes_change_nothing(trunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    downsample = ["model.trunk=resnet50", "model.downsample=stride", "critics.after=[3,7,13]"]
    built, split = network(*(downsample if trunk == "resnet50" else [])), images()
    whole = rdm.of_network(built, split, "test")
    passes: list[int] = []
    run_backbone = rdm._run_backbone
    monkeypatch.setattr(rdm, "_run_backbone", lambda *args: passes.append(1) or run_backbone(*args))
    monkeypatch.setattr(rdm, "BATCH", 5)
    monkeypatch.setattr(rdm, "ACTIVATION_BYTES", 4 * 12 * 4 * 1024)  # the first layer, and no more than it
    pieces = rdm.of_network(built, split, "test")
    assert len(passes) >= 6
    np.testing.assert_allclose(pieces.matrices, whole.matrices, atol=1e-5)
    assert (pieces.layers, pieces.critic_after) == (whole.layers, whole.critic_after)


def test_layers_of_a_resnet() -> None:
    built = network("model.trunk=resnet50", "model.downsample=stride", "critics.after=[3,7,13]")
    found = rdm.of_network(built, images(), "test")
    assert len(found.layers) == 50  # 16 blocks of 3 ReLUs, the last ReLU, the output
    assert found.critic_after == (8, 20, 38)  # 3, 7 and 13 blocks


def pair(activation: nn.Module) -> Network:
    """Two groups: a convolution and an activation, then the same module once more, a convolution and the logits."""
    end = nn.Sequential(activation, nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 10))
    critic = nn.Sequential(nn.Flatten(), nn.Linear(108, 10))
    start = nn.Sequential(nn.Conv2d(3, 3, 3), activation)
    return Network(Normalize((0.5,) * 3, (0.25,) * 3), [start, end], [critic]).eval()


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Tanh()], ids=str)
def test_layers_are_activations_of_any_kind(activation: nn.Module) -> None:
    built, split = pair(activation), images(size=8)
    found = rdm.of_network(built, split, "test")
    assert (found.layers, found.critic_after) == (("layer 1", "layer 2", "output"), (0,))
    with torch.inference_mode():
        hidden = built.groups[0](built.normalize(torch.from_numpy(split.images).float() / 255))
        again = activation(hidden)
    np.testing.assert_allclose(found.matrices[0], distances(hidden), atol=1e-5)
    np.testing.assert_allclose(found.matrices[1], distances(again), atol=1e-5)


def test_a_trunk_that_calls_functions_is_seen_by_its_convolutions() -> None:
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(x)

    built, split = pair(Called()), images(size=8)
    found = rdm.of_network(built, split, "test")
    assert (found.layers, found.critic_after) == (("layer 1", "layer 2", "output"), (0,))
    with torch.inference_mode():
        first = built.groups[0][0](built.normalize(torch.from_numpy(split.images).float() / 255))
    np.testing.assert_allclose(found.matrices[0], distances(first), atol=1e-5)


def test_a_critic_before_the_first_layer_comes_after_none_and_so_do_no_critics() -> None:
    assert rdm.of_network(network("train.method=backprop"), images(), "test").critic_after == ()
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    end = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(48, 10))
    built = Network(Normalize((0.5,) * 3, (0.25,) * 3), [nn.Sequential(nn.AvgPool2d(2)), end], [critic])
    assert rdm.of_network(built, images(size=8), "test").critic_after == ()


def test_a_run_by_its_test_images(run: Path) -> None:
    found = rdm.dissimilarities(run, samples=30)
    _, test = read_digits()
    places = [place for label in range(10) for place in np.flatnonzero(test.labels == label)[:3]]
    _, recipe = runs.open_run(run)
    trained, _ = load_network(run, recipe)
    again = rdm.of_network(trained, test.subset(np.array(places)), "test")
    np.testing.assert_array_equal(found.matrices, again.matrices)
    assert found.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert len(rdm.dissimilarities(run).labels) == 360  # all there are


def test_an_unfinished_run_has_no_matrices(run: Path) -> None:
    (run / runs.WEIGHTS).unlink()
    with pytest.raises(RunError) as error:
        rdm.dissimilarities(run)
    assert error.value.fix == f"run this first: lcprune resume {run}"


def line(**content: object) -> str:
    return json.dumps(content) + "\n"


def test_curves_by_hand(run: Path) -> None:
    (run / runs.METRICS).write_text(
        line(step=5, loss=[2.0, 1.5])
        + line(step=8, split="val", accuracy_pct=[10.0, 20.0])
        + line(step=10, loss=[1.0, 0.5])
        + '{"step": 15, "loss": [0.'  # a crash
    )
    found = read_curves(run)
    assert (found.exit_names, found.split) == (("sub-model 1", "main"), "val")
    assert (found.steps.tolist(), found.losses.tolist()) == ([5, 10], [[2.0, 1.5], [1.0, 0.5]])
    assert (found.eval_steps.tolist(), found.accuracies_pct.tolist()) == ([8], [[10.0, 20.0]])
    (run / runs.METRICS).write_text(line(step=5, loss=[2.0, 1.0]))  # losses alone
    assert read_curves(run).accuracies_pct.shape == (0, 2)


@pytest.mark.parametrize(
    "evaluated",
    [
        {"split": "val", "accuracy_pct": [1.0], "test_accuracy_pct": [7.0]},
        {"split": "test", "accuracy_pct": [7.0]},
        {"split": "test", "accuracy_pct": [7.0], "test_accuracy_pct": [7.0]},
    ],
)
def test_curves_take_the_test_accuracy_where_it_is_known(run: Path, evaluated: dict[str, object]) -> None:
    (run / runs.METRICS).write_text(line(step=5, loss=[2.0]) + line(step=8, **evaluated))
    found = read_curves(run)
    assert (found.split, found.accuracies_pct.tolist()) == ("test", [[7.0]])


def test_a_run_that_has_not_begun_says_what_to_run(run: Path) -> None:
    shutil.copy(run / runs.RECIPE, "recipe.yaml")
    for prepare in (lambda: (run / runs.METRICS).write_text(""), (run / runs.METRICS).unlink):
        prepare()
        with pytest.raises(RunError, match="has no losses in metrics.jsonl yet") as error:
            read_curves(run)
        assert error.value.fix == f"run this first: lcprune resume {run}"


MEASURE = """
import numpy as np
from pathlib import Path
from lcprune import models, recipe as recipes
from lcprune.data.sources import Split
from lcprune.pipeline import rdm
network = models.build(recipes.load("vgg_cifar10"), 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
images = np.random.default_rng(0).integers(0, 256, (400, 3, 32, 32), dtype=np.uint8)
rdm.of_network(network, Split(images, np.arange(400) // 40), "test")
# not ru_maxrss, in which the process counts that this one was forked from
peak_kib = next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(int(peak_kib) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak of memory")
def test_400_samples_at_the_papers_width_stay_under_2_gib() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2
