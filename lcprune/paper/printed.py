"""The figures that the paper prints (Lee and Lee 2018, arXiv:1805.01128), as ``paper.json`` holds them."""

import importlib.resources
import json
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Printed:
    """Test accuracy of one row, in percent."""

    mean: float | None
    """None where the paper prints no such figure."""
    std: float | None
    """None where the paper prints one figure alone."""


def accuracy(name: str, dataset: str, row: str) -> Printed:
    """What the paper prints in that row of that table or figure."""
    printed = _content().get(name, {}).get(dataset, {}).get(row)
    return Printed(*printed) if printed else Printed(None, None)


def costs() -> dict[str, tuple[float, float]]:
    """Table 5: parameters, and what the paper calls FLOP, in millions, of every sub-model."""
    rows = _content()["table5"]["cifar10"]
    return {name: (row["params_millions"], row["flop_millions"]) for name, row in rows.items()}


def mean_flop_millions(row: str) -> float:
    """Table 6: what the paper calls FLOP, per image on average."""
    return float(_content()["table6_flop_millions"][row])


@cache
def _content() -> dict[str, Any]:
    text = (importlib.resources.files("lcprune.paper") / "paper.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
