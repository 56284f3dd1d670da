"""Cutting modules: where a single tensor passes, and what a cut must not sever."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lcprune.errors import ModelError
from lcprune.models import cutting, tracing
from lcprune.models.cutting import Cuts, Place

IMAGE = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block whose activation works in place."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.first(x))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, training=self.training)
        return self.relu(self.second(hidden) + x)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(Block(3, dropout), Block(3))
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks(self.relu(self.stem(x)))
        return self.head(hidden.mean((2, 3)))


class Sized(nn.Module):
    """Reads the batch size at the beginning, and uses it at the end."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(48, 5)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        n = {"size": lambda: x.size(0), "sizes": lambda: x.size()[0], "shape": lambda: x.shape[0]}[self.way]()
        hidden = self.second(self.first(x))
        return self.head(hidden.view(n, -1))


class Bypassed(nn.Module):
    """Needs the image at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x))
        return self.head(hidden.flatten(1)) + x.mean()


def refused(module: nn.Module, *cuts: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        cutting.split(tracing.record(module), cuts)
    return caught.value


@pytest.mark.parametrize("way", ["size", "sizes", "shape"])
def test_a_batch_size_that_is_read_early_is_no_obstacle(way: str) -> None:
    module = Sized(way)
    graph = tracing.record(module)
    assert [place.name for place in cutting.find_cuts(graph, IMAGE).places] == ["first", "second"]
    groups = cutting.split(graph, ["first"])
    cutting.check(module, groups, IMAGE, 5)
    images = torch.rand(7, 2, 4, 4)
    torch.testing.assert_close(groups[1](groups[0](images)), module(images))


def test_what_bypasses_every_layer_is_named_with_its_line() -> None:
    with pytest.raises(ModelError) as caught:
        cutting.find_cuts(tracing.record(Bypassed()), IMAGE)
    assert caught.value.problem.startswith("the backbone has no place to cut: the output of x is needed until mean (")
    assert caught.value.problem.endswith(": return self.head(hidden.flatten(1)) + x.mean())")
    assert "test_cutting.py:" in caught.value.problem


def test_places_are_between_blocks_with_the_macs_before_them() -> None:
    cuts = cutting.find_cuts(tracing.record(Net()), IMAGE)
    # 16 pixels: 2 * 3 weights, then twice 3 * 3 * 9 a block, and a linear layer of 15
    assert cuts.macs == 16 * 6 + 2 * 2 * 16 * 81 + 15
    assert cuts.places == (
        Place("relu", 96, (3, 4, 4)),  # behind the activation, not before it
        Place("blocks.0", 96 + 2592, (3, 4, 4)),
        Place("blocks.1", 96 + 5184, (3, 4, 4)),
    )


def test_there_is_no_place_before_anything_is_computed() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1), nn.Flatten())
    cuts = cutting.find_cuts(tracing.record(net), IMAGE)
    assert cuts.places == (Place("2", 4 * 6, (3, 2, 2)),)


def test_groups_compute_what_the_module_does_with_its_own_weights_and_names() -> None:
    net = Net()
    groups = cutting.split(tracing.record(net), ["relu", "blocks.0"])
    assert cutting.check(net, groups, IMAGE, 5) == [(3, 4, 4), (3, 4, 4)]
    named = [name for group in groups for name in group.state_dict()]
    assert named == list(net.state_dict())
    assert all(group.get_parameter(n) is net.get_parameter(n) for group in groups for n, _ in group.named_parameters())
    assert [name for name, _ in groups[1].named_parameters()] == [
        f"blocks.0.{layer}.{kind}" for layer in ("first", "second") for kind in ("weight", "bias")
    ]


def test_a_cut_through_a_block_names_what_passes_by() -> None:
    error = refused(Net(), "blocks.0.first")
    assert error.problem == (
        "model.cuts: after blocks.0.first, the output of relu is needed too: a skip connection bypasses the cut"
    )
    error = refused(Net(), "blocks.0.relu")
    assert error.problem == "model.cuts: blocks.0.relu is called more than once"
    error = refused(Net(dropout=0.5), "blocks.0.first")
    assert error.problem.startswith("model.cuts: blocks.0.first is inside blocks.0, which cannot be cut")


@pytest.mark.parametrize(
    ("cuts", "problem", "fix"),
    [
        (["block.0"], "model.cuts: block.0 is no layer of the backbone", "did you mean blocks.0"),
        (["blocks.0", "relu"], "model.cuts: blocks.0, relu are not in the order of the network", "write each once"),
        (["relu", "relu"], "model.cuts: relu, relu are not in the order of the network", "write each once"),
        (["head"], "model.cuts: nothing is left on one side of head", "lcprune cuts lists"),
    ],
)
def test_what_is_no_place_is_refused(cuts: list[str], problem: str, fix: str) -> None:
    error = refused(Net(), *cuts)
    assert error.problem == problem
    assert error.fix.startswith(fix)


def test_a_cut_behind_the_flattening_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.ReLU(), nn.Linear(48, 5))
    with pytest.raises(ModelError, match=r"group 1 ends in a tensor of \(48,\), but a critic reads \(C, H, W\)"):
        cutting.check(net, cutting.split(tracing.record(net), ["1"]), IMAGE, 5)


def test_layers_that_share_weights_are_not_parted() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(32, 5))
    net[2].weight = net[0].weight
    assert refused(net, "1").problem == "model.cuts: 2.weight is used before and after 1"


# What training does differently


def test_dropout_in_a_forward_pass_is_on_in_training_and_off_in_evaluation() -> None:
    net = Net(dropout=0.5).train()
    groups = cutting.split(tracing.record(net), ["relu", "blocks.0"])
    assert net.training
    hidden = torch.randn(2, 3, 4, 4)
    group = groups[1].train()
    assert not torch.equal(group(hidden), group(hidden))
    torch.manual_seed(3)
    mine = group(hidden)
    torch.manual_seed(3)
    torch.testing.assert_close(mine, net.blocks[0].train()(hidden))
    group.eval()
    assert torch.equal(group(hidden), group(hidden))


def test_a_pass_that_itself_differs_in_training_is_refused() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.layer(x), training=self.training)

    with pytest.raises(ModelError, match="does something else in training than in evaluation"):
        tracing.record(Root())


class Training(nn.Module):
    """Does something that it leaves out in evaluation."""

    def __init__(self, *, by_layer: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.drop = nn.Dropout(0.5) if by_layer else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training:
            x = F.dropout(x, 0.5) if self.drop is None else self.drop(x)
        return x


@pytest.mark.parametrize("by_layer", [False, True])
def test_only_the_child_that_does_more_in_training_is_kept_whole(by_layer: bool) -> None:
    net = nn.Sequential()
    net.add_module("a", Training(by_layer=by_layer))
    net.add_module("of_a_longer_name", nn.Conv2d(2, 2, 1))
    net.add_module("end", nn.Flatten())
    graph = tracing.record(net)
    assert graph.whole == {"a"}
    assert net.training


def test_a_layer_that_only_training_calls_is_refused_where_no_child_could_be_kept_whole() -> None:
    with pytest.raises(ModelError, match="own forward pass does something else in training"):
        tracing.record(Training(by_layer=True))


def test_a_child_that_looks_at_values_is_kept_whole() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    net = nn.Sequential(nn.ReLU(), Picky(), nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(48, 5))
    graph = tracing.record(net)
    assert [str(node.target) for node in graph.nodes if node.op == "call_module"] == ["0", "1", "2", "3", "4"]
    with pytest.raises(ModelError, match="the forward pass of Picky cannot be cut"):
        tracing.record(Picky())


class Whole(nn.Module):
    """Works in place where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(min=0)
        return self.inner(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()  # a module without children is not looked into

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.relu(x, inplace=True))


@pytest.mark.parametrize(
    "following",
    [
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Identity(), nn.Dropout(0.5, inplace=True), nn.Hardswish(inplace=True)),
        nn.Sequential(nn.Dropout(0.5), nn.ReLU(inplace=True)),
        nn.Dropout(0.5, inplace=True),  # in evaluation it writes nothing
        Functional(),
        Whole(),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_group_leaves_what_it_reads_as_it_is(following: nn.Module, training: bool) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), following, nn.Flatten(), nn.Linear(48, 5)).train(training)
    groups = cutting.split(tracing.record(net, children_whole=isinstance(following, Whole)), ["0"])
    assert cutting.check(net, groups, IMAGE, 5) == [(3, 4, 4)]
    hidden = torch.randn(2, 3, 4, 4)
    before = hidden.clone()
    groups[1].train(training)(hidden)
    assert torch.equal(hidden, before)


def test_groups_that_compute_something_else_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(48, 5))
    groups = cutting.split(tracing.record(net), ["0"])
    other = copy.deepcopy(net)
    assert cutting.check(other, groups, IMAGE, 5) == [(3, 4, 4)]
    with torch.no_grad():
        other[2].bias[3] += 1e-3
    with pytest.raises(ModelError, match="do not compute what the backbone does: logits differ by 1.0e-03"):
        cutting.check(other, groups, IMAGE, 5)
    with pytest.raises(ModelError, match=r"computes \(5,\) for an image, not 6 logits"):
        cutting.check(net, groups, IMAGE, 6)


# The choice


def cuts_at(*macs: int, total: int) -> Cuts:
    return Cuts(tuple(Place(str(count), count, (1, 1, 1)) for count in macs), total)


@pytest.mark.parametrize(
    ("macs", "total", "groups", "chosen"),
    [
        ([10, 20, 30], 40, 4, ["10", "20", "30"]),
        ([10, 20, 30], 40, 2, ["20"]),
        ([1, 2, 3, 50, 98, 99], 100, 2, ["50"]),
        ([10, 45, 55, 90], 100, 3, ["45", "55"]),  # 45, 10, 45: 4150; 10 and 55 would give 10, 45, 45: the same
        ([30, 60, 65], 100, 3, ["30", "65"]),  # 900 + 1225 + 1225 = 3350 before 900 + 900 + 1600 = 3400
    ],
)
def test_groups_are_as_equal_as_can_be(macs: list[int], total: int, groups: int, chosen: list[str]) -> None:
    found = cutting.balanced(cuts_at(*macs, total=total), groups, in_blocks=False)
    ends = [0, *map(int, found), total]
    squares = sum((end - start) ** 2 for start, end in zip(ends, ends[1:], strict=False))
    best = [0, *map(int, chosen), total]
    assert squares == sum((end - start) ** 2 for start, end in zip(best, best[1:], strict=False))
    assert len(found) == groups - 1


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(ModelError, match="4 groups need 3 cuts, but there are 2 possible places"):
        cutting.balanced(cuts_at(1, 2, total=3), 4, in_blocks=False)


class Wide(nn.Module):
    """An inverted residual without a skip connection: a place lies between its two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, 4 * channels, 1)
        self.narrow = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.narrow(self.widen(x).relu())
        return narrowed


def test_blocks_are_kept_whole_where_there_are_enough_places_between_them() -> None:
    blocks = nn.Sequential(Wide(3), Wide(3), nn.Sequential(Wide(3)))
    net = nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    cuts = cutting.find_cuts(tracing.record(net), torch.rand(1, 3, 4, 4))
    inside = [place.in_block for place in cuts.places]
    assert inside == [False, False, True, False, True, False]  # before the first one there is no place
    ends = [place.name for place in cuts.places if not place.in_block]
    assert cutting.balanced(cuts, 5, in_blocks=False) == tuple(ends)
    assert len(cutting.balanced(cuts, 6, in_blocks=False)) == 5
    assert not set(cutting.balanced(cuts, 4, in_blocks=True)) <= set(ends)
