"""The tables and figures of the paper: which runs each needs, and what is read of them."""

from dataclasses import dataclass
from typing import Literal

from lcprune.paper.paper_runs import DEPTHS

Kind = Literal["accuracy", "cost", "progressive", "loss_curves", "dissimilarity", "loss_evolution"]
UNITS: dict[Kind, str] = {
    "accuracy": "test accuracy, %",
    "progressive": "test accuracy, %",
    "cost": "for one image",
    "loss_curves": "training loss at the end, nats",
    "dissimilarity": "mean dissimilarity between classes less that within them, output layer",
    "loss_evolution": "correlation of an image's loss with its loss at main, at the end",
}
"""What the rows show."""
CIFAR = ("cifar10", "cifar100")
CIFAR10 = ("cifar10",)
ENSEMBLES = ("1+2+3", "1+2+3+main")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str
    """As in ``paper.json``."""
    run: str
    """The variant that it is read of."""
    of: str = "main"
    """What is read: an exit, ``top-5`` of main, a threshold, or the members of an ensemble such as ``1+2+3`` (by summed
    outputs) or ``probabilities 1+2+3``."""
    printed: tuple[str, str] | None = None
    """The table and the row in which the paper prints it; None: under this name, if at all."""


@dataclass(frozen=True)
class Target:
    """A table or figure."""

    title: str
    rows: tuple[Row, ...]
    datasets: tuple[str, ...] = CIFAR
    kind: Kind = "accuracy"
    pairs: tuple[tuple[str, str], ...] = ()
    """Rows that are tested against each other."""
    seeds: int | None = None
    """How many, unless told otherwise; None: as many as the scale says."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The variants that must be trained, each once."""
        return () if self.kind == "cost" else tuple(dict.fromkeys(row.run for row in self.rows))


def _same(*runs: str) -> tuple[Row, ...]:
    return tuple(Row(run, run) for run in runs)


def _exits(run: str) -> tuple[Row, ...]:
    return tuple(Row(of, run, of) for of in ("sub-model 1", "sub-model 2", "sub-model 3", "main"))


_ALONE_AND_JOINT = tuple(
    Row(name, run, of, printed=("table4", name))
    for k in range(1, 4)
    for name, run, of in ((f"bp_sub_{k}", f"bp_sub_{k}", "main"), (f"lc_sub_{k}", "lc_3", f"sub-model {k}"))
)
_SUBMODELS = tuple(
    Row(f"sub-model {k}", "lc_3", f"sub-model {k}", printed=("table4", f"lc_sub_{k}")) for k in range(1, 4)
)

TARGETS: dict[str, Target] = {
    "table1": Target(
        "Test accuracy of every method",
        _same("bp", "dni_3", "critic_3", "lc_1", "lc_3", "lc_5"),
        pairs=(("lc_3", "critic_3"), ("lc_1", "bp"), ("lc_3", "bp"), ("lc_5", "bp")),
    ),
    "table2": Target(
        "Convolutions in the critics LC1, LC2 and LC3",
        (Row("1-1-1", "lc_3"), *(Row(depths, f"lc_3_depth_{depths}") for depths in DEPTHS)),
    ),
    "table3": Target(
        "Critics that are updated at every k-th step",
        (Row("1", "lc_3"), *(Row(str(every), f"lc_3_every_{every}") for every in range(2, 6))),
    ),
    "table4": Target("Sub-models of local critic training, and the same networks alone", _ALONE_AND_JOINT),
    "table5": Target(
        "Parameters and work of the sub-models",
        (Row("sub_1", "lc_3"), Row("sub_2", "lc_3"), Row("sub_3", "lc_3"), Row("main", "lc_3")),
        datasets=CIFAR10,
        kind="cost",
    ),
    "table6": Target(
        "Progressive inference",
        (Row("threshold_0.90", "lc_3", "0.90"), Row("threshold_0.95", "lc_3", "0.95"), Row("main", "lc_3")),
        datasets=CIFAR10,
        kind="progressive",
    ),
    "table7": Target(
        "Sobolev training and deep supervision",
        _same("sob_lc_1", "sob_lc_3", "sob_lc_5", "sob_critic_3", "deep_supervision_3"),
    ),
    "table8": Target("ResNets", _same("resnet50_bp", "resnet50_lc_3", "resnet101_bp", "resnet101_lc_3")),
    "table9": Target(
        "ResNet-50 on ImageNet",
        (
            Row("top5_bp", "resnet50_bp", "top-5"),
            Row("top5_lc_3", "resnet50_lc_3", "top-5"),
            Row("top1_bp", "resnet50_bp"),
            Row("top1_lc_3", "resnet50_lc_3"),
        ),
        datasets=("imagenet",),
    ),
    "figure3": Target("Training loss of every exit", _exits("lc_3"), kind="loss_curves", seeds=1),
    "figure4": Target(
        "Ensembles by summing outputs",
        (
            *_SUBMODELS,
            Row("main", "lc_3", printed=("table1", "lc_3")),
            *(Row(members, "lc_3", members) for members in ENSEMBLES),
            *(Row(f"{members} by probability", "lc_3", f"probabilities {members}") for members in ENSEMBLES),
        ),
    ),
    "figure5": Target(
        "Dissimilarity of 400 images in every layer",
        _same("bp", "lc_1", "lc_3", "lc_5"),
        datasets=CIFAR10,
        kind="dissimilarity",
        seeds=1,
    ),
    "figure6": Target(
        "Loss of single images over the training", _exits("lc_3"), datasets=CIFAR10, kind="loss_evolution", seeds=1
    ),
    "figure7": Target("Learning curves of the sub-models", _ALONE_AND_JOINT, datasets=CIFAR10, seeds=1),
}
