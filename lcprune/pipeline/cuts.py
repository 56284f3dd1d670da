"""Where a backbone can be cut, and the MACs of its layer groups."""

from dataclasses import asdict
from typing import Any

from lcprune.analysis.counting import count_cost
from lcprune.errors import ModelError
from lcprune.models import Network
from lcprune.models.backbones import cut_names, find_cuts
from lcprune.pipeline.suggest_recipe import trunk_of
from lcprune.recipe.schema.model import PLACES


def list_cuts(
    trunk: str, *, image_size: int = 224, channels: int = 3, classes: int = 1000, groups: int = 4
) -> dict[str, Any]:
    """The places where a backbone of torchvision or timm, or the user's own, can be cut.

    Args:
        trunk: ``torchvision/NAME`` (or NAME alone), ``timm/NAME`` or ``package.module:callable``.
        image_size: Height and width of an image, in pixels.
        channels: Of an image.
        classes: Number of logits.
        groups: Layer groups that ``cuts: auto`` is asked for.

    Raises:
        ModelError: If there is no such backbone.
    """
    if trunk in PLACES:
        near = f", or name torchvision/{trunk}" if trunk.startswith("resnet") else ""
        raise ModelError(
            f"{trunk} is this package's own backbone: it can be cut after any of its layers, as critics.after says",
            f"leave model.cuts out{near}",
        )
    trunk = trunk_of(trunk)
    cuts, chosen = find_cuts(trunk, classes, (channels, image_size, image_size), groups)
    return {
        "trunk": trunk,
        "image_shape": [channels, image_size, image_size],
        "macs": cuts.macs,
        "places": [
            {
                **asdict(place),
                "shape": list(place.shape),
                "share": place.macs / cuts.macs,
                "auto": place.name in chosen,
            }
            for place in cuts.places
        ],
        "auto": list(chosen),
    }


def balance(network: Network, image_shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The end and the MACs of each layer group of an imported backbone; empty for this package's own.

    Raises:
        ProfileError: If the network's cost cannot be counted.
    """
    if network.image_sizes:
        network = network.at(network.image_sizes[-1])
    names = cut_names(network.groups)
    if not names or len(names) != len(network.critics):
        return []
    macs = count_cost(network, image_shape).cascade.group_macs
    return [
        {"ends_at": name, "macs": count, "share": count / sum(macs)}
        for name, count in zip([*names, "logits"], macs, strict=True)
    ]
