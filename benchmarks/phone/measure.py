"""What exported files do to images, one at a time: classes, exits and latency, in turn, on one thread.

Latency is the processor's time of that thread, which is the time that passes where nothing else runs: a machine that
others use gives times that pass of twice to four times as much.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.phone.folds import Images, read_parts
from benchmarks.provenance import Row, read
from lcprune import runs

WARM_UP = 10
"""Images that every file sees before the time counts."""


@dataclass(frozen=True)
class File:
    """An exported model."""

    path: Path
    size: int
    """Height and width of its input, in pixels."""


def measured(table: Path, files: Mapping[str, File], rounds: int, path: Path) -> Row:
    """Of every file on the validation and the test images of a fold: what is right, mean latency, and exits.

    It is kept at `path`, and made again for all files if there are other ones. The test images decide nothing.
    """
    kept = read(path)
    if kept.get("rounds") == rounds and list(kept["files"]) == list(files):
        return kept
    rows: dict[str, Row] = {name: {"size_bytes": file.path.stat().st_size} for name, file in files.items()}
    sizes = sorted({file.size for file in files.values()})
    for split in ("val", "test"):
        parts = {size: read_parts(table, size, (split,))[split] for size in sizes}
        found = in_turn(files, {size: part.images for size, part in parts.items()}, rounds)
        labels = next(iter(parts.values())).labels
        for name, (classes, exits, times_ms) in found.items():
            rows[name][split] = {
                "correct": (classes == labels).astype(int).tolist(),
                "ms": float(np.median(times_ms, axis=0).mean()),
                "rounds_ms": times_ms.mean(axis=1).tolist(),
                "exit_fractions": (np.bincount(exits) / len(exits)).tolist(),
            }
    result = {"rounds": rounds, "files": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, result)
    return result


def in_turn(files: Mapping[str, File], images: Mapping[int, Images], rounds: int) -> dict[str, Any]:
    """Class and exit of every image, ``(N,)``, and milliseconds, ``(rounds, N)``, of every file.

    In a round each file goes through all images, every second round in the opposite order of files. The median of an
    image's rounds leaves out most of what other programs disturbed.
    """
    sessions = {name: opened(file.path) for name, file in files.items()}
    count = len(next(iter(images.values())))
    found = {name: (np.zeros(count, int), np.zeros(count, int), np.zeros((rounds, count))) for name in files}
    for number in range(rounds):
        for name in list(files)[:: -1 if number % 2 else 1]:
            session, (classes, exits, times_ms) = sessions[name], found[name]
            own = images[files[name].size]
            for index in (*range(WARM_UP), *range(count)):
                feed = {"image": own[index][None].astype(np.float32) / np.float32(255)}
                started = time.thread_time()
                logits, *exit_index = session.run(None, feed)
                times_ms[number, index] = 1000 * (time.thread_time() - started)
                classes[index], exits[index] = logits[0].argmax(), exit_index[0][0] if exit_index else 0
    return found


def opened(path: Path) -> Any:
    """A session on one thread, otherwise as onnxruntime opens it by itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # a graph whose thresholds can be given warns of it
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
