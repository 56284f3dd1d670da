"""What a dependency deprecates is listed, and fails a run that asks for that; every other warning is an error."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


def test_other_warnings_are_errors() -> None:
    for category in (UserWarning, RuntimeWarning, ResourceWarning, SyntaxWarning):
        with pytest.raises(category):
            warnings.warn("two ways to read this", category, stacklevel=1)


def test_deprecations_are_recorded() -> None:
    with warnings.catch_warnings(record=True) as caught:
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.warn("old", category, stacklevel=1)
        warnings.warn("a name\nthat is Deprecated", UserWarning, stacklevel=1)
    assert len(caught) == 4


@pytest.mark.parametrize(
    ("asked", "listed", "before", "after"),
    [(True, [1], 0, 1), (True, [], 0, 0), (False, [1], 0, 0), (True, [1], 2, 2)],
)
def test_only_a_run_that_asks_for_it_fails(
    request: pytest.FixtureRequest, asked: bool, listed: list[int], before: int, after: int
) -> None:
    plugins: list[Any] = list(request.config.pluginmanager.get_plugins())
    hooks = next(plugin for plugin in plugins if getattr(plugin, "__file__", None) == str(CONFTEST))
    reporter = SimpleNamespace(stats={"warnings": listed})
    config = SimpleNamespace(
        pluginmanager=SimpleNamespace(get_plugin=lambda _: reporter), getoption={"fail_on_deprecation": asked}.get
    )
    session = SimpleNamespace(config=config, exitstatus=before)
    hooks.pytest_sessionfinish(session)
    assert session.exitstatus == after
