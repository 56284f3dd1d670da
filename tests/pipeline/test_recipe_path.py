"""`lcprune train` is one path: how many modules the recipe goes through, and how often it comes back to one."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import lcprune
from lcprune.recipe.schema.section import Section

PACKAGE = str(Path(lcprune.__file__).parent)
OWN = str(Path(PACKAGE, "recipe", "schema"))
"""Methods of the recipe itself."""


def calls_with_a_recipe(work: Callable[[], Any]) -> list[str]:
    """Modules of all functions that are given a recipe or a section of one, in the order of their first calls."""
    seen: set[CodeType] = set()
    modules: list[str] = []

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_filename.startswith(OWN):
            return
        if code in seen or code.co_name.startswith("<"):  # a comprehension or a lambda belongs to its function
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(isinstance(frame.f_locals.get(name), Section) for name in given):
            seen.add(code)
            modules.append(Path(code.co_filename).relative_to(PACKAGE).as_posix())

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return modules


def test_a_recipe_visits_few_modules_and_seldom_returns(here: Path, train_tiny: Callable[..., Any]) -> None:
    modules = calls_with_a_recipe(lambda: train_tiny(here / "run", "train.iterations=2"))
    begin = modules.index("pipeline/train.py")
    stays = [one for one, before in zip(modules[begin:], ["", *modules[begin:]], strict=False) if one != before]
    assert len(set(stays)) <= 15, stays
    assert len(stays) - len(set(stays)) <= 4, stays
