"""Random changes of images, by torchvision's transforms (v2). They draw from torch's own CPU generator."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lcprune.errors import torchvision_needed

Transform = Callable[[Tensor], Tensor]


def random_transform(
    kind: Literal["resized_crop", "randaugment"],
    size: int,
    interpolation: Literal["bilinear", "bicubic"],
    scale: tuple[float, float] = (0.08, 1.0),
) -> Transform:
    """Maps an image ``(C, H, W)`` of uint8 to ``(C, size, size)``.

    ``resized_crop`` takes a part of the image, of 3:4 to 4:3, and mirrors half of them; `scale` has the smallest and
    the largest part of its area. ``randaugment`` then does two of its operations at magnitude 9 (Cubuk et al. 2019,
    arXiv:1909.13719).

    Raises:
        SetupError: If torchvision cannot be imported.
    """
    v2 = _torchvision()
    from torchvision.transforms import InterpolationMode

    steps = [
        v2.RandomResizedCrop(size, scale, interpolation=InterpolationMode(interpolation), antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    return cast("Transform", v2.Compose([*steps, v2.RandAugment()] if kind == "randaugment" else steps))


def mixed(images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """A batch of which each image is mixed with its neighbour's, ``(B, C, H, W)``, and the shares ``(B, classes)``.

    By mixup (Zhang et al. 2017, arXiv:1710.09412) or cutmix (Yun et al. 2019, arXiv:1905.04899), whichever is above 0;
    of both, a coin decides for the batch.
    """
    v2 = _torchvision()
    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    on = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha > 0]
    chosen = on[int(torch.randint(len(on), ()))] if len(on) > 1 else on[0]
    pixels, shares = chosen(images, labels)
    return pixels, shares.to(images.dtype)


def _torchvision() -> Any:
    with torchvision_needed():
        from torchvision.transforms import v2
    return v2
