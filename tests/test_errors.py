"""Errors: what the command line prints and how it exits."""

import pytest

from lcprune import errors


def children(error: type[errors.LcpruneError]) -> list[type[errors.LcpruneError]]:
    return [error, *(grandchild for child in error.__subclasses__() for grandchild in children(child))]


def test_an_error_says_what_is_wrong_and_how_to_fix_it() -> None:
    error = errors.RecipeError("a.yaml is empty", "write something")
    assert str(error) == "a.yaml is empty\n  fix: write something"
    assert (error.problem, error.fix, error.args) == (
        "a.yaml is empty",
        "write something",
        ("a.yaml is empty", "write something"),
    )


@pytest.mark.parametrize("error", children(errors.LcpruneError), ids=lambda error: error.__name__)
def test_only_a_missed_budget_and_an_interruption_have_exit_codes_of_their_own(
    error: type[errors.LcpruneError],
) -> None:
    assert error.exit_code == {errors.BudgetError: 3, errors.Interrupted: 130}.get(error, 1)


def test_every_kind_has_a_name_of_its_own() -> None:
    kinds = [error.kind for error in children(errors.LcpruneError)]
    assert len(set(kinds)) == len(kinds)


def test_what_can_be_printed_stays() -> None:
    assert errors.printable("größe \u96ea <b>\n  fix: x") == "größe \u96ea <b>\n  fix: x"
    assert errors.printable("a\tb\r\udcff") == r"a\tb\r\udcff"
