"""Running an exported model with onnxruntime and numpy alone: no torch here or in anything imported from here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lcprune_runtime.criterion import row_scores
from lcprune_runtime.errors import OnnxModelError
from lcprune_runtime.metadata import ModelInfo, load_model, parse
from lcprune_runtime.model_file import read_content, read_onnx
from lcprune_runtime.progress import tracked

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Images = NDArray[np.float32] | NDArray[np.uint8]
Thresholds = float | Sequence[float]
Provider = str | tuple[str, Mapping[str, Any]]
"""Name of an execution provider of onnxruntime, or its name and options."""

CHUNK = 256  # rows that go through the model together; more need memory and gain nothing
NEVER = 2.0  # no confidence reaches it
ALWAYS = -1.0


@dataclass(frozen=True)
class Prediction:
    """Predictions for N images; unpacks as ``labels, confidences, exits``."""

    labels: Ints
    """Index into the classes, ``(N,)``."""
    confidences: Floats
    """Score of the file's criterion at the exit where the row left, ``(N,)``; NaN where logits are not finite.

    The largest probability of softmax(logits / temperature), unless the criterion is ``margin`` or ``entropy``.
    """
    exit_indices: Ints
    """Index into the exits of the file, ``(N,)``; all 0 for a sub-model."""
    logits: Floats
    """``(N, classes)``."""

    @property
    def exits(self) -> Ints:
        """`exit_indices`, by the name that it has when unpacked."""
        return self.exit_indices

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.labels, self.confidences, self.exit_indices))


class ProgressiveSession:
    """An exported model, ready to run: one that stops early, or a sub-model. Safe to call from several threads."""

    def __init__(
        self,
        path: str | Path,
        *,
        thresholds: Thresholds | None = None,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        """Opens the file at `path`.

        Args:
            path: What ``lcprune export`` wrote.
            thresholds: Of every call that names none; None for those of the file. See `__call__`.
            providers: Execution providers of onnxruntime, the preferred one first; None for the CPU.
            threads: That one call may use; None for onnxruntime's own choice.
            info: Of an ONNX file that has lost its metadata, but for the size of its input.

        Raises:
            OnnxModelError: If the file is damaged, not ours or not fit to run, `thresholds` do not fit it, or a
                provider is not there.
        """
        self.name = Path(path).name
        self.runtime, self.info = _open(Path(path), threads, providers, info)
        self._progressive = self.info.kind == "progressive"
        self._temperatures = np.asarray(self.info.temperatures, np.float32)
        outputs = {output.name for output in self.runtime.get_outputs()}
        expected = {"logits", "exit_index"} if self._progressive else {"logits"}
        inputs = _input_names(self.runtime)
        if not expected <= outputs or "image" not in inputs or inputs - {"image", "threshold"}:
            raise OnnxModelError(f"{path} does not have the inputs and outputs of its kind", "export the model again")
        self._feed = (
            _default_feed(self.runtime, self.info.thresholds) if thresholds is None else self._given(thresholds)
        )

    @property
    def takes_thresholds(self) -> bool:
        """Whether thresholds can be given at run time."""
        return "threshold" in _input_names(self.runtime)

    def __call__(self, images: Images | Sequence[Any], thresholds: Thresholds | None = None) -> Prediction:
        """Classifies images.

        Args:
            images: ``(N, C, H, W)`` of the file's size, RGB or grey; float32 in 0..1 or uint8 in 0..255, by the
                type. N may be 0. ``(C, H, W)`` is a batch of one. Or a list of images.
            thresholds: Confidence from which a row leaves, one per early exit or one number for all; 0 stops
                every row, 2 none. None for those of the session.

        Raises:
            OnnxModelError: If `thresholds` do not fit the file, or its outputs do not match its metadata.
            ValueError: If `images` do not fit the file.
        """
        feed = self._feed if thresholds is None else self._given(thresholds)
        batch = as_batch(images, self.info)
        size = self.info.batch or CHUNK
        chunks = [batch[start : start + size] for start in range(0, max(len(batch), 1), size)]
        results = [self._run_chunk(to_float(chunk), feed) for chunk in tracked(chunks, "running the model")]
        logits = np.concatenate([logits for logits, _ in results])
        exit_indices = np.concatenate([exit_indices for _, exit_indices in results])
        confidences = row_scores(logits, self.info.criterion, self._temperatures[exit_indices])[0]
        return Prediction(logits.argmax(axis=1).astype(np.int64), confidences, exit_indices, logits)

    def exit_logits(self, images: Images) -> Floats:
        """Logits of every exit of the file, ``(exits, N, classes)``, whatever the thresholds are.

        An image with a pixel that is not finite never leaves early, so it has the last exit's logits throughout.

        Raises:
            OnnxModelError: If the thresholds of the file are fixed.
        """
        if not self._progressive:
            return self(images).logits[None]
        early_exits = len(self.info.exits) - 1
        forced = [[NEVER] * k + [ALWAYS] * (early_exits - k) for k in range(early_exits + 1)]
        return np.stack([self(images, thresholds).logits for thresholds in forced])

    def _run_chunk(self, images: Floats, feed: dict[str, Floats]) -> tuple[Floats, Ints]:
        if self.info.batch and len(images) == 0:  # its shapes are fixed
            return np.zeros((0, len(self.info.classes)), np.float32), np.zeros(0, np.int64)
        outputs = ["logits", "exit_index"] if self._progressive else ["logits"]
        logits, *exit_indices = run(self.runtime, outputs, {"image": images, **feed}, self.name)
        exits = exit_indices[0] if exit_indices else np.zeros(len(images), np.int64)
        check_results(logits, exits, len(images), self.info, self.name)
        return logits, exits

    def _given(self, thresholds: Thresholds) -> dict[str, Floats]:
        """What feeds `thresholds`."""
        if not self.takes_thresholds:
            raise OnnxModelError(
                f"the thresholds of {self.name} are fixed",
                "export it with --progressive --threshold-input optional" if self._progressive else "leave them out",
            )
        return {"threshold": as_thresholds(thresholds, self.info, self.name)}


def as_thresholds(thresholds: Thresholds, info: ModelInfo, name: str) -> Floats:
    """One threshold for each early exit, ``(exits - 1,)``.

    Args:
        thresholds: As many, or one for all.
        info: Of the model.
        name: Of the model, for errors.

    Raises:
        OnnxModelError: If they do not fit the model.
    """
    count = len(info.thresholds)
    values = np.asarray(thresholds, np.float32)
    if values.ndim == 0:
        values = np.repeat(values, count)
    if values.shape != (count,):
        raise OnnxModelError(
            f"{name} takes {count} threshold{'s' * (count != 1)}, not {values.size}",
            f"give {count}, or one for all",
        )
    if np.isnan(values).any():
        raise OnnxModelError("a threshold is not a number", "give numbers from 0 to 1")
    return values


def as_batch(images: Images | Sequence[Any], info: ModelInfo) -> NDArray[Any]:
    """Images as ``(N, C, H, W)``; one image is a batch of one, and a list becomes an array.

    Raises:
        ValueError: If they do not fit the model, or are floats outside 0..1.
    """
    side = info.input.size
    shape = (info.input.channels, side, side)
    array = images if isinstance(images, np.ndarray) else _array_of(images)
    batch = array[None] if array.ndim == 3 else array
    if array.dtype not in (np.float32, np.uint8) or batch.shape[1:] != shape:
        raise ValueError(
            f"images are {array.dtype} {array.shape}, not float32 or uint8 (N, {shape[0]}, {side}, {side})"
        )
    if batch.dtype == np.float32:
        low, high = (bound(batch, where=np.isfinite(batch), initial=0.0) for bound in (np.min, np.max))
        if low < 0 or high > 1:
            raise ValueError(
                f"float images are in 0..1, and these reach from {low:g} to {high:g}: give uint8 for 0..255"
            )
    return batch


def _array_of(images: Sequence[Any]) -> NDArray[Any]:
    array = np.asarray(images)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    fits = array.dtype.kind in "iu" and bool(np.all((array >= 0) & (array <= 255)))
    return array.astype(np.uint8) if fits else array


def _open(
    path: Path, threads: int | None, providers: Sequence[Provider] | None, info: ModelInfo | None
) -> tuple[Any, ModelInfo]:
    """A session and the metadata of an ONNX file, or of one in onnxruntime's own format."""
    if info is not None:
        runtime = open_session(read_onnx(path)[0], path.name, threads, providers)
        side = runtime.get_inputs()[0].shape[-1]
        own_size = replace(info.input, size=side) if isinstance(side, int) else info.input
        return runtime, replace(info, input=own_size)
    if not is_ort(path):
        content, info = load_model(path)
        return open_session(content, path.name, threads, providers), info
    runtime = open_session(read_content(path), path.name, threads, providers)
    return runtime, parse(runtime.get_modelmeta().custom_metadata_map, path)


def is_ort(path: Path) -> bool:
    """By the content; False for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == b"ORTM"
    except OSError:
        return False


def open_session(
    model: bytes, name: str, threads: int | None = None, providers: Sequence[Provider] | None = None
) -> Any:
    """An onnxruntime session that prints nothing, on the CPU unless `providers` are given.

    Raises:
        OnnxModelError: If onnxruntime cannot load the model, or does not have a provider.
    """
    chosen = list(providers or ["CPUExecutionProvider"])
    wanted = [provider if isinstance(provider, str) else provider[0] for provider in chosen]
    available = onnxruntime.get_available_providers()
    if missing := [provider for provider in wanted if provider not in available]:
        raise OnnxModelError(
            f"onnxruntime has no {', '.join(missing)} here",
            f"take one of {', '.join(available)}, or install an onnxruntime that has it",
        )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # see `quantize.Int8Range`; for files of others
    options.log_severity_level = 4  # only what ends the process; the rest comes back as an exception
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(model, options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OnnxModelError(f"onnxruntime cannot load {name}: {reason}", "export the model again") from None
    if idle := [provider for provider in wanted if provider not in session.get_providers()]:
        raise OnnxModelError(  # onnxruntime would go on without a word, on the CPU
            f"onnxruntime has {', '.join(idle)}, but it does not start here",
            f"install its driver and libraries, or take one of {', '.join(session.get_providers())}",
        )
    return session


def run(session: Any, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    """What a session of `open_session` makes of its inputs.

    Raises:
        OnnxModelError: If onnxruntime fails on them: a graph may pass for fit and not be.
    """
    try:
        results: list[NDArray[Any]] = session.run(list(outputs), dict(feed))
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OnnxModelError(f"onnxruntime cannot run {name}: {reason[:300]}", "export the model again") from None
    return results


def check_results(logits: Any, exits: Any, rows: int, info: ModelInfo, name: str) -> None:
    """Checks that the outputs of a graph match its metadata, which is untrusted input.

    Raises:
        OnnxModelError: If they do not fit each other.
    """
    fits = (
        isinstance(logits, np.ndarray)
        and (logits.dtype, logits.shape) == (np.float32, (rows, len(info.classes)))
        and isinstance(exits, np.ndarray)
        and (exits.dtype, exits.shape) == (np.int64, (rows,))
        and bool(((exits >= 0) & (exits < len(info.exits))).all())
    )
    if not fits:
        raise OnnxModelError(f"the outputs of {name} do not match its metadata", "export the model again")


def to_float(images: NDArray[Any]) -> Floats:
    """Float32 in 0..1, contiguous; uint8 is divided by 255."""
    if images.dtype == np.uint8:
        return images.astype(np.float32, order="C") / np.float32(255)
    return np.ascontiguousarray(images, np.float32)


def _input_names(session: Any) -> set[str]:
    """With those that have a default."""
    return {entry.name for entry in (*session.get_inputs(), *session.get_overridable_initializers())}


def _default_feed(session: Any, thresholds: Sequence[float]) -> dict[str, Floats]:
    """The thresholds, where the graph has no default of its own."""
    required = any(entry.name == "threshold" for entry in session.get_inputs())
    return {"threshold": np.asarray(thresholds, np.float32)} if required else {}
