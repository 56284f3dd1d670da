"""One self-contained HTML page about a run."""

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lcprune.reporting.page import explorer, formatting, sections
from lcprune.reporting.page.charts import exit_colour
from lcprune.reporting.page.examples import examples, matrix_uri
from lcprune.reporting.page.measured import Measured, measure
from lcprune.reporting.page.subject import SPLITS, MacsUnit, Subject, macs_unit
from lcprune_runtime import tables


def page(subject: Subject) -> str:
    """The HTML of a run: one file that fetches no other, and whose policy lets no script run but its own."""
    measured, unit = measure(subject), macs_unit(subject.cost.main_macs)
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
        loader=PackageLoader("lcprune.reporting", "page"),
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "fixed": formatting.fixed,
        "percent": formatting.percent,
        "share": formatting.share,
        "short": formatting.short,
        "count": "{:,}".format,
        "kilobytes": tables.kilobytes,
        "milliseconds": tables.milliseconds,
        "matrix_uri": matrix_uri,
    }
    script = _file("page.js")
    html = environment.get_template("page.html").render(
        subject=subject,
        measured=measured,
        unit=unit,
        splits=SPLITS,
        not_known=formatting.NOT_KNOWN,
        exits=[(cost.name, exit_colour(index, len(subject.exits))) for index, cost in enumerate(subject.exits)],
        style=Markup(_file("page.css")),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lead=sections.lead(subject),
        facts=sections.facts(subject, measured, unit),
        learning=sections.learning(subject),
        classes=sections.class_accuracies(subject, measured),
        calibration=sections.calibration(subject, measured),
        fewest=sections.FEWEST,
        training=sections.settings(subject),
        machine=json.dumps(dict(subject.environment), indent=2),
        **_early_exits(subject, measured, unit),
    )
    return html.lstrip()


def _early_exits(subject: Subject, measured: Measured, unit: MacsUnit) -> dict[str, Any]:
    """What the two sections about early exits show; nothing where there are none."""
    if measured.common is None or measured.illustrated is None:
        return {}
    return {
        "frontier": sections.frontier(subject, measured, unit),
        "frontier_legend": sections.frontier_legend(measured),
        "frontier_figures": sections.frontier_figures(subject, measured),
        "data": explorer.embedded(subject, measured, measured.common, unit),
        "now": explorer.embedded_simulation(measured.common),
        "examples": examples(subject, measured.illustrated),
    }


def _file(name: str) -> str:
    return (resources.files("lcprune.reporting.page") / name).read_text(encoding="utf-8")
