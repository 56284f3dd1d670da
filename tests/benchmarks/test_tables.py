"""No figure stands in the README or docs/speed.md that its result file does not hold."""

import pytest

from benchmarks import tables


@pytest.mark.parametrize("page", tables.PAGES)
def test_a_page_holds_the_figures_of_the_result_files(page: str) -> None:
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    assert tables.BEGIN in text
    assert tables.with_tables(text, tables.PAGES[page]()) == text


def test_every_result_file_says_where_it_comes_from() -> None:
    names = [path.name for path in tables.RESULTS.glob("*.json")]
    assert names
    for path in tables.RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for key in ("command", "machine", "versions", "seed"):
            assert f'"{key}"' in text, f"{path.name} lacks {key}"
