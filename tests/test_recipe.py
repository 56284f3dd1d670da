"""Recipes: what is refused, in which words, and what is understood."""

from pathlib import Path

import pydantic
import pytest

from lcprune import models, recipe
from lcprune.errors import RecipeError
from lcprune.recipe.schema import model
from lcprune_runtime import metadata

RECIPES = Path(__file__).parents[1] / "recipes"
IMAGES = {
    "digits": (10, (1, 8, 8)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "imagenet": (1000, (3, 224, 224)),
}
PAPER = {
    "vgg_cifar10": ("cifar10", (2, 5, 8)),
    "vgg_cifar10_lc1": ("cifar10", (5,)),
    "vgg_cifar10_lc5": ("cifar10", (2, 4, 6, 8, 10)),
    "vgg_cifar100": ("cifar100", (2, 5, 8)),
    "vgg_cifar100_lc1": ("cifar100", (5,)),
    "vgg_cifar100_lc5": ("cifar100", (2, 4, 6, 8, 10)),
    "resnet50_cifar10": ("cifar10", (3, 7, 13)),
    "resnet101_cifar10": ("cifar10", (3, 7, 30)),
    "resnet50_cifar100": ("cifar100", (3, 7, 13)),
    "resnet101_cifar100": ("cifar100", (3, 7, 30)),
}
BASE = """\
name: mine
data:
  source: digits
train:
  iterations: 10
"""
JARGON = ("dictionary", "instance of", "tuple", "pydantic", "constrained", "Value error", "<class", "Config")


def refused(text: str, overrides: tuple[str, ...] = ()) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, "my.yaml", overrides)
    assert caught.value.problem.count("\n") == 0 or "mistakes:\n" in caught.value.problem
    assert "\n" not in caught.value.fix
    assert not [word for word in JARGON if word in str(caught.value)]
    return caught.value


# What ships


@pytest.mark.parametrize("path", sorted(RECIPES.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_folder_ships_loads_and_builds(path: Path) -> None:
    loaded = recipe.load(path)
    assert path.read_text(encoding="utf-8") == recipe.shipped()[path.stem]
    assert loaded == recipe.load(path.stem)
    assert loaded.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")  # says what it is
    assert loaded.train.iterations is not None  # shipped recipes count in iterations
    assert loaded.data.val_size > 0  # so that select works on it
    classes, image_shape = IMAGES[loaded.data.source]
    narrow = loaded if loaded.model.is_external else recipe.load(path, ["model.width=0.125"])
    network = models.build(narrow, classes, image_shape, (0.5,) * image_shape[0], (0.25,) * image_shape[0])
    assert len(network.critics) == len(loaded.critics.after)
    assert recipe.parse(recipe.dump(loaded)) == loaded


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipes_hold_the_protocol_of_the_paper(name: str) -> None:
    loaded = recipe.load(name)
    source, after = PAPER[name]
    assert loaded.data == recipe.DataConfig(source=source, val_size=5000, augment="crop_flip", pad=4, batch_size=128)
    critics = loaded.critics
    assert (loaded.model.width, critics.after, critics.depth, critics.channels) == (1.0, after, 1, 128)
    assert (critics.head, critics.loss, critics.optimizer, critics.lr) == ("paper", "cascade", "adam", 1e-4)
    assert (critics.schedule, critics.update_every, critics.batch_norm) == ("constant", 1, False)
    train = loaded.train
    assert (train.method, train.iterations, train.lr, train.lr_drops) == ("local_critic", 80_000, 0.1, (0.5, 0.75))
    assert (train.optimizer, train.momentum, train.nesterov, train.weight_decay) == ("sgd", 0.9, False, 5e-4)
    assert (train.schedule, train.init, train.label_smoothing) == ("step", "xavier", 0.0)


# What is understood


@pytest.mark.parametrize(
    ("trunk", "after", "downsample"),
    [
        ("vgg", (2, 5, 8), "max_pool"),
        ("resnet50", (3, 7, 13), "stride"),
        ("resnet101", (3, 7, 30), "stride"),
        ("msdnet", (4, 6, 8, 10, 12, 14), "stride"),
    ],
)
@pytest.mark.parametrize("critics", ["", "critics: {depth: EACH}\n", "critics: {after: null}\n"])
def test_the_trunk_decides_what_is_left_out_and_the_dump_says_it(
    trunk: str, after: tuple[int, ...], downsample: str, critics: str
) -> None:
    critics = critics.replace("EACH", str([2] * len(after)))
    loaded = recipe.parse(BASE + f"model: {{trunk: {trunk}}}\n" + critics)
    assert (loaded.critics.after, loaded.model.downsample) == (after, downsample)
    assert len(loaded.critics.depths) == len(after)
    dumped = recipe.dump(loaded)
    unwrapped = " ".join(dumped.split())
    assert f"after: [{', '.join(map(str, after))}]" in unwrapped
    assert f"downsample: {downsample}" in unwrapped
    assert recipe.parse(dumped) == loaded
    assert recipe.parse(BASE + critics, overrides=[f"model.trunk={trunk}"]) == loaded


@pytest.mark.parametrize(("layers", "after"), [("8", (4, 6)), ("5", (4,)), ("null", (4, 6, 8, 10, 12, 14))])
def test_places_that_are_left_out_lie_inside_the_trunk(layers: str, after: tuple[int, ...]) -> None:
    loaded = recipe.parse(BASE + f"model: {{trunk: msdnet, layers: {layers}}}\n")
    assert loaded.critics.after == after
    assert recipe.parse(recipe.dump(loaded)) == loaded


def test_places_that_are_given_stay() -> None:
    for trunk in ("vgg", "resnet50"):
        loaded = recipe.parse(BASE + f"model: {{trunk: {trunk}}}\ncritics: {{after: [1, 4], depth: [3, 1]}}\n")
        assert (loaded.critics.after, loaded.critics.depths) == ((1, 4), (3, 1))
    assert recipe.parse(BASE + "critics: {after: []}\n").critics.depths == ()


def test_the_schema_says_where_critics_sit_if_nothing_is_said() -> None:
    after = recipe.json_schema()["$defs"]["CriticsConfig"]["properties"]["after"]
    assert after["default"] is None
    for trunk, places in model.PLACES.items():
        assert f"{list(places)} for\n``{trunk}``" in after["description"].replace(" ``", "\n``")
    assert {kind["type"] for kind in after["anyOf"]} == {"array", "null"}
    trunks = recipe.json_schema()["$defs"]["ModelConfig"]["properties"]["trunk"]["anyOf"]
    assert trunks == [
        {"enum": list(model.PLACES), "type": "string"},
        {"pattern": model.EXTERNAL, "type": "string"},
    ]


def test_depth_channels_pool_to_and_weight_may_name_every_critic() -> None:
    lists = "depth: [3, 2, 0], channels: [8, 16, 32], pool_to: [8, 4, 2], weight: [0.5, 1, 2]"
    loaded = recipe.parse(BASE + f"critics: {{{lists}}}\n")
    critics = loaded.critics
    assert (critics.depths, critics.channel_counts, critics.pool_sizes) == ((3, 2, 0), (8, 16, 32), (8, 4, 2))
    assert critics.weights == (0.5, 1.0, 2.0)
    for_all = recipe.parse(BASE + "critics: {after: [2, 5], depth: 2}\n").critics
    assert (for_all.depths, for_all.pool_sizes) == ((2, 2), (4, 4))
    assert recipe.parse(recipe.dump(loaded)) == loaded


def test_a_recipe_is_frozen() -> None:
    loaded = recipe.parse(BASE)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train.lr = 1.0
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.name = "other"


@pytest.mark.parametrize("name", ["'1e3'", "no", "'123'", "'true'", "'0x10'", "a.b-c_d"])
@pytest.mark.parametrize("lr", ["1e-5", "1e-20", "0.1", "123456789.0"])
def test_dump_and_parse_give_back_any_value(name: str, lr: str) -> None:
    root = "'a folder  with: spaces # and   é, long enough to be wrapped over the eighty columns of a YAML line'"
    text = f"name: {name}\ndata: {{source: digits, root: {root}}}\ntrain: {{epochs: 2.5, lr: {lr}}}\n"
    loaded = recipe.parse(text)
    dumped = recipe.dump(loaded)
    assert recipe.parse(dumped) == loaded
    assert "iterations" not in dumped  # nothing without a value
    assert "batch_size" in dumped  # but every default


# Where it is found


def test_without_a_name_it_is_the_file_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"no recipe was given and there is no \./lcprune\.yaml here") as caught:
        recipe.load()
    assert "digits" in caught.value.fix
    Path("lcprune.yaml").write_text(BASE)
    assert recipe.load().name == "mine"


def test_a_file_goes_before_a_shipped_recipe_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert recipe.load("digits").name == "digits"  # a folder does not hide it
    Path("digits").rmdir()
    Path("digits").write_text(BASE)
    assert recipe.load("digits").name == "mine"


@pytest.mark.parametrize("source", ["vgg_cifa10", "recipes/vgg_cifa10.yaml", Path("vgg_cifa10.yml")])
def test_a_missing_recipe_names_the_nearest_one(source: str | Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(source)
    assert caught.value.problem == f"there is no recipe {source}"
    assert caught.value.fix.startswith("did you mean vgg_cifar10? shipped recipes: digits, ")
    with pytest.raises(RecipeError) as caught:
        recipe.load("zzz")
    assert caught.value.fix == f"shipped recipes: {', '.join(recipe.shipped())}"


def test_a_folder_and_a_file_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(tmp_path)
    assert caught.value.problem == f"{tmp_path} is a folder, not a recipe"
    assert caught.value.fix == "name the .yaml file inside it"
    path = tmp_path / "my.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read") as caught:
        recipe.load(path)
    assert caught.value.fix == "give a text file in UTF-8"


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a comment\n", "- 1\n", "just words\n"])
def test_an_empty_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert caught.value.problem == f"{path} holds no recipe"
    assert "lcprune recipes digits" in caught.value.fix


# What is refused


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        ("  lrr: 1\n", "my.yaml, line 6: unknown key train.lrr", "did you mean train.lr?"),
        ("  batch_size: 1\n", "my.yaml, line 6: unknown key train.batch_size", "did you mean data.batch_size?"),
        ("model: {widht: 1}\n", "my.yaml, line 6: unknown key model.widht", "did you mean model.width?"),
        (
            "zzzz: 1\n",
            "my.yaml, line 6: unknown key zzzz",
            "known keys: name, data, model, critics, train, logging",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert (error.problem, error.fix) == (problem, fix)


def test_a_duplicate_key_is_named_with_its_line() -> None:
    error = refused(BASE + "  lr: 1\n  lr: 2\n")
    assert error.problem.startswith('my.yaml, line 7: found duplicate key "lr"')
    assert error.fix == "keep one of the two"
    assert refused(BASE + "data: {}\n").problem.startswith('my.yaml, line 6: found duplicate key "data"')


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("train: {iterations: 3}\nname: a\n", "my.yaml: data is missing", "add data: ... to it"),
        (
            "name: a\ndata: {root: x}\ntrain: {iterations: 3}\n",
            "my.yaml, line 2: data.source is missing",
            "add source: ... under data:",
        ),
        (
            "name: a\ndata: {source: digits}\ntrain: {lr: 1}\n",
            "my.yaml, line 3: train: the length of the run is missing",
            "write iterations: 4000, or epochs: 12",
        ),
        (
            BASE + "  epochs: 3\n",
            "my.yaml, line 4: train: iterations and epochs are both given",
            "keep the one that you mean",
        ),
    ],
)
def test_what_is_missing_or_too_much_is_named(text: str, problem: str, fix: str) -> None:
    error = refused(text)
    assert (error.problem, error.fix) == (problem, fix)


SCHEMA = "lcprune schema describes "


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        ("  lr: fast\n", "train.lr: Input should be a valid number, unable to parse string as a number", SCHEMA),
        ("  lr: [1]\n", "train.lr: Input should be a valid number (given: [1])", SCHEMA),
        ("  lr: true\n", "train.lr: true is no value for it", SCHEMA),
        ("  seed: 1.5\n", "train.seed: Input should be a valid integer, got a number with a fractional part", SCHEMA),
        ("  compile: maybe\n", "train.compile: Input should be a valid boolean", SCHEMA),
        ("  lr_drops: 0.5\n", "train.lr_drops: Input should be a list (given: 0.5)", "write it in brackets"),
        ("critics:\n", "critics: this is a section, with keys of its own (given: null)", "known keys: after, depth,"),
        ("critics: {after: [true, 5]}\n", "critics.after: [true, 5] is no value for it", SCHEMA),
        ("critics: {depth: [1, x, 1]}\n", "critics.depth: Input should be a valid integer, unable to parse", SCHEMA),
        (
            "critics: {head: papr}\n",
            "critics.head: Input should be 'paper', 'pooled', 'global', 'separable', 'strided' or 'msdnet'",
            "did you mean paper?",
        ),
        ("critics: {kernel: 2}\n", "critics.kernel: Input should be 1 or 3 (given: 2)", SCHEMA),
    ],
)
def test_a_wrong_type_is_refused_with_the_value_given(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert error.problem.startswith(f"my.yaml, line 6: {problem}")
    assert error.fix.startswith(fix)


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        ("  lr: 0\n", "train.lr: Input should be greater than 0 (given: 0)"),
        ("  lr: .inf\n", "train.lr: Input should be a finite number (given: Infinity)"),
        ("  lr: .nan\n", "train.lr: Input should be a finite number (given: NaN)"),
        ("  seed: 2147483648\n", "train.seed: Input should be less than 2147483648 (given: 2147483648)"),
        ("model: {trunk: msdnet, layers: 4}\n", "model.layers: Input should be greater than or equal to 5 (given: 4)"),
        ("critics: {depth: [1, -1, 1]}\n", "critics.depth: Input should be greater than or equal to 0 (given: -1)"),
    ],
)
def test_a_value_out_of_range_is_refused(added: str, problem: str) -> None:
    assert refused(BASE + added).problem == f"my.yaml, line 6: {problem}"


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        ("  lr_drops: [0.5, 1.5]\n", "train.lr_drops: [1.5] are no fractions of the run", "write 0.5 for half of it"),
        ("  lr_drops: [0.7, 0.5]\n", "train.lr_drops: [0.7, 0.5] is not in ascending order", SCHEMA + "train.lr_drops"),
        (
            "critics: {after: [2, 2]}\n",
            "critics.after: [2, 2] is not in ascending order",
            "write each place once, shallow first",
        ),
        (
            "critics: {depth: [1, 1]}\n",
            "critics: depth names 2 critics but after has 3",
            "give one for each",
        ),
        (
            "critics: {after: [2], pool_to: [4, 4]}\n",
            "critics: pool_to names 2 critics but after has 1",
            "give one for each",
        ),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert (error.problem, error.fix) == (f"my.yaml, line 6: {problem}", fix)


FILES = BASE.replace("source: digits", "source: imagefolder\n  image_size: 64")


@pytest.mark.parametrize(
    ("text", "override", "problem", "fix"),
    [
        (BASE, "data.source=imagenet", "imagenet needs image_size", "write the height and width in pixels"),
        (BASE, "data.image_size=8", "digits images have a size of their own", "leave image_size out"),
        (BASE, "data.workers=2", "digits has no image files", "leave workers out"),
        (BASE, "data.cache=disk", "digits has no image files", "leave cache out"),
        (FILES, "data.source=manifest", "manifest needs the name of a table", "write manifest: images.csv"),
        (FILES, "data.manifest=a.csv", "imagefolder has no table of images", "leave manifest out"),
        (FILES, "data.resize=72", "resize is the shorter side before the center crop", "write crop: center"),
        (FILES, "too small", "", ""),
        (
            FILES.replace("imagefolder", "imagenet"),
            "data.stream=never",
            "imagenet is never held in memory",
            "leave str",
        ),
    ],
)
def test_what_does_not_fit_a_source_is_refused(text: str, override: str, problem: str, fix: str) -> None:
    overrides = ("data.crop=center", "data.resize=60") if not problem else (override,)
    error = refused(text, overrides)
    assert (problem or "resize is 60, below image_size 64") in error.problem
    assert (fix or "make it as large or larger") in error.fix


@pytest.mark.parametrize(("key", "most"), [("image_size", metadata.MAX_SIDE), ("resize", 2 * metadata.MAX_SIDE)])
def test_no_image_is_larger_than_a_model_may_say(key: str, most: int) -> None:
    """A model of a larger one would be trained and exported, and could not be opened."""
    fits = ("data.crop=center", f"data.resize={2 * metadata.MAX_SIDE}")
    assert getattr(recipe.parse(FILES, overrides=(*fits, f"data.{key}={most}")).data, key) == most
    error = refused(FILES, (*fits, f"data.{key}={most + 1}"))
    assert f"data.{key}: Input should be less than or equal to {most} (given: {most + 1})" in error.problem


@pytest.mark.parametrize(
    ("given", "shorter_side"), [((), None), (("crop=center",), 64), (("crop=center", "resize=72"), 72)]
)
def test_the_shorter_side_is_the_size_unless_it_is_given(given: tuple[str, ...], shorter_side: int | None) -> None:
    assert recipe.parse(FILES, overrides=[f"data.{one}" for one in given]).data.shorter_side == shorter_side


@pytest.mark.parametrize(
    ("overrides", "problem", "fix"),
    [
        (["mean=[0.5]"], "mean and std belong together", "write std as well"),
        (["std=[0.5]"], "mean and std belong together", "write mean as well"),
        (["mean=[0.5]", "std=[0.0]"], "data.std: Input should be greater than 0", ""),
        (["mean=[128.0]", "std=[0.5]"], "data.mean: Input should be less than or equal to 1", ""),
        (
            ["mean=[0.5,0.5,0.5]", "std=[0.2,0.2,0.2]"],
            "mean has 3 and std 3 values, and images have 1 channels",
            "write 1",
        ),
        (
            ["mean=[0.5]", "std=[0.5]", "normalize=imagenet"],
            "mean and std take the place of normalize",
            "leave normalize",
        ),
        (["augment=resized_crop", "crop_scale=[0.5,0.2]"], "crop_scale begins with the smaller part", "[0.2, 0.5]"),
        (["crop_scale=[0.5,1.0]"], "crop_scale changes nothing if augment is none", "write augment: resized_crop"),
        (["augment=resized_crop", "crop_scale=[0.0,1.0]"], "data.crop_scale: Input should be greater than 0", ""),
    ],
)
def test_normalization_and_crops_are_checked(overrides: list[str], problem: str, fix: str) -> None:
    error = refused(BASE, tuple(f"data.{each}" for each in overrides))
    assert problem in error.problem
    assert fix in error.fix


def test_a_run_with_its_own_normalization_opens_again() -> None:
    loaded = recipe.parse(BASE, overrides=["data.mean=[0.5]", "data.std=[0.25]"])
    assert recipe.parse(recipe.dump(loaded)) == loaded
    assert (loaded.data.mean, loaded.data.std) == ((0.5,), (0.25,))


def test_shares_of_classes_cannot_be_told() -> None:
    told = ("train.method=dni", "critics.condition_on_label=true", "data.mixup=0.2")
    assert "condition_on_label needs one class for each image" in refused(BASE, told).problem


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_flips_alternate_only_where_there_are_any(augment: str) -> None:
    error = refused(BASE, ("data.flip=alternating", f"data.augment={augment}"))
    assert error.problem.endswith(f"data: an alternating flip mirrors nothing if augment is {augment}")
    assert error.fix == "write augment: crop_flip"
    assert recipe.parse(BASE, overrides=("data.flip=alternating", "data.augment=crop_flip"))


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        (
            "model: {trunk: resnet50, downsample: max_pool}\n",
            "model: resnet50 has no max pools, its size is halved by strides",
            "leave downsample out",
        ),
        ("model: {layers: 8}\n", "model: vgg has layers of its own", "leave layers out, or take trunk: msdnet"),
        ("model: {stem: small}\n", "model: vgg has one stem only", "leave stem out, or take trunk: resnet50"),
        (
            "model: {trunk: resnet5}\n",
            'model.trunk: there is no trunk "resnet5"',
            "did you mean resnet50? write vgg, ",
        ),
        (
            "model: {trunk: [vgg]}\n",
            'model.trunk: there is no trunk ["vgg"]',
            "did you mean vgg?",
        ),
    ],
)
def test_what_does_not_fit_a_trunk_is_refused(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert error.problem == f"my.yaml, line 6: {problem}"
    assert error.fix.startswith(fix)


def test_there_is_one_average() -> None:
    error = refused(BASE + "  average: 0.1\n  ema: 0.999\n")
    assert error.problem == "my.yaml, line 4: train: average and ema are both given"


def test_an_average_of_the_last_part_needs_a_last_part() -> None:
    error = refused(BASE + "  average: 0.1\n  early_stopping: 3\n")
    assert error.problem.endswith("average is over the last part of the run, which early_stopping may never reach")
    assert error.fix.startswith("write ema: 0.999")


def test_nesterov_needs_momentum() -> None:
    error = refused(BASE + "  nesterov: true\n  momentum: 0\n")
    assert error.problem == "my.yaml, line 4: train: nesterov needs a momentum above 0"


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        (
            "model: {submodel: 2}\n",
            "model.submodel is one network with one exit, which train.method local_critic cannot train",
            "set train.method: backprop, or leave model.submodel out",
        ),
        (
            "  method: backprop\nmodel: {submodel: 4}\n",
            "model.submodel is 4 but critics.after makes 3 sub-models",
            "write a number from 1 to 3, or leave model.submodel out for the whole network",
        ),
        (
            "  method: backprop\nmodel: {submodel: 1}\ncritics: {after: []}\n",
            "model.submodel needs a critic, but critics.after is empty",
            "leave critics.after out",
        ),
    ],
)
def test_a_sub_model_alone_is_one_of_those_that_critics_make(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert (error.problem, error.fix) == (f"my.yaml: {problem}", fix)


def test_steps_that_differ_cannot_be_recorded() -> None:
    error = refused(BASE + "  cuda_graph: true\ncritics: {update_every: 2}\n")
    assert error.problem == ("my.yaml: train.cuda_graph replays one step, but critics.update_every makes steps differ")
    assert error.fix == "drop one of them"


def test_all_mistakes_are_told_at_once() -> None:
    error = refused(BASE + "  lr: -1\n  seed: -1\n  waarmup: 7\n")
    schema = "lcprune schema describes"
    assert error.problem.splitlines() == [
        "my.yaml has 4 mistakes:",
        f"  line 6: train.lr: Input should be greater than 0 (given: -1); {schema} train.lr",
        f"  line 7: train.seed: Input should be greater than or equal to 0 (given: -1); {schema} train.seed",
        "  line 8: unknown key train.waarmup; did you mean train.warmup?",
        f"  line 8: train.waarmup: Input should be less than 1 (given: 7); {schema} train.warmup",
    ]
    assert error.fix == "correct them; lcprune schema describes every key"


def test_a_misspelt_section_is_not_a_missing_one_and_hides_nothing() -> None:
    text = "name: mine\ndata: {source: digits}\nmodl: {widht: -1}\ntrian:\n  iterations: -3\n  lr: x\n"
    error = refused(text)
    first, *mistakes = error.problem.splitlines()
    assert first == "my.yaml has 5 mistakes:"
    assert [line.partition(" (given")[0].partition(";")[0] for line in mistakes] == [
        "  line 3: unknown key modl",
        "  line 4: unknown key trian",
        "  line 3: unknown key modl.widht",
        "  line 5: trian.iterations: Input should be greater than 0",
        "  line 6: trian.lr: Input should be a valid number, unable to parse string as a number",
    ]
    assert mistakes[1].endswith("did you mean train?")
    assert mistakes[2].endswith("did you mean model.width?")
    assert refused("name: a\ntrian: {iterations: 3}\n").problem.splitlines()[1:] == [
        "  my.yaml: data is missing; add data: ... to it",
        "  line 2: unknown key trian; did you mean train?",
    ]
    alone = refused("name: a\ndata: {source: digits}\ntrian: {iterations: 3}\n")
    assert (alone.problem, alone.fix) == ("my.yaml, line 3: unknown key trian", "did you mean train?")


SIZES = "  method: backprob\nmodel: {submodel: 1}\ndata: {source: imagefolder, image_size: [16, 32]}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            BASE + "  lr: -1\n  cuda_graph: true\ncritics: {update_every: 2}\n",
            ["line 6: train.lr", "my.yaml: train.cuda_graph replays one step, but critics.update_every"],
            id="inside a section and between two",
        ),
        pytest.param(
            BASE + "  epochs: 3\n  method: backprop\n  critic_warmup: 1\nmodle: {stem: small}\n",
            ["line 9: unknown key modle", "line 9: modle: vgg has one stem", "line 4: train: iterations and epochs"]
            + ["my.yaml: train.critic_warmup waits for critics, but train.method backprop"],
            id="between keys of two sections, and between these",
        ),
        pytest.param(
            BASE + "  ema: 0.9\n  average: 0.5\n  epochs: 1\n",
            ["line 4: train: iterations and epochs", "line 4: train: average and ema"],
            id="two pairs of one section",
        ),
        pytest.param(
            "name: a\ntrain:\n  iterations: 1\n" + SIZES,
            ["line 4: train.method"],
            id="what the right method would be wrong with is not known",
        ),
        pytest.param(
            BASE + "model: {trunk: vgg9}\ncritics: {depth: [1, 1]}\n",
            ["line 6: model.trunk"],
            id="nor how many critics the right trunk has",
        ),
        pytest.param(
            "name: a\ndata: {source: digits}\ncritics: 3\ntrain: {epochs: 1, freeze: 9, nesterov: true, momentum: 0}\n",
            ["line 3: critics", "line 4: train: nesterov"],
            id="nor what a section that is none would say",
        ),
    ],
)
def test_all_that_is_known_to_be_wrong_is_told(text: str, told: list[str]) -> None:
    error = refused(text)
    lines = [line.strip() for line in error.problem.splitlines()[len(told) > 1 :]]
    assert len(lines) == len(told)
    assert all(part in line for line, part in zip(lines, told, strict=True)), lines


def test_mistakes_of_overrides_are_among_them() -> None:
    error = refused(BASE + "  lr: -1\n", ("model.width=0", "trian.seed=1"))
    assert [line.split(":")[0] for line in error.problem.splitlines()[1:]] == [
        "  --set model.width=0",
        "  line 6",
        "  --set trian.seed=1",
    ]


@pytest.mark.parametrize("name", ["a/b", "..", "", "-a", "a" * 65, "a b"])
def test_a_name_that_makes_no_folder_is_refused(name: str) -> None:
    error = refused(BASE.replace("mine", f"'{name}'"))
    assert error.problem == f'my.yaml, line 1: name: not a name for a folder (given: "{name}")'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BASE + "\tx: 1\n", "my.yaml, line 6: found character '\\t' that cannot start any token"),
        (BASE + " x: 1\n", "my.yaml, line 6: expected <block end>, but found '<block mapping start>'"),
        ("a: 1\n---\nb: 2\n", "my.yaml, line 2: expected a single document in the stream, but found another document"),
        ("a: \x00\n", "my.yaml is not YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(text: str, problem: str) -> None:
    assert refused(text).problem == problem


# --set


def test_an_override_wins_over_the_file_and_is_read_as_yaml() -> None:
    overrides = ["train.lr=1e-3", "critics.after=[2, 5]", " data.augment = crop", "name=no", "train.nesterov=true"]
    loaded = recipe.parse(BASE + "  lr: 5\n", "my.yaml", overrides)
    assert (loaded.train.lr, loaded.critics.after, loaded.data.augment) == (0.001, (2, 5), "crop")
    assert (loaded.name, loaded.train.nesterov) == ("no", True)


def test_the_last_override_of_a_key_wins_and_corrects_the_file() -> None:
    assert recipe.parse(BASE + "  lr: -1\n", overrides=["train.lr=1", "train.lr=2"]).train.lr == 2


@pytest.mark.parametrize(
    ("overrides", "iterations", "epochs"),
    [
        (["train.epochs=3"], None, 3),
        (["train.iterations=7"], 7, None),
        (["train.epochs=3", "train.iterations=7"], 7, None),
        (["train.iterations=7", "train.epochs=3"], None, 3),
        ([" train.epochs = 3"], None, 3),
    ],
)
def test_the_length_that_is_named_last_wins(overrides: list[str], iterations: int | None, epochs: int | None) -> None:
    train = recipe.parse(BASE, overrides=overrides).train
    assert (train.iterations, train.epochs) == (iterations, epochs)


@pytest.mark.parametrize(
    ("override", "problem", "fix"),
    [
        ("trian.lr=3", "--set trian.lr=3: unknown key trian", "did you mean train?"),
        ("train.lrr=3", "--set train.lrr=3: unknown key train.lrr", "did you mean train.lr?"),
        ("train.lr=-3", "--set train.lr=-3: train.lr: Input should be greater than 0 (given: -3)", None),
        ("train.lr=", "--set train.lr=: train.lr: Input should be a valid number (given: null)", None),
        ("train.lr.x=3", '--set train.lr.x=3: train.lr: Input should be a valid number (given: {"x": 3})', None),
        ("train=3", "--set train=3: train: this is a section, with keys of its own (given: 3)", None),
        ("name.x=3", "--set name.x=3: name holds no keys", None),
        ("train.lr", "--set train.lr is no KEY=VALUE", "write it as --set train.lr=0.05"),
        ("=3", "--set =3 is no KEY=VALUE", "write it as --set train.lr=0.05"),
        ("train.lr=[", "--set train.lr, line 1: expected the node content, but found '<stream end>'", None),
    ],
)
def test_an_override_that_is_wrong_is_named(override: str, problem: str, fix: str | None) -> None:
    error = refused(BASE, (override,))
    assert error.problem == problem
    assert fix in (None, error.fix)


def test_an_override_is_not_blamed_for_the_file() -> None:
    error = refused(BASE + "  seed: -1\n", ("train.lr=3", "data.val_size=5"))
    assert error.problem.startswith("my.yaml, line 6: train.seed: ")
    error = refused(BASE + "critics: {depth: [1, 1]}\n", ("critics.lr=3",))
    assert error.problem.startswith("my.yaml, line 6: critics: depth names 2 critics")


# External trunks, and fine-tuning

TORCHVISION = "model: {trunk: torchvision/resnet18}\n"


@pytest.mark.parametrize(
    ("added", "after"),
    [
        (TORCHVISION, (1, 2, 3)),
        ("model: {trunk: 'my.net:build', groups: 3}\n", (1, 2)),
        ("model: {trunk: torchvision/resnet18, cuts: [layer1, layer2]}\n", (1, 2)),
        ("model: {trunk: torchvision/resnet18, groups: 5}\ncritics: {after: [2, 4]}\n", (2, 4)),
    ],
)
def test_critics_sit_at_the_cuts_of_an_external_trunk(added: str, after: tuple[int, ...]) -> None:
    loaded = recipe.parse(BASE + added)
    assert loaded.critics.after == after
    assert recipe.parse(recipe.dump(loaded)) == loaded


@pytest.mark.parametrize(
    ("added", "problem", "fix"),
    [
        (
            "model: {trunk: torchvision/resnet18, width: 0.5}\n",
            "model: torchvision/resnet18 is taken as it is, width cannot change it",
            "leave width out",
        ),
        ("model: {trunk: 'a.b:c', weights: default}\n", "model: a.b:c has no default weights", "name a file, or "),
        (
            "model: {cuts: [features.1]}\n",
            "model: cuts is for trunks from torchvision or timm and for your own, not for vgg",
            "leave cuts out",
        ),
        (
            "model: {trunk: torchvision/vgg11, cuts: []}\n",
            "model.cuts: no place is named",
            "write one or more, or auto",
        ),
        ("model: {trunk: torchvision/vgg11, cuts: [a, a]}\n", "model.cuts: a place is named twice", "write each once"),
        ("model: {trunk: 'no/such'}\n", 'model.trunk: there is no trunk "no/such"', "write vgg, resnet50, "),
    ],
)
def test_what_does_not_fit_an_external_trunk_is_refused(added: str, problem: str, fix: str) -> None:
    error = refused(BASE + added)
    assert error.problem.startswith(f"my.yaml, line 6: {problem}")
    assert error.fix.startswith(fix)


@pytest.mark.parametrize(
    ("overrides", "problem", "fix"),
    [
        (["train.freeze=[2,7]"], "train.freeze names group 7 but there are 4", "write numbers from 1 to 4"),
        (
            ["train.freeze=2", "train.method=backprop", "model.submodel=1"],
            "train.freeze names group 2 but there are 1",
            "write numbers from 1 to 1",
        ),
        (["train.freeze=4", "train.method=backprop"], "train.freeze leaves nothing to learn", "leave out a group"),
        (
            ["train.critic_warmup=3", "train.method=dni"],
            "train.critic_warmup waits for critics, but train.method dni has none",
            "leave critic_warmup out",
        ),
        (
            ["train.cuda_graph=true", "train.layer_decay=0.5"],
            "train.cuda_graph replays one step, but train.layer_decay makes steps differ",
            "drop one of them",
        ),
    ],
)
def test_a_fine_tuning_that_cannot_be_is_refused(overrides: list[str], problem: str, fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(BASE, overrides=overrides)
    assert caught.value.problem.endswith(problem)
    assert caught.value.fix == fix


def test_frozen_groups_are_counted_or_listed() -> None:
    frozen = [recipe.parse(BASE, overrides=[f"train.freeze={text}"]).train.frozen_groups for text in ("0", "2", "[3]")]
    assert frozen == [(), (1, 2), (3,)]


def test_of_very_many_mistakes_some_are_told() -> None:
    error = refused(BASE + "".join(f"  zz{index}: 1\n" for index in range(50)))
    assert error.problem.startswith("my.yaml has 50 mistakes:\n  line 6: unknown key train.zz0; ")
    assert len(error.problem.splitlines()) == 22
    assert error.problem.endswith("\n  and 30 more")
