"""LiteRT's flat buffers (once TensorFlow Lite), for Android and microcontrollers."""

from pathlib import Path

import litert_torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

from lcprune.exporters.converted import Loaded


def convert(module: nn.Module, image: Tensor, path: Path) -> None:
    """Writes `module`, which takes tensors of the shape of `image`."""
    litert_torch.convert(module, (image,)).export(str(path))


def load(path: Path) -> Loaded:
    """The flat buffer as a function from its input to its outputs."""
    run = Interpreter(model_path=str(path)).get_signature_runner()
    (name,) = run.get_input_details()
    return lambda image: [output for _, output in sorted(run(**{name: image}).items())]
