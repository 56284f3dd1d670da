"""What an option of fixed words may be; a word that is none of them is refused with the list."""

from enum import StrEnum


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Parallel(StrEnum):
    """What several processes divide."""

    DATA = "data"
    LAYERS = "layers"
    BOTH = "both"


class BadImage(StrEnum):
    """What a damaged image file does."""

    STOP = "stop"
    SKIP = "skip"


class Minimize(StrEnum):
    """What the chosen sub-model has least of."""

    MACS = "macs"
    PARAMS = "params"
    LATENCY = "latency"
    SIZE = "size"


class ThresholdInput(StrEnum):
    """How a progressive graph takes its thresholds."""

    OPTIONAL = "optional"
    REQUIRED = "required"
    NONE = "none"


class Format(StrEnum):
    """File format of an export."""

    ONNX = "onnx"
    ORT = "ort"


class Form(StrEnum):
    """How a progressive graph goes on with the images that stay."""

    NESTED = "nested"
    FLAT = "flat"


class Spent(StrEnum):
    """What stopping early saves."""

    MACS = "macs"
    LATENCY = "latency"


class Criterion(StrEnum):
    """What is held against the thresholds of a progressive graph."""

    SOFTMAX = "softmax"
    MARGIN = "margin"
    ENTROPY = "entropy"
    AGREEMENT = "agreement"
    AUTO = "auto"


class Precision(StrEnum):
    """Number format of an export."""

    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"
    W8 = "w8"


class Int8Range(StrEnum):
    """Of the integers that stand for weights."""

    SAFE = "safe"
    FULL = "full"


class PaperDataset(StrEnum):
    """What the paper trains on."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGENET = "imagenet"


class PaperPart(StrEnum):
    """A table or figure of the paper."""

    TABLE1 = "table1"
    TABLE2 = "table2"
    TABLE3 = "table3"
    TABLE4 = "table4"
    TABLE5 = "table5"
    TABLE6 = "table6"
    TABLE7 = "table7"
    TABLE8 = "table8"
    TABLE9 = "table9"
    FIGURE3 = "figure3"
    FIGURE4 = "figure4"
    FIGURE5 = "figure5"
    FIGURE6 = "figure6"
    FIGURE7 = "figure7"


class Scale(StrEnum):
    """How large the runs of a reproduction are."""

    PAPER = "paper"
    SMALL = "small"
    TINY = "tiny"
