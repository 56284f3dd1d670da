"""The costs of Table 5."""

from torch import nn

from lcprune.paper.cost import costs, paper_flop
from lcprune.paper.paper_runs import recipe_of
from lcprune.paper.scales import SCALES


def test_the_papers_flop_counts_weights_and_not_their_work() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(5, 2))
    assert paper_flop(module) == 2 * (3 * 4 * 9 + 5 * 2)


def test_a_sub_model_trained_alone_costs_what_it_does_in_the_network() -> None:
    whole, flops = costs(recipe_of("lc_3", "cifar10", 0, SCALES["tiny"]), 10, (3, 8, 8))
    for k in range(1, 4):
        alone, flop = costs(recipe_of(f"bp_sub_{k}", "cifar10", 0, SCALES["tiny"]), 10, (3, 8, 8))
        (main,), inside = alone.exits, whole.exits[k - 1]
        assert (main.params, main.macs, *flop) == (inside.params, inside.macs, flops[k - 1])
