"""Table 5: exact, of the paper's network."""

from torch import nn

from lcprune.paper.cost import costs, paper_flop
from lcprune.paper.paper_runs import recipe_of
from lcprune.paper.printed import costs as printed
from lcprune.paper.scales import SCALES


def test_the_papers_flop_counts_weights_and_not_their_work() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(5, 2))
    assert paper_flop(module) == 2 * (3 * 4 * 9 + 5 * 2)


def test_table_5() -> None:
    found, paper_flops = costs(recipe_of("lc_3", "cifar10", 0, SCALES["paper"]), 10, (3, 32, 32))
    params, flops = zip(*printed().values(), strict=True)
    assert tuple(round(cost.params / 1e6, 2) for cost in found.exits) == params == (1.42, 0.88, 2.26, 7.87)
    assert tuple(round(count / 1e6, 2) for count in paper_flops) == flops == (2.85, 1.76, 4.52, 15.72)
    assert tuple(round(cost.macs / 1e6, 1) for cost in found.exits) == (116.3, 172.0, 247.2, 322.7)
    assert found.cascade.main_macs == found.exits[-1].macs


def test_a_sub_model_trained_alone_costs_what_it_does_in_the_network() -> None:
    whole, flops = costs(recipe_of("lc_3", "cifar10", 0, SCALES["tiny"]), 10, (3, 8, 8))
    for k in range(1, 4):
        alone, flop = costs(recipe_of(f"bp_sub_{k}", "cifar10", 0, SCALES["tiny"]), 10, (3, 8, 8))
        (main,), inside = alone.exits, whole.exits[k - 1]
        assert (main.params, main.macs, *flop) == (inside.params, inside.macs, flops[k - 1])
