"""Running segments by their manifest, as any host does; no torch here or in anything imported from here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.criterion import row_scores
from lcprune_runtime.errors import OnnxModelError
from lcprune_runtime.metadata import MAX_METADATA_CHARACTERS, PREFIX, ModelInfo, parse
from lcprune_runtime.model_file import read_content, read_onnx
from lcprune_runtime.session import (
    ALWAYS,
    CHUNK,
    NEVER,
    Floats,
    Images,
    Ints,
    Prediction,
    ProgressiveSession,
    Provider,
    Thresholds,
    as_batch,
    as_thresholds,
    open_session,
    run,
    to_float,
)

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest; another one is refused."""
_FIX = "export the run again with --progressive --segments"


@dataclass(frozen=True)
class _Segment:
    """One file, loaded."""

    name: str
    runtime: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """`tensors` and what this file makes of them."""
        results = run(self.runtime, self.outputs, {name: tensors[name] for name in self.inputs}, self.name)
        return tensors | dict(zip(self.outputs, results, strict=True))


class SegmentedSession:
    """The segments of a progressive model, ready to run; the same calls as `ProgressiveSession`."""

    takes_thresholds = True

    def __init__(
        self, path: str | Path, *, providers: Sequence[Provider] | None = None, threads: int | None = None
    ) -> None:
        """Opens a folder of segments, or its manifest.

        Args:
            path: What ``lcprune export --segments`` wrote.
            providers: See `ProgressiveSession`.
            threads: See `ProgressiveSession`.

        Raises:
            OnnxModelError: If a file is missing, damaged, or not the one that the manifest means.
        """
        folder = Path(path).parent if Path(path).name == MANIFEST else Path(path)
        manifest = _read(folder / MANIFEST)
        self.name = folder.name
        self.info = _info(manifest, folder)
        entries = manifest.get("segments")
        if not isinstance(entries, list) or len(entries) != len(self.info.exits):
            raise OnnxModelError(f"{folder / MANIFEST} does not name one file for each exit", _FIX)
        try:
            self._segments = [_open(folder, entry, threads, providers) for entry in entries]
        except (KeyError, TypeError) as error:
            raise OnnxModelError(f"{folder / MANIFEST} is damaged: {error!r}", _FIX) from None
        self._temperatures = np.asarray(self.info.temperatures, np.float32)

    def __call__(self, images: Images, thresholds: Thresholds | None = None) -> Prediction:
        """Classifies images; see `ProgressiveSession.__call__`."""
        given = as_thresholds(self.info.thresholds if thresholds is None else thresholds, self.info, self.name)
        batch = as_batch(images, self.info)
        size = self.info.batch or CHUNK
        chunks = [to_float(batch[start : start + size]) for start in range(0, len(batch), size)]
        try:
            results = [self._run_chunk(chunk, given) for chunk in chunks]
        except (KeyError, ValueError, IndexError) as error:
            raise OnnxModelError(f"the files of {self.name} do not fit together: {error!r}", _FIX) from None
        empty = np.zeros((0, len(self.info.classes)), np.float32)
        logits = np.concatenate([empty, *(logits for logits, _ in results)])
        exits = np.concatenate([np.zeros(0, np.int64), *(exits for _, exits in results)])
        confidences = row_scores(logits, self.info.criterion, self._temperatures[exits])[0]
        return Prediction(logits.argmax(axis=1).astype(np.int64), confidences, exits, logits)

    def exit_logits(self, images: Images) -> Floats:
        """Logits of every exit, ``(exits, N, classes)``; see `ProgressiveSession.exit_logits`."""
        early = len(self.info.exits) - 1
        forced = [[NEVER] * k + [ALWAYS] * (early - k) for k in range(early + 1)]
        return np.stack([self(images, thresholds).logits for thresholds in forced])

    def _run_chunk(self, images: Floats, thresholds: Floats) -> tuple[Floats, Ints]:
        """What a host does: run a segment, keep who stays, go on with them."""
        logits = np.zeros((len(images), len(self.info.classes)), np.float32)
        exits = np.zeros(len(images), np.int64)
        rows, tensors = np.arange(len(images)), {"image": images}
        for k, segment in enumerate(self._segments):
            tensors = segment.run(tensors)
            logits[rows], exits[rows] = tensors["logits"], k
            if k == len(thresholds):
                break
            stays = ~(tensors["confidence"] >= thresholds[k])  # NaN stays
            rows, tensors = rows[stays], {name: values[stays] for name, values in tensors.items()}
            if len(rows) == 0:
                break
        return logits, exits


def open_model(
    path: str | Path, *, providers: Sequence[Provider] | None = None, threads: int | None = None
) -> ProgressiveSession | SegmentedSession:
    """Whatever ``lcprune export`` wrote, ready to run: a file, or a folder of segments or its manifest.

    Raises:
        OnnxModelError: If it is none of these, or damaged.
    """
    if (Path(path) / "recipe.yaml").is_file():
        raise OnnxModelError(
            f"{path} is a run, not an exported model",
            f"name a file that lcprune export {path} has written, in {path}/export",
        )
    segmented = Path(path).name == MANIFEST or (Path(path) / MANIFEST).is_file()
    opens = SegmentedSession if segmented else ProgressiveSession
    return opens(path, providers=providers, threads=threads)


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_content(path, MAX_METADATA_CHARACTERS).decode("utf-8"))
    except (ValueError, RecursionError):
        raise OnnxModelError(f"{path} is damaged: it is no JSON", _FIX) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise OnnxModelError(f"{path} is no manifest of segments that this version reads", _FIX)
    return manifest


def _info(manifest: Mapping[str, Any], folder: Path) -> ModelInfo:
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        raise OnnxModelError(f"{folder / MANIFEST} is damaged: it has no metadata", _FIX)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return parse({PREFIX + key: text for key, text in texts.items()}, folder / MANIFEST)


def _open(
    folder: Path, entry: Mapping[str, Any], threads: int | None, providers: Sequence[Provider] | None
) -> _Segment:
    path = folder / Path(entry["file"]).name  # beside the manifest, and nowhere else
    content, _ = read_onnx(path)
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise OnnxModelError(f"{path} is not what the manifest means: its SHA-256 is another", _FIX)
    inputs, outputs = (tuple(value["name"] for value in entry[kind]) for kind in ("inputs", "outputs"))
    return _Segment(path.name, open_session(content, path.name, threads, providers), inputs, outputs)
