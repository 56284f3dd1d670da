"""A contact sheet: images in rows, each with its prediction written under it."""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lcprune_runtime.errors import LcpruneError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pdf")

PICTURE = 144
"""Height and width of the square that an image is fitted into; like the next ones, in pixels."""
_MARGIN = 12
_LINE = 17
_LETTERS = 13
_BACKGROUND, _FRAME, _INK, _FAINT = "#ffffff", "#e8e8e8", "#1a1a1a", "#6b6b6b"
_EXITS = ("#1b7837", "#7fbf7b", "#c2a5cf", "#762a83")
"""Colours of the first exit, of two between, and of the last."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """One image of the sheet and what is written under it."""

    picture: Image.Image
    """What `fitted` made."""
    name: str
    label: str
    confidence: float
    """0 to 1, or NaN."""
    exit_name: str | None
    """None for a model with one exit."""
    depth: float = 0.0
    """0 for the first exit, 1 for the last."""


def fitted(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image ``(3, H, W)``, 0 to 255, as large as fits into the square; a small one shows its pixels."""
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    scale = PICTURE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def draw(cells: Sequence[Cell], columns: int, remark: str = "") -> Image.Image:
    """The sheet, ``columns`` cells wide at most; `remark` stands below the cells.

    Raises:
        ValueError: If there is no cell, or `columns` is not positive.
    """
    if not cells or columns < 1:
        raise ValueError(f"{len(cells)} cells in {columns} columns make no sheet")
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    lines = 3 if any(cell.exit_name for cell in cells) else 2
    wide, high = PICTURE + _MARGIN, PICTURE + lines * _LINE + 2 * _MARGIN
    below = _LINE + _MARGIN if remark else 0
    sheet = Image.new("RGB", (columns * wide + _MARGIN, rows * high + _MARGIN + below), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), _font()
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        _draw_cell(sheet, pen, font, cell, (_MARGIN + column * wide, _MARGIN + row * high))
    if remark:
        text = shortened(remark, sheet.width - 2 * _MARGIN, font)
        pen.text((_MARGIN, rows * high + _MARGIN), text, fill=_FAINT, font=font)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Writes the sheet, atomically; the suffix names the format.

    Raises:
        LcpruneError: If the file cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        sheet.save(part)
        part.replace(path)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise LcpruneError(f"{path} cannot be written: {reason}", "name a file in a folder that is there") from None


def check_name(path: Path) -> None:
    """Refuses a wrong file name before any work is done.

    Raises:
        LcpruneError: If its suffix is of no image format, or its folder does not exist.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise LcpruneError(f"{path} has no suffix of an image format", f"end it in one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise LcpruneError(f"there is no folder {path.parent}", "make it, or name another one")


def shortened(text: str, width: int, font: Font, keep_end: bool = False) -> str:
    """The text, cut with an ellipsis if it is wider than `width` pixels; `keep_end` cuts in the middle instead."""
    text = " ".join(text.split())  # a line break would not be one line
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, -1, -1):
        end = kept // 2 if keep_end else 0
        shorter = text[: kept - end] + "…" + text[len(text) - end :]
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def _draw_cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, font: Font, cell: Cell, corner: tuple[int, int]) -> None:
    left, top = corner
    pen.rectangle((left, top, left + PICTURE - 1, top + PICTURE - 1), fill=_FRAME)
    picture = cell.picture
    sheet.paste(picture, (left + (PICTURE - picture.width) // 2, top + (PICTURE - picture.height) // 2))
    y = top + PICTURE + 4
    confidence = "not finite" if math.isnan(cell.confidence) else f"{100 * cell.confidence:.1f} %"
    room = PICTURE - round(font.getlength(f" {confidence}"))
    pen.text((left, y), shortened(cell.label, room, font), fill=_INK, font=font)
    pen.text((left + PICTURE - round(font.getlength(confidence)), y), confidence, fill=_INK, font=font)
    if cell.exit_name:
        y += _LINE
        color = _EXITS[round(cell.depth * (len(_EXITS) - 1))]
        pen.rectangle((left, y + 4, left + 8, y + 12), fill=color)
        pen.text((left + 14, y), shortened(cell.exit_name, PICTURE - 14, font), fill=_INK, font=font)
    pen.text((left, y + _LINE), shortened(cell.name, PICTURE, font, keep_end=True), fill=_FAINT, font=font)


def _font() -> Font:
    """DejaVu Sans, which matplotlib brings and which knows more letters than Pillow's own, else that one."""
    package = importlib.util.find_spec("matplotlib")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, _LETTERS)
    return ImageFont.load_default(_LETTERS)
