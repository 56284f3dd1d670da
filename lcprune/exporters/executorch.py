"""ExecuTorch's programs, for Android and iOS: the nodes that XNNPACK knows run there, the rest in portable kernels."""

from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import Tensor, nn

from lcprune.exporters.converted import Loaded


def convert(module: nn.Module, image: Tensor, path: Path) -> None:
    """Writes `module`, which takes tensors of the shape of `image`."""
    program = torch.export.export(module, (image,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def load(path: Path) -> Loaded:
    """The program as a function from its input to its outputs."""
    method = Runtime.get().load_program(path).load_method("forward")
    return lambda image: [output.numpy().copy() for output in method.execute([torch.from_numpy(image)])]
