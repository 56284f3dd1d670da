"""The cases of throughput run at a tiny size; their figures are no matter of a test."""

import math

import pytest
import torch

from benchmarks import networks, throughput
from lcprune.analysis.counting import count_cost

CPU = torch.device("cpu")
TINY = throughput.Case(
    "tiny", "vgg_cifar10", ("model.width=0.05", "critics.channels=4", "data.batch_size=6"), rounds=2, burst=1
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SAMPLES", 48)
    monkeypatch.setattr(throughput, "MATRIX_SIZES", {"cpu": 16})
    noise = networks.noise
    monkeypatch.setattr(networks, "noise", lambda recipe, samples=48: noise(recipe, samples))


@pytest.mark.parametrize("method", ["backprop", "local_critic"])
def test_overhead_is_a_ratio_with_its_spread(method: str) -> None:
    (row,) = throughput.measure_overhead(TINY, method, CPU, workers=0)
    assert (row["network"], row["method"], row["batch_size"]) == ("tiny", method, 6)
    for key in ("over_bare", "over_loader", "share_of_arithmetic"):
        assert 0 < row[key]["low"] <= row[key]["median"] <= row[key]["high"] < math.inf
    assert row["met"] == (row["over_bare"]["median"] >= 0.98 and row["over_loader"]["median"] > 1)


def test_methods_are_held_against_the_ratio_of_their_macs() -> None:
    (row,) = throughput.measure_methods(TINY, CPU)
    cost = count_cost(networks.make_network(networks.load(TINY.recipe, TINY.overrides), CPU), (3, 32, 32))
    assert row["mac_ratio"] == cost.cascade.exit_macs()[-1] / cost.cascade.main_macs
    assert row["limit"] == pytest.approx(1.05 * row["mac_ratio"])
    assert row["met"] == (row["lc_over_bp"]["median"] <= row["limit"])


def test_the_arithmetic_limit_by_hand() -> None:
    # 10 MACs x 2 x 3 x 4 images = 240 operations; 2 x 2^3 = 16 operations in 2 s are 8 a second.
    assert throughput.least_seconds(10, 4, 2.0, 2) == 30.0


def test_step_costs_are_milliseconds_by_name() -> None:
    shared = list(TINY.overrides)
    costs = throughput.step_costs("vgg_cifar10", {"a": shared, "b": [*shared, "train.method=backprop"]}, repeats=1)
    assert list(costs) == ["a", "b"]
    assert all(0.1 < cost < 60_000 for cost in costs.values())


@pytest.mark.parametrize("case", [*throughput.OVERHEAD_CASES, *throughput.METHOD_CASES], ids=lambda case: case.network)
def test_every_case_is_a_recipe(case: throughput.Case) -> None:
    for overrides in throughput.METHODS.values():
        recipe = networks.load(case.recipe, [*case.overrides, *overrides])
        assert recipe.data.source == "cifar10"
        assert recipe.critics.loss == "cascade" or recipe.train.method == "backprop"
