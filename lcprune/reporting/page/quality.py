"""How the exits learned, which classes they know, and whether their confidences are true."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lcprune.analysis.reliability import Reliability
from lcprune.reporting.page import charts, markup
from lcprune.reporting.page.charts import Axes, Scale, Series
from lcprune.reporting.page.measured import Measured
from lcprune.reporting.page.overview import SPLITS
from lcprune.reporting.page.subject import Curves, Subject

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

MOST_POINTS = 200
"""Of a line; longer ones are averaged."""
MOST_CLASSES = 30
"""Rows of the heat table at once; of more classes the worst are shown, and all on demand."""
WORST = 12
FEWEST = 5
"""Images in a bin that is drawn; of fewer the share says little."""


def learning(subject: Subject) -> str:
    """Loss and accuracy of every exit over the steps."""
    curves = subject.curves
    if curves is None:
        words = "The run folder holds no metrics.jsonl, so there are no curves."
        return markup.section("learning", "How the exits learned", markup.paragraph(words))
    group = -(-len(curves.steps) // MOST_POINTS)
    words = "Training loss of every exit" + (f"; each point is the mean of {group} logged ones." if group > 1 else ".")
    series = _series(curves.exit_names, curves.steps, curves.losses, group)
    parts = [markup.figure(charts.line_chart(series, "step", "loss (nats)", words), words)]
    if len(curves.eval_steps):
        split = SPLITS[curves.split]
        words = f"Accuracy of every exit on the {split} images, as the training went on."
        series = _series(curves.exit_names, curves.eval_steps, curves.accuracies_pct, 1)
        parts.append(markup.figure(charts.line_chart(series, "step", f"{split} accuracy (%)", words), words))
    body = f'<div class="pair">{"".join(parts)}</div>'
    return markup.section("learning", "How the exits learned", body, _last(curves))


def classes(subject: Subject, measured: Measured) -> str:
    """Accuracy of every class at every exit, as a heat table."""
    names = [markup.text(cost.name) for cost in subject.exits]
    order = np.argsort(np.nan_to_num(measured.by_class[-1], nan=101.0), kind="stable")
    split = SPLITS[subject.split]
    caption = f"Accuracy in percent on the {split} images, by class and exit; what main knows least comes first"

    def heat(rows: Sequence[int]) -> str:
        cells = [
            [markup.text(subject.classes[row]), *(_heat(value) for value in measured.by_class[:, row])] for row in rows
        ]
        return markup.table(["class", *names], cells, caption).replace("<table", '<table class="heat"', 1)

    everything = order.tolist()
    if len(everything) <= MOST_CLASSES:
        return markup.section("classes", "Which classes each exit knows", heat(everything))
    words = f"The {WORST} of {len(everything)} classes that main knows least."
    rest = markup.details("All classes", heat(everything))
    return markup.section(
        "classes", "Which classes each exit knows", markup.paragraph(words), heat(everything[:WORST]), rest
    )


def calibration(subject: Subject, measured: Measured) -> str:
    """Reliability diagrams, and the calibration error before and after a temperature."""
    found = measured.calibrated
    after = found.after or (None,) * len(found.before)
    figures = "".join(
        _diagram(cost.name, charts.exit_colour(index, len(subject.exits)), before, later)
        for index, (cost, before, later) in enumerate(zip(subject.exits, found.before, after, strict=True))
    )
    if found.temperatures is None:
        reason = (
            "the validation images are the ones that are shown, and a temperature must be held against others"
            if subject.split == "val"
            else "no images were held out for validation (data.val_size: 0)"
        )
        words = f"Dots: as it is. No temperature was fitted: {reason}."
    else:
        words = "Dots and full line: as it is. Dashed: with the temperature that the validation images give."
    columns = ["exit", "ECE", *(["temperature", "ECE with it"] if found.temperatures else [])]
    rows = []
    for index, cost in enumerate(subject.exits):
        row = [markup.text(cost.name), markup.percent(found.before[index].ece_pct)]
        if found.temperatures is not None and found.after is not None:
            row += [markup.fixed(found.temperatures[index], 3), markup.percent(found.after[index].ece_pct)]
        rows.append(row)
    errors = markup.table(columns, rows, "Expected calibration error (ECE, 15 bins) of every exit")
    lead = (
        f"Of the {SPLITS[subject.split]} images of which an exit is 80 % sure, 80 % should be right: then the points "
        f"lie on the diagonal; below it the exit is too sure of itself. {words} Bins of fewer than {FEWEST} images "
        "are not drawn."
    )
    return markup.section(
        "calibration",
        "Are the confidences true?",
        markup.paragraph(lead),
        f'<div class="small-multiples">{figures}</div>',
        errors,
    )


def _series(names: Sequence[str], steps: IntArray, numbers: FloatArray, group: int) -> list[Series]:
    """A line for every exit, at the last step of each group of values ``(S, K)`` with their mean."""
    starts = np.arange(0, len(numbers), group)
    sizes = np.diff(np.append(starts, len(numbers)))
    means = np.add.reduceat(numbers, starts, axis=0) / sizes[:, None]
    ends = steps[np.minimum(starts + group, len(steps)) - 1]
    return [
        Series(
            name,
            charts.exit_colour(index, len(names)),
            tuple((float(step), float(value)) for step, value in zip(ends, means[:, index], strict=True)),
            marked=len(ends) <= 40,
        )
        for index, name in enumerate(names)
    ]


def _last(curves: Curves) -> str:
    """What the curves end with."""
    rows = []
    for index, name in enumerate(curves.exit_names):
        accuracy = curves.accuracies_pct[-1, index] if len(curves.eval_steps) else None
        rows.append([markup.text(name), markup.fixed(curves.losses[-1, index], 4), markup.percent(accuracy)])
    columns = ["exit", "training loss", f"{SPLITS[curves.split]} accuracy"]
    return markup.details("Where the curves end", markup.table(columns, rows, "The last values of the curves"))


def _heat(value: float) -> str:
    """A cell whose background is the stronger the higher its value."""
    if math.isnan(value):
        return markup.NOT_KNOWN
    return f'<span class="cell" style="--heat:{value / 100:.3f}">{markup.fixed(value, 1)}</span>'


def _diagram(name: str, colour: str, before: Reliability, after: Reliability | None) -> str:
    side = Scale(0, 1, charts.LEFT, charts.WIDTH - charts.RIGHT)
    up = Scale(0, 1, charts.HEIGHT - charts.BOTTOM, charts.TOP)
    drawn = Axes(side, up, (0, 0.25, 0.5, 0.75, 1), (0, 0.25, 0.5, 0.75, 1), "confidence", "share that is right")
    marks = charts.line(drawn, Series("", "diagonal", ((0, 0), (1, 1))))
    marks += charts.line(drawn, Series("", colour, _points(before), marked=True))
    if after is not None:
        marks += charts.line(drawn, Series("", f"{colour} dashed", _points(after)))
    errors = f"ECE {markup.percent(before.ece_pct)}" + (f", then {markup.percent(after.ece_pct)}" if after else "")
    label = f"Reliability of {name}: share of right answers against confidence; {errors}"
    return markup.figure(charts.chart(drawn, marks, label), f"{name}: {errors}")


def _points(found: Reliability) -> tuple[tuple[float, float], ...]:
    return tuple(
        (sure, right)
        for sure, right, count in zip(found.confidence, found.accuracy, found.counts, strict=True)
        if count >= FEWEST
    )
