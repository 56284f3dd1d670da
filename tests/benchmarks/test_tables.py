"""No figure stands in the README that its result file does not hold."""

from benchmarks import tables


def test_the_readme_holds_the_figures_of_the_result_files() -> None:
    text = tables.README.read_text(encoding="utf-8")
    assert tables.BEGIN in text
    assert tables.with_tables(text) == text


def test_every_result_file_says_where_it_comes_from() -> None:
    names = [path.name for path in tables.RESULTS.glob("*.json")]
    assert names
    for path in tables.RESULTS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for key in ("command", "machine", "versions", "seed"):
            assert f'"{key}"' in text, f"{path.name} lacks {key}"
