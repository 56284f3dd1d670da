"""Core ML's packages, for Apple's systems. They are converted, and can be run on macOS alone."""

from pathlib import Path

import coremltools
import torch
from torch import Tensor, nn

from lcprune.exporters.stages import STAGE_OUTPUTS


def convert(module: nn.Module, image: Tensor, path: Path) -> None:
    """Writes `module`, which takes tensors of the shape of `image`."""
    program = torch.export.export(module, (image,)).run_decompositions({})
    count = len(program.graph_signature.user_outputs)
    outputs = [coremltools.TensorType(name=name) for name in STAGE_OUTPUTS[-count:]]
    package = coremltools.convert(
        program,
        outputs=outputs,
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT32,
    )
    package.save(str(path))
