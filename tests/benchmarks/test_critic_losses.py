"""The comparison of the critics' losses: its cases are recipes, and its table is right."""

import pytest

from benchmarks import critic_losses
from benchmarks.critic_losses import CASES, page
from lcprune import recipe


def test_the_cases_are_different_recipes() -> None:
    found = {recipe.dump(recipe.load(critic_losses.RECIPE, list(overrides))) for overrides in CASES.values()}
    assert len(found) == len(CASES)


@pytest.mark.parametrize("name", [name for name in CASES if " lr " in name or "mix " in name])
def test_a_case_is_what_its_name_says(name: str) -> None:
    critics = recipe.load(critic_losses.RECIPE, list(CASES[name])).critics
    loss, *more = name.split(", ")
    assert f"{critics.loss} {critics.mix:g}".startswith(loss)
    for word in more:
        kind, _, value = word.partition(" ")
        found = {"lr": critics.lr, "distill": critics.distill, "one-sided": critics.one_sided}
        assert (
            critics.schedule == "constant" if kind == "constant" else found[kind] == (float(value) if value else True)
        )


def test_the_table_has_means_over_seeds_and_the_best_first() -> None:
    rows = [
        {"case": case, "iterations": 10, "seed": seed, "val_accuracy_pct": [val] * 4, "test_accuracy_pct": [test] * 4}
        for case, seed, val, test in (
            ("cascade", 0, 50.0, 51.0),
            ("mix 0.2", 0, 60.0, 61.0),
            ("mix 0.2", 1, 62.0, 64.0),
        )
    ]
    lines = page({"rows": rows, "machine": {"cpu": "x"}, "recipe": "r", "command": "c"}).splitlines()
    assert lines[-2].startswith("| mix 0.2 | 10 | 0, 1 | 62.50 ±2.12 |")
    assert lines[-2].endswith("| 61.00 |")
    assert lines[-1].startswith("| cascade | 10 | 0 | 51.00 |")
