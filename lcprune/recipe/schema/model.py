"""The ``model:`` section, and the trunks that it knows."""

import difflib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lcprune.recipe.schema.section import PositiveFloat, PositiveInt, Section

PLACES = {"vgg": (2, 5, 8), "resnet50": (3, 7, 13), "resnet101": (3, 7, 30), "msdnet": (4, 6, 8, 10, 12, 14)}
"""Default places of the critics of each trunk: the paper's three, at the ends of the first stages;
those of ``msdnet`` are where its authors put classifiers."""

ZOOS = TORCHVISION, TIMM = ("torchvision/", "timm/")
EXTERNAL = r"^(torchvision/\w+|timm/[\w.]+|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$"
"""Trunks that are not this package's: torchvision's, timm's, and a user's ``package.module:callable``."""


class ModelConfig(Section):
    """The ``model:`` section: the trunk, which is the network without its critics."""

    trunk: Literal["vgg", "resnet50", "resnet101", "msdnet"] | Annotated[str, Field(pattern=EXTERNAL)] = "vgg"
    """``vgg``: the paper's eleven convolutions (Figure 2a); ``resnet50``, ``resnet101``: its ResNets (Table 8);
    ``msdnet``: multi-scale dense layers (Huang et al. 2018); ``torchvision/NAME``: any classifier of torchvision's;
    ``timm/NAME``: one of timm's, an extra of lcprune; ``package.module:callable``: your own."""
    width: PositiveFloat = 1.0
    """Factor on the channels of every layer: 0.25 gives 16, 32, 64 and 128 instead of 64, 128, 256 and 512."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; left out, what the data has."""
    whiten: bool = False
    """A frozen first layer: 2x2 patches along their principal components, which are computed from training images."""
    weights: Annotated[str, Field(min_length=1)] = "none"
    """Initial weights of a trunk from torchvision or timm, or of your own. ``none``: random ones; ``default``: the
    pretrained ones, which torchvision or timm downloads; anything else: a safetensors file, or a torch file, which is
    read with ``weights_only=True``."""
    cuts: Literal["auto"] | tuple[Annotated[str, Field(min_length=1)], ...] = "auto"
    """Where the trunk is cut into layer groups; ``auto``: where `critics.after` puts a critic, and a trunk from
    torchvision or timm, or your own, into `groups` of nearly equal MACs. Or the names of places in it, shallow first,
    such as [features.3, features.6]; ``lcprune cuts`` lists them."""
    groups: Annotated[int, Field(ge=2)] = 4
    """Layer groups that ``cuts: auto`` makes of a trunk from torchvision or timm, or of your own; the other trunks have
    as many as `critics.after` says."""
    layers: Annotated[int, Field(ge=5)] | None = None
    """Dense layers of ``msdnet``, 5 or more; left out, 16. The other trunks have a depth of their own."""
    stem: Literal["auto", "small", "imagenet"] = "auto"
    """First layers of ResNets. ``small``: a 3x3 convolution; ``imagenet``: a 7x7 convolution of stride 2 and a 3x3 max
    pool of stride 2; ``auto``: ``imagenet`` for images of 128 pixels or more."""
    submodel: PositiveInt | None = None
    """Train the network of this sub-model alone, counted from 1 as `critics.after` is; left out, the whole network.
    It needs ``method: backprop``, and `critics` describes its last layers (Table 4)."""
    downsample: Literal["max_pool", "stride"] = "max_pool"
    """How the spatial size is halved: a 2x2 max pool before the stage, or a stride of 2 in its first 3x3 convolution.
    Only ``vgg`` has the choice: the other trunks have ``stride``, which is their default."""

    @model_validator(mode="before")
    @classmethod
    def _only_vgg_has_pools(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(trunk := values.get("trunk"), str) and trunk != "vgg":
            return {"downsample": "stride", **values}
        return values

    @field_validator("trunk", mode="before")
    @classmethod
    def _there_is_such_a_trunk(cls, trunk: Any) -> Any:
        if isinstance(trunk, str) and (trunk in PLACES or re.match(EXTERNAL, trunk)):
            return trunk
        near = difflib.get_close_matches(str(trunk), PLACES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"there is no trunk {json.dumps(trunk, default=str)}: {hint}write {', '.join(PLACES)}, torchvision/NAME, "
            "timm/NAME or package.module:callable"
        )

    @property
    def is_external(self) -> bool:
        """Whether the trunk is torchvision's, timm's or the user's own."""
        return self.trunk not in PLACES

    @field_validator("cuts")
    @classmethod
    def _cut_once_at_least(cls, cuts: Any) -> Any:
        if not cuts:
            raise ValueError("no place is named: write one or more, or auto")
        if len(set(cuts)) != len(cuts) and cuts != "auto":
            raise ValueError("a place is named twice: write each once, shallow first")
        return cuts

    @model_validator(mode="after")
    def _keys_fit_the_trunk(self) -> "ModelConfig":
        trunk = self.trunk
        if self.is_external and (self.width != 1 or self.whiten):
            key = "whiten" if self.whiten else "width"
            raise ValueError(f"{trunk} is taken as it is, {key} cannot change it: leave {key} out")
        if self.is_external and self.weights == "default" and not trunk.startswith(ZOOS):
            raise ValueError(f"{trunk} has no default weights: name a file, or load them where it is built")
        for key, default in (("weights", "none"), ("cuts", "auto"), ("groups", 4)):
            if not self.is_external and getattr(self, key) != default:
                raise ValueError(
                    f"{key} is for trunks from torchvision or timm and for your own, not for {trunk}: leave {key} out"
                )
        if self.stem != "auto" and not trunk.startswith("resnet"):
            raise ValueError(f"{trunk} has one stem only: leave stem out, or take trunk: resnet50")
        if self.layers is not None and trunk != "msdnet":
            raise ValueError(f"{trunk} has layers of its own: leave layers out, or take trunk: msdnet")
        if trunk != "vgg" and self.downsample == "max_pool":
            why = "is taken as it is" if self.is_external else "has no max pools, its size is halved by strides"
            raise ValueError(f"{trunk} {why}: leave downsample out")
        return self
