"""The model by hand, and the network that it is asked about."""

import pytest

from benchmarks import scaling_model as model
from benchmarks.scaling_model import Group, Link, Machine

NEAR = Link(0.0, 1e12)


def test_divided_layers_take_as_long_as_the_slowest_process() -> None:
    parts = [[{"forward_s": 1.0, "local_s": 3.0}], [{"forward_s": 1.5, "local_s": 4.0}]]
    assert model.layers_s(parts, [0, 0], NEAR, 0) == 4.0


def test_a_critic_at_a_cut_waits_for_both_ways_and_the_next_forward_pass() -> None:
    parts = [[{"forward_s": 1.0, "local_s": 3.0}], [{"forward_s": 1.0, "local_s": 2.0}] * 2]
    far = Link(2.0, 10.0)
    # 1 s forward, 2 s + 5 bytes at 10 a second, 1 s forward, 2 s back
    assert model.layers_s(parts, [5, 0], far, 0) == 6.5
    assert model.layers_s(parts, [5, 0], far, 1) == 4.0  # 3.25 s a step at least, and the slower process takes 4


def test_a_pipeline_has_a_bubble() -> None:
    assert model.pipeline_s([2.0, 2.0]) == 2.5  # 4 micro-batches of 0.5 s, and one on the way through the other stage
    assert model.pipeline_s([4.0, 0.0]) == 4.0


def test_a_link_is_found_from_two_messages() -> None:
    rows = [{"bytes": 100, "one_way_s": 2.0}, {"bytes": 300, "one_way_s": 4.0}, {"bytes": 200, "one_way_s": 9.0}]
    assert model.fitted(rows) == Link(1.0, 100.0)


def test_a_prediction_by_hand() -> None:
    machine = Machine("m", gpus_per_node=2, images_per_s=1.0, inside=Link(0.0, 100.0), outside=Link(0.0, 10.0))
    group = Group(macs=3 * model._MAIN_MACS, gradient_bytes=120, sent_bytes=50)  # 3 s an image
    # two replicas in a node: 2 x 1/2 x 120 bytes at 100 a second are less than the backward pass
    assert model.stage_s([[group]], 0, machine, 2, 1.0) == pytest.approx(3.0)
    # four in two nodes: 2 x 3/4 x 120 at 10 are 18 s, beside the backward pass, after 1 s of forward pass
    assert model.stage_s([[group]], 0, machine, 4, 1.0) == pytest.approx(19.0)
    # both GPUs of a node send their activations through its one link: 2 x 1 x 50 bytes at 10 a second
    assert model.stage_s([[group], [group]], 0, machine, 2, 1.0) == pytest.approx(10.0)
    # one GPU for each stage: the first two are in one node, the second two are not
    assert model.stage_s([[group]] * 3, 0, machine, 1, 1.0) == pytest.approx(3.0)
    assert model.stage_s([[group]] * 3, 1, machine, 1, 1.0) == pytest.approx(5.0)


def test_both_divisions_are_predicted_for_every_number_of_gpus() -> None:
    groups = [Group(model._MAIN_MACS, 0, 0), Group(model._MAIN_MACS, 0, 0)]
    batches, both = model.predicted(groups, model.FAST, 8, 80)
    assert (batches["stages"], batches["replicas"], both["stages"], both["replicas"]) == (1, 8, 2, 4)
    assert batches["images_per_s"] == pytest.approx(8 * 2500 / 2, rel=0.01)  # two such groups are two of main
    assert batches["efficiency_pct"] == pytest.approx(100, abs=1)
    assert both["efficiency_pct"] == pytest.approx(100, abs=1)


def test_resnet50_is_the_network_of_the_recipe() -> None:
    groups = model.resnet50_groups()
    assert sum(group.macs for group in groups) == 4_209_155_072
    assert groups[0].sent_bytes == 2 * 256 * 56 * 56  # bfloat16 behind the first stage
    assert groups[-1].sent_bytes == 0
    assert all(group.gradient_bytes > 0 for group in groups)


def test_what_was_measured_stands_beside_the_model() -> None:
    spread = {"median": 1.6, "low": 1.5, "high": 1.7}
    costs = [{"forward_s": 1.0, "local_s": 3.0, "main_s": 2.0}] * 2
    case = {
        "case": "n",
        "batch_size": 128,
        "batch_norms": 0,
        "group_costs": costs,
        "groups_per_rank": [1, 1],
        "pipeline_groups_per_rank": {"the same cut": [1, 1]},
        "bytes_sent_per_step": {"layers": [0, 0], "data": [0, 0]},
        "rows": [{"side": side, "speedup": spread} for side in ("layers", "data", "GPipe, the same cut", "backprop")],
    }
    slow = {
        **{key: case[key] for key in ("case", "batch_size", "group_costs", "groups_per_rank")},
        "bytes_sent_per_step": [0, 0],
        "rows": [{"staleness": 0, "delay_ms": 1000.0, "kept": spread}],
    }
    link = {"rows": [{"bytes": 1, "one_way_s": 1e-9}, {"bytes": 2, "one_way_s": 2e-9}]}
    rows = model.checked({"speed": {"rows": [case]}, "slow links": {"rows": [slow]}, "link": link})
    said = {row["what"]: row["model"] for row in rows}
    assert said["layers"] == pytest.approx(2.0)
    assert said["data"] == pytest.approx(2.0)
    assert said["GPipe, the same cut"] == pytest.approx(4 / 2.5)
    assert said["1000 ms on the way, staleness 0: throughput kept"] == pytest.approx(3 / 4)
    assert rows[0]["off_pct"] == pytest.approx(25.0)
