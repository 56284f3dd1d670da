"""What the sections of the page show: charts, rows and facts, which the template writes as HTML."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from lcprune.analysis.reliability import Reliability
from lcprune.reporting.page.charts import Chart, Line, Mark, chart, exit_colour, unit_chart
from lcprune.reporting.page.formatting import NOT_KNOWN, fixed, percent, share
from lcprune.reporting.page.measured import LISTED, Measured, common_result
from lcprune.reporting.page.subject import SPLITS, MacsUnit, Subject

MOST_POINTS = 200
"""Of a line; longer ones are averaged."""
FEWEST = 5
"""Images in a bin that is drawn; of fewer the accuracy says little."""


def lead(subject: Subject) -> str:
    """The sentences under the title."""
    recipe, exits = subject.recipe, len(subject.exits)
    return (
        f"{recipe.model.trunk}, width {recipe.model.width:g}, trained by {recipe.train.method} on "
        f"{recipe.data.source}: {f'{exits} exits, one training' if exits > 1 else 'one exit'}. Figures are of "
        f"{len(subject.shown.labels):,} {SPLITS[subject.split]} images"
        f"{'.' if subject.split == 'test' else ', because the run has no test images.'}"
    )


def facts(subject: Subject, measured: Measured, unit: MacsUnit) -> Iterator[tuple[str, str, str]]:
    """The figures at the top of the page: name, value, note."""
    yield "accuracy of main", percent(measured.accuracies_pct[-1]), macs(subject.cost.main_macs, unit)
    if (early := measured.first) is not None:
        mean = f"{macs(early.result.mean_macs, unit)} per image, on average: {share(early.result.macs_ratio)} of main"
        yield "with early exits", percent(early.result.accuracy_pct), f"{mean} ({early.setting.title})"
    for cost, accuracy in zip(subject.exits, measured.accuracies_pct, strict=True):
        if cost.name == subject.selected:
            yield f"selected: {cost.name}", percent(accuracy), macs(cost.macs, unit)


def frontier(subject: Subject, measured: Measured, unit: MacsUnit) -> Chart:
    """Accuracy against MACs: sub-models, ensembles, thresholds."""

    def at(mean_macs: float, accuracy_pct: float) -> tuple[float, float]:
        return mean_macs / unit.divisor, accuracy_pct

    lines = [
        Line("", colour, tuple(sorted(at(result.mean_macs, result.accuracy_pct) for result in results)))
        for colour, results in (("budget", measured.budgets), ("sweep", measured.swept))
        if results
    ]
    marks = []
    names = [cost.name for cost in subject.exits]
    for kind, name, mean_macs, accuracy in frontier_figures(subject, measured):
        title, place = f"{name}: {percent(accuracy)}", at(mean_macs, accuracy)
        if kind == "exit":
            colour = exit_colour(names.index(name), len(names))
            marks.append(Mark(title, colour, place, label=name.removeprefix("sub-model ")))
            if name == subject.selected:
                marks.append(Mark(f"selected: {name}", "chosen", place, "ring"))
        elif kind == "ensemble":
            marks.append(Mark(title, "ensemble", place, "square"))
        elif kind == "setting":
            marks.append(Mark(title, "chosen", place))
    label = (
        "Accuracy in percent against MACs per image, on average: sub-models, ensembles, and early exits. "
        "The figures are in the tables below."
    )
    x_title, y_title = f"{unit.name} MACs per image, on average", f"{SPLITS[subject.split]} accuracy (%)"
    return chart(label, x_title, y_title, lines, marks)


def frontier_legend(measured: Measured) -> list[tuple[str, str]]:
    """Names and colours of what the chart shows."""
    entries = [
        ("sub-models alone", "round exit-1", True),
        ("ensembles (summed outputs)", "ensemble", True),
        ("one threshold for all exits", "thin sweep", True),
        ("a threshold for each exit, calibrated on validation", "thin budget", len(measured.budgets) > 1),
        ("chosen by an export or a calibration", "round chosen", bool(measured.simulations)),
        ("the slider", "round now", True),
    ]
    return [(name, colour) for name, colour, is_shown in entries if is_shown]


def frontier_figures(subject: Subject, measured: Measured) -> Iterator[tuple[str, str, float, float]]:
    """Kind, name, MACs and accuracy of exits, ensembles, common thresholds and settings.

    The members of an ensemble share the backbone, so it costs what an image costs that reaches its last member.
    """
    for cost, accuracy in zip(subject.exits, measured.accuracies_pct, strict=True):
        yield "exit", cost.name, cost.macs, accuracy
    paid = subject.cost.exit_macs()
    for name, accuracy in measured.ensembles.items():
        yield "ensemble", f"ensemble {name}", paid[name.count("+")], accuracy
    results = [("threshold", f"threshold {value:g}", common_result(measured.rows, value)) for value in LISTED]
    results += [("setting", one.setting.title, one.result) for one in measured.simulations]
    for kind, name, result in results:
        yield kind, name, result.mean_macs, result.accuracy_pct


def learning(subject: Subject) -> Iterator[tuple[Chart, str]]:
    """Loss and accuracy of every exit over the steps, with captions."""
    curves = subject.curves
    if curves is None:
        return
    steps, losses = curves.averaged(MOST_POINTS)
    group = round(len(curves.steps) / len(steps))
    means = f"; a point is the mean of about {group} logged ones" if group > 1 else ""
    caption = f"Training loss of every exit{means}"
    yield chart(caption, "step", "loss (nats)", _curves(curves.exit_names, steps, losses)), f"{caption}."
    if len(curves.eval_steps):
        split = SPLITS[curves.split]
        caption = f"Accuracy of every exit on the {split} images, during training."
        lines = _curves(curves.exit_names, curves.eval_steps, curves.accuracies_pct)
        yield chart(caption, "step", f"{split} accuracy (%)", lines), caption


def _curves(names: Sequence[str], steps: npt.NDArray[Any], values: npt.NDArray[np.float64]) -> list[Line]:
    """A line for every exit, of values ``(S, K)``."""
    xs, few = steps.tolist(), len(steps) <= 40
    return [
        Line(name, exit_colour(index, len(names)), tuple(zip(xs, values[:, index].tolist(), strict=True)), few)
        for index, name in enumerate(names)
    ]


def class_accuracies(subject: Subject, measured: Measured) -> list[tuple[str, list[float]]]:
    """Accuracies of the exits by class, ``(K,)`` each; the class with the lowest accuracy at main comes first."""
    order = np.argsort(np.nan_to_num(measured.by_class[-1], nan=101.0), kind="stable")
    return [(subject.classes[row], measured.by_class[:, row].tolist()) for row in order]


def calibration(subject: Subject, measured: Measured) -> Iterator[tuple[Chart, str]]:
    """Reliability diagram of every exit, with its caption."""
    after = measured.after or (None,) * len(measured.before)
    for index, (cost, before, later) in enumerate(zip(subject.exits, measured.before, after, strict=True)):
        colour = exit_colour(index, len(subject.exits))
        errors = f"ECE {percent(before.ece_pct)}"
        lines = [Line("", colour, _bins(before), dots=True)]
        if later is not None:
            errors += f", then {percent(later.ece_pct)}"
            lines.append(Line("", f"{colour} dashed", _bins(later)))
        label = f"Reliability of {cost.name}: accuracy against confidence; {errors}"
        yield unit_chart(label, "confidence", "accuracy", lines), f"{cost.name}: {errors}"


def _bins(found: Reliability) -> tuple[tuple[float, float], ...]:
    bins = zip(found.confidence, found.accuracy, found.counts, strict=True)
    return tuple((confidence, accuracy) for confidence, accuracy, count in bins if count >= FEWEST)


def settings(subject: Subject) -> dict[str, str]:
    """Data, network, training and machine."""
    recipe, environment = subject.recipe, subject.environment
    data, train = recipe.data, recipe.train
    length = f"{train.iterations:,} iterations" if train.iterations else f"{train.epochs:g} epochs"
    places = ", ".join(map(str, recipe.critics.after or ()))
    packages: dict[str, Any] = environment.get("packages", {})
    versions = {"lcprune": environment.get("lcprune"), "Python": environment.get("python"), **packages}
    shown = [f"{name} {versions[name]}" for name in ("lcprune", "Python", "torch", "onnxruntime") if versions.get(name)]
    return {
        "Data": f"{data.source}, {len(subject.classes)} classes; augmentation {data.augment}",
        "Held out": f"{data.val_size:,} validation images" if data.val_size else "no validation images",
        "Network": f"{recipe.model.trunk}, width {recipe.model.width:g}",
        "Critics": f"after layers {places}; head {recipe.critics.head}" if len(subject.exits) > 1 else "none",
        "Method": train.method,
        "Length": f"{length}, batches of {data.batch_size}",
        "Optimizer": f"{train.optimizer}, learning rate {train.lr:g}, {train.schedule}",
        "Seed": str(train.seed),
        "Training time": _duration(subject.seconds),
        "Device": str(environment.get("device", NOT_KNOWN)),
        "Versions": ", ".join(shown) or NOT_KNOWN,
    }


def _duration(seconds: float) -> str:
    if not seconds:
        return NOT_KNOWN
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds))) + " h"


def macs(count: float, unit: MacsUnit) -> str:
    """``1.26 M MACs``."""
    return f"{fixed(count / unit.divisor, 2)} {unit.name} MACs"
