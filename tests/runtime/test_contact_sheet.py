"""A contact sheet: where images stand, how they are fitted, and that texts stay in their cells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageColor, ImageFont

from lcprune.errors import LcpruneError
from lcprune_runtime import contact_sheet
from lcprune_runtime.contact_sheet import PICTURE, Cell, check_name, draw, fitted, save, shortened

EXITS = contact_sheet._EXITS
FONT = ImageFont.load_default(13)


def plain(color: tuple[int, int, int], height: int = 8, width: int = 8) -> Image.Image:
    return fitted(np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, height, width)))


def cell(color: tuple[int, int, int] = (200, 0, 0), **changes: Any) -> Cell:
    return replace(Cell(plain(color), "1.png", "cat", 0.5, "main", 1.0), **changes)


def test_images_stand_in_rows_in_their_order() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)]
    sheet = draw([cell(color) for color in colors], columns=3)
    wide, high = sheet.width - 12, sheet.height - 12  # without the left and upper margin
    assert wide % 3 == high % 2 == 0
    centres = [(12 + PICTURE // 2 + i % 3 * wide // 3, 12 + PICTURE // 2 + i // 3 * high // 2) for i in range(4)]
    assert [sheet.getpixel(centre) for centre in centres] == colors


def test_a_wide_and_a_tall_image_stand_in_the_middle_of_their_square() -> None:
    for height, width in ((10, 400), (400, 10)):
        sheet = draw([cell(picture=plain((200, 0, 0), height, width))], columns=1)
        square = np.asarray(sheet)[12 : 12 + PICTURE, 12 : 12 + PICTURE]
        rows, columns = np.nonzero((square == (200, 0, 0)).all(axis=2))
        assert rows.min() == PICTURE - 1 - rows.max()
        assert columns.min() == PICTURE - 1 - columns.max()


def test_there_are_no_empty_columns() -> None:
    assert draw([cell()], columns=9).width == draw([cell()], columns=1).width


@pytest.mark.parametrize(("shape", "size"), [((8, 8), (144, 144)), ((10, 400), (144, 4)), ((900, 1), (1, 144))])
def test_an_image_keeps_its_proportions(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert plain((1, 2, 3), *shape).size == size


def test_the_pixels_of_a_small_image_are_not_blurred() -> None:
    board = np.zeros((3, 2, 2), np.uint8)
    board[:, 0, 0] = board[:, 1, 1] = 255
    assert set(np.asarray(fitted(board)).ravel()) == {0, 255}


def test_what_changes_changes_the_sheet() -> None:
    before = draw([cell()], 1)
    for change in ({"label": "dog"}, {"confidence": 0.51}, {"exit_name": "sub-model 1"}, {"depth": 0.0}, {"name": "2"}):
        after = draw([cell(**change)], 1)
        assert ImageChops.difference(before, after).getbbox(), change
    assert draw([cell(exit_name=None)], 1).height < before.height
    assert draw([cell()], 1, "the first 400 images").height > before.height


def test_only_the_first_exit_is_marked_as_the_first_and_the_last_as_the_last() -> None:
    marks = []
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):  # five exits
        colors = draw([cell(depth=depth)], 1).getcolors(1 << 16)
        there = {color for _, color in colors}
        marks.append([place for place, color in enumerate(EXITS) if ImageColor.getrgb(color) in there])
    assert marks == [[0], [1], [2], [2], [3]]


def test_a_long_text_stays_in_its_cell() -> None:
    long = cell(name="n" * 300, label="l" * 300, exit_name="e" * 300, confidence=float("nan"))
    alone = draw([long], columns=1)
    right = alone.crop((12 + PICTURE, 0, alone.width, alone.height))
    assert right.getcolors() == [(right.width * right.height, (255, 255, 255))]


def test_a_text_is_cut_with_an_ellipsis_and_no_more_than_needed() -> None:
    assert shortened("short", 100, FONT) == "short"
    cut = shortened("a" * 100, 100, FONT)
    assert cut.endswith("…")
    assert FONT.getlength(cut) <= 100 < FONT.getlength("a" + cut)
    assert shortened("two\nlines", 100, FONT) == "two lines"
    assert shortened("abc", 0, FONT) == "…"
    cut = shortened("photograph_of_a_cat_0001.jpg", 100, FONT, keep_end=True)
    assert cut.startswith("phot")
    assert cut.endswith("1.jpg")
    assert "…" in cut


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(LcpruneError, match=r"sheet.png cannot be written"):
        save(draw([cell()], 1), tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_wrong_name_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(LcpruneError, match="has no suffix of an image format"):
        check_name(tmp_path / "sheet.txt")
    with pytest.raises(LcpruneError, match="there is no folder"):
        check_name(tmp_path / "nowhere/sheet.png")
    check_name(tmp_path / "sheet.PNG")


@pytest.mark.parametrize(("cells", "columns"), [([], 1), ([cell()], 0)])
def test_nothing_makes_no_sheet(cells: list[Cell], columns: int) -> None:
    with pytest.raises(ValueError, match="make no sheet"):
        draw(cells, columns)
