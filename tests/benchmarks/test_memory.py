"""Peak memory is counted exactly."""

import pytest
import torch
from torch import nn

from benchmarks import memory, networks

CPU = torch.device("cpu")
TINY = memory.Case("tiny", "vgg_cifar10", ((5,), (2, 5, 8)), limit=0.75, speed_batch_size=4)
NARROW = ["model.width=0.05", "critics.channels=4"]


def test_the_peak_is_what_is_alive_at_once() -> None:
    def work() -> None:
        kept = torch.zeros(1000)  # 4,000 bytes
        torch.zeros(5000)  # 20,000, released at once
        another = torch.zeros(250)  # 1,000
        del kept, another
        torch.zeros(3000)

    assert memory.peak_of(work) == 24_000


def test_what_was_there_before_is_not_counted() -> None:
    before = [torch.zeros(10_000)]

    def work() -> None:
        before.clear()
        torch.zeros(100)

    assert memory.peak_of(work) == 400


def test_the_peak_of_a_backward_pass_by_hand() -> None:
    layer = nn.Linear(100, 50, bias=False)
    images = torch.zeros(8, 100)
    # Output 1,600 and its sum 4, then the gradients: of the sum 4, and of the weight 20,000; the output's own gradient
    # is the sum's, expanded, and takes nothing until it is multiplied (a copy of 1,600).
    peak = memory.peak_of(lambda: layer(images).sum().backward())
    assert 20_000 < peak <= 1_600 + 4 + 4 + 20_000 + 1_600


def test_a_step_needs_weights_gradients_momentum_batch_and_activations() -> None:
    recipe = networks.load("vgg_cifar10", [*NARROW, "train.method=backprop", "data.batch_size=16"])
    network = networks.make_network(recipe, CPU)
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    first = 16 * 3 * 32 * 32 * 4  # convolution and BatchNorm of the first layer keep one each
    small, large = (
        memory.peak_bytes(networks.load("vgg_cifar10", [*NARROW, "train.method=backprop", f"data.batch_size={n}"]), CPU)
        for n in (16, 32)
    )
    assert small > 2 * weights + 2 * first
    assert 1.8 < (large - 3 * weights) / (small - 3 * weights) < 2.2  # activations are proportional to the batch


def test_rows_say_groups_mode_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"backprop": 1000, "fast": 900, "lean": 700}
    monkeypatch.setattr(
        memory, "peak_bytes", lambda r, _: peaks["backprop" if r.train.method == "backprop" else r.train.memory]
    )
    rows = memory.measure_bytes(TINY, CPU)
    assert [(row["groups"], row.get("mode"), row["over_backprop"]) for row in rows] == [
        (1, None, 1.0),
        (2, "fast", 0.9),
        (2, "lean", 0.7),
        (4, "fast", 0.9),
        (4, "lean", 0.7),
    ]
    assert rows[-1]["after"] == [2, 5, 8]


def test_time_is_a_ratio_to_backprop(monkeypatch: pytest.MonkeyPatch) -> None:
    load = networks.load
    monkeypatch.setattr(memory, "ROUNDS", 1)
    monkeypatch.setattr(networks, "load", lambda name, overrides: load(name, [*overrides, *NARROW]))
    rows = memory.measure_time(TINY, (5,), CPU)
    assert [row["mode"] for row in rows] == ["fast", "lean"]
    assert all(0 < row["lc_over_bp"]["median"] < 100 for row in rows)


@pytest.mark.parametrize("case", memory.CASES, ids=lambda case: case.network)
def test_every_case_can_be_built(case: memory.Case) -> None:
    for after in case.places:
        _, recipe = case.load(after, (*NARROW, *memory.LOCAL_CRITIC))
        assert len(networks.make_network(recipe, CPU).critics) == len(after)
