"""Sub-models and progressive models in the formats of other runtimes, converted from torch.

These runtimes take no graph that branches, so a progressive model is a folder: a file for each stage, which takes one
image, and ``manifest.json``. The host runs a stage, compares the score of its logits with the threshold, and passes
``hidden`` on to the next stage if the exit is not taken.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcprune.errors import ExportError
from lcprune.exits import group_spans
from lcprune.exporters.stages import STAGE_OUTPUTS, cpu_copy, stage_modules
from lcprune.exporters.verify import Parity, Reference, check_logits, writable
from lcprune.models.network import Network
from lcprune.specs import FORMATS, Format
from lcprune_runtime.metadata import ModelInfo
from lcprune_runtime.segment_session import MANIFEST
from lcprune_runtime.session import Floats, to_float

IMAGES = 32
"""So many images are run, one by one, to compare a file with torch."""
FORMAT = 1
"""Of the manifest."""
Loaded = Callable[[Floats], list[Floats]]
"""A file, ready to run: from its input to its outputs."""


def write_converted(
    network: Network, kept: Sequence[int], reference: Reference, path: Path, info: ModelInfo, name: Format
) -> Parity | None:
    """Writes a network in the format `name`, compared with torch before it gets its name.

    Args:
        network: Left as it is.
        kept: Early exits, as in `stages.cascade_stages`; without any it is a sub-model, which is one file.
        reference: What torch makes of some images.
        path: Of the file, or of the folder.
        info: Metadata of the exits, complete.
        name: A format with a package.

    Returns:
        How near it is to torch; None where its runtime does not exist here.

    Raises:
        ExportError: If the package is missing or cannot convert the network, the result differs from torch, or it
            cannot be written.
    """
    converter = _converter(name)
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            folder = Path(temporary) / path.name
            files = _convert(network, kept, reference.images.shape[1:], folder, name, converter)
            parity = None
            if FORMATS[name].runs_here:
                with _quiet():
                    logits = _run([converter.load(file) for file in files], reference.images[:IMAGES])
                parity = check_logits(path.name, reference.rows(IMAGES), logits, info)
            if kept:
                spans = group_spans([*kept, len(network.groups) - 1], network.starts)
                from_image = [first in network.starts for first, _ in spans]
                (folder / MANIFEST).write_text(_manifest(files, from_image, info, name), encoding="utf-8")
            _replace(folder if kept else files[0], path)
    return parity


def _converter(name: Format) -> Any:
    """The module of a format.

    Raises:
        ExportError: If its package is missing, or cannot be imported beside the installed torch.
    """
    spec = FORMATS[name]
    if spec.package is None or spec.module is None:
        raise ValueError(f"{name} is not converted from torch")
    if find_spec(spec.package) is None:
        raise ExportError(f"--format {name} needs the package {spec.package}", f"pip install {spec.package}")
    try:
        with _quiet():
            return import_module(spec.module)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        problem = f"{spec.package} cannot be imported beside torch {torch.__version__}: {error}"
        raise ExportError(
            problem,
            f"install lcprune and {spec.package} together into a new virtual environment, so that pip "
            "chooses a torch that both take, and export with its lcprune",
        ) from error


def _convert(
    network: Network, kept: Sequence[int], image_shape: tuple[int, ...], folder: Path, name: Format, converter: Any
) -> list[Path]:
    folder.mkdir()
    files = []
    for number, (module, shape) in enumerate(stage_modules(cpu_copy(network), kept, image_shape), start=1):
        file = folder / f"{f'segment-{number}' if kept else 'model'}{FORMATS[name].suffix}"
        try:
            with _quiet():
                converter.convert(module.eval(), torch.zeros(1, *shape), file)
        except Exception as error:  # converters raise whatever their passes raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"{FORMATS[name].package} cannot convert the network: {reason}",
                "use layers that it knows, or export ONNX, which these runtimes' own converters may read",
            ) from error
        files.append(file)
    return files


def _run(stages: Sequence[Loaded], images: np.ndarray[Any, Any]) -> Floats:
    """Logits of every exit, ``(exits, N, classes)``, one image at a time."""
    of_images = []
    for image in to_float(images):
        hidden, logits = image[None], []
        for stage in stages:
            *passed_on, of_exit = stage(np.ascontiguousarray(hidden))
            hidden = passed_on[0] if passed_on else image[None]
            logits.append(of_exit[0])
        of_images.append(np.stack(logits))
    return np.stack(of_images, axis=1)


def _manifest(files: Sequence[Path], from_image: Sequence[bool], info: ModelInfo, name: Format) -> str:
    segments = [
        {
            "file": file.name,
            "exit": info.exits[number].name,
            "threshold": float(np.float32(info.thresholds[number])) if number < len(info.thresholds) else None,
            "temperature": info.temperatures[number],
            "input": "image" if from_image[number] else STAGE_OUTPUTS[0],
            "outputs": STAGE_OUTPUTS[1:] if all(from_image[number + 1 : number + 2]) else STAGE_OUTPUTS,
        }
        for number, file in enumerate(files)
    ]
    content = {"format": FORMAT, "runtime": name, "criterion": info.criterion, "segments": segments}
    return json.dumps({**content, "metadata": asdict(info)}, indent=1) + "\n"


def _replace(new: Path, path: Path) -> None:
    """Gives a file or a folder its name; what was there goes."""
    if path.is_dir():
        shutil.rmtree(path)
    new.replace(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what converters and runtimes print and log, in C++ as well; their errors stay."""
    kept = os.dup(1), os.dup(2)
    logging.disable(logging.ERROR)
    try:
        with (
            open(os.devnull, "w") as null,
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(null),
            contextlib.redirect_stderr(null),
        ):
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
            yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        logging.disable(logging.NOTSET)
