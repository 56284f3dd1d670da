"""Critics: the side networks that estimate main's loss from a hidden layer (Eq. 2 and 3 of the paper)."""

from torch import nn

from lcprune.errors import ModelError
from lcprune.models.layers import AveragePool, Flatten


def build_critic(
    shape: tuple[int, int, int], classes: int, *, depth: int, channels: int, batch_norm: bool, pool_to: int | None
) -> nn.Sequential:
    """3x3 convolutions with ReLU, then a linear layer: ``(N, *shape)`` to ``(N, classes)``.

    Args:
        shape: Of the hidden layer, ``(C, H, W)``.
        classes: Number of logits.
        depth: Number of convolutions.
        channels: Channels of each convolution.
        batch_norm: BatchNorm after each convolution. The paper has none.
        pool_to: Height and width to which an average pool reduces first; None is the paper's critic.

    Raises:
        ModelError: If the hidden layer's size is no multiple of `pool_to`.
    """
    in_channels, height, width = shape
    layers: list[nn.Module] = []
    if pool_to is not None:
        if height % pool_to or width % pool_to:
            raise ModelError(
                f"a pooled critic on a hidden layer of {height}x{width} cannot average it to {pool_to}x{pool_to}",
                f"set critics.pool_to to a divisor of {height} and {width}, or critics.head: paper",
            )
        if (height, width) != (pool_to, pool_to):
            layers.append(AveragePool((height // pool_to, width // pool_to)))
        height = width = pool_to
    for _ in range(depth):
        layers.append(nn.Conv2d(in_channels, channels, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    return nn.Sequential(*layers, Flatten(), nn.Linear(in_channels * height * width, classes))


def mixes_samples(module: nn.Module) -> bool:
    """Whether an image's output depends on the other images of its batch, as with BatchNorm in training."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())
