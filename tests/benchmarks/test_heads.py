"""The comparison of critic heads: its cases can be built, its figures are those of the run, and it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import heads
from benchmarks.heads import Case
from lcprune import models, recipe
from lcprune.analysis.profile import profile
from lcprune.pipeline.train import Trained

PLAIN = Case("pooled", ("critics.head=pooled", "critics.pool_to=1"))
GLOBAL = Case("global", ("critics.head=global", "critics.pool_to=[4, 2, 1]", "critics.distill=0.5"))


@pytest.fixture
def options(tmp_path: Path) -> Any:
    words = ["--recipe", "digits", "--iterations", "20", "--max-drop", "3", "--seed", "1"]
    return heads._parse([*words, "--out", str(tmp_path / "runs"), "--result", str(tmp_path / "results" / "heads.json")])


@pytest.fixture
def trained(
    monkeypatch: pytest.MonkeyPatch, options: Any, train_tiny: Callable[..., Trained]
) -> list[tuple[str, tuple[str, ...]]]:
    """Trains in this process; gives the commands that were asked for."""
    asked: list[tuple[str, tuple[str, ...]]] = []

    def lcprune(command: str, *words: str) -> dict[str, Any]:
        asked.append((command, words))
        keys = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        done = train_tiny(Path(words[words.index("--out") + 1]), *keys)
        return {"seconds": done.seconds}

    monkeypatch.setattr(heads, "lcprune", lcprune)
    return asked


def rows_of(options: Any) -> list[dict[str, Any]]:
    result: dict[str, Any] = json.loads(options.result.read_text())
    assert {"command", "seed", "machine", "versions"} < set(result)
    return list(result["rows"])


def test_cases_are_all_heads_at_both_places_with_and_without_distillation() -> None:
    cases = heads.all_cases()
    assert len({case.name for case in cases}) == len({case.overrides for case in cases}) == len(cases)
    assert len(cases) == 1 + len(heads.HEADS) * 2 * 2
    shipped = recipe.load(heads.RECIPE)
    for case in cases:
        loaded = recipe.load(heads.RECIPE, case.overrides)
        assert loaded.critics.after in heads.PLACES.values()
        assert ("distill" in case.name) == (loaded.critics.distill > 0)
        assert loaded.model_copy(update={"critics": shipped.critics}) == shipped
    assert {recipe.load(heads.RECIPE, case.overrides).critics.head for case in cases} == {
        "paper",
        "pooled",
        "global",
        "separable",
        "strided",
    }
    first = next(case for case in cases if case.name == "pooled, wide, LC(3)")
    assert recipe.load(heads.RECIPE, first.overrides) == shipped  # what it is measured by


@pytest.mark.parametrize("case", heads.all_cases()[1 : 1 + 2 * len(heads.HEADS)], ids=lambda case: case.name)
def test_a_case_is_cheap_at_every_place(case: Case) -> None:
    network = models.build(recipe.load(heads.RECIPE, case.overrides), 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    cost = profile(network, (3, 32, 32))
    limit = 0.12 if case.name.startswith("pooled, wide") else 0.04
    assert max(cost.critic_macs) < limit * cost.exits[-1].macs


def test_a_setting_by_size_is_a_list_in_the_order_of_the_places() -> None:
    settings: dict[str, heads.Setting] = {"head": "pooled", "channels": {32: 1, 16: 2, 8: 3, 4: 4}}
    assert heads.overrides(settings, (2, 4, 6, 8, 10)) == (
        "critics.after=[2, 4, 6, 8, 10]",
        "critics.head=pooled",
        "critics.channels=[1, 2, 3, 3, 4]",
    )


def test_digits_are_trained_measured_and_not_trained_again(
    options: Any, trained: list[tuple[str, tuple[str, ...]]], capsys: pytest.CaptureFixture[str]
) -> None:
    heads.run([PLAIN], options)
    heads.run([PLAIN, GLOBAL], options)
    assert [command for command, _ in trained] == ["train", "train"]
    assert "[1/2] pooled: is in the result" in capsys.readouterr().out
    rows = rows_of(options)
    assert [row["case"] for row in rows] == ["pooled", "global"]
    for row, case in zip(rows, (PLAIN, GLOBAL), strict=True):
        assert (row["overrides"], row["iterations"], row["seed"]) == (list(case.overrides), 20, 1)
        assert (options.out / row["run"] / "recipe.yaml").exists()
        counts = [len(row[key]) for key in ("val_accuracy_pct", "test_accuracy_pct", "macs", "critic_macs")]
        assert counts == [4, 4, 4, 3]
        assert row["cascade_macs"] == row["macs"][-1] + sum(row["critic_macs"])
        found = row["progressive"]
        assert found["val"]["drop_pct"] <= 3
        assert 0 < found["val"]["macs_ratio"] <= 1
        assert found["val"]["macs_ratio"] * row["macs"][-1] == pytest.approx(found["val"]["mean_macs"])
        assert len(found["thresholds"]) == len(found["exits"])
        drop = row["test_accuracy_pct"][-1] - found["test"]["accuracy_pct"]
        assert found["test"]["drop_pct"] == pytest.approx(drop, abs=1e-6)
    table = options.result.with_suffix(".md").read_text()
    assert table.count("\n| pooled | 20 |") == table.count("\n| global | 20 |") == 1
    assert f"({3:g} points)" in table


def test_what_was_stopped_goes_on_and_another_length_is_another_run(
    options: Any, trained: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads.run([PLAIN], options)
    (run,) = options.out.iterdir()
    options.result.unlink()
    asked: list[tuple[str, ...]] = []
    train = heads.lcprune

    def resume(*words: str) -> dict[str, Any]:
        asked.append(words)
        return {"seconds": 7.0} if words[0] == "resume" else train(*words)

    monkeypatch.setattr(heads, "lcprune", resume)
    heads.run([PLAIN], options)
    assert asked == [("resume", str(run), "--device", "cpu")]
    assert rows_of(options)[0]["seconds"] == 7.0
    options.iterations = 21
    heads.run([PLAIN], options)
    assert [words[0] for words in asked] == ["resume", "train"]
    assert [row["iterations"] for row in rows_of(options)] == [20, 21]


def test_a_case_that_was_changed_is_trained_again_and_replaces_its_row(
    options: Any, trained: list[tuple[str, tuple[str, ...]]]
) -> None:
    heads.run([PLAIN], options)
    changed = Case(PLAIN.name, (*PLAIN.overrides, "critics.depth=2"))
    heads.run([changed], options)
    assert len(trained) == 2
    (row,) = rows_of(options)
    assert row["overrides"] == list(changed.overrides)


def test_the_list_trains_nothing(capsys: pytest.CaptureFixture[str], trained: list[Any]) -> None:
    heads.main(["--list", "--only", "global, 1x1, LC(3)"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1].partition(":")[0] for line in lines] == [
        "global, 1x1, LC(3)",
        "global, 1x1, LC(3), distill 0.5",
    ]
    assert 1.0 < float(lines[0].split()[0]) < 1.2
    assert trained == []
