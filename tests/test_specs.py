"""A training method, a critic head or a file format is its file and a line of a table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lcprune import recipe as recipes
from lcprune.errors import RecipeError
from lcprune.models import build
from lcprune.pipeline.export import ExportRequest, export
from lcprune.recipe.schema.recipe import known_keys
from lcprune.specs import FORMATS, HEADS, METHODS, FormatSpec, HeadSpec, MethodSpec
from lcprune.training.methods import build_method
from lcprune.training.optim import build_optimizers
from lcprune.training.step import EagerStep

METHOD = """
import torch
from lcprune.training.methods.base import Losses, sample_losses

class FirstExit:
    def __init__(self, network):
        self._network = network

    def parts(self):
        return (self._network.groups[0], self._network.critics[0])

    def backward(self, images, labels, step):
        logits = self._network(images)
        losses = torch.stack([sample_losses(each, labels, 0.0).mean() for each in logits])
        losses[0].backward()
        return Losses(losses.detach(), torch.zeros(0))

def build(recipe, network, iterations):
    return FirstExit(network)
"""
HEAD = """
from torch import nn
from lcprune.models.layers import Flatten

def build_head(shape, classes, design):
    return [Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)]
"""
FORMAT = """
def convert(content):
    return content

def required_operators(*paths):
    return f"operators of {len(paths)} file"
"""


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_exit.py").write_text(METHOD)
    (tmp_path / "flat_head.py").write_text(HEAD)
    (tmp_path / "same_bytes.py").write_text(FORMAT)
    monkeypatch.syspath_prepend(tmp_path)


def losses_of_two_steps(*overrides: str) -> list[torch.Tensor]:
    loaded = recipes.load("digits", ["model.width=0.0625", "critics.channels=4", *overrides])
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.25,)).train()
    step = EagerStep(build_method(loaded, network), build_optimizers(loaded, network), torch.device("cpu"), bf16=False)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return [step(images, torch.arange(6), number).exits for number in range(2)]


def test_a_method_of_ones_own_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"'sobolev_critic' or 'dni'"):
        recipes.load("digits", ["train.method=first_exit"])
    monkeypatch.setitem(METHODS, "first_exit", MethodSpec("the first exit alone", "first_exit"))
    first, second = losses_of_two_steps("train.method=first_exit")
    assert len(first) == 4
    assert second[0] < first[0]


def test_a_head_of_ones_own_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "flat", HeadSpec("a linear layer", "flat_head"))
    loaded = recipes.load("digits", ["critics.head=flat"])
    network = build(loaded, 10, (1, 8, 8), (0.5,), (0.25,))
    assert [type(layer).__name__ for layer in network.critics[0]] == ["Flatten", "Linear"]
    assert len(losses_of_two_steps("critics.head=flat")) == 2


def test_a_format_of_ones_own_is_written(
    run: Path, asked: Callable[..., ExportRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "same", FormatSpec("ONNX by another name", ".same", "same_bytes"))
    said = export(run, asked(threshold="0.5,0.4,0.3", file_format="same"), notice=lambda _: None)
    assert Path(said["path"]).name == "progressive.same"
    assert Path(said["path"]).read_bytes() == (run / "export" / "progressive.onnx").read_bytes()
    assert Path(said["operators"]).read_text() == "operators of 1 file"
    assert "as ONNX by another name" in Path(said["card"]).read_text()


def test_what_a_method_supports_is_asked_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, spec in METHODS.items():
        if spec.needs_cuts:
            continue
        monkeypatch.setitem(METHODS, name, replace(spec, needs_cuts=True))
        with pytest.raises(Exception, match=f"{name} needs a critic"):
            losses_of_two_steps(f"train.method={name}", "critics.after=[]")


def test_the_schema_lists_them() -> None:
    assert {"train.method", "critics.head"} <= set(known_keys())
    properties = recipes.json_schema()["$defs"]
    for section, key, table in (("TrainConfig", "method", METHODS), ("CriticsConfig", "head", HEADS)):
        listed = properties[section]["properties"][key]
        assert listed["enum"] == list(table)
        assert all(spec.summary in listed["description"] for spec in table.values())
