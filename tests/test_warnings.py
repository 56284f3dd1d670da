"""What a dependency deprecates is listed; every other warning is an error."""

import warnings

import pytest


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
