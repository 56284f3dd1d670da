"""Times of groups and critics, out of the times of whole graphs."""

from itertools import accumulate

from lcprune.pipeline.export.latency_cost import CascadeLatency, split_latency


def test_the_parts_of_a_cascade_by_hand() -> None:
    """Groups of 100, 200, 300, 400 ms; critics of 10, 20, 30 ms; a decision takes 5 ms, and main has none."""
    groups, critics, decision = [100, 200, 300, 400], [10, 20, 30], 5
    through = list(accumulate(groups))
    alone = [through[0] + 10, through[1] + 20, through[2] + 30, through[3]]
    paid = list(accumulate(critic + decision for critic in critics))
    to_exit = [through[0] + paid[0], through[1] + paid[1], through[2] + paid[2], through[3] + paid[2]]
    assert split_latency(to_exit, alone) == CascadeLatency((100, 200, 300, 400), (15, 25, 35))
    assert CascadeLatency((100, 200, 300, 400), (15, 25, 35)).exit_ms() == tuple(to_exit)


def test_one_critic() -> None:
    assert split_latency([115, 315], [110, 300]) == CascadeLatency((100, 200), (15,))


def test_noise_makes_nothing_negative() -> None:
    cost = split_latency([100, 90, 95], [110, 120, 50])
    assert min(cost.group_ms) > 0
    assert min(cost.critic_ms) >= 0
