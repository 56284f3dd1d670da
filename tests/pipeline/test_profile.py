"""The profile of a run: counted costs, and what it takes to trust a stored one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.errors import ProfileError, RunError
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.fit import Trained
from lcprune.pipeline.profile import measured_costs, profile_run


def halved_flops(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 1, 8, 8))
    return int(counter.get_total_flops()) // 2


def test_macs_and_params_are_those_of_the_sub_models(run: Path) -> None:
    network, _ = stored.load_network(run, recipes.load(run / runs.RECIPE))
    content = json.loads((run / runs.PROFILE).read_text())
    for k, row in enumerate(content["exits"], start=1):
        submodel = network.submodel(k)
        assert row["macs"] == halved_flops(submodel)
        assert row["params"] == sum(parameter.numel() for parameter in submodel.parameters())
        assert row["macs_ratio"] == row["macs"] / content["exits"][-1]["macs"]
        assert row["size_bytes"] > 4 * row["params"]  # float32, and the graph
        assert row["latency_ms"] > 0
    assert content["cascade_macs"] == content["cascade"]["macs"] == halved_flops(network)
    assert content["cascade_macs"] == sum(content["group_macs"]) + sum(content["critic_macs"])
    assert content["cascade"]["params"] == sum(parameter.numel() for parameter in network.parameters())


def test_training_counts_and_only_profile_measures(train_tiny: Callable[..., Trained], tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", "train.iterations=2", "critics.after=[2]").run
    recipe = recipes.load(run / runs.RECIPE)
    counted = json.loads((run / runs.PROFILE).read_text())
    assert {row["latency_ms"] for row in [*counted["exits"], counted["cascade"]]} == {None}
    assert {row["size_bytes"] for row in [*counted["exits"], counted["cascade"]]} == {None}
    measured = measured_costs(run, recipe)
    assert all(row.latency_ms is not None and row.size_bytes is not None for row in measured.exits)
    assert [(row.macs, row.params) for row in measured.exits] == [
        (row["macs"], row["params"]) for row in counted["exits"]
    ]
    assert runs.changed_files(run) == []


def test_a_network_that_cannot_be_counted_is_trained_all_the_same(
    train_tiny: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncountable(*_: object) -> None:
        raise ProfileError("the multiply-adds of aten::odd cannot be counted", "build it of something else")

    monkeypatch.setattr("lcprune.pipeline.fit.write_counted", uncountable)
    notices: list[str] = []
    run = train_tiny(tmp_path / "run", "train.iterations=2", notice=notices.append).run
    assert notices[-1] == "the costs of the sub-models are not known: the multiply-adds of aten::odd cannot be counted"
    assert (run / runs.PREDICTIONS).exists()
    assert not (run / runs.PROFILE).exists()


def test_the_costs_are_read_back_and_not_counted_or_measured_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipes.load(run / runs.RECIPE)
    profile_run(run)
    monkeypatch.setattr("lcprune.pipeline.profile.profile_run", lambda _: pytest.fail("measured again"))
    monkeypatch.setattr("lcprune.pipeline.costs.write_counted", lambda *_: pytest.fail("counted again"))
    costs, content = costs_of(run, recipe), json.loads((run / runs.PROFILE).read_text())
    assert costs == measured_costs(run, recipe)
    assert [row.macs for row in costs.exits] == [row["macs"] for row in content["exits"]]
    assert costs.cascade.exit_macs()[-1] == content["cascade_macs"]
    assert costs.cascade.main_macs == content["exits"][-1]["macs"]


def test_a_run_without_costs_is_counted(run: Path) -> None:
    """As one of version 0.1, which counted when it was first asked."""
    before = json.loads((run / runs.PROFILE).read_text())
    (run / runs.PROFILE).unlink()
    costs_of(run, recipes.load(run / runs.RECIPE))
    after = json.loads((run / runs.PROFILE).read_text())
    assert [row["macs"] for row in after["exits"]] == [row["macs"] for row in before["exits"]]
    assert runs.changed_files(run) == []


@pytest.mark.parametrize("content", ["{}", "[]", '{"exits": [{"name": "main"}]}', "not JSON"])
def test_a_damaged_profile_says_how_to_make_it_again(run: Path, content: str) -> None:
    (run / runs.PROFILE).write_text(content)
    runs.record(run, runs.PROFILE)
    with pytest.raises(RunError, match=r"profile\.json is damaged"):
        costs_of(run, recipes.load(run / runs.RECIPE))
    assert profile_run(run)["exits"]


def test_weights_of_another_network_are_refused(run: Path) -> None:
    recipe = recipes.load(run / runs.RECIPE)
    wider = recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": 0.125})})
    with pytest.raises(RunError, match=r"weights\.safetensors does not hold this network"):
        stored.load_network(run, wider)
    (run / runs.WEIGHTS).write_bytes(b"too short")
    runs.record(run, runs.WEIGHTS)
    with pytest.raises(RunError, match=r"weights\.safetensors does not hold this network"):
        stored.load_network(run, recipe)


@pytest.mark.parametrize("content", ["{}", "[]", '{"image_shape": [1, 8]}'])
def test_damaged_facts(run: Path, content: str) -> None:
    (run / runs.DATASET).write_text(content)
    runs.record(run, runs.DATASET)
    with pytest.raises(RunError, match=r"dataset\.json is damaged"):
        stored.read_facts(run)
    (run / runs.DATASET).unlink()
    with pytest.raises(RunError, match=r"lcprune train .*recipe\.yaml"):
        stored.read_facts(run)
