"""How large the runs of a reproduction are: the paper's protocol, or something that a CPU can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ScaleName = Literal["paper", "small", "tiny"]


@dataclass(frozen=True)
class Scale:
    """What makes a run of the paper one of this size."""

    name: ScaleName
    seeds: int
    """How many, unless told otherwise."""
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` each, over the paper's recipe."""
    curve_every: int = 2000
    """Steps between two evaluations of the runs whose curves are drawn."""
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """Datasets that others stand in for."""

    def source(self, dataset: str) -> str:
        """What is trained on where the paper trains on `dataset`."""
        return self.stand_ins.get(dataset, dataset)


SCALES: dict[str, Scale] = {
    "paper": Scale("paper", seeds=5),
    "small": Scale(
        "small",
        seeds=2,
        overrides=(
            "model.width=0.25",
            "critics.channels=32",  # whole critics would cost more than a quarter of the backbone
            "train.iterations=2000",
            "train.channels_last=true",
            "train.evaluate_every=1000",
            "train.checkpoint_every=200",
            "logging.every=20",
        ),
        curve_every=200,
        stand_ins={"imagenet": "cifar10"},
    ),
    "tiny": Scale(
        "tiny",
        seeds=1,
        overrides=(
            "data.augment=crop",
            "data.pad=1",
            "data.batch_size=32",
            "model.width=0.0625",
            "critics.channels=8",
            "train.iterations=20",
            "train.evaluate_every=20",
            "train.checkpoint_every=10",
            "logging.every=5",
        ),
        curve_every=5,
        stand_ins={"cifar10": "digits", "cifar100": "digits", "imagenet": "digits"},
    ),
}
