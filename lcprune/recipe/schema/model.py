"""The ``model:`` section, and the trunks that it knows."""

import difflib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lcprune.recipe.schema.section import PositiveFloat, PositiveInt, Section

PLACES = {"vgg": (2, 5, 8), "resnet50": (3, 7, 13), "resnet101": (3, 7, 30), "msdnet": (4, 6, 8, 10, 12, 14)}
"""Where the critics of each trunk sit if a recipe does not say: the paper's three, at the ends of the first stages;
those of ``msdnet`` are where its authors put classifiers."""

TORCHVISION = "torchvision/"
ELSEWHERE = r"^(torchvision/\w+|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$"
"""Trunks that are not this package's: torchvision's, and a user's ``package.module:callable``."""


class ModelConfig(Section):
    """The ``model:`` section: the trunk, which is the network without its critics."""

    trunk: Literal["vgg", "resnet50", "resnet101", "msdnet"] | Annotated[str, Field(pattern=ELSEWHERE)] = "vgg"
    """``vgg``: the paper's eleven convolutions (Figure 2a); ``resnet50``, ``resnet101``: its ResNets (Table 8);
    ``msdnet``: multi-scale dense layers (Huang et al. 2018); ``torchvision/NAME``: any classifier of torchvision's;
    ``package.module:callable``: your own."""
    width: PositiveFloat = 1.0
    """Factor on the channels of every layer: 0.25 gives 16, 32, 64 and 128 instead of 64, 128, 256 and 512."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; left out, what the data has."""
    whiten: bool = False
    """A frozen layer before the first group: 2x2 patches along their principal directions, found in training images."""
    weights: Annotated[str, Field(min_length=1)] = "none"
    """What a trunk from torchvision, or your own, starts from. ``none``: initial weights; ``default``: torchvision's
    pretrained ones; anything else: a safetensors file, or a torch file, which is read with ``weights_only=True``."""
    cuts: Literal["auto"] | tuple[Annotated[str, Field(min_length=1)], ...] = "auto"
    """Where the trunk is cut into layer groups; ``auto``: where `critics.after` puts a critic, and a trunk from
    torchvision, or your own, into `groups` of nearly equal MACs. Or the names of places in it, shallow first, such as
    [features.3, features.6]; ``lcprune cuts`` lists them."""
    groups: Annotated[int, Field(ge=2)] = 4
    """Layer groups that ``cuts: auto`` makes of a trunk from torchvision or of your own; the other trunks have as many
    as `critics.after` says."""
    layers: Annotated[int, Field(ge=5)] | None = None
    """Dense layers of ``msdnet``, 5 or more; left out, 16. The other trunks have a depth of their own."""
    stem: Literal["auto", "small", "imagenet"] = "auto"
    """What ResNets begin with. ``small``: a 3x3 convolution; ``imagenet``: a 7x7 convolution of stride 2 and a 3x3 max
    pool of stride 2; ``auto``: ``imagenet`` for images of 128 pixels or more."""
    submodel: PositiveInt | None = None
    """Train the network of this sub-model alone, counted from 1 as `critics.after` is; left out, the whole network.
    It needs ``method: backprop``, and `critics` says what its last layers are (Table 4)."""
    downsample: Literal["max_pool", "stride"] = "max_pool"
    """How the spatial size is halved: a 2x2 max pool before the stage, or a stride of 2 in its first 3x3 convolution.
    ``vgg`` alone has the choice: the other trunks know ``stride``, and have it where this is left out."""

    @model_validator(mode="before")
    @classmethod
    def _only_vgg_has_pools(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(trunk := values.get("trunk"), str) and trunk != "vgg":
            return {"downsample": "stride", **values}
        return values

    @field_validator("trunk", mode="before")
    @classmethod
    def _there_is_such_a_trunk(cls, trunk: Any) -> Any:
        if isinstance(trunk, str) and (trunk in PLACES or re.match(ELSEWHERE, trunk)):
            return trunk
        near = difflib.get_close_matches(str(trunk), PLACES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"there is no trunk {json.dumps(trunk, default=str)}: {hint}write {', '.join(PLACES)}, torchvision/NAME or "
            "package.module:callable"
        )

    @property
    def is_external(self) -> bool:
        """Whether the trunk is torchvision's or the user's own."""
        return self.trunk not in PLACES

    @model_validator(mode="after")
    def _a_trunk_from_elsewhere_is_as_it_is(self) -> "ModelConfig":
        if self.is_external:
            if self.width != 1 or self.whiten:
                key = "whiten" if self.whiten else "width"
                raise ValueError(f"{self.trunk} is taken as it is, {key} cannot change it: leave {key} out")
            if self.weights == "default" and not self.trunk.startswith(TORCHVISION):
                raise ValueError(f"{self.trunk} has no default weights: name a file, or load them where it is built")
            return self
        for key, value in (("weights", "none"), ("cuts", "auto"), ("groups", 4)):
            if getattr(self, key) != value:
                raise ValueError(
                    f"{key} is for trunks from torchvision and for your own, not for {self.trunk}: leave {key} out"
                )
        return self

    @field_validator("cuts")
    @classmethod
    def _cut_once_at_least(cls, cuts: Any) -> Any:
        if not cuts:
            raise ValueError("no place is named: write one or more, or auto")
        if len(set(cuts)) != len(cuts) and cuts != "auto":
            raise ValueError("a place is named twice: write each once, shallow first")
        return cuts

    @model_validator(mode="after")
    def _only_resnets_have_a_choice_of_stems(self) -> "ModelConfig":
        if self.stem != "auto" and not self.trunk.startswith("resnet"):
            raise ValueError(f"{self.trunk} has one stem only: leave stem out, or take trunk: resnet50")
        return self

    @model_validator(mode="after")
    def _only_msdnet_has_a_choice_of_layers(self) -> "ModelConfig":
        if self.layers is not None and self.trunk != "msdnet":
            raise ValueError(f"{self.trunk} has layers of its own: leave layers out, or take trunk: msdnet")
        return self

    @model_validator(mode="after")
    def _others_have_no_pools(self) -> "ModelConfig":
        if self.trunk != "vgg" and self.downsample == "max_pool":
            if self.is_external:
                raise ValueError(f"{self.trunk} is taken as it is: leave downsample out")
            raise ValueError(f"{self.trunk} has no max pools, its size is halved by strides: leave downsample out")
        return self
