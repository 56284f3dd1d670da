"""What is chosen for which images: surveys by hand, and the recipe that is read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lcprune import recipe as recipes
from lcprune.data.survey import Copies, Sample, Survey
from lcprune.errors import DataError
from lcprune.pipeline.suggest_recipe import Wanted, recipe_name, suggest_recipe, trunk_of
from lcprune.recipe import Recipe

EQUAL = {"": {"cat": 500, "dog": 500}}


def found(
    counts: Mapping[str, Mapping[str, int]] = EQUAL,
    px: float = 32,
    long: float = 1.0,
    kinds: Mapping[str, int] | None = None,
    damaged: int = 0,
) -> Survey:
    total = sum(sum(of_classes.values()) for of_classes in counts.values())
    sample = Sample(
        sampled=total,
        decoded=total,
        widths=(px * long,) * 5,
        heights=(px,) * 5,
        shorter=(px,) * 5,
        elongation=(long,) * 5,
        kinds=kinds or {"RGB": total},
        rotated=0,
        damaged={str(number): "it is empty" for number in range(damaged)},
    )
    classes = tuple(next(iter(counts.values())))
    return Survey(Path("/home/me/my photos"), classes, counts, {}, (), (), sample, Copies((), 0, 0))


def chosen(survey: Survey, **wanted: Any) -> Recipe:
    return recipes.parse(suggest_recipe(survey, "my photos", Wanted(**wanted)))


def test_small_images_get_the_papers_network_at_their_size() -> None:
    recipe = chosen(found())
    assert (recipe.model.trunk, recipe.model.width, recipe.data.image_size) == ("vgg", 0.25, 32)
    assert (recipe.name, recipe.data.root, recipe.data.source) == ("my-photos", Path("my photos"), "imagefolder")
    assert (recipe.critics.head, recipe.data.pad, recipe.data.augment) == ("pooled", 4, "crop_flip")


@pytest.mark.parametrize(
    ("px", "trunk", "size"),
    [
        (40, "vgg", 48),
        (64, "vgg", 64),
        (65, "torchvision/mobilenet_v3_small", 96),
        (3000, "torchvision/mobilenet_v3_small", 128),
    ],
)
def test_network_and_size_follow_the_images(px: int, trunk: str, size: int) -> None:
    recipe = chosen(found(px=px))
    assert (recipe.model.trunk, recipe.data.image_size) == (trunk, size)


@pytest.mark.parametrize(
    ("px", "model", "size"),
    [
        (32, "mobilenet_v3_small", 64),
        (90, "mobilenet_v3_small", 96),
        (32, "resnet50", 32),  # ours, for small images
        (32, "some.module:build", 32),
    ],
)
def test_images_are_enlarged_for_a_network_that_would_leave_one_pixel(px: int, model: str, size: int) -> None:
    text = suggest_recipe(found(px=px), "photos", Wanted(model=model))
    assert recipes.parse(text).data.image_size == size
    assert ("They are enlarged" in " ".join(text.replace("#", " ").split())) == (size > px and size == 64)


def test_weights_of_ones_own_are_changed_by_more_and_small_images_are_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    small, large = (chosen(found(px=px), model="resnet18", weights=str(tmp_path / "w.safetensors")) for px in (64, 96))
    assert (small.data.augment, small.data.pad) == ("crop_flip", 8)
    assert small.train.lr == pytest.approx(0.05 * small.data.batch_size / 128, rel=0.05)  # two digits
    assert (large.data.augment, large.train.lr) == ("resized_crop", small.train.lr)


def test_the_learning_rate_follows_the_batch() -> None:
    many, few = ({"": {"a": half, "b": half}} for half in (20_000, 15))
    for options, highest in (({"model": "resnet18"}, 0.1), ({"model": "resnet18", "weights": "default"}, 0.02)):
        assert chosen(found(many), **options).train.lr == pytest.approx(highest * 64 / 128)
        assert chosen(found(few), **options).train.lr == pytest.approx(highest * 8 / 128, rel=0.05)  # two digits
    assert chosen(found(many)).train.lr == 0.2


@pytest.mark.parametrize(("training", "epochs"), [(150, 20), (40_000, 3), (10_000, 14)])
def test_weights_that_have_learned_are_trained_for_fewer_epochs(training: int, epochs: int) -> None:
    recipe = chosen(found({"": {"a": training // 2, "b": training // 2}}), model="resnet18", weights="default")
    assert recipe.train.epochs == epochs


def test_what_was_asked_for_is_kept() -> None:
    recipe = chosen(found(px=400), model="vgg", image_size=48)
    assert (recipe.model.trunk, recipe.data.image_size) == ("vgg", 48)
    recipe = chosen(found(px=32), image_size=160)
    assert (recipe.model.trunk, recipe.data.image_size) == ("torchvision/mobilenet_v3_small", 160)
    recipe = chosen(found(px=32), image_size=64, smaller_sizes=(32, 48))
    assert (recipe.model.trunk, recipe.data.image_size) == ("torchvision/mobilenet_v3_small", (32, 48, 64))
    assert recipe.train.method == "deep_supervision"
    recipe = chosen(found(px=300), model="resnet18", weights="default")
    assert (recipe.model.trunk, recipe.model.weights, recipe.data.image_size) == (
        "torchvision/resnet18",
        "default",
        (112, 168, 224),
    )
    assert (recipe.data.normalize, recipe.data.augment) == ("imagenet", "resized_crop")
    for px, sizes in ((150, (64, 96, 128)), (100, (72, 96)), (70, 64)):  # the largest is whole at the stride of 32
        assert chosen(found(px=px), model="resnet18", weights="default").data.image_size == sizes
    assert chosen(found(px=300), model="resnet18", weights="default", image_size=128).data.image_size == 128
    assert recipe.train.lr < chosen(found(px=300), model="resnet18").train.lr


@pytest.mark.parametrize(
    ("given", "trunk"),
    [
        ("resnet50", "resnet50"),
        ("mobilenet_v3_small", "torchvision/mobilenet_v3_small"),
        ("mypackage.mymodel:build", "mypackage.mymodel:build"),
    ],
)
def test_names_of_models(given: str, trunk: str) -> None:
    assert trunk_of(given) == trunk
    assert chosen(found(), model=given).model.trunk == trunk


@pytest.mark.parametrize(("size", "pool_to"), [(32, (4, 4, 4)), (100, (4, 5, 5)), (28, (4, 7, 7)), (30, (6, 5, 7))])
def test_critics_reduce_to_what_divides(size: int, pool_to: tuple[int, ...]) -> None:
    assert chosen(found(), model="vgg", image_size=size).critics.pool_sizes == pool_to


@pytest.mark.parametrize(
    ("counts", "val", "test"),
    [
        (EQUAL, 150, 150),
        ({"train": {"a": 500, "b": 500}, "test": {"a": 9}}, 150, 0),
        ({"train": {"a": 500, "b": 500}, "val": {"a": 9}, "test": {"b": 9}}, 0, 0),
        ({"": {"a": 100_000, "b": 100_000}}, 5000, 5000),
        ({"": {"a": 3, "b": 3}}, 2, 2),
        ({"": {"a": 2, "b": 2}}, 2, 0),  # one of each class is left to learn from
        ({"": {"a": 97, "b": 3}}, 15, 15),  # testing gets none of b, validation one
        ({"": {"a": 190, "b": 2}}, 58, 0),  # 30 % is what gives validation one of b
    ],
)
def test_enough_is_held_out_and_every_class_stays(counts: Mapping[str, Any], val: int, test: int) -> None:
    recipe = chosen(found(counts))
    assert (recipe.data.val_size, recipe.data.test_size) == (val, test)


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(DataError, match="the class b has 1 of 501 images: too few"):
        chosen(found({"": {"a": 500, "b": 1}}))


def test_no_image_that_can_be_read() -> None:
    survey = found()
    empty = Survey(**{**vars(survey), "sample": Sample(9, 0, (), (), (), (), {}, 0, {})})
    with pytest.raises(DataError, match="none of the 9 images looked at"):
        chosen(empty)


@pytest.mark.parametrize(
    ("training", "batch", "epochs"),
    [(2, 2, 60), (2_000, 64, 60), (10_000, 128, 51), (1_000_000, 128, 10)],
)
def test_batch_and_epochs_follow_the_number_of_images(training: int, batch: int, epochs: int) -> None:
    counts = {"train": {"a": training // 2, "b": training // 2}, "val": {"a": 1}, "test": {"a": 1}}
    recipe = chosen(found(counts))
    assert (recipe.data.batch_size, recipe.train.epochs) == (batch, epochs)
    steps = epochs * (training // recipe.data.batch_size)
    assert recipe.train.evaluate_every == recipe.train.checkpoint_every == steps // 10


def test_faults_are_made_up_for_and_explained() -> None:
    recipe = chosen(found())
    assert (recipe.data.on_bad_image, recipe.data.balance, recipe.data.channels) == ("stop", "none", None)
    survey = found({"": {"cat": 900, "dog": 300}}, kinds={"grey": 1000, "16-bit grey": 200}, damaged=2)
    recipe = chosen(survey)
    assert (recipe.data.on_bad_image, recipe.data.balance, recipe.data.channels) == ("skip", "sampling", 1)
    text = suggest_recipe(survey, "x", Wanted())
    assert "# Damaged files were found (2)" in text
    assert "# The class cat has 3.0 times as many images as dog" in text
    assert chosen(found({"": {"cat": 899, "dog": 300}})).data.balance == "none"
    assert chosen(found(kinds={"grey": 999, "RGB": 1})).data.channels is None
    assert chosen(found(px=300, kinds={"grey": 9})).data.channels is None  # torchvision's networks are for RGB


def test_the_middle_is_cut_out_of_long_photographs() -> None:
    assert chosen(found(px=300, long=1.5)).data.crop == "center"
    assert chosen(found(px=300, long=1.1)).data.crop == "none"
    assert chosen(found(px=32, long=1.5)).data.crop == "none"


def test_many_large_images_get_workers() -> None:
    assert chosen(found({"": {"a": 20_000, "b": 20_000}}, px=300)).data.workers == 0  # 40,000 x 3 x 128 x 128: 1.97 GB
    assert chosen(found({"": {"a": 21_000, "b": 21_000}}, px=300)).data.workers == 2


@pytest.mark.parametrize(
    ("model", "average"), [("mobilenet_v3_small", 0.1), ("mine:build", 0.1), ("vgg", 0.0), ("resnet50", 0.0)]
)
def test_statistics_of_trunks_from_elsewhere_are_measured_anew(model: str, average: float) -> None:
    assert chosen(found({"": {"a": 900, "b": 900}}), model=model).train.average == average


def test_every_key_but_the_plain_ones_says_why() -> None:
    survey = found({"": {"cat": 900, "dog": 300}}, px=300, long=1.5, kinds={"grey": 9}, damaged=1)
    lines = suggest_recipe(survey, "x", Wanted(weights="default")).splitlines()
    bare = {
        line.split(":")[0].strip()
        for before, line in zip(lines, lines[1:], strict=False)
        if line.startswith("  ") and "#" not in line and "#" not in before
    }
    assert bare <= {
        "source",
        "root",
        "pad",
        "batch_norm",
        "lr",
        "schedule",
        "nesterov",
        "init",
        "channels_last",
        "every",
    }


@pytest.mark.parametrize(
    ("folder", "name"),
    [("photos", "photos"), ("my photos", "my-photos"), ("Größe!", "Gr-e"), ("...", "photos"), ("a" * 99, "a" * 64)],
)
def test_names_of_recipes(folder: str, name: str) -> None:
    assert recipe_name(folder) == name
