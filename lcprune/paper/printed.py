"""The figures that the paper prints (Lee and Lee 2018, arXiv:1805.01128), as ``paper.json`` holds them."""

import importlib.resources
import json
from functools import cache
from typing import Any


def accuracy(name: str, dataset: str, row: str) -> tuple[float | None, float | None]:
    """Test accuracy in that row of that table or figure: mean and standard deviation, in percent.

    Either is None where the paper does not print it.
    """
    mean, std = content().get(name, {}).get(dataset, {}).get(row, (None, None))
    return mean, std


def costs() -> dict[str, tuple[float, float]]:
    """Table 5: parameters, and what the paper calls FLOP, in millions, of every sub-model."""
    rows = content()["table5"]["cifar10"]
    return {name: (row["params_millions"], row["flop_millions"]) for name, row in rows.items()}


def mean_flop_millions(row: str) -> float:
    """Table 6: what the paper calls FLOP, per image on average."""
    return float(content()["table6_flop_millions"][row])


@cache
def content() -> dict[str, Any]:
    """The whole file: by table or figure, dataset and row."""
    text = (importlib.resources.files("lcprune.paper") / "paper.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
