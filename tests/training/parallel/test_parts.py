"""Parts of a network, and the whole again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lcprune import recipe as recipes
from lcprune.models import build
from lcprune.recipe import Recipe
from lcprune.training.checkpoint import TrainingState
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel.parts import gather, pack, part_of, unpack
from lcprune.training.step import EagerStep

HELD = (range(1), range(1, 3), range(3, 4))
SMALL = ("model.width=0.0625", "critics.channels=4", "critics.pool_to=1", "critics.batch_norm=true")


def fresh(loaded: Recipe) -> TrainingState:
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.25,))
    return TrainingState(network, build_optimizers(loaded, network))


def trained(loaded: Recipe) -> TrainingState:
    torch.manual_seed(0)
    state = fresh(loaded)
    step = EagerStep(build_method(loaded, state.network), state.optimizers, torch.device("cpu"), bf16=False)
    for number in range(3):
        step(torch.rand(8, 1, 8, 8), torch.arange(8), number)
    return replace(state, step=3, seconds=1.5, best_accuracy_pct=40.0, retries=1)


def leaves(state: TrainingState) -> dict[str, Tensor]:
    """All tensors, by name."""
    found = {f"network {name}": value for name, value in state.network.state_dict().items()}
    for number, optimizer in enumerate(state.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            found |= {f"optimizer {number} {index} {k}": v for k, v in values.items() if isinstance(v, Tensor)}
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.optimizer=adam", "train.lr=0.001"),
        ("train.freeze=[1]",),
        ("train.layer_decay=0.5",),
    ],
)
def test_parts_make_the_whole_again(overrides: tuple[str, ...]) -> None:
    loaded = recipes.load("digits", [*SMALL, *overrides])
    before = leaves(trained(loaded))
    parts = [part_of(trained(loaded), loaded, held) for held in HELD]
    again = gather(parts[1], [pack(part) for part in parts], lambda: fresh(loaded))
    after = leaves(again)
    assert set(after) == set(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert (again.step, again.seconds, again.best_accuracy_pct, again.retries) == (3, 1.5, 40.0, 1)


def test_a_part_holds_its_own_and_nothing_else() -> None:
    loaded = recipes.load("digits", SMALL)
    part = part_of(trained(loaded), loaded, HELD[1])
    places = {name.split(".")[0] + "." + name.split(".")[1] for name, _ in part.network.named_parameters()}
    assert places == {"groups.1", "groups.2", "critics.1", "critics.2"}
    assert len(part.network.groups) == 4
    assert {type(critic).__name__ for critic in part.network.critics[:1]} == {"Identity"}
    held = {id(weight) for weight in part.network.parameters()}
    assert {id(w) for optimizer in part.optimizers for group in optimizer.param_groups for w in group["params"]} == held
    last = part_of(trained(loaded), loaded, HELD[2])
    assert len(last.optimizers) == 1  # it has no critic


def test_a_part_takes_what_it_has_a_place_for() -> None:
    loaded = recipes.load("digits", SMALL)
    whole, part = trained(loaded), part_of(fresh(loaded), loaded, HELD[1])
    unpack([pack(whole)], part)
    expected = leaves(whole)
    assert all(torch.equal(value, expected[f"network {name}"]) for name, value in part.network.state_dict().items())
    packed = pack(part)["optimizers"]
    assert all(
        torch.equal(v["momentum_buffer"], pack(whole)["optimizers"][0][n]["momentum_buffer"])
        for n, v in packed[0].items()
    )
    assert len(packed[0]) > 0
