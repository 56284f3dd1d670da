"""How fast a training step is: ours against plain loops, against the machine's arithmetic, and method against method.

The part ``speed`` of `benchmarks.bench` compares our loop with a bare one on tensors, a DataLoader loop and the
arithmetic limit; ``methods`` compares a step of `local_critic` with one of `backprop`. Images are noise, the size and
number of CIFAR's.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks import networks, steps
from benchmarks.case import Row
from benchmarks.timing import Timed, in_turn, ratio, spread
from lcprune import recipe as recipes

BARE_LIMIT = 0.98
"""Our images/s over those of the bare loop must be at least this."""
LOADER_LIMIT = 1.0
"""And over those of the DataLoader loop."""
METHOD_OVERHEAD = 1.05
"""What a step of local_critic may cost over backprop's, times the ratio of their MACs."""
OPERATIONS_PER_MAC = 2 * 3
"""A multiplication and an addition; forward, and backward to inputs and to weights."""
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
"""Of a product that keeps the device busy."""
LOCAL_CRITIC = ("train.method=local_critic", "critics.loss=cascade")
BACKPROP = ("train.method=backprop",)
METHODS = {"backprop": BACKPROP, "local_critic": LOCAL_CRITIC}


@dataclass(frozen=True)
class Case:
    """A network, and how often its step is measured."""

    network: str
    recipe: str
    overrides: tuple[str, ...]
    rounds: int
    burst: int
    """Steps in a turn."""


PAPER = Case("paper width", "vgg_cifar10", (), rounds=9, burst=1)
SMALL = Case("quarter width", "vgg_cifar10_small", (), rounds=12, burst=6)
RESNET = Case(
    "ResNet-50", "resnet50_cifar10", ("data.batch_size=32", "critics.head=pooled"), rounds=7, burst=1
)  # a batch of 128 takes 10 s
OVERHEAD_CASES = (PAPER, SMALL, RESNET)
METHOD_CASES = (
    PAPER,
    Case("quarter width, no BatchNorm in critics", SMALL.recipe, ("critics.batch_norm=false",), rounds=12, burst=5),
    SMALL,  # BatchNorm in the critics: two backward passes through them
    # Critics of full width on a narrow trunk: more memory traffic than the MACs say.
    Case("quarter width, the paper's critics", "vgg_cifar10", ("model.width=0.25",), rounds=10, burst=2),
    RESNET,
)


def overhead_cases(device: torch.device) -> dict[str, Callable[[], list[Row]]]:
    """Our loop against others, by name."""
    return {
        f"{case.network}, {method}": partial(measure_overhead, case, method, device)
        for case in OVERHEAD_CASES
        for method in METHODS
    }


def method_cases(device: torch.device) -> dict[str, Callable[[], list[Row]]]:
    """Method against method, by name."""
    return {case.network: partial(measure_methods, case, device) for case in METHOD_CASES}


def measure_overhead(case: Case, method: str, device: torch.device, workers: int = 2) -> list[Row]:
    """One row: our images/s over those of the other loops, and the share of the arithmetic limit."""
    recipe = networks.load(case.recipe, [*case.overrides, *METHODS[method]])
    split = networks.noise(recipe)
    product, size = best_product(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    timed: dict[str, Timed] = {
        "ours": steps.Ours(recipe, split, device),
        "bare": steps.bare_loop(recipe, split, device),
        "loader": steps.plain_loop(recipe, split, device, workers),
        "matrices": product,
    }
    seconds = in_turn(timed, case.rounds, case.burst)
    over_bare, over_loader = (ratio(seconds[name], seconds["ours"]) for name in ("bare", "loader"))
    limit_s = least_seconds(networks.count_macs(recipe)[1], recipe.data.batch_size, min(seconds["matrices"]), size)
    return [
        {
            **_about(case, recipe.data.batch_size),
            "method": method,
            "over_bare": asdict(over_bare),
            "over_bare_limit": BARE_LIMIT,
            "over_loader": asdict(over_loader),
            "over_loader_limit": LOADER_LIMIT,
            "share_of_arithmetic": asdict(spread([limit_s / step for step in seconds["ours"]])),
            "met": over_bare.median >= BARE_LIMIT and over_loader.median > LOADER_LIMIT,
        }
    ]


def measure_methods(case: Case, device: torch.device) -> list[Row]:
    """One row: a step of local_critic over one of backprop, and what the MACs explain."""
    loaded = {name: networks.load(case.recipe, [*case.overrides, *how]) for name, how in METHODS.items()}
    recipe = loaded["local_critic"]
    split = networks.noise(recipe)
    timed: dict[str, Timed] = {name: steps.Ours(one, split, device) for name, one in loaded.items()}
    seconds = in_turn(timed, case.rounds, case.burst)
    measured = ratio(seconds["local_critic"], seconds["backprop"])
    groups, cascade = networks.count_macs(recipe)
    limit = METHOD_OVERHEAD * cascade / groups
    return [
        {
            **_about(case, recipe.data.batch_size),
            "lc_over_bp": asdict(measured),
            "mac_ratio": cascade / groups,
            "limit": limit,
            "met": measured.median <= limit,
        }
    ]


def best_product(device: torch.device, dtype: torch.dtype) -> tuple[Timed, int]:
    """The product of two square matrices that stands for the device's arithmetic, and their size."""
    size = MATRIX_SIZES[device.type]
    return steps.matrix_product(device, dtype, size), size


def least_seconds(macs: int, batch_size: int, product_s: float, matrix_size: int) -> float:
    """What a step would take at the rate of a product of two square matrices that took `product_s`."""
    return OPERATIONS_PER_MAC * macs * batch_size / (2 * matrix_size**3 / product_s)


def step_costs(name: str, methods: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median milliseconds of a step on the CPU with each of several sets of overrides, taken in turn."""
    loaded = {key: networks.load(name, overrides) for key, overrides in methods.items()}
    split = networks.noise(recipes.load(name))
    timed: dict[str, Timed] = {key: steps.Ours(one, split, torch.device("cpu")) for key, one in loaded.items()}
    return {key: 1000 * spread(seconds).median for key, seconds in in_turn(timed, repeats).items()}


def _about(case: Case, batch_size: int) -> Row:
    return {
        "network": case.network,
        "recipe": case.recipe,
        "overrides": list(case.overrides),
        "batch_size": batch_size,
    }
