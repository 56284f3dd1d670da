"""The schema of a recipe: one frozen model per section, one docstring per key."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Head = Literal["paper", "pooled", "global", "separable", "strided"]
T = TypeVar("T", int, float)

PLACES = {"vgg": (2, 5, 8), "resnet50": (3, 7, 13), "resnet101": (3, 7, 30)}
"""Where the critics of each trunk sit if a recipe does not say: the paper's three, at the ends of the first stages."""


class _Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = cls.model_fields[str(info.field_name)].annotation is bool
        if not is_switch and any(isinstance(part, bool) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{json.dumps(value)} is no value for it")
        return value


class DataConfig(_Section):
    """The ``data:`` section: which images, and how they reach the network."""

    source: Literal["digits", "cifar10", "cifar100", "imagefolder"]
    """Where the images come from; ``digits`` is embedded in the package."""
    root: Path | None = None
    """Folder of the images. Left out, it is ``--data-root``, else ``$LCPRUNE_DATA``, else ``data/``."""
    val_size: Annotated[int, Field(ge=0)] = 0
    """Training images held out for validation, drawn evenly over the classes. 0: the test set must be asked for."""
    image_size: PositiveInt | None = None
    """Height and width to which ``imagefolder`` images are resized, in pixels; the other sources have their own."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; left out, ``digits`` is grey and everything else is RGB."""
    augment: Literal["none", "crop", "crop_flip"] = "none"
    """``crop``: a random crop out of the image padded by `pad` pixels; ``crop_flip``: and a horizontal flip."""
    flip: Literal["random", "alternating"] = "random"
    """``random``: at every step; ``alternating``: an image is mirrored in every second epoch (needs ``crop_flip``)."""
    pad: PositiveInt = 4
    """Padding of the random crop, in pixels."""
    batch_size: PositiveInt = 128
    """Images per training step; an incomplete last batch is dropped."""

    @model_validator(mode="after")
    def _folder_is_described(self) -> "DataConfig":
        if self.source == "imagefolder" and self.image_size is None:
            raise ValueError(
                "imagefolder needs image_size: write the height and width in pixels, such as image_size: 64"
            )
        if self.source != "imagefolder" and self.image_size is not None:
            raise ValueError(f"{self.source} images have a size of their own: leave image_size out")
        return self

    @model_validator(mode="after")
    def _flips_alternate_if_there_are_any(self) -> "DataConfig":
        if self.flip == "alternating" and self.augment != "crop_flip":
            raise ValueError(
                f"an alternating flip mirrors nothing if augment is {self.augment}: write augment: crop_flip"
            )
        return self


class ModelConfig(_Section):
    """The ``model:`` section: the trunk, which is the network without its critics."""

    trunk: Literal["vgg", "resnet50", "resnet101"] = "vgg"
    """``vgg``: the paper's eleven convolutions (Figure 2a); ``resnet50``, ``resnet101``: its ResNets (Table 8)."""
    width: PositiveFloat = 1.0
    """Factor on the channels of every layer: 0.25 gives 16, 32, 64 and 128 instead of 64, 128, 256 and 512."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; left out, what the data has."""
    whiten: bool = False
    """A frozen layer before the first group: 2x2 patches along their principal directions, found in training images."""
    cuts: Literal["auto"] = "auto"
    """Where the trunk is cut into layer groups; ``auto``: where `critics.after` puts a critic."""
    downsample: Literal["max_pool", "stride"] = "max_pool"
    """How the spatial size is halved: a 2x2 max pool before the stage, or a stride of 2 in its first 3x3 convolution.
    ResNets know ``stride`` alone, and have it where this is left out."""

    @model_validator(mode="before")
    @classmethod
    def _resnets_have_strides(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("trunk") in ("resnet50", "resnet101"):
            return {"downsample": "stride", **values}
        return values

    @model_validator(mode="after")
    def _resnets_have_no_pools(self) -> "ModelConfig":
        if self.trunk != "vgg" and self.downsample == "max_pool":
            raise ValueError(f"{self.trunk} has no max pools, its size is halved by strides: leave downsample out")
        return self


class CriticsConfig(_Section):
    """The ``critics:`` section: the side networks, and how they learn."""

    after: tuple[PositiveInt, ...] | None = None
    """The convolutions (``vgg``) or residual blocks (ResNets) of the trunk, counted from 1, after which a critic sits.
    Left out, the ends of the first three stages: [2, 5, 8] for ``vgg``, [3, 7, 13] for ``resnet50``, [3, 7, 30] for
    ``resnet101``. A recipe that was read names them always."""
    depth: NonNegativeInt | tuple[NonNegativeInt, ...] = 1
    """Convolutions in each critic, before its linear layer; one number for all, or one for each."""
    channels: PositiveInt | tuple[PositiveInt, ...] = 128
    """Channels of the critics' convolutions; one number for all, or one for each."""
    head: Head = "paper"
    """``paper``: convolutions at full resolution; ``pooled``: an average pool to `pool_to` before them; ``global``:
    and a global average after them; ``separable``: as pooled, each convolution a depthwise and a pointwise one;
    ``strided``: 3x3 convolutions of stride 2 down to `pool_to` instead of the pool, not counted in `depth`."""
    pool_to: PositiveInt | tuple[PositiveInt, ...] = 4
    """Height and width to which all heads but ``paper`` reduce, in pixels; one number for all, or one for each."""
    kernel: Literal[1, 3] = 3
    """Height and width of the convolutions that `depth` counts; the depthwise ones of ``separable`` always have 3."""
    batch_norm: bool = False
    """BatchNorm after each convolution of a critic. It mixes samples, so training takes a second backward pass."""
    loss: Literal["cascade", "cross_entropy", "mix"] = "cascade"
    """``cascade``: Eq. (7), L1 per sample; ``cross_entropy``: the critic's own; ``mix``: a weighted sum of both."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The cascade's share in ``loss: mix``; the rest is cross-entropy."""
    weight: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    """Weight of every exit's loss beside main's in ``method: deep_supervision``; one number for all, or one for
    each."""
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of every exit's loss, in ``method: deep_supervision``, that pulls it to what main says. 0: off."""
    distill_temperature: PositiveFloat = 3.0
    """What the logits are divided by for `distill`: the higher, the more the less likely classes count."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimizer of the critics. They have no weight decay."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the critics (the highest one, where `schedule` varies it)."""
    schedule: Literal["constant", "step", "one_cycle"] = "constant"
    """Learning rate of the critics over the run."""
    update_every: PositiveInt = 1
    """The critics learn at every n-th step (Table 3)."""

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


class TrainConfig(_Section):
    """The ``train:`` section: the method and its hyperparameters."""

    method: Literal["backprop", "local_critic", "deep_supervision"] = "local_critic"
    """``local_critic``: Eq. (1) to (7); ``backprop``: main alone, no critics; ``deep_supervision``: all jointly."""
    iterations: PositiveInt | None = None
    """Training steps. Give this or `epochs`."""
    epochs: PositiveFloat | None = None
    """Passes over the training images. Give this or `iterations`."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the trunk."""
    lr: PositiveFloat = 0.1
    """Learning rate of the trunk (the highest one, where `schedule` varies it)."""
    schedule: Literal["constant", "step", "one_cycle"] = "step"
    """``step``: divided by 10 at each of `lr_drops`; ``one_cycle``: up to `lr` over `warmup`, then down to zero."""
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    """Where ``step`` divides the learning rate by 10, as fractions of the run."""
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The part of the run in which ``one_cycle`` rises, as a fraction."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 penalty on the weights of the trunk's convolutions and linear layers."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all classes."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The last part of the run over which weights are averaged, as a fraction; the average is the result. 0: off."""
    average_every: PositiveInt = 50
    """Steps between two weights that go into the average; the last step's always do."""
    init: Literal["xavier", "kaiming"] = "xavier"
    """Initial weights of convolutions and linear layers."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """``bf16``: autocast; losses stay in float32. ``auto``: bf16 where the device is built for it, else fp32."""
    channels_last: bool = False
    """Memory format (N, H, W, C); faster for most convolutions."""
    memory: Literal["fast", "lean"] = "fast"
    """``lean``: `local_critic` frees a group's activations before the next group runs; the same gradients."""
    cuda_graph: bool = False
    """On a CUDA device, record a step once and replay it: no time goes into starting its kernels one by one."""
    overlap: bool = False
    """On a CUDA device, the critics of `local_critic` run on a second stream, beside the next group."""
    compile: bool = False
    """Compile the layer groups and critics with torch.compile (needs a C++ compiler; slow to start)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the images, their augmentation and the validation split."""
    evaluate_every: PositiveInt = 1000
    """Steps between two evaluations on the validation split."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""

    @field_validator("lr_drops")
    @classmethod
    def _inside_the_run(cls, drops: tuple[float, ...]) -> tuple[float, ...]:
        if outside := [drop for drop in drops if not 0 < drop < 1]:
            raise ValueError(f"{outside} are no fractions of the run: write 0.5 for half of it")
        if list(drops) != sorted(drops):
            raise ValueError(f"{list(drops)} is not in ascending order")
        return drops

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.iterations is None and self.epochs is None:
            raise ValueError("the length of the run is missing: write iterations: 4000, or epochs: 12")
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("iterations and epochs are both given: keep the one that you mean")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class LoggingConfig(_Section):
    """The ``logging:`` section."""

    every: PositiveInt = 50
    """Steps between two lines of ``metrics.jsonl``; each is one look at the loss, which makes the device wait."""


class Recipe(_Section):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the recipe; run folders are called after it."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    critics: CriticsConfig = CriticsConfig()
    train: TrainConfig
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="before")
    @classmethod
    def _critics_have_places(cls, values: Any) -> Any:
        """Writes ``critics.after`` where it is left out, so that whoever reads a recipe finds the places in it."""
        if not isinstance(values, dict):
            return values
        model, critics = values.get("model", {}), values.get("critics", {})
        trunk = model.get("trunk", "vgg") if isinstance(model, dict) else None
        if not isinstance(critics, dict) or critics.get("after") is not None or trunk not in list(PLACES):
            return values  # complete, or refused for what is wrong with it
        return {**values, "critics": {**critics, "after": PLACES[trunk]}}

    @model_validator(mode="after")
    def _recorded_steps_are_alike(self) -> "Recipe":
        if self.train.cuda_graph and self.critics.update_every > 1:
            raise ValueError(
                "train.cuda_graph replays one step, but critics.update_every above 1 makes two: drop one of them"
            )
        return self


def sections() -> dict[str, list[str]]:
    """Every key of the top level, and the keys inside it where it is a section."""
    models = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {
        name: list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
        for name, model in models.items()
    }


def known_keys() -> list[str]:
    """Every key with its section, such as ``train.lr``."""
    return [f"{section}.{key}" if key else section for section, keys in sections().items() for key in keys or [""]]
