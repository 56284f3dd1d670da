"""Figures: what is drawn can be read back from the figure before it is rendered."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from lcprune.analysis.representation import Dissimilarities
from lcprune.paper import plots
from lcprune.paper.measures import LossEvolution
from lcprune.reporting.page.subject import Curves

EXITS = ("sub-model 1", "main")


def mark(name: str, mean: float, std: float | None = None, paper: float | None = None) -> dict[str, Any]:
    return {"name": name, "mean": mean, "std": std, "paper_mean": paper}


def curves(points: int = 4, split: str = "test") -> Curves:
    steps = np.arange(1, points + 1) * 10
    losses = np.stack([np.linspace(2, 1, points), np.linspace(2, 0.5, points)], axis=1)
    return Curves(EXITS, steps, losses, steps[:2], np.array([[10.0, 20], [30, 40]]), split)


def matrices(layers: int = 3, critic_after: tuple[int, ...] = (0,), value: float = 0.5) -> Dissimilarities:
    names = (*(f"layer {n}" for n in range(1, layers)), "output")
    labels = np.array([0, 0, 1, 1])
    return Dissimilarities(names, np.full((layers, 4, 4), value, dtype=np.float32), labels, critic_after, "test")


def evolution() -> LossEvolution:
    losses = np.arange(3 * 2 * 5, dtype=np.float32).reshape(3, 2, 5)
    losses[-1, -1] = [3, 1, 2, 0, 4]
    return LossEvolution(EXITS, np.array([0, 1, 10]), losses, np.array([1, 0, 0, 1, 0]))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures of this test, before they are rendered."""
    figures: list[Figure] = []
    rendered = plots._rendered
    monkeypatch.setattr(plots, "_rendered", lambda figure: figures.append(figure) or rendered(figure))
    return figures


def test_a_text_in_place_of_a_figure_is_the_same_png_each_time() -> None:
    drawn = plots.no_data("nothing\n  fix: run $this$")
    assert drawn.startswith(b"\x89PNG\r\n")
    assert plots.no_data("nothing\n  fix: run $this$") == drawn


def test_names_are_text_and_no_formulas(drawn: list[Figure]) -> None:
    plots.loss_curves({"a <b> $x$ $y$": curves()})
    axes = drawn[0].axes[0]
    assert (axes.get_title(), axes.get_xlabel()) == ("a <b> $x$ $y$", "training step")
    assert not axes.title.get_parse_math()


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_a_loss_curve_is_what_was_logged_or_means_of_it(drawn: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    run = curves()
    plots.loss_curves({"a": run})
    assert lines_of(drawn[0].axes[0])["main"] == ([10, 20, 30, 40], pytest.approx(run.losses[:, 1]))
    monkeypatch.setattr(plots, "CURVE_POINTS", 2)
    plots.loss_curves({"a": run})
    assert lines_of(drawn[1].axes[0])["main"] == ([15, 35], pytest.approx([1.75, 0.75]))


def test_learning_curves_hold_main_of_each_against_its_exit(drawn: list[Figure]) -> None:
    plots.learning_curves([curves(), curves()], curves(split="val"))
    first, second = drawn[0].axes
    assert lines_of(first) == {"BP sub 1": ([10, 20], [20, 40]), "LC sub 1": ([10, 20], [10, 30])}
    assert lines_of(second)["LC sub 2"] == ([10, 20], [20, 40])
    assert first.get_ylabel() == "validation accuracy (%)"


def test_ensembles_have_their_errors_and_the_papers_values_where_they_are_known(drawn: list[Figure]) -> None:
    plots.ensemble_marks({"d": [mark("main", 90.0), mark("1+main", 91.5, 0.25, 92.0)]})
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["main", "1+main"]
    assert lines_of(axes)["paper"] == ([92.0], [1])
    segments = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[90, 90], [91.25, 91.75]])
    plots.ensemble_marks({"d": [mark("main", 90.0)]})  # nothing of the paper


def test_matrices_have_a_row_for_each_run_and_red_lines_at_critics(drawn: list[Figure]) -> None:
    plots.dissimilarity_grid({"BP": matrices(critic_after=()), "LC(1)": matrices(), "short": matrices(layers=2)})
    axes = drawn[0].axes[:9]
    assert [a.get_ylabel() for a in axes[::3]] == ["BP", "LC(1)", "short"]
    assert [len(a.get_lines()) for a in axes] == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert [a.get_visible() for a in axes] == [True] * 8 + [False]
    assert [a.get_title() for a in axes[:3]] == ["layer 1", "layer 2", "output"]
    assert axes[0].images[0].get_array().tolist() == [[0.5] * 4] * 4


def test_of_many_layers_those_at_critics_and_both_ends_are_shown(drawn: list[Figure]) -> None:
    plots.dissimilarity_grid({"resnet": matrices(layers=50, critic_after=(8, 20, 38))})
    titles = [axes.get_title() for axes in drawn[0].axes[:-1]]
    assert len(titles) <= plots.MATRIX_COLUMNS
    assert {"layer 1", "layer 9", "layer 21", "layer 39", "output"} <= set(titles)
    assert sum(len(axes.get_lines()) for axes in drawn[0].axes[:-1]) == 3


@pytest.mark.parametrize(("order", "places"), [("label", [1, 2, 4, 0, 3]), ("final_loss", [3, 1, 2, 0, 4])])
def test_squares_are_in_order_row_by_row(drawn: list[Figure], order: Any, places: list[int]) -> None:
    found = evolution()
    plots.loss_evolution(found, order)
    first_exit_last_step = drawn[0].axes[2].images[0].get_array()
    assert first_exit_last_step.shape == (3, 3)
    flat = first_exit_last_step.ravel()
    np.testing.assert_array_equal(flat[:5], found.losses[2, 0, places])
    assert np.ma.getmaskarray(flat)[5:].all()
    assert [axes.get_title() for axes in drawn[0].axes[:3]] == ["step 0", "step 1", "step 10"]


def test_nothing_to_draw_is_a_callers_slip() -> None:
    for draw in (lambda: plots.loss_curves({}), lambda: plots.dissimilarity_grid({})):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw()
