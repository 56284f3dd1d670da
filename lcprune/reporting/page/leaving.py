"""The share of the images that leave at each exit, and images that leave first and last."""

import numpy as np
import numpy.typing as npt

from lcprune.criterion import predicted_classes
from lcprune.reporting.page import charts, markup
from lcprune.reporting.page.cost import share_bar
from lcprune.reporting.page.measured import Decided, Measured
from lcprune.reporting.page.pictures import image_uri
from lcprune.reporting.page.subject import Subject

SHOWN = 12
"""Images of each kind."""


def leaving(subject: Subject, measured: Measured) -> str:
    """Bars for every setting, and the images of the first one; nothing where there is no early exit."""
    decided = measured.illustrated
    if measured.common is None or decided is None:
        return ""
    n_exits = len(subject.exits)
    bars = "".join(
        f"<li><span>{markup.text(one.setting.title)}</span>"
        f"{share_bar(one.result.exit_fractions, one.setting.exits, n_exits)}</li>"
        for one in (*measured.decided, measured.common)
    )
    names = [(cost.name, charts.exit_colour(index, n_exits)) for index, cost in enumerate(subject.exits)]
    return markup.section(
        "leaving",
        "Where images leave",
        f'<ul class="bars">{bars}</ul>',
        charts.legend(names),
        _table(subject, measured),
        _examples(subject, decided),
    )


def first_to_leave(decided: Decided) -> npt.NDArray[np.int64]:
    """Rows that leave at the first kept exit, the surest first."""
    scores, left_at = decided.scores, decided.left_at
    found = np.flatnonzero(left_at == 0)
    return found[np.argsort(-scores[0, found], kind="stable")][:SHOWN]


def last_to_leave(decided: Decided) -> npt.NDArray[np.int64]:
    """Rows that go on to main, those first of which every exit is unsure."""
    scores, left_at = decided.scores, decided.left_at
    found = np.flatnonzero(left_at == len(scores) - 1)
    surest = scores[:-1][:, found].max(axis=0, initial=-1.0)
    return found[np.argsort(surest, kind="stable")][:SHOWN]


def _table(subject: Subject, measured: Measured) -> str:
    """Shares, and how many of those that leave are right, in figures."""
    shown = (*measured.decided, *([] if measured.common is None else [measured.common]))
    rows = []
    for index, cost in enumerate(subject.exits):
        cells = [markup.text(cost.name)]
        for one in shown:
            kept = [*one.setting.exits, len(subject.exits) - 1]
            cells.append(_share_and_right(one, kept.index(index), index) if index in kept else markup.NOT_KNOWN)
        rows.append(cells)
    columns = ["exit", *(markup.text(one.setting.title) for one in shown)]
    return markup.table(columns, rows, "Share of the images that leave at each exit, and how many of them are right")


def _share_and_right(decided: Decided, place: int, exit_index: int) -> str:
    here = decided.left_at == place
    right = decided.rows.correct[exit_index, here]
    share = markup.share(decided.result.exit_fractions[place])
    return f"{share} <small>({markup.share(right.mean())} right)</small>" if len(right) else share


def _examples(subject: Subject, decided: Decided) -> str:
    if subject.images is None:
        return markup.paragraph(f"No example images are shown. {subject.images_absent}")
    first_exit = [*decided.setting.exits, len(subject.exits) - 1][0]
    kinds = (
        (f"They leave first: {subject.exits[first_exit].name} is surest of them", first_to_leave(decided), first_exit),
        ("They leave last: no early exit is sure of them, and main decides", last_to_leave(decided), -1),
    )
    title = f"Example images ({decided.setting.title})"
    parts = [f"<h3>{markup.text(title)}</h3>"]
    parts += [_gallery(subject, words, rows, exit_index) for words, rows, exit_index in kinds]
    return "".join(parts)


def _gallery(subject: Subject, words: str, rows: npt.NDArray[np.int64], exit_index: int) -> str:
    if subject.images is None or not len(rows):
        return markup.paragraph(f"{words.partition(':')[0]}: there are none at these thresholds.")
    said = predicted_classes(subject.shown.logits[[exit_index]][:, rows])[0]
    tiles = []
    for row, guess in zip(rows, said, strict=True):
        truth = subject.classes[subject.shown.labels[row]]
        right = guess == subject.shown.labels[row]
        answer = truth if right else f"{truth}, said {subject.classes[guess] if guess >= 0 else 'nothing'}"
        uri = image_uri(subject.images[row])
        kind, sign = ("right", "✓") if right else ("wrong", "✗")
        tiles.append(
            f'<li class="{kind}"><img src="{uri}" alt="{markup.text(answer)}">'
            f"<span>{sign} {markup.text(answer)}</span></li>"
        )
    return f'<p>{markup.text(words)}.</p><ul class="gallery">{"".join(tiles)}</ul>'
