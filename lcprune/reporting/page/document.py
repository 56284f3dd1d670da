"""The page: one file that asks nobody for anything."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from lcprune.reporting.page import cost, leaving, markup, overview, quality, rdm
from lcprune.reporting.page.measured import measure
from lcprune.reporting.page.subject import Subject, macs_unit


def page(subject: Subject) -> str:
    """The HTML of a run. It holds no address of another file, and its policy lets no script run but its own."""
    measured, unit = measure(subject), macs_unit(subject.cost.main_macs)
    sections = [
        cost.frontier(subject, measured, unit),
        leaving.leaving(subject, measured),
        quality.learning(subject),
        quality.classes(subject, measured),
        quality.calibration(subject, measured),
        rdm.inside(subject),
        overview.trained(subject, unit),
        overview.history(subject),
    ]
    parts = [overview.header(subject, measured, unit), navigation(sections), *sections]
    style, script = _file("page.css"), _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,"><title>{markup.text(subject.recipe.name)}: lcprune report</title>\n'
        f"<style>{style}</style></head>\n<body><main>\n{''.join(parts)}\n"
        f"<footer>{markup.text(_origin(subject))}</footer></main>\n<script>{script}</script></body></html>\n"
    )


def navigation(sections: Sequence[str]) -> str:
    """Links to the sections that are there, by their titles."""
    found = (re.search(r'<section id="([a-z]+)".*?<h2[^>]*>(.*?)</h2>', one) for one in sections)
    links = "".join(f'<a href="#{match[1]}">{match[2]}</a>' for match in found if match)
    return f'<nav aria-label="Sections">{links}</nav>'


def _origin(subject: Subject) -> str:
    return f"Written by lcprune report, of a run trained with lcprune {subject.environment.get('lcprune', '?')}."


def _file(name: str) -> str:
    return (resources.files("lcprune.reporting.page") / name).read_text(encoding="utf-8")
