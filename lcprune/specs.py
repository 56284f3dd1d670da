"""What there is of each kind, and what it supports: training methods, critic heads, criteria, precisions, file formats.

A new method, head or format is a module of its own and a line here. Nothing is imported before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lcprune_runtime.specs import CRITERIA as CRITERIA
from lcprune_runtime.specs import Criterion as Criterion
from lcprune_runtime.specs import Layout as Layout

Device = Literal["auto", "cpu", "cuda", "mps"]
Parallel = Literal["data", "layers", "both"]
"""What several processes divide: batches, layer groups, or both."""
BadImage = Literal["stop", "skip"]
"""What a damaged image file does."""
Minimize = Literal["macs", "params", "latency", "size"]
"""What a chosen sub-model has least of."""
MeanCost = Literal["macs", "latency"]
"""What the mean image of a progressive graph has least of."""
ThresholdInput = Literal["optional", "required", "none"]
"""How a progressive graph takes its thresholds."""
Format = Literal["onnx", "ort", "executorch", "litert", "coreml"]
Precision = Literal["fp32", "int8", "fp16", "w8"]
Int8Range = Literal["safe", "full"]
"""``safe``: weights of 7 bits. Processors of x86 without VNNI add two products of 8 bits in 16, where 8-bit weights
overflow; 255 x 64 x 2 fits, so the file gives the same results on every processor. ``full``: 8 bits."""


@dataclass(frozen=True)
class MethodSpec:
    """A training method, as `train.method` of a recipe names it."""

    summary: str
    module: str
    """Where ``build(recipe, network, iterations)`` is; see `lcprune.training.methods.base.Build`."""
    side: Literal["critics", "synthesizers"] | None = "critics"
    """What learns beside the backbone. With critics the network has early exits, else main alone."""
    needs_cuts: bool = True
    """Whether it has nothing to do without a place in `critics.after`."""
    target: Literal["next", "main"] = "next"
    """The exit whose loss critics estimate, where they estimate one."""
    layer_parallel: bool = False
    """Whether `lcprune.training.parallel` can put its layer groups on several processes."""
    decays_weights: bool = False
    """Whether it reads `critics.weight_schedule`, so that its steps may differ from one another."""

    @property
    def has_early_exits(self) -> bool:
        """Whether it trains exits before main."""
        return self.side == "critics"


@dataclass(frozen=True)
class HeadSpec:
    """What a critic is made of, as `critics.head` of a recipe names it.

    `reduction`, `separable` and `global_average` are read by `lcprune.models.critics` alone. A head in a module of its
    own says in its summary which keys of `critics` it reads.
    """

    summary: str
    module: str = "lcprune.models.critics"
    """Where ``build_head(shape, classes, design)`` is: see `lcprune.models.critics.build_critic`."""
    reduction: Literal["pool", "stride"] | None = None
    """What makes the hidden layer `critics.pool_to` wide and high; None: it stays as it is."""
    separable: bool = False
    """Whether each convolution is a depthwise and a pointwise one."""
    global_average: bool = False
    """Whether an average over the whole height and width comes before the linear layer."""


@dataclass(frozen=True)
class PrecisionSpec:
    """Numbers of an exported file, as ``--precision`` names them."""

    summary: str
    max_relative_diff: float
    """Largest difference from what the file is checked against, as a part of the largest logit: float32 against torch,
    the others against their own stages. Integers are exact."""


@dataclass(frozen=True)
class FormatSpec:
    """Of an exported file, as ``--format`` names it."""

    summary: str
    suffix: str
    module: str | None = None
    """Where ``convert(content)`` makes it out of ONNX, and ``required_operators(path)`` lists what a runtime needs.
    With `package`: where ``convert(module, image, path)`` makes it out of torch, and ``load(path)`` runs it."""
    package: str | None = None
    """What converts torch modules to it; an extra of lcprune with the format's name installs it. A progressive model
    is a folder of its stages."""
    runs_here: bool = True
    """Whether its runtime exists for the systems that lcprune is tested on."""
    refused: Mapping[Precision, str] = field(default_factory=dict)
    """Why it has no files of some precisions."""


_METHODS, _PAPER = "lcprune.training.methods", "lcprune.paper.methods"

METHODS: dict[str, MethodSpec] = {
    "backprop": MethodSpec("main alone, no critics", f"{_METHODS}.deep_supervision", side=None, needs_cuts=False),
    "local_critic": MethodSpec("Eq. (1) to (7)", f"{_METHODS}.local_critic", layer_parallel=True),
    "deep_supervision": MethodSpec(
        "all jointly", f"{_METHODS}.deep_supervision", needs_cuts=False, target="main", decays_weights=True
    ),
    "critic": MethodSpec("every critic estimates main's loss", f"{_METHODS}.local_critic", target="main"),
    "sobolev_local_critic": MethodSpec("as `local_critic`, the derivatives matched as well", f"{_PAPER}.sobolev"),
    "sobolev_critic": MethodSpec("as `critic`, the derivatives matched as well", f"{_PAPER}.sobolev", target="main"),
    "dni": MethodSpec("predicted gradients (Eq. 8), no critics", f"{_PAPER}.dni", side="synthesizers"),
}

HEADS: dict[str, HeadSpec] = {
    "paper": HeadSpec("convolutions at full resolution"),
    "pooled": HeadSpec("an average pool to `pool_to` before them", reduction="pool"),
    "global": HeadSpec("and a global average after them", reduction="pool", global_average=True),
    "separable": HeadSpec(
        "as pooled, each convolution a depthwise and a pointwise one", reduction="pool", separable=True
    ),
    "strided": HeadSpec(
        "3x3 convolutions of stride 2 down to `pool_to` instead of the pool, not counted in `depth`", reduction="stride"
    ),
    "msdnet": HeadSpec(
        "two 3x3 convolutions of stride 2 with BatchNorm, then a global average; of the keys below, it reads "
        "`channels` alone",
        module="lcprune.models.msdnet",
    ),
}


PRECISIONS: dict[Precision, PrecisionSpec] = {
    "fp32": PrecisionSpec("float32 throughout.", 1e-4),
    "int8": PrecisionSpec(
        "Weights and activations of all convolutions, pools and linear layers are integers of 8 bits; logits, scores "
        "and thresholds are float32.",
        0.0,
    ),
    "fp16": PrecisionSpec("Weights and arithmetic are float16; scores and thresholds are float32.", 4e-4),
    "w8": PrecisionSpec("Weights are stored in 8 bits; the arithmetic is float32.", 1e-4),
}

FORMATS: dict[Format, FormatSpec] = {
    "onnx": FormatSpec("ONNX", ".onnx"),
    "ort": FormatSpec(
        "onnxruntime",
        ".ort",
        module="lcprune.exporters.ort",
        refused={"fp16": "onnxruntime has no float16 kernels for this CPU and would write float32 arithmetic"},
    ),
    "executorch": FormatSpec("ExecuTorch", ".pte", module="lcprune.exporters.executorch", package="executorch"),
    "litert": FormatSpec("LiteRT", ".tflite", module="lcprune.exporters.litert", package="litert_torch"),
    "coreml": FormatSpec(
        "Core ML", ".mlpackage", module="lcprune.exporters.coreml", package="coremltools", runs_here=False
    ),
}


def format_of(suffix: str) -> FormatSpec:
    """The format of files that end with `suffix`; ONNX for any other ending."""
    return next((spec for spec in FORMATS.values() if spec.suffix == suffix), FORMATS["onnx"])


def described(table: Mapping[str, MethodSpec] | Mapping[str, HeadSpec]) -> str:
    """Every name with its summary, in a line."""
    return "; ".join(f"``{name}``: {spec.summary}" for name, spec in table.items()) + "."
