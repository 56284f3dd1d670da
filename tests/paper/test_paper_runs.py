"""The paper's runs as recipes."""

from pathlib import Path

import pytest

from lcprune import recipe as recipes
from lcprune.paper import paper_runs
from lcprune.paper.scales import SCALES
from lcprune.paper.targets import TARGETS
from lcprune.recipe import Recipe

PAPER, SMALL, TINY = (SCALES[name] for name in ("paper", "small", "tiny"))


def recipe(run: str, dataset: str = "cifar10") -> Recipe:
    return paper_runs.paper_run(run, dataset, 3, PAPER).recipe


@pytest.mark.parametrize(
    ("run", "shipped", "dataset"),
    [
        ("lc_1", "vgg_cifar10_lc1", "cifar10"),
        ("lc_3", "vgg_cifar10", "cifar10"),
        ("lc_5", "vgg_cifar10_lc5", "cifar10"),
        ("lc_3", "vgg_cifar100", "cifar100"),
        ("lc_5", "vgg_cifar100_lc5", "cifar100"),
        ("resnet50_lc_3", "resnet50_cifar10", "cifar10"),
        ("resnet101_lc_3", "resnet101_cifar10", "cifar10"),
        ("resnet50_lc_3", "resnet50_imagenet", "imagenet"),
    ],
)
def test_at_the_papers_scale_a_run_is_the_shipped_recipe_with_all_images(run: str, shipped: str, dataset: str) -> None:
    theirs = recipes.load(shipped, ["data.val_size=0", "train.seed=3", f"name={run}"])
    assert paper_runs.trains_the_same(recipe(run, dataset), theirs)
    assert recipe(run, dataset).train.iterations == (450_000 if dataset == "imagenet" else 80_000)


def test_what_each_run_has_otherwise() -> None:
    assert (recipe("bp").train.method, recipe("dni_3").train.method) == ("backprop", "dni")
    assert (recipe("critic_3").train.method, recipe("sob_critic_3").train.method) == ("critic", "sobolev_critic")
    assert recipe("sob_lc_5").critics.after == recipe("lc_5").critics.after == (2, 4, 6, 8, 10)
    assert recipe("sob_lc_1").train.method == "sobolev_local_critic"
    assert recipe("lc_3_depth_5-4-3").critics.depth == (5, 4, 3)
    assert recipe("lc_3_every_4").critics.update_every == 4
    assert (recipe("bp_sub_2").train.method, recipe("bp_sub_2").model.submodel) == ("backprop", 2)
    assert recipe("resnet101_bp").model.trunk == "resnet101"
    deep = recipe("deep_supervision_3")
    assert (deep.train.method, deep.critics.weight_schedule) == ("deep_supervision", "decay")
    assert recipe("lc_3").logging.sample_losses == 400


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_every_run_of_every_table_is_a_recipe_and_no_two_are_the_same(scale: paper_runs.Scale) -> None:
    runs = {run for target in TARGETS.values() for run in target.runs}
    made = [paper_runs.paper_run(run, "cifar10", 0, scale) for run in sorted(runs)]
    assert set(paper_runs.VARIANTS) == runs
    assert len({paper_run.folder(Path()) for paper_run in made}) == len(made)
    plain = [paper_run.recipe.model_copy(update={"name": "x"}) for paper_run in made]
    for index, one in enumerate(plain):
        assert not any(paper_runs.trains_the_same(one, other) for other in plain[:index])
    assert all(paper_run.recipe.data.val_size == 0 for paper_run in made)


def test_what_changes_no_result_is_not_compared() -> None:
    ours = paper_runs.recipe_of("lc_3", "cifar10", 0, SMALL)
    for harmless in ("train.evaluate_every=7", "logging.every=3", "train.channels_last=false", "train.memory=lean"):
        assert paper_runs.trains_the_same(ours, recipes.parse(recipes.dump(ours), overrides=[harmless]))
    for other in ("train.seed=1", "train.iterations=2001", "critics.channels=128", "train.lr=0.2", "name=x"):
        assert not paper_runs.trains_the_same(ours, recipes.parse(recipes.dump(ours), overrides=[other]))


def test_differences_from_the_paper() -> None:
    assert paper_runs.differences("lc_3", "cifar10", PAPER) == {}
    assert paper_runs.differences("lc_3", "cifar100", SMALL) == {
        "model.width": (1.0, 0.25),
        "critics.channels": (128, 32),
        "train.iterations": (80_000, 2000),
    }
    tiny = paper_runs.differences("bp", "cifar10", TINY)
    assert tiny["data.source"] == ("cifar10", "digits")
    assert tiny["data.batch_size"] == (128, 32)
    stand_in = paper_runs.differences("resnet50_bp", "imagenet", SMALL)
    assert (stand_in["data.source"], stand_in["model.stem"]) == (("imagenet", "cifar10"), ("imagenet", "auto"))
    assert (stand_in["train.iterations"], stand_in["model.width"]) == (("not said", 2000), (1.0, 0.25))


def test_of_imagenet_what_the_paper_leaves_open_is_a_difference_at_every_scale() -> None:
    found = paper_runs.differences("resnet50_lc_3", "imagenet", PAPER)
    assert {theirs for theirs, _ in found.values()} == {"not said"}
    assert (found["train.iterations"][1], found["critics.head"][1]) == (450_000, "pooled")
    assert not {"data.source", "model.stem", "model.trunk", "critics.after", "data.workers", "train.lr"} & set(found)
