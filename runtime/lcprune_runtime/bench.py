"""Latency, size and accuracy of exported models, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcprune_runtime.errors import DataError
from lcprune_runtime.files import list_classes
from lcprune_runtime.images import BadImages, read_prepared, readable
from lcprune_runtime.latency import Latency, Session, call_on, exit_calls, in_turn, latencies_of, noise_for, on_images
from lcprune_runtime.metadata import has_metadata
from lcprune_runtime.segment_session import MANIFEST, SegmentedSession, open_model
from lcprune_runtime.session import ProgressiveSession, is_ort


def bench(models: Sequence[Path], runs: int, data: Path | None = None) -> list[dict[str, Any]]:
    """Size and latency of every model, in turn, batch 1, one thread, and with images their accuracy.

    Args:
        models: Files that `export` wrote, or folders of segments or their manifests. What another tool made of such a
            file and has no metadata is taken for a sub-model, with classes and images of the first model that has.
        runs: Timed runs of each, without images.
        data: Folder with one subfolder of images for each class; each that can be read is run once. None: a random
            image.

    Raises:
        OnnxModelError: If a file is no model of ours.
        DataError: If the images do not fit the models, or the models do not have the same classes.
    """
    bare = {path for path in models if path.is_file() and _is_onnx(path) and not has_metadata(path)}
    of_ours = {path: open_model(path, threads=1) for path in models if path not in bare}
    info = next((session.info.of_last_exit for session in of_ours.values()), None)
    sessions = [of_ours.get(path) or ProgressiveSession(path, threads=1, info=info) for path in models]
    for session in sessions:
        session(noise_for(session))  # raises, with its name, if the graph does not run
    figures = _on_noise(sessions, runs) if data is None else _on_folder(sessions, data)
    least = "latency_ms" if data is None else "latency_mean_ms"
    return [
        {
            "model": str(path),
            "kind": "plain" if path in bare else _kind(session),
            "size_bytes": _size_bytes(path),
            **of_model,
            "ratio": of_model[least] / figures[0][least],
        }
        for path, session, of_model in zip(models, sessions, figures, strict=True)
    ]


def _is_onnx(path: Path) -> bool:
    return path.name != MANIFEST and not is_ort(path)


def _on_noise(sessions: Sequence[Session], runs: int) -> list[dict[str, Any]]:
    """Latency on a random image; for a progressive model, where it says little, that of every exit as well."""
    exits = [
        exit_calls(session) if not isinstance(session, SegmentedSession) and session.takes_thresholds else []
        for session in sessions
    ]
    calls = [call_on(session, noise_for(session)) for session in sessions]
    latencies = in_turn([*calls, *(call for of_model in exits for call in of_model)], runs)
    of_exits = iter(latencies[len(sessions) :])
    return [
        _figures(latency) | ({"exit_latency_ms": [next(of_exits).median_ms for _ in of_model]} if of_model else {})
        for latency, of_model in zip(latencies, exits, strict=False)
    ]


def _on_folder(sessions: Sequence[Session], data: Path) -> list[dict[str, Any]]:
    classes = sessions[0].info.classes
    if different := [session.name for session in sessions if session.info.classes != classes]:
        raise DataError(
            f"{different[0]} has other classes than {sessions[0].name}", "compare models that were trained for the same"
        )
    files, _ = list_classes(data, classes)
    bad: BadImages = []
    kept: list[int] = []
    first, *further = sessions

    def images() -> Iterator[list[NDArray[np.uint8]]]:
        for index, pixels in readable(files, first.info.input.preparation, bad):
            kept.append(index)
            others = [read_prepared(files.path(index), session.info.input.preparation) for session in further]
            yield [image[None] for image in (pixels, *others)]

    results, times_ms = on_images(sessions, images())
    labels = files.labels[kept]
    rows = []
    for index, (session, latency) in enumerate(zip(sessions, latencies_of(times_ms), strict=True)):
        counts = np.bincount(results[:, index, 1], minlength=len(session.info.exits))
        rows.append(
            {
                "images": len(kept),
                "bad_images": bad,
                "accuracy_pct": 100 * float((results[:, index, 0] == labels).mean()),
                "exit_fractions": (counts / len(kept)).tolist(),
                "latency_mean_ms": latency.mean_ms,
                **_figures(latency),
            }
        )
    return rows


def _figures(latency: Latency) -> dict[str, Any]:
    return {"latency_ms": latency.median_ms, "latency_p95_ms": latency.p95_ms}


def _kind(session: Session) -> str:
    return "segments" if isinstance(session, SegmentedSession) else session.info.kind


def _size_bytes(path: Path) -> int:
    """Of a file, or of all segments."""
    folder = path.parent if path.name == MANIFEST else path
    return sum(file.stat().st_size for file in folder.glob("*.onnx")) if folder.is_dir() else path.stat().st_size
