"""Running an exported model with onnxruntime and numpy alone: no torch here or in anything imported from here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lcprune.errors import OnnxModelError
from lcprune.export.metadata import load_model

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CHUNK = 256  # rows that go through the model together; more need memory and gain nothing
NEVER = 2.0  # no confidence reaches it
ALWAYS = -1.0


@dataclass(frozen=True)
class Prediction:
    """What a model says about N images."""

    labels: Ints
    """Index into the classes, ``(N,)``."""
    confidences: Floats
    """Largest softmax probability at the exit where the row left, ``(N,)``; NaN where logits are not finite."""
    exit_indices: Ints
    """Index into the exits of the file, ``(N,)``; all 0 for a sub-model."""
    logits: Floats
    """``(N, classes)``."""


class OnnxClassifier:
    """An exported model, ready to run."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        """Opens the file at `path`; `threads` is None for onnxruntime's own choice.

        Raises:
            OnnxModelError: If the file is damaged, not ours, or not fit to run.
        """
        content, self.info = load_model(path)
        self.name = Path(path).name
        self.session = open_session(content, self.name, threads)
        self._progressive = self.info.kind == "progressive"
        outputs = {output.name for output in self.session.get_outputs()}
        expected = {"logits", "exit_index"} if self._progressive else {"logits"}
        inputs = _input_names(self.session)
        if not expected <= outputs or "image" not in inputs or inputs - {"image", "threshold"}:
            raise OnnxModelError(f"{path} does not have the inputs and outputs of its kind", "export the model again")

    @property
    def takes_thresholds(self) -> bool:
        """Whether thresholds can be given at run time."""
        return "threshold" in _input_names(self.session)

    def run(self, images: Floats, thresholds: Sequence[float] | None = None) -> Prediction:
        """Classifies images of ``(N, C, H, W)`` in 0..1.

        Args:
            images: N may be 0.
            thresholds: One per early exit; None for those of the file.

        Raises:
            OnnxModelError: If `thresholds` do not fit the file.
            ValueError: If `images` do not fit the file.
        """
        feed = self._thresholds(thresholds)
        self._check_images(images)
        chunks = [images[start : start + CHUNK] for start in range(0, max(len(images), 1), CHUNK)]
        results = [self._run_chunk(np.ascontiguousarray(chunk), feed) for chunk in chunks]
        logits = np.concatenate([logits for logits, _ in results])
        confidences = softmax_confidence(logits)
        exit_indices = np.concatenate([exit_indices for _, exit_indices in results])
        return Prediction(logits.argmax(axis=1).astype(np.int64), confidences, exit_indices, logits)

    def exit_logits(self, images: Floats) -> Floats:
        """Logits of every exit of the file, ``(exits, N, classes)``, whatever the thresholds are.

        An image with a pixel that is not finite never leaves early, so it has main's logits throughout.

        Raises:
            OnnxModelError: If the thresholds of the file are fixed.
        """
        if not self._progressive:
            return self.run(images).logits[None]
        early_exits = len(self.info.exits) - 1
        forced = [[NEVER] * k + [ALWAYS] * (early_exits - k) for k in range(early_exits + 1)]
        return np.stack([self.run(images, thresholds).logits for thresholds in forced])

    def _run_chunk(self, images: Floats, feed: dict[str, Floats]) -> tuple[Floats, Ints]:
        outputs = ["logits", "exit_index"] if self._progressive else ["logits"]
        logits, *exit_indices = self.session.run(outputs, {"image": images, **feed})
        return logits, exit_indices[0] if exit_indices else np.zeros(len(images), np.int64)

    def _thresholds(self, thresholds: Sequence[float] | None) -> dict[str, Floats]:
        if thresholds is None:
            return _default_feed(self.session, self.info.thresholds)
        if not self.takes_thresholds:
            raise OnnxModelError(
                f"the thresholds of {self.name} are fixed",
                "export it with --progressive --threshold-input optional" if self._progressive else "leave them out",
            )
        if len(thresholds) != len(self.info.thresholds):
            count = len(self.info.thresholds)
            raise OnnxModelError(f"{self.name} takes {count} thresholds, not {len(thresholds)}", f"give {count}")
        return {"threshold": np.asarray(thresholds, np.float32)}

    def _check_images(self, images: Floats) -> None:
        side = self.info.input.size
        shape = (self.info.input.channels, side, side)
        if images.dtype != np.float32 or images.shape[1:] != shape:
            raise ValueError(f"images are {images.dtype} {images.shape}, not float32 (N, {shape[0]}, {side}, {side})")


def open_session(model: bytes, name: str, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU that prints nothing.

    Raises:
        OnnxModelError: If onnxruntime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # only what ends the process; the rest comes back as an exception
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OnnxModelError(f"onnxruntime cannot load {name}: {reason}", "export the model again") from None


def softmax_confidence(logits: Floats) -> Floats:
    """Largest softmax probability of each row, in float32; NaN where a logit is not finite.

    Args:
        logits: ``(..., classes)``.
    """
    finite = np.asarray(np.isfinite(logits).all(axis=-1))
    safe = np.where(finite[..., None], logits, np.float32(0))
    exponents = np.exp(safe - safe.max(axis=-1, keepdims=True))
    confidences = 1 / exponents.sum(axis=-1, dtype=np.float32)  # the largest exponent is exp(0) = 1
    return np.where(finite, confidences, np.float32(np.nan)).astype(np.float32)


def _input_names(session: Any) -> set[str]:
    """With those that have a default."""
    return {entry.name for entry in (*session.get_inputs(), *session.get_overridable_initializers())}


def _default_feed(session: Any, thresholds: Sequence[float]) -> dict[str, Floats]:
    """The thresholds, where the graph has no default of its own."""
    required = any(entry.name == "threshold" for entry in session.get_inputs())
    return {"threshold": np.asarray(thresholds, np.float32)} if required else {}
