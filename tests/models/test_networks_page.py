"""docs/networks.md: its table of sizes is what the code builds."""

import re
from pathlib import Path

import pytest

from lcprune import recipe
from lcprune.analysis.counting import count_cost
from lcprune.models import build

PAGE = Path(__file__).parents[2] / "docs/networks.md"
ROW = re.compile(r"^\| (.*) \| (.*) \| (sub-model \d+|main) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) % \|$", re.MULTILINE)


def networks() -> dict[tuple[str, str], list[tuple[str, int, int, str]]]:
    """Name, parameters, MACs and share of main of each exit, by the network's cell and the images'."""
    found: dict[tuple[str, str], list[tuple[str, int, int, str]]] = {}
    text = PAGE.read_text(encoding="utf-8").replace("| | |", "|  |  |")
    for network, images, exit_name, params, macs, ratio in ROW.findall(text):
        key = (network, images) if network else list(found)[-1]
        found.setdefault(key, []).append((exit_name, int(params.replace(",", "")), int(macs.replace(",", "")), ratio))
    return found


def test_the_table_has_every_trunk() -> None:
    assert {re.findall(r"`(\w+)`", network)[0] for network, _ in networks()} == {
        *("vgg_cifar10", "vgg_cifar10_small", "msdnet_cifar10_small"),
        *("resnet50_cifar10", "resnet50_cifar100", "resnet101_cifar10"),
    }


@pytest.mark.parametrize(("network", "images"), networks())
def test_a_network_has_the_sizes_that_the_page_says(network: str, images: str) -> None:
    name, *settings = re.findall(r"`([^`]+)`", network)
    size, classes = (int(number) for number in re.fullmatch(r"(\d+)x\1, (\d+) classes", images).groups())
    loaded = recipe.load(name, [setting.replace(": ", "=") for setting in settings])
    image_shape = (3, size, size)
    cost = count_cost(build(loaded, classes, image_shape, (0.5,) * 3, (0.25,) * 3), image_shape)
    main = cost.exits[-1].macs
    expected = [(exit.name, exit.params, exit.macs, f"{100 * exit.macs / main:.1f}") for exit in cost.exits]
    assert networks()[network, images] == expected
