"""`lcprune train` and `lcprune export` are one path each: how many modules they visit, and how often they return."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import lcprune
from lcprune.analysis.cost import NetworkCost
from lcprune.models import Network
from lcprune.pipeline import export as pipeline
from lcprune.pipeline.export import ExportRequest
from lcprune.pipeline.export.loaded_run import LoadedRun
from lcprune.pipeline.stored import DataFacts
from lcprune.recipe.schema.section import Section

PACKAGE = str(Path(lcprune.__file__).parent)
OWN = ("recipe/schema/", "models/network.py", "analysis/cost.py")
"""Methods of the recipe and of the parts of a run themselves."""


def modules_given(types: tuple[type, ...], run: Path | None, work: Callable[[], Any]) -> list[str]:
    """Modules of all functions that are given one of `types`, or the run folder, in the order of their first calls."""
    seen: set[CodeType] = set()
    modules: list[str] = []

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code in seen:
            return
        module = Path(code.co_filename).relative_to(PACKAGE).as_posix()
        if module.startswith(OWN) or code.co_name.startswith("<"):  # a lambda belongs to its function
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [frame.f_locals.get(name) for name in given]
        if given[:1] == ("self",) and isinstance(values[0], types):
            return
        if any(isinstance(value, types) or (isinstance(value, Path) and value == run) for value in values):
            seen.add(code)
            modules.append(module)

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return modules


def assert_short(modules: list[str]) -> None:
    stays = [one for one, before in zip(modules, ["", *modules], strict=False) if one != before]
    assert len(set(stays)) <= 15, stays
    assert len(stays) - len(set(stays)) <= 4, stays


def test_a_recipe_visits_few_modules_and_seldom_returns(here: Path, train_tiny: Callable[..., Any]) -> None:
    modules = modules_given((Section,), None, lambda: train_tiny(here / "run", "train.iterations=2"))
    assert_short(modules[modules.index("pipeline/train.py") :])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_run_visits_few_modules_and_seldom_returns(
    run: Path, asked: Callable[..., ExportRequest], precision: str
) -> None:
    request = asked(max_drop_pct=20.0, precision=precision)
    parts = (Section, LoadedRun, DataFacts, NetworkCost, Network)
    assert_short(modules_given(parts, run, lambda: pipeline.export(run, request, notice=lambda _: None)))
