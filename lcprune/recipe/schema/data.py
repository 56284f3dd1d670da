"""The ``data:`` section."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lcprune.recipe.schema.section import NonNegativeInt, PositiveFloat, PositiveInt, Section

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
NATIVE_SIZE = {"digits": 8, "cifar10": 32, "cifar100": 32}
"""Height and width of the images of sources that are no files, in pixels."""
MAX_SIDE = 4096
"""The largest side of an input image, in pixels: an exported model with a larger one could not be opened."""
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]


class DataConfig(Section):
    """The ``data:`` section: which images, and how they are prepared."""

    source: Literal["digits", "cifar10", "cifar100", "imagefolder", "manifest", "imagenet"]
    """Where the images come from; ``digits`` is embedded in the package, ``imagefolder`` is a folder of images,
    ``manifest`` a table of them, ``imagenet`` a folder that is never held in memory."""
    root: Path | None = None
    """Folder of the images, unless ``--data-root`` names another. Left out, it is ``$LCPRUNE_DATA``, else ``data/``."""
    manifest: Path | None = None
    """The table of ``source: manifest``, CSV or Parquet, relative to `root`: columns path, label and perhaps split."""
    val_size: Annotated[int, Field(ge=0)] = 0
    """Training images held out for validation, drawn evenly over the classes. 0: the test set must be asked for."""
    test_size: Annotated[int, Field(ge=0)] = 0
    """Images held out for testing, before those for validation, where a source of files brings no test images."""
    image_size: Side | tuple[Side, ...] | None = None
    """Height and width of the network's input, in pixels, where images are files; the other sources have their own.
    Of several, such as ``[64, 96, 128]``, the largest is that of the input, and the network learns to classify images
    that are reduced to the others as well: a sub-model is an exit at a size (``deep_supervision`` only)."""
    crop: Literal["none", "center"] = "none"
    """``none``: files are resized to a square of `image_size`; ``center``: scaled to `resize`, then cropped."""
    resize: Annotated[int, Field(gt=0, le=2 * MAX_SIDE)] | None = None
    """Shorter side to which ``crop: center`` scales, in pixels; left out, `image_size`."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How files are resized; both with antialiasing."""
    normalize: Literal["measured", "imagenet"] = "measured"
    """Mean and standard deviation by which the network normalizes images: those of the training images, or ImageNet's,
    which pretrained weights expect."""
    mean: tuple[Share, ...] | None = None
    """In the place of `normalize`: the mean of each channel of images in 0..1, such as ``[0.5, 0.5, 0.5]``."""
    std: tuple[PositiveFloat, ...] | None = None
    """Likewise, the standard deviation of each channel."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; left out, ``digits`` is grey and everything else is RGB."""
    augment: Literal["none", "crop", "crop_flip", "resized_crop", "randaugment"] = "none"
    """``crop``: a random crop out of the image padded by `pad` pixels; ``crop_flip``: and a horizontal flip;
    ``resized_crop``: a random part of random proportions, and a flip; ``randaugment``: and RandAugment."""
    crop_scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    """Smallest and largest part of the image's area that ``resized_crop`` and ``randaugment`` take."""
    flip: Literal["random", "alternating"] = "random"
    """``random``: at every step; ``alternating``: an image is mirrored in every second epoch (needs ``crop_flip``)."""
    pad: PositiveInt = 4
    """Padding of the random crop, in pixels."""
    batch_size: PositiveInt = 128
    """Images per training step; an incomplete last batch is dropped."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of the Beta distribution by which two images of a batch are blended. 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Likewise, for the size of a part that is replaced by another image. With `mixup`, each batch has one of both."""
    balance: Literal["none", "sampling", "loss"] = "none"
    """For classes of unequal size. ``sampling``: all are drawn equally often; ``loss``: their losses weigh the same."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """A damaged file ends the run, or is left out and counted."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Whether files are decoded for each batch. ``auto``: where the images would fill a quarter of the memory."""
    workers: NonNegativeInt = 0
    """Processes that make the batches of streamed images ahead of time. 0: the training process makes them."""
    cache: Literal["none", "memory", "disk"] = "none"
    """Where streamed images are kept once they are decoded and resized; ``disk``: for later runs too."""
    cache_gb: PositiveFloat = 8.0
    """Limit of the size of `cache`, in GB (10^9 bytes)."""

    @property
    def has_files(self) -> bool:
        """Whether the images are files."""
        return self.source in ("imagefolder", "manifest", "imagenet")

    @property
    def input_channels(self) -> Literal[1, 3]:
        """Channels of the images that the network gets."""
        return self.channels or (1 if self.source == "digits" else 3)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Several sizes at which the network classifies images, ascending; empty where there is one."""
        return tuple(sorted(self.image_size)) if isinstance(self.image_size, tuple) else ()

    @property
    def input_size(self) -> int | None:
        """Height and width of the network's input, in pixels; None where the source has its own."""
        return max(self.image_size) if isinstance(self.image_size, tuple) else self.image_size

    def folder(self, data_root: Path | None) -> Path:
        """Folder of the images: `data_root` where it is given, else the recipe's."""
        return (data_root or self.root or Path(os.environ.get("LCPRUNE_DATA") or "data")).expanduser()

    @property
    def shorter_side(self) -> int | None:
        """Shorter side to which files are scaled, in pixels; None where they are resized to a square."""
        return (self.resize or self.input_size) if self.crop == "center" else None

    @model_validator(mode="after")
    def _files_are_described(self) -> "DataConfig":
        if self.has_files and self.image_size is None:
            raise ValueError(
                f"{self.source} needs image_size: write the height and width in pixels, such as image_size: 64"
            )
        native = NATIVE_SIZE.get(self.source)
        if native is not None and self.image_size is not None and (not self.sizes or self.input_size != native):
            raise ValueError(
                f"{self.source} images have a size of their own, {native} pixels: leave image_size out, or write "
                f"several sizes of which {native} is the largest"
            )
        if (self.manifest is not None) != (self.source == "manifest"):
            raise ValueError(
                "manifest needs the name of a table: write manifest: images.csv"
                if self.source == "manifest"
                else f"{self.source} has no table of images: leave manifest out, or write source: manifest"
            )
        for_files = ("test_size", "crop", "resize", "interpolation", "on_bad_image", "stream", "workers", "cache")
        defaults = {key: field.default for key, field in type(self).model_fields.items()}
        if not self.has_files and (set_keys := [key for key in for_files if getattr(self, key) != defaults[key]]):
            raise ValueError(f"{self.source} has no image files: leave {set_keys[0]} out")
        return self

    @model_validator(mode="after")
    def _normalization_is_whole(self) -> "DataConfig":
        if (self.mean is None) != (self.std is None):
            missing = "std" if self.std is None else "mean"
            raise ValueError(f"mean and std belong together: write {missing} as well")
        if self.mean is None or self.std is None:
            return self
        if self.normalize != "measured":  # the default, which a run's recipe has written out
            raise ValueError("mean and std take the place of normalize: leave normalize out, or both of them")
        if not len(self.mean) == len(self.std) == self.input_channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values, and images have {self.input_channels} "
                f"channels: write {self.input_channels} of each"
            )
        return self

    @model_validator(mode="after")
    def _augmentation_is_used(self) -> "DataConfig":
        if self.crop_scale[0] > self.crop_scale[1]:
            right = f"[{self.crop_scale[1]}, {self.crop_scale[0]}]"
            raise ValueError(f"crop_scale begins with the smaller part: write crop_scale: {right}")
        if self.crop_scale != (0.08, 1.0) and self.augment not in ("resized_crop", "randaugment"):
            raise ValueError(f"crop_scale changes nothing if augment is {self.augment}: write augment: resized_crop")
        if self.flip == "alternating" and self.augment != "crop_flip":
            raise ValueError(
                f"an alternating flip mirrors nothing if augment is {self.augment}: write augment: crop_flip"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit_each_other(self) -> "DataConfig":
        if self.resize is not None and self.crop == "none":
            raise ValueError("resize is the shorter side before the center crop: write crop: center as well")
        if self.resize is not None and self.resize < (self.input_size or 0):
            raise ValueError(f"resize is {self.resize}, below image_size {self.input_size}: make it as large or larger")
        if isinstance(self.image_size, tuple) and not len(self.image_size) == len(set(self.image_size)) > 1:
            raise ValueError(
                f"image_size {list(self.image_size)} does not name several sizes: write one number, or different ones"
            )
        if self.source == "imagenet" and self.stream == "never":
            raise ValueError("imagenet is never held in memory: leave stream out")
        return self
