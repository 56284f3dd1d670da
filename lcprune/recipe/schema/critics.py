"""The ``critics:`` section."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from lcprune.recipe.schema.section import Head, NonNegativeInt, PositiveFloat, PositiveInt, Section
from lcprune.specs import HEADS, described

T = TypeVar("T", int, float)


class CriticsConfig(Section):
    """The ``critics:`` section: the side networks, and how they are trained."""

    after: tuple[PositiveInt, ...] | None = None
    """The convolutions (``vgg``), residual blocks (ResNets) or dense layers (``msdnet``) of the trunk, counted from 1,
    after which a critic sits. Left out, the ends of the first three stages: [2, 5, 8] for ``vgg``, [3, 7, 13] for
    ``resnet50``, [3, 7, 30] for ``resnet101``; [4, 6, 8, 10, 12, 14] for ``msdnet``, those inside its `model.layers`.
    In a trunk from torchvision or timm, or your own, the places are the cuts of `model.cuts`, counted from 1: left out,
    all of them. A recipe that was read always names them."""
    depth: NonNegativeInt | tuple[NonNegativeInt, ...] = 1
    """Convolutions in each critic, before its linear layer; one number for all, or one for each."""
    channels: PositiveInt | tuple[PositiveInt, ...] = 128
    """Channels of the critics' convolutions; one number for all, or one for each."""
    head: Head = Field(default="paper", description=described(HEADS))
    pool_to: PositiveInt | tuple[PositiveInt, ...] = 4
    """Height and width to which all heads but ``paper`` and ``msdnet`` reduce, in pixels; one number for all, or one
    for each. In a trunk from torchvision or timm, or your own, the most: the largest number up to it that divides the
    hidden layer's height and width."""
    kernel: Literal[1, 3] = 3
    """Height and width of the convolutions that `depth` counts; the depthwise ones of ``separable`` always have 3."""
    batch_norm: bool = False
    """BatchNorm after each convolution of a critic. It mixes samples, so training takes a second backward pass."""
    loss: Literal["cascade", "cross_entropy", "mix"] = "cascade"
    """``cascade``: Eq. (7), L1 per sample; ``cross_entropy``: the critic's own; ``mix``: a weighted sum of both."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The cascade's share in ``loss: mix``; the rest is cross-entropy."""
    one_sided: bool = False
    """In the cascade, a critic learns only where its loss is above the next exit's: it is never trained to be worse."""
    weight: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    """Weight of every exit's loss beside main's in ``method: deep_supervision``; one number for all, or one for
    each."""
    weight_schedule: Literal["constant", "decay"] = "constant"
    """``decay``: in ``method: deep_supervision`` the weights fall in a straight line to zero over the run."""
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the distillation loss in every exit's loss. The teacher is main in ``method: deep_supervision``, and in
    the methods with critics the exit that they estimate. 0: off."""
    distill_temperature: PositiveFloat = 3.0
    """Temperature of `distill`, by which logits are divided: the higher, the more the less likely classes count."""
    sobolev: PositiveFloat = 1.0
    """Weight of the derivatives beside the losses in ``method: sobolev_local_critic`` and ``sobolev_critic``."""
    condition_on_label: bool = False
    """In ``method: dni``, the modules that predict gradients also get the label of every image (cDNI)."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimizer of the critics. They have no weight decay."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the critics (the maximum, where `schedule` varies it)."""
    schedule: Literal["constant", "step", "one_cycle"] = "constant"
    """Learning rate of the critics over the run."""
    update_every: PositiveInt = 1
    """Critics are trained at every n-th step (Table 3)."""

    @field_validator("after")
    @classmethod
    def _ascending(cls, after: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if after is not None and list(after) != sorted(set(after)):
            raise ValueError(f"{list(after)} is not in ascending order: write each place once, shallow first")
        return after

    @model_validator(mode="after")
    def _one_for_each(self) -> "CriticsConfig":
        for key in ("depth", "channels", "pool_to", "weight"):
            value = getattr(self, key)
            if isinstance(value, tuple) and self.after is not None and len(value) != len(self.after):
                raise ValueError(f"{key} names {len(value)} critics but after has {len(self.after)}: give one for each")
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """Convolutions in each critic, shallow first."""
        return self._each(self.depth)

    @property
    def channel_counts(self) -> tuple[int, ...]:
        """Channels of the convolutions of each critic, shallow first."""
        return self._each(self.channels)

    @property
    def pool_sizes(self) -> tuple[int, ...]:
        """Height and width to which each critic reduces, shallow first."""
        return self._each(self.pool_to)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each critic's loss beside main's, shallow first."""
        return self._each(self.weight)

    def _each(self, value: T | tuple[T, ...]) -> tuple[T, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.after or ())
