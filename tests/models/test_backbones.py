"""Trunks from torchvision and from the user."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe
from lcprune.errors import ModelError
from lcprune.models import Network, backbones, build
from lcprune.models.backbones import cut_names, find_cuts, make

SHAPE = (3, 32, 32)
OWN = """\
from torch import nn


def groups(classes):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2)),
        nn.Sequential(nn.Flatten(), nn.LazyLinear(classes)),
    )


def shaped(classes, image_shape):
    channels, height, width = image_shape
    return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Sequential(nn.Flatten(), nn.Linear(4 * height * width, classes)))


def open_to_all(classes, **options):
    return shaped(classes, options["image_shape"])


class Residual(nn.Module):
    def __init__(self, classes=3, **options):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, classes)

    def forward(self, x):
        return self.head(self.pool(x + self.second(self.first(x))).flatten(1))


def fails(classes):
    return 1 / 0


def number(classes):
    return classes


value = 3
"""


@pytest.fixture
def own(here: Path) -> Iterator[str]:
    """A module of the current folder."""
    (here / "lcprune_own_trunk.py").write_text(OWN)
    yield "lcprune_own_trunk"
    sys.modules.pop("lcprune_own_trunk", None)


def network_of(trunk: str, *overrides: str, classes: int = 5, shape: tuple[int, int, int] = SHAPE) -> Network:
    text = "name: a\ndata: {source: imagefolder, image_size: 32}\ntrain: {iterations: 1}\n"
    keys = [f"model.trunk={trunk}", "critics.head=pooled", "critics.channels=4", *overrides]
    loaded = recipe.parse(text, overrides=keys)
    return build(loaded, classes, shape, (0.5,) * shape[0], (0.25,) * shape[0])


def refused(trunk: str, *overrides: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        network_of(trunk, *overrides)
    return caught.value


def test_a_classifier_of_torchvision_is_cut_where_the_recipe_says() -> None:
    network = network_of("torchvision/mobilenet_v3_small", "model.cuts=[features.1, features.8]")
    assert cut_names(network.groups) == ("features.1", "features.8")
    assert [critic[-1].in_features for critic in network.critics] == [4 * 4 * 4, 4 * 2 * 2]  # 8x8 to 4x4, and 2x2
    assert network.groups[2].state_dict()["0.classifier.3.weight"].shape == (5, 1024)


def test_critics_may_sit_at_some_of_the_cuts() -> None:
    cuts = "model.cuts=[features.1, features.4, features.8]"
    network = network_of("torchvision/mobilenet_v3_small", cuts, "critics.after=[1, 3]")
    assert cut_names(network.groups) == ("features.1", "features.8")
    error = refused("torchvision/mobilenet_v3_small", cuts, "critics.after=[1, 4]")
    assert error.problem.startswith("critics.after: [4] is not inside the backbone, which has 3 cuts (features.1, ")
    whole = network_of("torchvision/mobilenet_v3_small", cuts, "train.method=backprop")
    assert (len(whole.groups), cut_names(whole.groups)) == (1, ())


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    trunk = "torchvision/shufflenet_v2"
    first, same, other = (network_of(trunk, f"train.seed={seed}").state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["groups.0.0.conv1.0.weight"], other["groups.0.0.conv1.0.weight"])
    assert not torch.equal(first["critics.0.0.weight"], other["critics.0.0.weight"])
    state = torch.get_rng_state()
    own = make("torchvision/shufflenet_v2_x1_0", 5, SHAPE, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["groups.0.0.conv1.0.weight"], own["conv1.0.weight"])  # not drawn anew


def test_grey_images_get_a_first_convolution_of_their_own() -> None:
    network = network_of("torchvision/shufflenet_v2", shape=(1, 32, 32))
    assert network.groups[0].state_dict()["0.conv1.0.weight"].shape == (24, 1, 3, 3)
    assert [logits.shape for logits in network.eval()(torch.zeros(2, 1, 32, 32))] == [(2, 5)] * 4


def test_a_first_convolution_that_reads_each_colour_alone_reads_no_other_number_of_them() -> None:
    with pytest.raises(ModelError, match="torchvision/any cannot read images of 1 channels"):
        backbones._read_channels(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), "any", 1)


def test_what_does_not_fit_torchvision_is_refused() -> None:
    error = refused("torchvision/mobilenet_v3_smal")
    assert error.problem == "torchvision has no classifier mobilenet_v3_smal"
    assert "did you mean torchvision/mobilenet_v3_small" in error.fix
    error = refused("torchvision/mobilenet_v3_small", "model.cuts=[features.5.block.0]")
    assert error.problem.startswith("model.cuts: after features.5.block.0, the output of ")
    assert refused("torchvision/shufflenet_v2", "model.groups=40").problem.startswith("40 groups need 39 cuts")
    with pytest.raises(ModelError, match="the backbone cannot read an image of 8x8"):
        network_of("torchvision/densenet121", shape=(3, 8, 8))


def test_the_possible_cuts_are_found_without_a_recipe() -> None:
    cuts, chosen = find_cuts("torchvision/shufflenet_v2", 5, SHAPE, 4)
    assert len(chosen) == 3
    assert set(chosen) <= {place.name for place in cuts.places}
    macs = [place.macs for place in cuts.places]
    assert macs == sorted(macs)
    _, every = find_cuts("torchvision/shufflenet_v2", 5, SHAPE, 100)
    assert every == tuple(place.name for place in cuts.places)


# Of one's own


def test_every_child_of_a_sequential_is_a_group(own: str) -> None:
    network = network_of(f"{own}:groups", "model.groups=3")
    assert cut_names(network.groups) == ("0", "1")
    image = torch.rand(2, *SHAPE)
    logits = network.eval()(image)
    torch.testing.assert_close([network.submodel(k)(image) for k in (1, 2, 3)], logits)
    error = refused(f"{own}:groups")
    assert error.problem == f"{own}:groups gives an nn.Sequential of 3 groups, but model.groups is 4"
    assert error.fix.startswith("set model.groups: 3")


@pytest.mark.parametrize("builder", ["shaped", "open_to_all"])
def test_a_builder_is_told_the_shape_of_an_image_if_it_asks(own: str, builder: str) -> None:
    network = network_of(f"{own}:{builder}", "model.groups=2", shape=(2, 6, 5))
    assert [logits.shape for logits in network.eval()(torch.zeros(1, 2, 6, 5))] == [(1, 5)] * 2


def test_any_module_is_cut_by_name_or_evenly(own: str) -> None:
    assert cut_names(network_of(f"{own}:Residual", "model.cuts=[pool]").groups) == ("pool",)
    error = refused(f"{own}:Residual", "model.cuts=[first]")
    assert error.problem == (
        "model.cuts: after first, the output of x is needed too: a skip connection bypasses the cut"
    )
    assert refused(f"{own}:Residual", "model.groups=3").problem.startswith("3 groups need 2 cuts, but there ")


@pytest.mark.parametrize(
    ("trunk", "problem"),
    [
        ("lcprune_no_such:build", "model.trunk: lcprune_no_such cannot be imported: ModuleNotFoundError: "),
        ("lcprune_own_trunk:nothing", "model.trunk: lcprune_own_trunk has no nothing"),
        ("lcprune_own_trunk:value", "model.trunk: lcprune_own_trunk:value cannot be called"),
        ("lcprune_own_trunk:fails", "lcprune_own_trunk:fails failed: ZeroDivisionError: division by zero"),
        ("lcprune_own_trunk:number", "lcprune_own_trunk:number gives a int, not an nn.Module"),
    ],
)
def test_what_gives_no_trunk_is_refused(own: str, trunk: str, problem: str) -> None:
    assert refused(trunk).problem.startswith(problem)
    assert str(Path.cwd()) not in sys.path


def test_layers_of_a_trunk_from_elsewhere_keep_their_weights(own: str) -> None:
    class Ones(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, classes)
            nn.init.ones_(self.body.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).mean((2, 3)))

    sys.modules[own] = module = ModuleType(own)
    vars(module)["build"] = Ones
    network = network_of(f"{own}:build", "model.cuts=[body]")
    assert bool((network.groups[0].state_dict()["0.body.weight"] == 1).all())
    assert network.training
