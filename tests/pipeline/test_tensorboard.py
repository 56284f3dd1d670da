"""What a run writes for TensorBoard."""

import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lcprune import recipe as recipes
from lcprune.errors import SetupError
from lcprune.pipeline import train
from lcprune.pipeline.metrics import read_metrics
from tests.conftest import Quiet

OVERRIDES = ("logging.tensorboard=true", "logging.every=2", "train.evaluate_every=2", "train.iterations=4")


class Writer:
    """In the place of torch's `SummaryWriter`."""

    made: list["Writer"]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.flushed = 0
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.setdefault(tag, []).append((step, value))

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("torch.utils.tensorboard", module, raising=False)
    Writer.made = []
    return Writer.made


def options() -> dict[str, Any]:
    return {"device": "cpu", "display": lambda *_: nullcontext(Quiet()), "notice": lambda _: None}


def test_it_has_what_metrics_have(writers: list[Writer], tiny: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = recipes.load("digits", (*tiny, *OVERRIDES))
    train.train(recipe, out=run, data_root=tmp_path, is_latest=False, **options())
    (writer,) = writers
    assert (writer.folder, writer.purge_step) == (str(run / "tensorboard"), 1)
    lines = read_metrics(run / "metrics.jsonl")
    logged = [line for line in lines if "loss" in line]
    evaluated = [line for line in lines if "accuracy_pct" in line]
    assert writer.scalars["loss/main"] == [(line["step"], line["loss"][-1]) for line in logged]
    assert writer.scalars["critic_loss/sub-model 1"] == [(line["step"], line["critic_loss"][0]) for line in logged]
    assert writer.scalars["training/lr"] == [(line["step"], line["lr"]) for line in logged]
    curve = writer.scalars[f"{evaluated[0]['split']}_accuracy_pct/sub-model 2"]
    assert curve == [(line["step"], line["accuracy_pct"][1]) for line in evaluated]
    assert "critic_loss/main" not in writer.scalars
    assert writer.flushed == len(lines)

    train.resume(run, ("train.iterations=6",), **options())
    assert writers[1].purge_step == 5
    assert [step for step, _ in writers[1].scalars["loss/main"]] == [6]


def test_without_the_package_nothing_is_begun(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    recipe = recipes.load("digits", (*tiny, *OVERRIDES))
    with pytest.raises(SetupError, match=r"logging\.tensorboard needs the package tensorboard") as caught:
        train.train(recipe, out=tmp_path / "run", data_root=tmp_path, is_latest=False, **options())
    assert "pip install tensorboard" in caught.value.fix
    assert not (tmp_path / "run").exists()
