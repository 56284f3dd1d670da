"""How fast a training step is: ours against plain loops, against the machine's arithmetic, and method against method.

The part ``speed`` of `benchmarks.bench` compares our loop with a bare one on tensors, a DataLoader loop and the
arithmetic limit; ``methods`` compares a step of `local_critic` with one of `backprop`. Images are noise, the size and
number of CIFAR's.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import networks, steps
from benchmarks.provenance import Row
from benchmarks.timing import Timed, in_turn, ratio, repeated, spread
from lcprune.recipe import Recipe
from lcprune.training.parallel import Coordinator

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

    def load(self, how: Sequence[str] = ()) -> Recipe:
        """The recipe with overrides besides its own."""
        return networks.load(self.recipe, [*self.overrides, *how])

    def about(self, recipe: Recipe, name: str = "network") -> Row:
        """What its rows begin with; its own name stands under `name`."""
        about = {name: self.network, "recipe": self.recipe, "overrides": list(self.overrides)}
        return {**about, "batch_size": recipe.data.batch_size}


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


def measure_overhead(case: Case, method: str, device: torch.device, workers: int = 2) -> list[Row]:
    """One row: our images/s over those of the other loops, and the share of the arithmetic limit."""
    recipe = case.load(METHODS[method])
    split = networks.noise(recipe)
    product, size = best_product(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    timed: dict[str, Timed] = {
        "ours": steps.Ours(recipe, split, Coordinator(device)),
        "bare": steps.bare_loop(recipe, split, device),
        "loader": steps.plain_loop(recipe, split, device, workers),
        "matrices": product,
    }
    seconds = in_turn(timed, case.rounds, case.burst)
    over_bare, over_loader = (ratio(seconds[name], seconds["ours"]) for name in ("bare", "loader"))
    limit_s = least_seconds(networks.count_macs(recipe)[1], recipe.data.batch_size, min(seconds["matrices"]), size)
    return [
        {
            **case.about(recipe),
            "method": method,
            "over_bare": over_bare,
            "over_bare_limit": BARE_LIMIT,
            "over_loader": over_loader,
            "over_loader_limit": LOADER_LIMIT,
            "share_of_arithmetic": spread([limit_s / step for step in seconds["ours"]]),
            "met": over_bare["median"] >= BARE_LIMIT and over_loader["median"] > LOADER_LIMIT,
        }
    ]


def measure_methods(case: Case, device: torch.device) -> list[Row]:
    """One row: a step of local_critic over one of backprop, and what the MACs explain."""
    loaded = {name: case.load(how) for name, how in METHODS.items()}
    recipe = loaded["local_critic"]
    seconds = ours_in_turn(loaded, device, case.rounds, case.burst)
    measured = ratio(seconds["local_critic"], seconds["backprop"])
    groups, cascade = networks.count_macs(recipe)
    limit = METHOD_OVERHEAD * cascade / groups
    return [
        {
            **case.about(recipe),
            "lc_over_bp": measured,
            "mac_ratio": cascade / groups,
            "limit": limit,
            "met": measured["median"] <= limit,
        }
    ]


def best_product(device: torch.device, dtype: torch.dtype) -> tuple[Timed, int]:
    """The product of two square matrices, the arithmetic that the device can do at best, and their size."""
    size = MATRIX_SIZES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    multiply = partial(torch.mm, left, right, out=torch.empty_like(left))
    return repeated(multiply, last=partial(steps.synchronize, device)), size


def least_seconds(macs: int, batch_size: int, product_s: float, matrix_size: int) -> float:
    """What a step would take at the rate of a product of two square matrices that took `product_s`."""
    return OPERATIONS_PER_MAC * macs * batch_size / (2 * matrix_size**3 / product_s)


def step_costs(name: str, methods: dict[str, list[str]], repeats: int) -> dict[str, float]:
    """Median milliseconds of a step on the CPU with each of several sets of overrides, taken in turn."""
    loaded = {key: networks.load(name, overrides) for key, overrides in methods.items()}
    found = ours_in_turn(loaded, torch.device("cpu"), repeats)
    return {key: 1000 * statistics.median(seconds) for key, seconds in found.items()}


def ours_in_turn(
    recipes: Mapping[str, Recipe], device: torch.device, rounds: int, burst: int = 1, samples: int = networks.SAMPLES
) -> dict[str, list[float]]:
    """Seconds of a step of our loop with each of several recipes of the same data, taken in turn."""
    split = networks.noise(next(iter(recipes.values())), samples)
    one = Coordinator(device)
    timed: dict[str, Timed] = {name: steps.Ours(recipe, split, one) for name, recipe in recipes.items()}
    return in_turn(timed, rounds, burst)
