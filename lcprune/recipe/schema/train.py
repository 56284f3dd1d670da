"""The ``train:`` and ``logging:`` sections."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lcprune.recipe.schema.section import Method, NonNegativeInt, PositiveFloat, PositiveInt, Section
from lcprune.specs import METHODS, described


class TrainConfig(Section):
    """The ``train:`` section: the method and its hyperparameters."""

    method: Method = Field(default="local_critic", description=described(METHODS))
    iterations: PositiveInt | None = None
    """Training steps. Give this or `epochs`."""
    epochs: PositiveFloat | None = None
    """Passes over the training images. Give this or `iterations`."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the trunk."""
    lr: PositiveFloat = 0.1
    """Learning rate of the trunk (the maximum, where `schedule` varies it)."""
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
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights over all steps, such as 0.999, in the place of `average`;
    the average is the result. 0: off."""
    init: Literal["xavier", "kaiming"] = "xavier"
    """Initial weights of convolutions and linear layers."""
    freeze: NonNegativeInt | tuple[PositiveInt, ...] = 0
    """Layer groups that are not trained and stay in eval mode: the first n, or a list of their numbers, from 1."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer group as a fraction of the next one's: group i of K learns at lr times its power
    K - i."""
    critic_warmup: NonNegativeInt = 0
    """First steps, in which only critics are trained and the trunk is frozen."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """``bf16``: autocast; losses stay in float32. ``auto``: bf16 where the device is built for it, else fp32."""
    channels_last: bool = False
    """Memory format (N, H, W, C); faster for most convolutions."""
    memory: Literal["fast", "lean"] = "fast"
    """``lean``: `local_critic` frees a group's activations before the next group runs; the same gradients."""
    cuda_graph: bool = False
    """On a CUDA device, record a step once as a CUDA graph and replay it, which saves the time of kernel launches."""
    overlap: bool = False
    """On a CUDA device, the critics of `local_critic` run on a second stream, in parallel with the next group."""
    compile: bool = False
    """Compile the layer groups and critics with torch.compile (needs a C++ compiler; slow to start)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the images, their augmentation and the validation split."""
    evaluate_every: PositiveInt = 1000
    """Steps between two evaluations on the validation split."""
    early_stopping: NonNegativeInt = 0
    """Evaluations in a row in which the validation accuracy of main does not rise, after which the run ends; the
    weights of the best evaluation are the result, also of a run that does not end early. 0: off."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""
    on_nonfinite: Literal["stop", "retry"] = "stop"
    """A loss, gradient or weight that is NaN or infinite ends the run (``stop``), or the run goes on from the last
    checkpoint with a quarter of the learning rate, three times at most (``retry``)."""
    deterministic: bool = False
    """Only deterministic algorithms; an operation that has none ends the run. On a CPU nothing changes: with the same
    number of threads, results are bit-identical anyway."""

    @property
    def frozen_groups(self) -> tuple[int, ...]:
        """Numbers of the layer groups that are not trained, from 1."""
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
        return self

    @model_validator(mode="after")
    def _one_average(self) -> "TrainConfig":
        if self.average and self.ema:
            raise ValueError("average and ema are both given: keep the one that you mean")
        if self.average and self.early_stopping:
            raise ValueError(
                "average is over the last part of the run, which early_stopping may never reach: write ema: 0.999 "
                "instead of average"
            )
        return self

    @model_validator(mode="after")
    def _nesterov_has_a_momentum(self) -> "TrainConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class LoggingConfig(Section):
    """The ``logging:`` section."""

    every: PositiveInt = 50
    """Steps between two lines of ``metrics.jsonl``; each reads the loss, for which the device is synchronized."""
    sample_losses: NonNegativeInt = 0
    """Training images whose loss at every exit is recorded at about 20 steps of the run (Figure 6). 0: off."""
    test_curve: bool = False
    """At every evaluation, also log the accuracy on the test split (Figure 7), which decides nothing."""
    tensorboard: bool = False
    """Also write what ``metrics.jsonl`` has to ``tensorboard/`` of the run, for TensorBoard; an extra of lcprune."""
