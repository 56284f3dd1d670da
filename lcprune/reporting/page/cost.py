"""Accuracy against multiply-adds, and the slider that moves along it."""

from lcprune.analysis.evaluate import ProgressiveResult
from lcprune.reporting.page import charts, explorer, markup
from lcprune.reporting.page.charts import Axes, Series
from lcprune.reporting.page.measured import LISTED, Decided, Measured, common_result
from lcprune.reporting.page.overview import SPLITS
from lcprune.reporting.page.subject import MacsUnit, Subject

Point = tuple[float, float]


def frontier(subject: Subject, measured: Measured, unit: MacsUnit) -> str:
    """The chart, and where there are early exits the slider and the table of thresholds."""
    submodels = [
        (cost.macs / unit.divisor, accuracy)
        for cost, accuracy in zip(subject.exits, measured.accuracies_pct, strict=True)
    ]
    if measured.common is None:
        return ""
    drawn = _axes(subject, measured, submodels, unit)
    parts = [
        charts.line(drawn, Series("", "budget", _points(measured.budgets, unit))) if measured.budgets else "",
        charts.line(drawn, Series("", "sweep", _points(measured.swept, unit))),
        *(_submodel(drawn, subject, measured, index, submodels[index]) for index in range(len(submodels))),
        *_ensembles(drawn, subject, measured, unit),
        *(_setting(drawn, decided, unit) for decided in measured.decided),
        '<circle id="now-point" class="now" r="6"/>',
    ]
    label = (
        "Accuracy in percent against mean multiply-adds of an image: sub-models, ensembles, and stopping early. "
        "The figures are in the tables below."
    )
    scales = " ".join(
        f'data-{axis}="{scale.low} {scale.high} {scale.start} {scale.end}"'
        for axis, scale in (("x", drawn.x), ("y", drawn.y))
    )
    picture = charts.chart(drawn, "".join(parts), label, f' id="frontier-chart" {scales}')
    names = [("sub-models alone", "round exit-1"), ("ensembles (summed outputs)", "ensemble")]
    names += [("one threshold for all exits", "thin sweep")]
    names += (
        [("a threshold for each exit, calibrated on validation", "thin budget")] if len(measured.budgets) > 1 else []
    )
    names += [("chosen by an export or a calibration", "round chosen")] if measured.decided else []
    names += [("the slider", "round now")]
    chart = markup.figure(picture + charts.legend(names), _caption(subject))
    return markup.section(
        "frontier",
        "Accuracy against cost",
        f'<div class="pair">{chart}{_explorer(subject, measured, unit)}</div>',
        _data(subject, measured, unit),
        _tables(subject, measured, unit),
    )


def _caption(subject: Subject) -> str:
    tail = f" The ring is the selection: {subject.selected}." if subject.selected else ""
    return (
        "Up and to the left is better. Stopping early and the ensembles share one trunk and pay for all critics on "
        f"the way.{tail}"
    )


def _axes(subject: Subject, measured: Measured, submodels: list[Point], unit: MacsUnit) -> Axes:
    ensembles = _ensemble_points(subject, measured, unit)
    points = [*submodels, *(at for _, at in ensembles), *_points(measured.swept, unit)]
    points += [_point(decided.result, unit) for decided in measured.decided]
    title = f"mean multiply-adds of an image ({unit.name} MACs)"
    accuracy = f"{SPLITS[subject.split]} accuracy (%)"
    return charts.axes([x for x, _ in points], [y for _, y in points], title, accuracy, x_zero=True)


def _points(results: tuple[ProgressiveResult, ...], unit: MacsUnit) -> tuple[Point, ...]:
    return tuple(sorted(_point(result, unit) for result in results))


def _point(result: ProgressiveResult, unit: MacsUnit) -> Point:
    return result.mean_macs / unit.divisor, result.accuracy_pct


def _submodel(drawn: Axes, subject: Subject, measured: Measured, index: int, at: Point) -> str:
    name = subject.exits[index].name
    short = name.removeprefix("sub-model ")
    title = f"{name}: {markup.percent(at[1])}"
    ring = charts.mark(drawn, at, "ring", "chosen", "", f"selected: {name}") if name == subject.selected else ""
    return charts.mark(drawn, at, "dot", charts.exit_colour(index, len(subject.exits)), short, title) + ring


def _ensemble_points(subject: Subject, measured: Measured, unit: MacsUnit) -> list[tuple[str, Point]]:
    """Names and places; the members share the trunk, so they cost what a row pays that goes so far."""
    paid = subject.cost.exit_macs()
    macs = [paid[-1] if name.endswith("main") else paid[-2] for name in measured.ensembles]
    return [
        (name, (cost / unit.divisor, accuracy))
        for (name, accuracy), cost in zip(measured.ensembles.items(), macs, strict=True)
    ]


def _ensembles(drawn: Axes, subject: Subject, measured: Measured, unit: MacsUnit) -> list[str]:
    return [
        charts.mark(drawn, at, "square", "ensemble", "", f"{name}: {markup.percent(at[1])}")
        for name, at in _ensemble_points(subject, measured, unit)
    ]


def _setting(drawn: Axes, decided: Decided, unit: MacsUnit) -> str:
    at = _point(decided.result, unit)
    return charts.mark(drawn, at, "dot", "chosen", "", f"{decided.setting.title}: {markup.percent(at[1])}")


def _explorer(subject: Subject, measured: Measured, unit: MacsUnit) -> str:
    """The controls, filled with what the page begins with; the script shows and moves them."""
    common = measured.common
    if common is None:
        raise ValueError("a network without early exits has no thresholds")
    result = explorer.embedded_result(common)
    kept = explorer.sampled(measured.rows.n)
    note = (
        f"A sample of {len(kept):,} of the {measured.rows.n:,} images, taken evenly: figures differ a little from "
        "those of all."
        if len(kept) < measured.rows.n
        else f"All {len(kept):,} {SPLITS[subject.split]} images."
    )
    buttons = "".join(
        f'<button type="button" data-setting="{index}" aria-pressed="{"false" if index else "true"}">'
        f"{markup.text('one threshold' if index == 0 else decided.setting.title)}</button>"
        for index, decided in enumerate((common, *measured.decided))
    )
    start = round(common.setting.thresholds[0] * explorer.STEPS)
    figures = "".join(
        f'<div><span>{name}</span><strong id="{identifier}">{value}</strong></div>'
        for name, identifier, value in (
            ("accuracy", "now-accuracy", markup.percent(result.accuracy_pct)),
            (f"mean {unit.name} MACs", "now-macs", markup.fixed(result.mean_macs / unit.divisor, 3)),
            ("of main", "now-ratio", markup.share(result.macs_ratio)),
        )
    )
    return (
        '<div id="explorer" role="group" aria-label="What a threshold does">'
        f'<div class="buttons" hidden>{buttons}</div>'
        '<label class="common" hidden><span>threshold of every exit: <output id="now-threshold">'
        f"{markup.fixed(start / explorer.STEPS, 3)}</output></span>"
        f'<input id="threshold" type="range" min="0" max="{explorer.STEPS}" step="1" value="{start}"></label>'
        f'<div class="now-figures">{figures}</div>'
        f"{share_bar(result.exit_fractions, common.setting.exits, len(subject.exits), 'now-bar')}"
        f"{_exit_table(subject, common, result)}"
        f'<p class="note">{markup.text(note)} An image leaves at the first exit whose score is at least its threshold.'
        "</p><noscript><p>The slider needs JavaScript; the table below does not.</p></noscript></div>"
    )


def share_bar(fractions: tuple[float, ...], kept: tuple[int, ...], n_exits: int, identifier: str = "") -> str:
    """A bar whose parts are the shares of the exits of the network; those that are not kept have none."""
    shares = dict(zip((*kept, n_exits - 1), fractions, strict=True))
    parts = "".join(
        f'<span class="{charts.exit_colour(index, n_exits)}" style="width:{100 * shares.get(index, 0):.3f}%"></span>'
        for index in range(n_exits)
    )
    mark = f' id="{identifier}"' if identifier else ""
    words = ", ".join(
        f"{'main' if index == n_exits - 1 else f'sub-model {index + 1}'} {markup.share(fraction)}"
        for index, fraction in shares.items()
    )
    return f'<div class="bar"{mark} role="img" aria-label="{markup.text(words)}">{parts}</div>'


def _exit_table(subject: Subject, common: Decided, result: ProgressiveResult) -> str:
    """A row for every exit: its threshold, which can be moved alone, and the share of the images that leave."""
    n_exits, rows = len(subject.exits), []
    for index, cost in enumerate(subject.exits):
        key = f'<span class="key {charts.exit_colour(index, n_exits)}"></span>{markup.text(cost.name)}'
        threshold = "all that are left"
        if index < n_exits - 1:
            value = markup.fixed(common.setting.thresholds[index], 3)
            threshold = (
                f'<span class="inline"><input type="range" data-exit="{index}" min="0" max="{explorer.STEPS + 1}" '
                f'step="1" hidden aria-label="threshold of {markup.text(cost.name)}">'
                f'<span data-threshold="{index}">{value}</span></span>'
            )
        leaving = f'<span data-share="{index}">{markup.share(result.exit_fractions[index])}</span>'
        rows.append([key, threshold, leaving])
    return markup.table(["exit", "threshold", "leave here"], rows, "Where the images leave", "now-exits")


def _data(subject: Subject, measured: Measured, unit: MacsUnit) -> str:
    content = explorer.packed(subject, measured) | {"unit": unit.divisor}
    return markup.json_block("explorer-data", content)


def _tables(subject: Subject, measured: Measured, unit: MacsUnit) -> str:
    """The same figures in rows."""

    def row(name: str, macs: float, accuracy_pct: float) -> list[str]:
        ratio = markup.share(macs / subject.cost.main_macs)
        return [markup.text(name), markup.percent(accuracy_pct), markup.fixed(macs / unit.divisor, 3), ratio]

    rows = [
        row(cost.name, cost.macs, accuracy)
        for cost, accuracy in zip(subject.exits, measured.accuracies_pct, strict=True)
    ]
    paid = _ensemble_points(subject, measured, unit)
    rows += [row(f"ensemble {name}", macs * unit.divisor, accuracy) for name, (macs, accuracy) in paid]
    results = [(f"threshold {value:g}", common_result(measured.rows, value)) for value in LISTED]
    results += [(decided.setting.title, decided.result) for decided in measured.decided]
    rows += [row(name, result.mean_macs, result.accuracy_pct) for name, result in results]
    columns = ["", "accuracy", f"mean {unit.name} MACs", "of main"]
    body = markup.table(columns, rows, f"Accuracy and cost on the {SPLITS[subject.split]} images")
    sources = "".join(
        f"<li>{markup.text(decided.setting.title)}: {markup.text(decided.setting.source)}</li>"
        for decided in measured.decided
    )
    return markup.details("All figures of the chart", body) + (f'<ul class="note">{sources}</ul>' if sources else "")
