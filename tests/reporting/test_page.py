"""The page as text: what it escapes, what it leaves out, and what it asks for."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from lcprune import recipe as recipes
from lcprune.analysis.cost import CascadeCost, ExitCost
from lcprune.analysis.thresholds import NEVER
from lcprune.reporting.page import explorer, page
from lcprune.reporting.page.charts import ticks
from lcprune.reporting.page.examples import first_to_leave, image_uri, last_to_leave, matrix_uri
from lcprune.reporting.page.formatting import fixed
from lcprune.reporting.page.measured import measure
from lcprune.reporting.page.subject import Curves, Labelled, Setting, Subject, macs_unit

ATTACK = "<script>alert(1)</script>"
N = 40


def labelled(seed: int, exits: int = 3, n: int = N) -> Labelled:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, n)
    logits = generator.normal(size=(exits, n, 4)).astype(np.float32)
    logits += 2 * np.eye(4, dtype=np.float32)[labels]
    return Labelled(logits, labels)


def subject(exits: int = 3) -> Subject:
    """A made-up run of 3 exits, or of main alone."""
    names = (*(f"sub-model {k}" for k in range(1, exits)), "main")
    setting = Setting("by hand", "named here.", (1,), (0.7,), "margin", (1.0, 1.5, 1.0))
    return Subject(
        recipe=recipes.load("digits", []),
        recipe_text=f"name: digits # {ATTACK}\n",
        environment={"lcprune": "0.1.0", "command": ["lcprune", ATTACK]},
        curves=None,
        seconds=12.34,
        exits=tuple(ExitCost(name, k, 1000 * (k + 1), 10, 5000, 0.1) for k, name in enumerate(names)),
        cost=CascadeCost((1000,) * exits, (100,) * (exits - 1)),
        classes=("a", "b", ATTACK, "d"),
        split="test",
        shown=labelled(0, exits),
        held_out=labelled(1, exits),
        settings=(setting,) if exits > 1 else (),
        selected="sub-model 2" if exits > 1 else None,
        images=np.zeros((N, 1, 8, 8), np.uint8),
        images_absent="",
        inside=None,
        inside_absent=f"left out. {ATTACK}",
        commands=(("Trained with", f"lcprune train '{ATTACK}'"),),
        exported=(),
    )


class Elements(HTMLParser):
    """Ids, scripts, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [given["id"] or ""] if "id" in given else []
        self.addresses += [str(given[key]) for key in ("src", "href", "action", "data") if key in given]


def parsed(html: str) -> Elements:
    elements = Elements()
    elements.feed(html)
    return elements


def test_what_comes_from_outside_is_escaped() -> None:
    html = page(subject())
    assert ATTACK not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert parsed(html).scripts == 2  # the data and the page's own


def test_the_data_of_the_script_cannot_end_its_element() -> None:
    cost = replace(subject().exits[0], name="</script><!-- & \u2028")
    html = page(replace(subject(), exits=(cost, *subject().exits[1:])))
    (block,) = re.findall(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.DOTALL)
    assert "<" not in block
    assert json.loads(block)["names"] == [cost.name, "sub-model 2", "main"]


def test_it_asks_nobody_for_anything() -> None:
    html = page(subject())
    assert html.startswith("<!doctype html>")
    elements = parsed(html)
    assert all(address.startswith(("data:", "#")) for address in elements.addresses)
    assert len(elements.ids) == len(set(elements.ids))
    assert {address[1:] for address in elements.addresses if address.startswith("#")} <= set(elements.ids)
    assert "default-src 'none'; script-src 'sha256-" in html
    assert not re.search(r"https?://|@import|url\(", html)


def test_one_exit_has_no_section_about_stopping_early() -> None:
    html = page(subject(exits=1))
    ids = parsed(html).ids
    assert {"learning", "classes", "calibration", "inside", "trained", "commands"} <= set(ids)
    assert not {"frontier", "leaving", "explorer", "explorer-data"} & set(ids)
    assert "main" in html


def test_the_validation_split_is_named() -> None:
    shown = replace(subject(), split="val", shown=subject().held_out)
    html = page(shown)
    assert f"Figures are of {N} validation images, because the run has no test images." in html
    assert "No temperature was fitted: the validation images are the ones that are shown" in html
    assert "No temperature was fitted: no images were held out" in page(replace(subject(), held_out=None))


def test_without_images_it_says_why() -> None:
    html = page(replace(subject(), images=None, images_absent="The folder is gone."))
    assert "No example images are shown. The folder is gone." in html
    assert "<img" not in html


def test_the_data_of_a_setting() -> None:
    run = replace(subject(), settings=(Setting("x", "y.", (0, 1), (0.12345678, NEVER)),))
    html = page(run)
    (block,) = re.findall(r'id="explorer-data">(.*?)</script>', html, re.DOTALL)
    of_setting = json.loads(block)["settings"][1]
    assert (of_setting["kept"], of_setting["thresholds"]) == ([0, 1], [0.12345678, NEVER])
    assert of_setting["exitMacs"] == [1100, 2200, 3200]
    scores = np.frombuffer(base64.b64decode(of_setting["scores"]), dtype="<f4").reshape(2, N)
    np.testing.assert_array_equal(scores, measure(run).rows.confidences[:2])


def test_large_samples_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_SAMPLES", 16)
    assert "A sample of 16 of the 40 images, taken evenly" in page(subject())
    monkeypatch.undo()
    assert "All 40 test images." in page(subject())


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(86.125, 2, "86.13"), (1.005, 2, "1.00"), (0.5, 0, "1"), (2.5, 0, "3"), (float("nan"), 2, "–"), (None, 1, "–")],
)
def test_numbers_are_rounded_as_javascript_does(value: float | None, digits: int, expected: str) -> None:
    assert fixed(value, digits) == expected


def test_units_of_multiply_adds() -> None:
    assert [macs_unit(macs).name for macs in (20_516_864, 4_100_000_000, 3000, 5)] == ["M", "G", "k", ""]


def test_pictures_are_small_pngs() -> None:
    large = image_uri(np.zeros((3, 500, 300), np.uint8))
    assert large.startswith("data:image/png;base64,")
    assert len(large) < 1000
    assert len(matrix_uri(np.zeros((400, 400), np.float32))) < 1000
    assert image_uri(np.zeros((1, 8, 8), np.uint8)) != image_uri(np.full((1, 8, 8), 255, np.uint8))


def test_the_images_are_of_a_setting_that_has_both_kinds() -> None:
    everybody_leaves = Setting("all at once", "named here.", (0,), (0.0,))
    measured = measure(replace(subject(), settings=(everybody_leaves,)))
    assert measured.first is not None
    assert measured.first.setting.title == "all at once"
    assert measured.illustrated is measured.common


def test_who_leaves_first_and_last() -> None:
    simulation = measure(subject()).simulations[0]  # sub-model 2 with 0.7, then main
    first, last = first_to_leave(simulation), last_to_leave(simulation)
    scores = simulation.scores[0]
    assert np.all(scores[first] >= 0.7)
    assert scores[first[0]] == scores.max()
    assert np.all(scores[last] < 0.7)
    assert scores[last[0]] == scores.min()
    assert simulation.result.exit_fractions[0] == np.mean(scores >= np.float32(0.7))


def test_many_classes_are_shown_on_demand() -> None:
    names = tuple(f"class {index}" for index in range(40))
    logits = np.zeros((3, N, 40), np.float32)
    html = page(replace(subject(), classes=names, shown=Labelled(logits, np.arange(N)), held_out=None, settings=()))
    assert "The 12 of 40 classes with the lowest accuracy of main." in html
    assert html.count(">class 39<") == 1


def test_curves_are_thinned_and_end_where_they_end() -> None:
    steps = np.arange(1, 1002)
    losses = np.repeat(np.linspace(3, 1, 1001)[:, None], 3, axis=1)
    curves = Curves(("sub-model 1", "sub-model 2", "main"), steps, losses, steps[-1:], np.array([[1.0, 2, 3]]), "test")
    html = page(replace(subject(), curves=curves))
    assert "a point is the mean of about 5 logged ones" in html
    assert "Accuracy of every exit on the test images" in html
    assert "There are no curves" not in html
    section = html[html.index('id="learning"') : html.index('id="classes"')]
    first_line = re.findall(r'<polyline points="([^"]*)"', section)[0]
    assert len(first_line.split()) == 200


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 22.6) == (0, 5, 10, 15, 20)
    assert ticks(0.87, 0.93, 3) == (0.88, 0.9, 0.92)
    assert ticks(98.3, 99.5) == (98.5, 98.75, 99, 99.25, 99.5)
