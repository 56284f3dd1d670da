"""A format of another runtime for the tests: its files are pickled modules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lcprune.specs import FormatSpec

SPEC = FormatSpec("made up", ".pte", module="tests.exporters.made_up_runtime", package="numpy")


def convert(module: nn.Module, image: Tensor, path: Path) -> None:
    torch.save(module, path)


def load(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    module = torch.load(path, weights_only=False)

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(image))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run
