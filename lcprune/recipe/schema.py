"""The schema of a recipe: one frozen model per section, one docstring per key."""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Head = Literal["paper", "pooled", "global", "separable", "strided", "msdnet"]
T = TypeVar("T", int, float)

PLACES = {"vgg": (2, 5, 8), "resnet50": (3, 7, 13), "resnet101": (3, 7, 30), "msdnet": (4, 6, 8, 10, 12, 14)}
"""Where the critics of each trunk sit if a recipe does not say: the paper's three, at the ends of the first stages;
those of ``msdnet`` are where its authors put classifiers."""

TORCHVISION = "torchvision/"
ELSEWHERE = r"^(torchvision/\w+|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$"
"""Trunks that are not this package's: torchvision's, and a user's ``package.module:callable``."""


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

    source: Literal["digits", "cifar10", "cifar100", "imagefolder", "manifest", "imagenet"]
    """Where the images come from; ``digits`` is embedded in the package, ``imagefolder`` is a folder of images,
    ``manifest`` a table of them, ``imagenet`` a folder that is never held in memory."""
    root: Path | None = None
    """Folder of the images. Left out, it is ``--data-root``, else ``$LCPRUNE_DATA``, else ``data/``."""
    manifest: Path | None = None
    """The table of ``source: manifest``, CSV or Parquet, relative to `root`: columns path, label and perhaps split."""
    val_size: Annotated[int, Field(ge=0)] = 0
    """Training images held out for validation, drawn evenly over the classes. 0: the test set must be asked for."""
    test_size: Annotated[int, Field(ge=0)] = 0
    """Images held out for testing, before those for validation, where a source of files brings no test images."""
    image_size: PositiveInt | None = None
    """Height and width that the network sees, in pixels, where images are files; the other sources have their own."""
    crop: Literal["none", "center"] = "none"
    """``none``: files are stretched to `image_size`; ``center``: scaled to `resize`, then the middle is cut out."""
    resize: PositiveInt | None = None
    """Shorter side to which ``crop: center`` scales, in pixels; left out, `image_size`."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How files are resized; both average over the pixels that are left out."""
    normalize: Literal["measured", "imagenet"] = "measured"
    """Mean and deviation that the network subtracts and divides by: those of the training images, or ImageNet's, which
    pretrained weights expect."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; left out, ``digits`` is grey and everything else is RGB."""
    augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"] = "none"
    """``crop``: a random crop out of the image padded by `pad` pixels; ``crop_flip``: and a horizontal flip;
    ``resized_crop``: a random part of random proportions, and a flip; ``randaugment``: and RandAugment."""
    flip: Literal["random", "alternating"] = "random"
    """``random``: at every step; ``alternating``: an image is mirrored in every second epoch (needs ``crop_flip``)."""
    pad: PositiveInt = 4
    """Padding of the random crop, in pixels."""
    batch_size: PositiveInt = 128
    """Images per training step; an incomplete last batch is dropped."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of the Beta distribution by which two images of a batch are laid over each other. 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Likewise, of the size of a part that one image gets from another. With `mixup`, each batch has one of both."""
    balance: Literal["none", "sampling", "loss"] = "none"
    """Classes of unequal size. ``sampling``: all are drawn equally often; ``loss``: their losses weigh equally much."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A damaged file ends the run, or is left out and counted."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Whether files are decoded for each batch. ``auto``: where the images would fill a quarter of the memory."""
    workers: NonNegativeInt = 0
    """Processes that make the batches of streamed images ahead of time. 0: the training process makes them."""
    cache: Literal["none", "memory", "disk"] = "none"
    """Where streamed images are kept once they are decoded and resized; ``disk``: for later runs too."""
    cache_gb: PositiveFloat = 8.0
    """The most that `cache` may hold, in GB (10^9 bytes)."""

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""
        return self.source in ("imagefolder", "manifest", "imagenet")

    @property
    def shorter_side(self) -> int | None:
        """To which files are scaled, in pixels; None where they are stretched."""
        return (self.resize or self.image_size) if self.crop == "center" else None

    @model_validator(mode="after")
    def _files_are_described(self) -> "DataConfig":
        if self.has_files and self.image_size is None:
            raise ValueError(
                f"{self.source} needs image_size: write the height and width in pixels, such as image_size: 64"
            )
        if not self.has_files and self.image_size is not None:
            raise ValueError(f"{self.source} images have a size of their own: leave image_size out")
        if (self.manifest is not None) != (self.source == "manifest"):
            raise ValueError(
                "manifest needs the name of a table: write manifest: images.csv"
                if self.source == "manifest"
                else f"{self.source} has no table of images: leave manifest out, or write source: manifest"
            )
        for_files = ("test_size", "crop", "resize", "interpolation", "on_bad_image", "stream", "workers", "cache")
        if not self.has_files and (set_keys := [key for key in for_files if key in self._other_than_default()]):
            raise ValueError(f"{self.source} has no image files: leave {set_keys[0]} out")
        return self

    @model_validator(mode="after")
    def _the_middle_fits_into_the_image(self) -> "DataConfig":
        if self.resize is not None and self.crop == "none":
            raise ValueError("resize is the shorter side before the middle is cut out: write crop: center as well")
        if self.resize is not None and self.resize < (self.image_size or 0):
            raise ValueError(f"resize is {self.resize}, below image_size {self.image_size}: make it as large or larger")
        return self

    @model_validator(mode="after")
    def _what_streams_is_needed(self) -> "DataConfig":
        if self.source == "imagenet" and self.stream == "never":
            raise ValueError("imagenet is never held in memory: leave stream out")
        return self

    def _other_than_default(self) -> set[str]:
        return {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}

    @model_validator(mode="after")
    def _flips_alternate_if_there_are_any(self) -> "DataConfig":
        if self.flip == "alternating" and self.augment != "crop_flip":
            raise ValueError(
                f"an alternating flip mirrors nothing if augment is {self.augment}: write augment: crop_flip"
            )
        return self


class ModelConfig(_Section):
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
    def is_from_elsewhere(self) -> bool:
        """Whether the trunk is torchvision's or the user's own."""
        return self.trunk not in PLACES

    @model_validator(mode="after")
    def _a_trunk_from_elsewhere_is_as_it_is(self) -> "ModelConfig":
        if self.is_from_elsewhere:
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
            if self.is_from_elsewhere:
                raise ValueError(f"{self.trunk} is taken as it is: leave downsample out")
            raise ValueError(f"{self.trunk} has no max pools, its size is halved by strides: leave downsample out")
        return self


class CriticsConfig(_Section):
    """The ``critics:`` section: the side networks, and how they learn."""

    after: tuple[PositiveInt, ...] | None = None
    """The convolutions (``vgg``), residual blocks (ResNets) or dense layers (``msdnet``) of the trunk, counted from 1,
    after which a critic sits. Left out, the ends of the first three stages: [2, 5, 8] for ``vgg``, [3, 7, 13] for
    ``resnet50``, [3, 7, 30] for ``resnet101``; [4, 6, 8, 10, 12, 14] for ``msdnet``, those inside its `model.layers`.
    In a trunk from torchvision, or your own, the places are the cuts of `model.cuts`, counted from 1: left out, all of
    them. A recipe that was read names them always."""
    depth: NonNegativeInt | tuple[NonNegativeInt, ...] = 1
    """Convolutions in each critic, before its linear layer; one number for all, or one for each."""
    channels: PositiveInt | tuple[PositiveInt, ...] = 128
    """Channels of the critics' convolutions; one number for all, or one for each."""
    head: Head = "paper"
    """``paper``: convolutions at full resolution; ``pooled``: an average pool to `pool_to` before them; ``global``:
    and a global average after them; ``separable``: as pooled, each convolution a depthwise and a pointwise one;
    ``strided``: 3x3 convolutions of stride 2 down to `pool_to` instead of the pool, not counted in `depth`;
    ``msdnet``: two 3x3 convolutions of stride 2 with BatchNorm, then a global average; of the keys below, it reads
    `channels` alone."""
    pool_to: PositiveInt | tuple[PositiveInt, ...] = 4
    """Height and width to which all heads but ``paper`` and ``msdnet`` reduce, in pixels; one number for all, or one
    for each. In a trunk from torchvision, or your own, the most: the largest number up to it that divides the hidden
    layer's height and width."""
    kernel: Literal[1, 3] = 3
    """Height and width of the convolutions that `depth` counts; the depthwise ones of ``separable`` always have 3."""
    batch_norm: bool = False
    """BatchNorm after each convolution of a critic. It mixes samples, so training takes a second backward pass."""
    loss: Literal["cascade", "cross_entropy", "mix"] = "cascade"
    """``cascade``: Eq. (7), L1 per sample; ``cross_entropy``: the critic's own; ``mix``: a weighted sum of both."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The cascade's share in ``loss: mix``; the rest is cross-entropy."""
    one_sided: bool = False
    """In the cascade, a critic learns only where its loss is above the next exit's: it is never pushed to be worse."""
    weight: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    """Weight of every exit's loss beside main's in ``method: deep_supervision``; one number for all, or one for
    each."""
    weight_schedule: Literal["constant", "decay"] = "constant"
    """``decay``: in ``method: deep_supervision`` the weights fall in a straight line to zero over the run."""
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of every exit's loss that pulls it to what a deeper exit says: main in ``method: deep_supervision``, in
    the methods with critics the exit that they estimate. 0: off."""
    distill_temperature: PositiveFloat = 3.0
    """What the logits are divided by for `distill`: the higher, the more the less likely classes count."""
    sobolev: PositiveFloat = 1.0
    """Weight of the derivatives beside the losses in ``method: sobolev_local_critic`` and ``sobolev_critic``."""
    condition_on_label: bool = False
    """In ``method: dni``, the modules that predict gradients are told the label of every image (cDNI)."""
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

    method: Literal[
        "backprop",
        "local_critic",
        "deep_supervision",
        "critic",
        "sobolev_local_critic",
        "sobolev_critic",
        "dni",
    ] = "local_critic"
    """``local_critic``: Eq. (1) to (7); ``backprop``: main alone, no critics; ``deep_supervision``: all jointly;
    ``critic``: every critic estimates main's loss; ``sobolev_local_critic``, ``sobolev_critic``: the derivatives
    matched as well; ``dni``: predicted gradients (Eq. 8), no critics."""
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
    freeze: NonNegativeInt | tuple[PositiveInt, ...] = 0
    """Layer groups that do not learn and stay in eval mode: the first n, or a list of their numbers, from 1."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer group as a fraction of the next one's: group i of K learns at lr times its power
    K - i."""
    critic_warmup: NonNegativeInt = 0
    """First steps in which critics alone learn, and the trunk is frozen."""
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
    on_nonfinite: Literal["stop", "retry"] = "stop"
    """A loss, gradient or weight that is NaN or infinite ends the run, or it goes back to the last checkpoint and on
    from there with a quarter of the learning rate: three times at most."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; an operation that has none ends the run. On a CPU nothing
    changes: the same number of threads gives the same bits anyway."""

    @property
    def frozen_groups(self) -> tuple[int, ...]:
        """Numbers of the layer groups that do not learn, from 1."""
        return tuple(range(1, self.freeze + 1)) if isinstance(self.freeze, int) else self.freeze

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
    sample_losses: NonNegativeInt = 0
    """Training images whose loss at every exit is recorded at about 20 steps of the run (Figure 6). 0: off."""
    test_curve: bool = False
    """At every evaluation, look at the test split too and log its accuracy (Figure 7). It decides nothing."""


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
        if not isinstance(model, dict) or not isinstance(critics, dict) or critics.get("after") is not None:
            return values  # complete, or refused for what is wrong with it
        trunk, cuts, groups = model.get("trunk", "vgg"), model.get("cuts", "auto"), model.get("groups", 4)
        if trunk in list(PLACES):
            layers = model.get("layers") if trunk == "msdnet" else None
            inside = [place for place in PLACES[trunk] if not isinstance(layers, int) or place < layers]
            return {**values, "critics": {**critics, "after": tuple(inside)}}
        count = len(cuts) if isinstance(cuts, list | tuple) else groups - 1 if isinstance(groups, int) else 0
        return {**values, "critics": {**critics, "after": tuple(range(1, count + 1))}}

    @model_validator(mode="after")
    def _a_sub_model_alone_is_one_of_the_recipes(self) -> "Recipe":
        alone, count = self.model.submodel, len(self.critics.after or ())
        if alone is None:
            return self
        if self.train.method != "backprop":
            raise ValueError(
                f"model.submodel is one network with one exit, which train.method {self.train.method} cannot train: "
                "set train.method: backprop, or leave model.submodel out"
            )
        if alone > count:
            raise ValueError(
                f"model.submodel is {alone} but critics.after makes {count} sub-models: "
                f"write a number from 1 to {count}, or leave model.submodel out for the whole network"
                if count
                else "model.submodel needs a critic, but critics.after is empty: leave critics.after out"
            )
        return self

    @model_validator(mode="after")
    def _frozen_groups_are_there(self) -> "Recipe":
        count = self.model.submodel or len(self.critics.after or ()) + 1
        frozen = self.train.frozen_groups
        if outside := [number for number in frozen if number > count]:
            raise ValueError(
                f"train.freeze names group {outside[-1]} but there are {count}: write numbers from 1 to {count}"
            )
        if self.train.method in ("backprop", "dni"):
            if len(set(frozen)) == count:
                raise ValueError("train.freeze leaves nothing to learn: leave out a group")
            if self.train.critic_warmup:
                raise ValueError(
                    f"train.critic_warmup waits for critics, but train.method {self.train.method} has none: "
                    "leave critic_warmup out"
                )
        return self

    @model_validator(mode="after")
    def _a_label_that_is_told_is_one_class(self) -> "Recipe":
        shares = self.data.mixup or self.data.cutmix or self.data.balance == "loss"
        if self.critics.condition_on_label and self.train.method == "dni" and shares:
            raise ValueError(
                "critics.condition_on_label tells one class of each image, but data.mixup, data.cutmix and "
                "data.balance: loss make shares of classes: drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _recorded_steps_are_alike(self) -> "Recipe":
        if self.train.cuda_graph and (self.train.critic_warmup or self.train.layer_decay != 1):
            key = "critic_warmup" if self.train.critic_warmup else "layer_decay"
            raise ValueError(f"train.cuda_graph replays one step with one learning rate, not {key}: drop one of them")
        decays = self.train.method == "deep_supervision" and self.critics.weight_schedule == "decay"
        if self.train.cuda_graph and decays:
            raise ValueError(
                "train.cuda_graph replays one step, but a critics.weight_schedule of decay makes every step another "
                "one: drop one of them"
            )
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
