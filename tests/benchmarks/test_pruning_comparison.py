"""The comparison with pruning: what is pruned, what is kept, what is measured, and the differences at equal cost."""

import copy
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import pruning, pruning_comparison
from benchmarks.pruning_comparison import frontier, standing
from benchmarks.pruning_models import Subject, load
from lcprune import recipe as recipes
from lcprune.analysis.counting import count_macs
from lcprune.errors import RunError, SetupError
from lcprune.models import Network
from lcprune.pipeline.stored import load_dataset
from lcprune_runtime.session import ProgressiveSession

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pruning")]

NORM, TAYLOR = "group norm, each layer", "Taylor, all layers"


@pytest.fixture
def library() -> None:
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (the extra named benchmarks)")


@pytest.fixture
def subject(run: Path) -> Subject:
    return load(run, None)


def convolutions(network: Network) -> list[nn.Conv2d]:
    return [part for part in network.groups.modules() if isinstance(part, nn.Conv2d)]


def row(kind: str, name: str, cost: float, accuracy_pct: float) -> dict[str, Any]:
    costs = {"macs_ratio": cost, "latency_ratio": cost / 2}
    return {"kind": kind, "name": name, **costs, "test_accuracy_pct": accuracy_pct, "file": "x"}


def test_the_frontier_leaves_out_what_is_dearer_and_no_better() -> None:
    rows = [row("main", str(cost), cost, accuracy) for cost, accuracy in ((1, 90), (0.5, 91), (0.2, 80), (0.2, 70))]
    assert frontier(rows, "macs_ratio") == [(0.2, 80), (0.5, 91)]


def test_the_standing_is_read_off_the_line_between_two_of_ours() -> None:
    ours = [row("main", "main", 1.0, 90.0), row("progressive", "p", 0.5, 88.0), row("sub-model", "s", 0.25, 80.0)]
    pruned = [
        row("torch-pruning", name, *at) for name, at in (("a", (0.375, 85.0)), ("b", (0.1, 70.0)), ("c", (0.75, 88.0)))
    ]
    pruned[2]["latency_ratio"] = 0.75  # beyond main's 0.5
    assert standing([*ours, *pruned]) == [
        {"name": "a", "ahead_at_macs_ratio_pct": -1.0, "ahead_at_latency_ratio_pct": -1.0},  # 84 between 80 and 88
        {"name": "b", "ahead_at_macs_ratio_pct": None, "ahead_at_latency_ratio_pct": None},
        {"name": "c", "ahead_at_macs_ratio_pct": 1.0, "ahead_at_latency_ratio_pct": 2.0},
    ]


def test_targets_are_the_costs_of_ours_and_stay_apart() -> None:
    rows = [row("main", "main", 1.0, 90), *(row("sub-model", "s", share, 80) for share in (0.5, 0.97, 0.2, 0.53))]
    without = {**row("progressive", "main does as well", 0.9, 80), "file": ""}
    progressive = {**row("progressive", "p", 0.3, 80), "val_macs_ratio": 0.35}
    assert pruning_comparison.targets([*rows, without, progressive]) == [0.2, 0.35, 0.5]


def test_of_many_targets_those_go_that_are_between_near_ones() -> None:
    shares = (0.1, 0.2, 0.3, 0.35, 0.4, 0.6, 0.8)
    rows = [row("sub-model", "s", share, 80) for share in shares]
    assert pruning_comparison.targets(rows) == [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]


@pytest.mark.usefixtures("library")
def test_the_channel_that_does_nothing_goes_first(subject: Subject) -> None:
    network = copy.deepcopy(subject.network)
    first, second = convolutions(network)[:2]
    with torch.no_grad():
        first.weight[2] = 0
        second.weight[:, 2] = 0
        norm = network.groups[0][1]
        norm.weight[2] = norm.bias[2] = 0
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    share = 0.65
    max_macs = int(share * subject.cost.exits[-1].macs)
    pruned = pruning.prune(network, NORM, max_macs, subject.loader)
    assert pruned is not None
    assert 0.9 * max_macs < count_macs(pruned.submodel(1), subject.info.facts.image_shape) <= max_macs
    assert torch.equal(convolutions(pruned)[0].weight, first.weight[[0, 1, 3]])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", [NORM, TAYLOR])
def test_channels_are_multiples_and_what_is_too_small_is_refused(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PRUNING_STEPS", 20)
    macs = subject.cost.exits[-1].macs
    pruned = pruning.prune(subject.network, name, macs // 2, subject.loader, round_to=4)
    assert pruned is not None
    channels = [part.out_channels for part in convolutions(pruned)]
    assert not any(count % 4 for count in channels)
    assert sum(channels) < sum(part.out_channels for part in convolutions(subject.network))
    assert pruning.prune(subject.network, name, 1, subject.loader) is None


def test_fine_tuning_ends_with_its_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    network = pruning.main_alone(subject.network)
    times: Iterator[float] = itertools.chain([100.0], itertools.count(101.0))
    monkeypatch.setattr(pruning, "clock", lambda: next(times))
    rates: list[float] = []
    monkeypatch.setattr(pruning, "lr_factor", lambda _, tick, ticks, *__: rates.append(tick / ticks) or 1.0)
    steps = pruning.fine_tune(network, subject.recipe, subject.loader, lr=0.01, seconds=4.0)
    assert steps == 3
    assert rates == [0.25, 0.5, 0.75]
    assert not network.training
    moved, of_run = convolutions(network)[0].weight, convolutions(subject.network)[0].weight
    assert not torch.equal(moved, of_run)


@pytest.fixture
def words(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: None) -> list[str]:
    monkeypatch.setattr(pruning, "CRITERIA", {name: pruning.CRITERIA[name] for name in (NORM, TAYLOR)})
    monkeypatch.setattr(pruning, "PRUNING_STEPS", 10)
    files = ["--result", str(tmp_path / "result.json"), "--figure", str(tmp_path / "figure.svg")]
    lengths = ["--seconds", "0.2", "--trial-seconds", "0.02", "--images", "3", "--rounds", "1"]
    return [str(run), "--ratios", "0.5", "--round-to", "1", "--budgets", "0", "20", *lengths, *files]


def test_all_models_are_made_once_measured_and_drawn(
    words: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruning_comparison.main(words)
    assert capsys.readouterr().out.count(" ...\n") == 4 + 2 + 2 + 1  # sub-models, budgets, trials, the pruned one
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"command", "seed", "machine", "versions", "training_s", "standing", "time_to_model"} < set(result)
    assert "torch-pruning" in result["versions"]
    rows = {found["name"]: found for found in result["rows"]}
    assert {"main", "sub-model 1", "sub-model 2", "sub-model 3", "progressive, 20 points", "pruned to 0.5"} <= set(rows)
    _holds_on_the_test_images(run, list(rows.values()))
    pruned = rows["pruned to 0.5"]
    assert pruned["macs_ratio"] <= 0.5
    assert pruned["criterion"] == max(pruned["trials_val_accuracy_pct"], key=pruned["trials_val_accuracy_pct"].get)
    assert pruned["time_to_model_s"] > pruned["pruning_s"] + 0.2
    assert rows["main"]["latency_ratio"] == 1.0
    figure = (tmp_path / "figure.svg").read_bytes()
    assert b"test accuracy" in figure
    assert len(figure) < 100_000

    pruning_comparison.main(words)
    assert " ...\n" not in capsys.readouterr().out
    again = {found["name"]: found for found in json.loads((tmp_path / "result.json").read_text())["rows"]}
    assert again["pruned to 0.5"]["test_accuracy_pct"] == pruned["test_accuracy_pct"]


def _holds_on_the_test_images(run: Path, rows: list[dict[str, Any]]) -> None:
    """Every file says of the test images what its row says."""
    subject = load(run, None)
    for found in rows:
        session = ProgressiveSession(subject.out / found["file"])
        said = session(subject.dataset.test.images)
        right_pct = 100 * float(np.mean(said.labels == subject.dataset.test.labels))
        assert right_pct == pytest.approx(found["test_accuracy_pct"], abs=0.3), found["name"]  # one row on a threshold
        if found["kind"] == "progressive":
            mean_macs = float(np.mean(np.asarray(session.info.exit_macs)[said.exit_indices]))
            assert mean_macs == pytest.approx(found["macs"], rel=0.01)


def test_the_better_learning_rate_on_validation_is_taken(words: list[str], tmp_path: Path) -> None:
    pruning_comparison.main([*words, "--lr", "0.02", "1e-9"])
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    (pruned,) = [found for found in rows if found["kind"] == "torch-pruning"]
    rates = pruned["lr_val_accuracy_pct"]
    assert set(rates) == {"0.02", "1e-09"}
    assert f"{pruned['lr']:g}" == max(rates, key=rates.get)
    assert pruned["val_accuracy_pct"] == max(rates.values())
    assert pruned["other_attempts_s"] > 0.2


def test_a_target_that_cannot_be_reached_is_left_out(words: list[str], tmp_path: Path) -> None:
    pruning_comparison.main([*words, "--ratios", "0.0001"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert not [found for found in result["rows"] if found["kind"] == "torch-pruning"]
    assert result["standing"] == []
    assert result["time_to_model"]["ratio"] is None


def test_a_run_without_validation_images_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, facts = load_dataset(run, recipes.load(run / "recipe.yaml"))
    empty = dataset.val.subset(np.arange(0))
    object.__setattr__(dataset, "val", empty)
    monkeypatch.setattr("benchmarks.pruning_models.load_dataset", lambda *_: (dataset, facts))
    with pytest.raises(RunError, match="has no validation images"):
        load(run, None)


def test_without_the_library_it_says_how_to_get_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SetupError, match="pip install"):
        pruning_comparison.main([str(run)])
