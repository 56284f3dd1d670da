"""A dry run needs no images and writes nothing."""

from pathlib import Path

import pytest

from lcprune import recipe as recipes
from lcprune.errors import DataError, ModelError
from lcprune.pipeline.train import dry_run


def test_costs_of_the_untrained_network_of_the_paper(here: Path) -> None:
    result = dry_run(recipes.load("vgg_cifar10"), here / "no data")
    assert [candidate["macs"] for candidate in result["candidates"]] == [116326400, 171966464, 247218176, 322715648]
    assert [round(c["params"] / 1e6, 2) for c in result["candidates"]] == [1.42, 0.88, 2.26, 7.87]  # Table 5
    assert [candidate["name"] for candidate in result["candidates"]][-1] == "main"
    assert result["candidates"][0]["macs_ratio"] == 116326400 / 322715648
    assert result["cascade_macs"] == 456556544
    assert recipes.Recipe.model_validate(result["recipe"]) == recipes.load("vgg_cifar10")
    assert list(here.iterdir()) == []


def test_backprop_has_no_critics(here: Path) -> None:
    result = dry_run(recipes.load("digits", ["train.method=backprop"]), here)
    assert [candidate["name"] for candidate in result["candidates"]] == ["main"]
    assert result["cascade_macs"] == result["candidates"][0]["macs"]


def test_what_cannot_be_built_is_refused(here: Path) -> None:
    with pytest.raises(ModelError):
        dry_run(recipes.load("digits", ["critics.pool_to=3"]), here)
    folder = recipes.parse("name: a\ndata: {source: imagefolder, image_size: 8}\ntrain: {iterations: 1}\n")
    with pytest.raises(DataError, match="there is no folder"):
        dry_run(folder, here)
