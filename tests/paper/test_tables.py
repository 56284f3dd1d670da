"""A reproduced table as text."""

from typing import Any

import pytest

from lcprune.paper import tables


def result(**changed: Any) -> dict[str, Any]:
    row = {"dataset": "cifar10", "seeds": 2, "failed": []}
    return {
        "name": "table1",
        "title": "Test accuracy of every method",
        "scale": "small",
        "unit": "test accuracy, %",
        "rows": [
            row | {"name": "bp", "mean": 81.238, "std": 0.5, "paper_mean": 93.93, "paper_std": 0.2},
            row | {"name": "dni_3", "mean": None, "std": None, "paper_mean": 64.86, "paper_std": None}
            | {"seeds": 0, "failed": [{"seed": 1, "problem": "the loss is no longer a finite number"}]},
        ],
        "tests": [
            {"dataset": "cifar10", "rows": ["lc_3", "bp"], "p": None, "reason": "2 seeds a side cannot be significant"},
            {"dataset": "cifar10", "rows": ["lc_1", "bp"], "p": 0.0079, "significant": True, "test": "Mann-Whitney"},
        ],
        "note": "This is small scale.",
        "differs": [{"key": "model.width", "paper": 1.0, "here": 0.25}],
        "figures": [],
        "provenance": {
            "command": "lcprune reproduce table1",
            "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux"},
            "versions": {"torch": "2.15"},
            "seeds": [0, 1],
            "runs": 4,
            "seconds_trained": 61.2,
            "trained_on": ["cpu, 2 threads"],
        },
    } | changed  # fmt: skip


def test_the_whole_page() -> None:
    assert (
        tables.markdown(result(figures=["table1.png"]))
        == """\
# Table 1: Test accuracy of every method (small scale)

This is small scale.

Unit: test accuracy, %.

| dataset | row | here | seeds | paper |
| --- | --- | --- | --- | --- |
| CIFAR-10 | bp | 81.24 ± 0.50 | 2 | 93.93 ± 0.20 |
| CIFAR-10 | dni_3 | - | 0 | 64.86 |

![Test accuracy of every method](table1.png)

## Tests

- lc_3 against bp on CIFAR-10: 2 seeds a side cannot be significant
- lc_1 against bp on CIFAR-10: p = 0.0079 (Mann-Whitney), significant at 0.05

## Failed

- dni_3 on CIFAR-10, seed 1: the loss is no longer a finite number

## What differs from the paper

- model.width: 0.25 here, 1.0 in the paper

## Where this comes from

- command: `lcprune reproduce table1`
- machine: A CPU, 2 cores, Linux
- versions: torch 2.15
- runs: 4, seeds 0, 1
- trained for 61 s in all, on: cpu, 2 threads
"""
    )


def test_what_is_empty_has_no_heading() -> None:
    text = tables.markdown(result(tests=[], differs=[], note=None, rows=result()["rows"][:1]))
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Where this comes from"]
    assert "None" not in text


def test_progressive_inference_shows_its_cost_in_both_ways() -> None:
    row = result()["rows"][0] | {
        "exit_fractions": [0.25, 0.75],
        "paper_flop": 2.9e6,
        "paper_flop_millions": 3.05,
        "mean_macs": 120.04e6,
        "macs_ratio": 0.372,
    }
    shown = tables.cells(result(rows=[row]))[0]
    assert shown[5:] == ["25.0 %  75.0 %", "2.90M", "3.05M", "120.0M", "37 %"]
    assert len(tables.columns(result(rows=[row]))) == len(shown)
    assert tables.cells(result(rows=[row | {"mean_macs": None}]))[0][5:] == ["-"] * 5


@pytest.mark.parametrize(
    ("mean", "std", "text"), [(92.394, 0.094, "92.39 ± 0.09"), (94.42, None, "94.42"), (None, None, "-")]
)
def test_mean_and_deviation(mean: float | None, std: float | None, text: str) -> None:
    assert tables.spread(mean, std) == text
