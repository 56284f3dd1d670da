"""Options that several commands have, and how their values are read."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from lcprune.errors import LcpruneError
from lcprune.specs import Device

LATEST = Path("runs/latest")

Run = Annotated[Path, typer.Argument(help="Folder that `lcprune train` wrote.", show_default=True)]
RecipeName = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped name; left out, ./lcprune.yaml.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.lr=0.05.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of the images. Default: data.root, else $LCPRUNE_DATA, else data/.", show_default=False),
]
RunDataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the run's images, if they have moved.", show_default=False)
]
TrainingDevice = Annotated[Device, typer.Option(help="Where to train.")]
UseTestSplit = Annotated[bool, typer.Option("--use-test-split", help="Decide on the test split.")]
Exits = Annotated[str | None, typer.Option(metavar="1,3", help="Consider only these sub-models, counted from 1.")]


def finite(value: float | None) -> float | None:
    """Refuses ``nan`` and ``inf``, which typer's ``min`` and ``max`` let through."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def exit_labels(text: str | None) -> tuple[str, ...] | None:
    """``1,3``, or ``1@64,main@64``, as the exits of a run, each once.

    Raises:
        LcpruneError: If it is something else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"([1-9]\d*|main)(@[1-9]\d*)?", part) for part in parts):
        raise LcpruneError(
            f"--exits {text} is not a list of exits",
            "write numbers, such as --exits 1,3, or of several sizes 1@64,2@96",
        )
    return tuple(dict.fromkeys(parts))


def whole_numbers(option: str, text: str, least: int = 1, most: int | None = None) -> tuple[int, ...]:
    """``1,3`` as numbers from `least` to `most`, or with no upper limit.

    Raises:
        LcpruneError: If it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and least <= int(part) <= (most or int(part)) for part in parts):
        limits = f"from {least} up" if most is None else f"from {least} to {most}"
        raise LcpruneError(
            f"{option} {text} is not a list of numbers {limits}", f"write numbers, such as {option} {least},{3 * least}"
        )
    return tuple(int(part) for part in parts)
