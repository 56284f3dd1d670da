"""A dry run needs no images and writes nothing."""

from pathlib import Path

import pytest

from lcprune import recipe as recipes
from lcprune.errors import DataError, ModelError
from lcprune.pipeline.train import dry_run


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
