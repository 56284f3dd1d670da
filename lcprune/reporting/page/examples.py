"""Images that leave first and last, and all other pixels of the page, as PNG data URIs."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lcprune.reporting.page.measured import Simulation
from lcprune.reporting.page.subject import Subject
from lcprune_runtime.criterion import predicted_classes

SHOWN = 12
"""Images of each kind."""
MAX_SIDE = 96
"""Pixels; larger images are made smaller."""
MATRIX_SIDE = 200
RDM_LOW, RDM_HIGH = 0.0, 1.2
"""Correlation distances from dark to light; few lie above."""

_VIRIDIS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])
"""Dark is similar, light is different; readable with any colour vision."""


@dataclass(frozen=True)
class Example:
    """An image and what an exit answers."""

    uri: str
    answer: str
    correct: bool


def examples(subject: Subject, simulation: Simulation) -> Iterator[tuple[str, list[Example]]]:
    """Of a setting: the images that leave at the first exit, and those that reach main, with captions."""
    first = [*simulation.setting.exits, len(subject.exits) - 1][0]
    caption = f"They leave first: {subject.exits[first].name} has the highest scores for them"
    yield caption, _answered(subject, first_to_leave(simulation), first)
    caption = "They leave last: no early exit has a high score for them, and main decides"
    yield caption, _answered(subject, last_to_leave(simulation), -1)


def first_to_leave(simulation: Simulation) -> npt.NDArray[np.int64]:
    """Rows that leave at the first kept exit, the highest score first."""
    found = np.flatnonzero(simulation.left_at == 0)
    return found[np.argsort(-simulation.scores[0, found], kind="stable")][:SHOWN]


def last_to_leave(simulation: Simulation) -> npt.NDArray[np.int64]:
    """Rows that reach main, those first whose scores at the early exits are low."""
    scores = simulation.scores
    found = np.flatnonzero(simulation.left_at == len(scores) - 1)
    highest = scores[:-1][:, found].max(axis=0, initial=-1.0)
    return found[np.argsort(highest, kind="stable")][:SHOWN]


def _answered(subject: Subject, rows: npt.NDArray[np.int64], exit_index: int) -> list[Example]:
    found: list[Example] = []
    if subject.images is None or not len(rows):
        return found
    for row, guess in zip(rows, predicted_classes(subject.shown.logits[[exit_index]][:, rows])[0], strict=True):
        label = subject.shown.labels[row]
        answer = subject.classes[label]
        if guess != label:
            answer += f", predicted {subject.classes[guess] if guess >= 0 else 'nothing'}"
        found.append(Example(image_uri(subject.images[row]), answer, bool(guess == label)))
    return found


def image_uri(image: npt.NDArray[np.uint8]) -> str:
    """An image ``(C, H, W)`` with 1 or 3 channels, no side longer than `MAX_SIDE`."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return _png_uri(picture)


def matrix_uri(matrix: npt.NDArray[np.floating]) -> str:
    """A dissimilarity matrix in 64 colours, no side longer than `MATRIX_SIDE`."""
    levels = np.clip(np.nan_to_num((matrix - RDM_LOW) / (RDM_HIGH - RDM_LOW)), 0, 1)
    picture = Image.fromarray(np.round(levels * 255).astype(np.uint8))
    if max(picture.size) > MATRIX_SIDE:
        picture = picture.resize((MATRIX_SIDE, MATRIX_SIDE), Image.Resampling.BOX)
    coarse = Image.fromarray(np.asarray(picture) // 4)
    places = np.linspace(0, len(_VIRIDIS) - 1, 64)
    channels = [np.interp(places, np.arange(len(_VIRIDIS)), channel) for channel in _VIRIDIS.T]
    coarse.putpalette(np.round(np.stack(channels, axis=1)).astype(np.uint8).tobytes(), "RGB")
    return _png_uri(coarse)


def _png_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
