"""The paper's figures, drawn from what a run recorded. Every function returns the bytes of a PNG file."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lcprune.analysis.representation import Dissimilarities
from lcprune.paper.measures import LossEvolution
from lcprune.reporting.page.subject import Curves

Values = npt.NDArray[np.floating]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Okabe and Ito's, which people with any colour vision can tell apart."""
RED = "#D00000"
MATRIX_COLOURS, LOSS_COLOURS = "gray", "viridis"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name may have a dollar sign in it
}
DPI = 150
CURVE_POINTS = 250
MATRIX_COLUMNS = 13
EVOLUTION_COLUMNS = 8


@matplotlib.rc_context(STYLE)
def loss_curves(runs: Mapping[str, Curves]) -> bytes:
    """Training loss of every exit over the steps (Figure 3): a panel for each run, under its name."""
    figure, panels = _panels(len(runs), width=4.2, height=2.9)
    for axes, (title, curves) in zip(panels, runs.items(), strict=True):
        steps, losses = curves.averaged(CURVE_POINTS)
        for index, name in enumerate(curves.exit_names):
            axes.plot(steps, losses[:, index], color=_colour(index, curves), linewidth=1.2, label=name)
        axes.set(title=title, xlabel="training step", ylim=(0, None))
    panels[0].set_ylabel("training loss (nats)")
    panels[-1].legend()
    return _rendered(figure)


@matplotlib.rc_context(STYLE)
def ensemble_marks(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Accuracy of ensembles (Figure 4b): means with their standard deviations, and the paper's values.

    Marks and not bars, because an axis that shows tenths of a point cannot begin at 0.

    Args:
        panels: Rows of `rows.rows_of` by title.
    """
    most = max((len(rows) for rows in panels.values()), default=1)
    figure, all_axes = _panels(len(panels), width=4.2, height=1.1 + 0.32 * most)
    for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
        means, errors = [row["mean"] for row in rows], [row["std"] or 0 for row in rows]
        places = range(len(rows))
        axes.errorbar(means, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3, markersize=5, label="measured")
        known = {place: row["paper_mean"] for place, row in enumerate(rows) if row["paper_mean"] is not None}
        axes.plot(list(known.values()), list(known), "D", markerfacecolor="none", color=RED, label="paper")
        axes.set_yticks(places, [row["name"] for row in rows])
        axes.set(title=title, xlabel="accuracy (%)", ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.margins(x=0.12)
    handles, labels = all_axes[0].get_legend_handles_labels()
    marks = dict(sorted(zip(labels, handles, strict=True)))
    figure.legend(marks.values(), marks.keys(), loc="outside lower right", ncols=2)
    return _rendered(figure)


@matplotlib.rc_context(STYLE)
def dissimilarity_grid(runs: Mapping[str, Dissimilarities]) -> bytes:
    """Dissimilarity matrices (Figure 5): a row for each run, a column for each layer, critics' places in red.

    Of a network with more layers than `MATRIX_COLUMNS`, those before a critic, the first and last ones, and others
    evenly between them are shown.
    """
    shown = {name: _shown_layers(found) for name, found in runs.items()}
    columns = max((len(places) for places in shown.values()), default=1)
    figure, grid = _grid(list(runs), columns, size=0.95)
    for row, (name, found) in zip(grid, runs.items(), strict=True):
        for axes, place in zip(row, shown[name], strict=False):
            axes.imshow(found.matrices[place], vmin=0, vmax=1, cmap=MATRIX_COLOURS, interpolation="antialiased")
            axes.set_title(found.layers[place], fontsize=7, pad=2)
            if place in found.critic_after:
                axes.plot([1.06, 1.06], [0, 1], color=RED, linewidth=2, transform=axes.transAxes, clip_on=False)
        for axes in row[len(shown[name]) :]:
            axes.set_visible(False)
    _colour_bar(figure, grid, top=1, cmap=MATRIX_COLOURS, label="1 - correlation")
    return _rendered(figure)


@matplotlib.rc_context(STYLE)
def loss_evolution(evolution: LossEvolution, order: Literal["label", "final_loss"]) -> bytes:
    """Loss of every exit on single images over the steps (Figure 6): exits as rows, steps as columns.

    Args:
        evolution: What a run recorded; `EVOLUTION_COLUMNS` of its steps are shown, the first and the last among them.
        order: Of the images in every square, row by row: by label (Figure 6a) or by main's loss at the end (6b).
    """
    final = evolution.losses[-1, -1]
    images = np.argsort(evolution.labels if order == "label" else final, kind="stable")
    columns = _evenly(len(evolution.steps), EVOLUTION_COLUMNS)
    figure, grid = _grid(evolution.exit_names, len(columns), size=1.0)
    top = float(np.quantile(evolution.losses, 0.98))
    for exit_index, row in enumerate(grid):
        for axes, column in zip(row, columns, strict=True):
            square = _square(evolution.losses[column, exit_index, images])
            axes.imshow(square, vmin=0, vmax=top, cmap=LOSS_COLOURS, interpolation="nearest")
            if exit_index == 0:
                axes.set_title(f"step {evolution.steps[column]:,}", fontsize=7, pad=3)
    _colour_bar(figure, grid, top=top, cmap=LOSS_COLOURS, label="loss (nats)")
    by = "label" if order == "label" else "main's loss at the end"
    figure.suptitle(f"{len(images)} training images, sorted by {by}", fontsize=9)
    return _rendered(figure)


@matplotlib.rc_context(STYLE)
def learning_curves(backprop: Sequence[Curves], local_critic: Curves) -> bytes:
    """Accuracy of sub-models over the steps (Figure 7), a panel for each.

    Args:
        backprop: Sub-models 1, 2, .. trained alone; of each, its main is drawn.
        local_critic: The run whose exits 1, 2, .. they are compared with.
    """
    figure, panels = _panels(len(backprop), width=3.0, height=2.7)
    for index, (axes, alone) in enumerate(zip(panels, backprop, strict=True)):
        pairs = ((f"BP sub {index + 1}", alone, -1), (f"LC sub {index + 1}", local_critic, index))
        for (name, curves, exit_index), colour, dashes in zip(pairs, COLOURS, ("--", "-"), strict=False):
            accuracies = curves.accuracies_pct[:, exit_index]
            axes.plot(curves.eval_steps, accuracies, dashes, color=colour, linewidth=1.3, label=name)
        axes.set(title=f"Sub-model {index + 1}", xlabel="training step")
        axes.legend(loc="lower right")
    panels[0].set_ylabel(f"{'test' if local_critic.split == 'test' else 'validation'} accuracy (%)")
    return _rendered(figure)


@matplotlib.rc_context(STYLE)
def no_data(text: str) -> bytes:
    """A picture in the place of one that has no data: it says what is missing, and what to run."""
    figure = Figure(figsize=(6, 1.2), layout="constrained")
    figure.text(0.02, 0.5, text, va="center", wrap=True, family="monospace")
    return _rendered(figure)


def _rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _panels(n_panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side, in inches each."""
    if not n_panels:
        raise ValueError("there is nothing to draw")
    figure = Figure(figsize=(width * n_panels, height), layout="constrained")
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def _grid(names: Sequence[str], columns: int, size: float) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Squares of `size` inches without ticks, a row for each name, which stands to the left of it."""
    if not names:
        raise ValueError("there is nothing to draw")
    narrow = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(size * columns + 1.5, size * len(names) + 0.4), layout=narrow)
    grid = figure.subplots(len(names), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
    return figure, grid


def _colour_bar(figure: Figure, grid: npt.NDArray[np.object_], *, top: float, cmap: str, label: str) -> None:
    """What the colours from 0 to `top` mean; larger values have the last one."""
    colours = ScalarMappable(Normalize(0, top), cmap)
    bar = figure.colorbar(colours, ax=grid.ravel().tolist(), shrink=0.8, aspect=18, pad=0.01, extend="max")
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7)


def _colour(index: int, curves: Curves) -> str:
    """Main is black; the other exits have the colours from the first on."""
    last = index == len(curves.exit_names) - 1
    return COLOURS[-1] if last else COLOURS[index % (len(COLOURS) - 1)]


def _evenly(count: int, at_most: int) -> list[int]:
    """Places from 0 to `count` - 1, both ends among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, at_most))})


def _shown_layers(found: Dissimilarities) -> list[int]:
    """Places of the layers that have a column."""
    count = len(found.layers)
    if count <= MATRIX_COLUMNS:
        return list(range(count))
    room = MATRIX_COLUMNS - len(found.critic_after)
    return sorted({*found.critic_after, *_evenly(count, max(room, 2))})


def _square(values: Values) -> Values:
    """``(N,)`` as the rows of a square, ``(S, S)``; NaN, which is drawn blank, after the last one."""
    side = math.isqrt(len(values) - 1) + 1
    padded = np.full(side * side, np.nan)
    padded[: len(values)] = values
    return padded.reshape(side, side)
