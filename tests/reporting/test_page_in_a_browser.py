"""The page in a real browser: it says what Python says at every threshold, and asks nobody."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.cost import NetworkCost
from lcprune.analysis.evaluate import ProgressiveResult, sweep
from lcprune.analysis.thresholds import NEVER
from lcprune.pipeline import stored
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.report import report
from lcprune.reporting.page.formatting import fixed, percent, share
from lcprune.reporting.page.subject import macs_unit

ATTACK = "<script>alert(1)</script>"
SET = "(element, value) => { element.value = value; element.dispatchEvent(new Event('input', {bubbles: true})); }"


@pytest.fixture(scope="module")
def shown_run(tmp_path_factory: pytest.TempPathFactory, _finished_run: Path) -> Path:
    """A finished run with a class whose name is a script, and its page."""
    folder = tmp_path_factory.mktemp("page") / "digits-1"
    shutil.copytree(_finished_run, folder)
    facts = runs.read_json(folder / runs.DATASET)
    facts["classes"][3] = ATTACK
    runs.write_json(folder / runs.DATASET, facts)
    runs.record(folder, runs.DATASET)
    report(folder, with_rdm=False)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("the page is tested in chromium, which is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, shown_run: Path) -> Iterator[Callable[..., Any]]:
    """``opened(width=360)``: the page; nothing may be asked for or complained about until the test ends."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts = []

    def open_page(width: int = 1280, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto((shown_run / "report.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)
    assert complaints == []


@pytest.fixture(scope="module")
def costs(shown_run: Path) -> NetworkCost:
    return costs_of(shown_run, recipes.load(shown_run / runs.RECIPE))


@pytest.fixture(scope="module")
def python_says(shown_run: Path, costs: NetworkCost) -> Callable[[list[float]], dict[str, Any]]:
    """``python_says([0.9] * 3)``: the figures of the page, from the stored logits."""
    arrays = runs.read_predictions(shown_run)
    exit_macs, main_macs = costs.cascade.exit_macs(), costs.cascade.main_macs

    def say(thresholds: list[float]) -> dict[str, Any]:
        found = sweep(arrays["test_logits"], arrays["test_labels"], exit_macs, main_macs, [thresholds])[0]
        return figures(found, main_macs)

    return say


def figures(found: ProgressiveResult, main_macs: int) -> dict[str, Any]:
    return {
        "accuracy": percent(found.accuracy_pct),
        "macs": fixed(found.mean_macs / macs_unit(main_macs).divisor, 3),
        "ratio": share(found.macs_ratio),
        "shares": [share(fraction) for fraction in found.exit_fractions],
    }


def page_says(page: Any) -> dict[str, Any]:
    said = {key: page.text_content(f"#now-{key}") for key in ("accuracy", "macs", "ratio")}
    return {**said, "shares": page.locator("[data-share]").all_text_contents()}


def test_the_slider_says_what_python_says(opened: Callable[..., Any], python_says: Callable[..., Any]) -> None:
    page = opened()
    slider = page.locator("#threshold")
    seen = []
    assert page_says(page) == python_says([0.9] * 3)
    for place in (*range(0, 1000, 53), 333, 999, 1000):
        slider.evaluate(SET, str(place))
        seen.append(page_says(page))
        assert seen[-1] == python_says([place / 1000] * 3), place
        assert page.text_content("#now-threshold") == f"{place / 1000:.3f}"
    assert len({said["macs"] for said in seen}) > 10  # or it did not move


def test_one_exit_can_be_moved_alone(opened: Callable[..., Any], python_says: Callable[..., Any]) -> None:
    page = opened()
    page.locator('[data-exit="0"]').evaluate(SET, "450")
    page.locator('[data-exit="2"]').evaluate(SET, "1001")  # past 1
    assert page_says(page) == python_says([0.45, 0.9, NEVER])
    assert page.text_content('[data-threshold="2"]') == "never"
    assert page.text_content("#now-threshold") == "one for each"


def test_a_button_brings_back_the_thresholds_of_the_export(
    opened: Callable[..., Any], python_says: Callable[..., Any]
) -> None:
    page = opened()
    assert page.text_content('[data-setting="1"]') == "export progressive.onnx"
    page.click('[data-setting="1"]')
    assert page_says(page) == python_says([0.5, 0.4, 0.3])
    assert page.get_attribute('[data-setting="1"]', "aria-pressed") == "true"
    page.click('[data-setting="0"]')
    assert page_says(page) == python_says([0.9] * 3)


def test_the_keyboard_moves_it(opened: Callable[..., Any], python_says: Callable[..., Any]) -> None:
    page = opened()
    page.focus("#threshold")
    page.keyboard.press("ArrowLeft")
    assert page_says(page) == python_says([0.899] * 3)
    page.keyboard.press("Home")
    assert page_says(page) == python_says([0.0] * 3)
    assert "accuracy" in page.get_attribute("#threshold", "aria-valuetext")


def test_the_point_moves_along_the_chart(opened: Callable[..., Any], shown_run: Path) -> None:
    page = opened()

    def place() -> tuple[float, ...]:
        return tuple(float(page.get_attribute("#now-point", key)) for key in ("cx", "cy"))

    before = place()
    page.locator("#threshold").evaluate(SET, "0")
    first_dot = page.locator("#frontier-chart .dot").first  # sub-model 1, which all images leave at
    after = place()
    assert after != before
    at_dot = [float(first_dot.get_attribute(key)) for key in ("cx", "cy")]
    np.testing.assert_allclose(after, at_dot, atol=0.1)


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_scrolls_sideways(opened: Callable[..., Any], width: int) -> None:
    page = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_class_called_script_is_text(opened: Callable[..., Any], shown_run: Path) -> None:
    assert stored.read_facts(shown_run).classes[3] == ATTACK
    page = opened()
    assert ATTACK in page.inner_text("#classes")
    assert page.locator("script").count() == 2


def test_without_javascript_the_figures_are_there(opened: Callable[..., Any], python_says: Callable[..., Any]) -> None:
    page = opened(java_script_enabled=False)
    assert page_says(page) == python_says([0.9] * 3)
    assert not page.locator("#threshold").is_visible()
