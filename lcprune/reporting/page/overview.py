"""What was trained, in figures and words, and the commands that made it."""

import json
from datetime import timedelta

from lcprune.reporting.page import markup
from lcprune.reporting.page.measured import Measured
from lcprune.reporting.page.subject import MacsUnit, Subject
from lcprune.reporting.tables import kilobytes, milliseconds

SPLITS = {"test": "test", "val": "validation", "train": "training"}


def header(subject: Subject, measured: Measured, unit: MacsUnit) -> str:
    """The title, a sentence, and the figures that one looks for first."""
    recipe = subject.recipe
    n_exits = len(subject.exits)
    what = f"{n_exits} exits, one training" if n_exits > 1 else "one exit"
    lead = (
        f"{recipe.model.trunk}, width {recipe.model.width:g}, trained by {recipe.train.method} on "
        f"{recipe.data.source}: {what}. Figures are of {len(subject.shown.labels):,} {SPLITS[subject.split]} images"
        + ("." if subject.split == "test" else ", because the run has no test images.")
    )
    facts = [("accuracy of main", markup.percent(measured.accuracies_pct[-1]), _macs(subject.cost.main_macs, unit))]
    if (early := measured.first) is not None:
        result = early.result
        facts.append(
            (
                "stopping early",
                markup.percent(result.accuracy_pct),
                f"{_macs(result.mean_macs, unit)} a mean image, {markup.share(result.macs_ratio)} of main "
                f"({early.setting.title})",
            )
        )
    chosen = next((i for i, cost in enumerate(subject.exits) if cost.name == subject.selected), None)
    if chosen is not None:
        cost = subject.exits[chosen]
        facts.append(
            (f"selected: {cost.name}", markup.percent(measured.accuracies_pct[chosen]), _macs(cost.macs, unit))
        )
    cards = "".join(
        f"<li><span>{markup.text(name)}</span><strong>{markup.text(value)}</strong><small>{markup.text(note)}</small></li>"
        for name, value, note in facts
    )
    return f'<header><h1>{markup.text(recipe.name)}</h1>{markup.paragraph(lead)}<ul class="facts">{cards}</ul></header>'


def trained(subject: Subject, unit: MacsUnit) -> str:
    """Data, network, training, machine; the recipe in full; the cost of every sub-model."""
    rows = "".join(
        f"<div><dt>{markup.text(name)}</dt><dd>{markup.text(value)}</dd></div>" for name, value in _facts(subject)
    )
    measured = subject.exits[-1].latency_ms is not None
    figures = "parameters, file, and latency in onnxruntime (batch 1, one thread)" if measured else "parameters"
    costs = markup.table(
        ["sub-model", "MACs", "parameters", *(["ONNX file", "latency"] if measured else [])],
        [
            [
                markup.text(cost.name),
                _macs(cost.macs, unit, "").strip(),
                f"{cost.params:,}",
                *([kilobytes(cost.size_bytes), milliseconds(cost.latency_ms)] if measured else []),
            ]
            for cost in subject.exits
        ],
        f"Each sub-model alone: multiply-adds for one image, {figures}",
    )
    recipe = f"<pre>{markup.text(subject.recipe_text)}</pre>"
    machine = f"<pre>{markup.text(json.dumps(dict(subject.environment), indent=2))}</pre>"
    return markup.section(
        "trained",
        "What was trained",
        f"<dl>{rows}</dl>",
        costs,
        markup.details("The whole recipe", recipe),
        markup.details("Machine and versions", machine),
    )


def history(subject: Subject) -> str:
    """The commands, and what the exported files say of themselves."""
    lines = "".join(
        f"<li><span>{markup.text(command.title)}</span><pre>{markup.text(command.line)}</pre></li>"
        for command in subject.commands
    )
    parts = [f'<ol class="commands">{lines}</ol>']
    if subject.exported:
        rows = [
            [
                markup.text(file.name),
                markup.text(f"{file.kind}, {file.criterion}" if file.thresholds else file.kind),
                markup.text(", ".join(file.exits)),
                markup.text(", ".join(f"{threshold:.4g}" for threshold in file.thresholds) or markup.NOT_KNOWN),
                kilobytes(file.size_bytes).replace(" ", "\u00a0"),
            ]
            for file in subject.exported
        ]
        parts.append(
            markup.table(["file", "kind", "exits", "thresholds", "size"], rows, "The exported files, newest first")
        )
    return markup.section("commands", "The commands that made it", *parts)


def _facts(subject: Subject) -> list[tuple[str, str]]:
    recipe, environment = subject.recipe, subject.environment
    data, train = recipe.data, recipe.train
    length = f"{train.iterations:,} iterations" if train.iterations else f"{train.epochs:g} epochs"
    places = ", ".join(map(str, recipe.critics.after or ()))
    critics = f"after layers {places}; head {recipe.critics.head}" if len(subject.exits) > 1 else "none"
    packages = environment.get("packages", {})
    versions = {"lcprune": environment.get("lcprune"), "Python": environment.get("python"), **packages}
    shown = [f"{name} {versions[name]}" for name in ("lcprune", "Python", "torch", "onnxruntime") if versions.get(name)]
    return [
        ("Data", f"{data.source}, {len(subject.classes)} classes; augmentation {data.augment}"),
        ("Held out", f"{data.val_size:,} validation images" if data.val_size else "no validation images"),
        ("Network", f"{recipe.model.trunk}, width {recipe.model.width:g}"),
        ("Critics", critics),
        ("Method", train.method),
        ("Length", f"{length}, batches of {data.batch_size}"),
        ("Optimizer", f"{train.optimizer}, learning rate {train.lr:g}, {train.schedule}"),
        ("Seed", str(train.seed)),
        ("Training time", _duration(subject.seconds)),
        ("Device", str(environment.get("device", markup.NOT_KNOWN))),
        ("Versions", ", ".join(shown) or markup.NOT_KNOWN),
    ]


def _duration(seconds: float) -> str:
    if not seconds:
        return markup.NOT_KNOWN
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds))) + " h"


def _macs(count: float, unit: MacsUnit, word: str = "MACs") -> str:
    return f"{markup.fixed(count / unit.divisor, 2)} {unit.name} {word}"
