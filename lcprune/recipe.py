"""Recipes: what to train, written in YAML, checked at birth.

`load` reads a file or the name of a recipe that ships inside the package, applies ``KEY=VALUE`` overrides and
returns a frozen `Recipe`. Every error names the key, the line and, for a misspelt key, the nearest known one.
"""

import difflib
import importlib.resources
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from lcprune.errors import RecipeError

DEFAULT_RECIPE = Path("lcprune.yaml")

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = cls.model_fields[str(info.field_name)].annotation is bool
        if not is_switch and any(isinstance(part, bool) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{json.dumps(value)} is no value for it")
        return value


class DataConfig(_Section):
    """The ``data:`` section: which images, and how they reach the network."""

    source: Literal["digits", "cifar10", "cifar100", "imagefolder"]
    """Where the images come from; ``digits`` is embedded in the package."""
    root: Path | None = None
    """Folder of the images. Left out, it is ``--data-root``, else ``$LCPRUNE_DATA``, else ``data/``."""
    val_size: Annotated[int, Field(ge=0)] = 0
    """Training images held out for validation, drawn evenly over the classes. 0: the test set must be asked for."""
    image_size: PositiveInt | None = None
    """Height and width to which ``imagefolder`` images are resized, in pixels; the other sources have their own."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB; left out, ``digits`` is grey and everything else is RGB."""
    augment: Literal["none", "crop", "crop_flip"] = "none"
    """``crop``: a random crop out of the image padded by `pad` pixels; ``crop_flip``: and a horizontal flip."""
    pad: PositiveInt = 4
    """Padding of the random crop, in pixels."""
    batch_size: PositiveInt = 128
    """Images per training step; an incomplete last batch is dropped."""

    @model_validator(mode="after")
    def _folder_is_described(self) -> "DataConfig":
        if self.source == "imagefolder" and self.image_size is None:
            raise ValueError(
                "imagefolder needs image_size: write the height and width in pixels, such as image_size: 64"
            )
        if self.source != "imagefolder" and self.image_size is not None:
            raise ValueError(f"{self.source} images have a size of their own: leave image_size out")
        return self


class ModelConfig(_Section):
    """The ``model:`` section: the trunk, which is the network without its critics."""

    trunk: Literal["vgg"] = "vgg"
    """``vgg``: the eleven convolutions of the paper's Figure 2a."""
    width: PositiveFloat = 1.0
    """Factor on the channels of every layer: 0.25 gives 16, 32, 64 and 128 instead of 64, 128, 256 and 512."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; left out, what the data has."""
    cuts: Literal["auto"] = "auto"
    """Where the trunk is cut into layer groups; ``auto``: where `critics.after` puts a critic."""
    downsample: Literal["max_pool", "stride"] = "max_pool"
    """How the spatial size is halved: a 2x2 max pool before the stage, or a stride of 2 in its first convolution."""


class CriticsConfig(_Section):
    """The ``critics:`` section: the side networks, and how they learn."""

    after: tuple[PositiveInt, ...] = (2, 5, 8)
    """The convolutions of the trunk, counted from 1, after which a critic sits."""
    depth: PositiveInt | tuple[PositiveInt, ...] = 1
    """Convolutions in each critic; one number for all, or one for each."""
    channels: PositiveInt = 128
    """Channels of the critics' convolutions."""
    head: Literal["paper", "pooled"] = "paper"
    """``paper``: convolutions at full resolution; ``pooled``: an average pool to `pool_to` before them."""
    pool_to: PositiveInt = 4
    """Height and width to which the pooled head reduces, in pixels."""
    batch_norm: bool = False
    """BatchNorm after each convolution of a critic. It mixes samples, so training takes a second backward pass."""
    loss: Literal["cascade", "cross_entropy", "mix"] = "cascade"
    """``cascade``: Eq. (7), L1 per sample; ``cross_entropy``: the critic's own; ``mix``: a weighted sum of both."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The cascade's share in ``loss: mix``; the rest is cross-entropy."""
    weight: PositiveFloat = 1.0
    """Weight of every exit's loss beside main's in ``method: deep_supervision``."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimizer of the critics. They have no weight decay."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the critics (the highest one, where `schedule` varies it)."""
    schedule: Literal["constant", "step", "one_cycle"] = "constant"
    """Learning rate of the critics over the run."""
    update_every: PositiveInt = 1
    """The critics learn at every n-th step (Table 3)."""

    @field_validator("after")
    @classmethod
    def _ascending(cls, after: tuple[int, ...]) -> tuple[int, ...]:
        if list(after) != sorted(set(after)):
            raise ValueError(f"{list(after)} is not in ascending order: write each place once, shallow first")
        return after

    @model_validator(mode="after")
    def _one_depth_each(self) -> "CriticsConfig":
        if isinstance(self.depth, tuple) and len(self.depth) != len(self.after):
            raise ValueError(
                f"depth names {len(self.depth)} critics but after has {len(self.after)}: give one for each"
            )
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """Convolutions in each critic, shallow first."""
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.after)


class TrainConfig(_Section):
    """The ``train:`` section: the method and its hyperparameters."""

    method: Literal["backprop", "local_critic", "deep_supervision"] = "local_critic"
    """``local_critic``: Eq. (1) to (7); ``backprop``: main alone, no critics; ``deep_supervision``: all jointly."""
    iterations: PositiveInt | None = None
    """Training steps. Give this or `epochs`."""
    epochs: PositiveFloat | None = None
    """Passes over the training images. Give this or `iterations`."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the trunk."""
    lr: PositiveFloat = 0.1
    """Learning rate of the trunk (the highest one, where `schedule` varies it)."""
    schedule: Literal["constant", "step", "one_cycle"] = "step"
    """``step``: divided by 10 at each of `lr_drops`; ``one_cycle``: up to `lr` over `warmup`, then down to zero."""
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    """Where ``step`` divides the learning rate by 10, as fractions of the run."""
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The part of the run in which ``one_cycle`` rises, as a fraction."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 penalty on the weights of the trunk's convolutions and linear layers."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all classes."""
    init: Literal["xavier", "kaiming"] = "xavier"
    """Initial weights of convolutions and linear layers."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: autocast; losses stay in float32."""
    channels_last: bool = False
    """Memory format (N, H, W, C); faster for most convolutions."""
    compile: bool = False
    """Compile the layer groups and critics with torch.compile (needs a C++ compiler; slow to start)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the images, their augmentation and the validation split."""
    evaluate_every: PositiveInt = 1000
    """Steps between two evaluations on the validation split."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""

    @field_validator("lr_drops")
    @classmethod
    def _inside_the_run(cls, drops: tuple[float, ...]) -> tuple[float, ...]:
        if outside := [drop for drop in drops if not 0 < drop < 1]:
            raise ValueError(f"{outside} are no fractions of the run: write 0.5 for half of it")
        if list(drops) != sorted(drops):
            raise ValueError(f"{list(drops)} is not in ascending order")
        return drops

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.iterations is None and self.epochs is None:
            raise ValueError("the length of the run is missing: write iterations: 4000, or epochs: 12")
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("iterations and epochs are both given: keep the one that you mean")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class LoggingConfig(_Section):
    """The ``logging:`` section."""

    every: PositiveInt = 50
    """Steps between two lines of ``metrics.jsonl``; each is one look at the loss, which makes the device wait."""


class Recipe(_Section):
    """A whole recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the recipe; run folders are called after it."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    critics: CriticsConfig = CriticsConfig()
    train: TrainConfig
    logging: LoggingConfig = LoggingConfig()


def shipped() -> dict[str, str]:
    """The recipes that ship inside the package: name to YAML text."""
    folder = importlib.resources.files("lcprune") / "recipes"
    found = {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def description(text: str) -> str:
    """The first comment of a recipe's YAML: what it is, in a line."""
    first = text.lstrip().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def load(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped one of that name; without one, ``./lcprune.yaml``.

    Args:
        source: Path of a YAML file, or a name that `shipped` lists.
        overrides: ``KEY=VALUE`` each, such as ``train.lr=0.05``; the value is read as YAML.

    Raises:
        RecipeError: If it cannot be found or read, or says something impossible.
    """
    text, origin = _find(source)
    return parse(text, origin, overrides)


def parse(text: str, origin: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML text; `origin` names it in errors."""
    document = _read_yaml(text, origin)
    if not isinstance(document, dict):
        raise RecipeError(f"{origin} holds no recipe", "start from one that ships: lcprune recipes digits > my.yaml")
    values = _plain(document)
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, document, origin, overrides) from None


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `parse` gives it back."""
    stream = io.StringIO()
    _yaml().dump(recipe.model_dump(mode="json", exclude_none=True), stream)
    return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()


def _find(source: str | Path | None) -> tuple[str, str]:
    if source is None:
        if not DEFAULT_RECIPE.exists():
            raise RecipeError(
                f"no recipe was given and there is no ./{DEFAULT_RECIPE} here",
                f"name one: lcprune train RECIPE, a file or one of {', '.join(shipped())}",
            )
        source = DEFAULT_RECIPE
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} cannot be read: {error}", "give a text file in UTF-8") from None
    recipes = shipped()
    if str(source) in recipes:
        return recipes[str(source)], f"{source} (shipped)"
    if path.is_dir():
        raise RecipeError(f"{path} is a folder, not a recipe", "name the .yaml file inside it")
    near = difflib.get_close_matches(path.stem, recipes, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise RecipeError(f"there is no recipe {source}", f"{hint}shipped recipes: {', '.join(recipes)}")


def _yaml() -> YAML:
    yaml = YAML(typ="rt")  # the round-trip loader is safe and keeps the line of every key
    yaml.default_flow_style = None
    return yaml


def _read_yaml(text: str, origin: str) -> Any:
    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or error.context or "it cannot be parsed").strip().splitlines()[0]
        if problem.startswith("but ") and error.context:  # the second half of a sentence
            problem = f"{error.context}, {problem}"
        fix = "keep one of the two" if "duplicate key" in problem else "mend the YAML there"
        raise RecipeError(f"{origin}{line}: {problem}", fix) from None
    except Exception as error:  # ruamel raises plain ValueError and others on a hostile text
        raise RecipeError(f"{origin} is not YAML: {str(error).splitlines()[0]}", "mend the YAML there") from None


def _plain(node: Any) -> Any:
    """The document as plain dicts and lists, without the marks that the YAML reader keeps."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override} is no KEY=VALUE", "write it as --set train.lr=0.05")
    key = key.strip()
    *sections, name = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise RecipeError(f"--set {override}: {section} holds no keys", f"known keys: {', '.join(_known_keys())}")
    target[name] = _plain(_read_yaml(text, f"--set {key}"))
    if key in ("train.iterations", "train.epochs"):  # the length that is named last wins
        target.pop("epochs" if name == "iterations" else "iterations", None)


def _known_keys() -> list[str]:
    return [f"{section}.{key}" if key else section for section, keys in _sections().items() for key in keys or [""]]


def _sections() -> dict[str, list[str]]:
    """Every key of the top level, and the keys inside it where it is a section."""
    models = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {
        name: list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
        for name, model in models.items()
    }


def _explain(error: ValidationError, document: Any, origin: str, overrides: Sequence[str]) -> RecipeError:
    errors = error.errors()
    first = errors[0]
    key = ".".join(_key(first))
    same_key = [one for one in errors if _key(one) == _key(first)]
    if isinstance(first["input"], list):
        first = same_key[-1]  # of "a number" or "a list of numbers", the one that looked into the list
    others = len(errors) - len(same_key)
    where = _where(first["loc"], document, origin, overrides)
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{where}: unknown key {key}", _known_instead(key))
    if first["type"] == "missing":
        section, _, name = key.rpartition(".")
        return RecipeError(
            f"{where}: {key} is missing", f"add {name}: ... " + (f"under {section}:" if section else "to it")
        )
    problem, fix = _wording(first, key)
    return RecipeError(f"{where}: {key}: {problem}" + (f" ({others} more after this one)" if others else ""), fix)


def _key(error: ErrorDetails) -> tuple[str, ...]:
    """Section and key of an error, without the place in a list and without pydantic's names of types."""
    return tuple(str(part) for part in error["loc"][:2] if isinstance(part, str))


def _wording(error: ErrorDetails, key: str) -> tuple[str, str]:
    """What is wrong with the value of a key, and how to mend it."""
    if error["type"] == "value_error":  # from a validator above, which says both: "what is wrong: what to do"
        problem, _, fix = error["msg"].removeprefix("Value error, ").partition(": ")
        return problem, fix or f"lcprune schema describes {key}"
    given = f"(given: {json.dumps(error['input'], default=str)})"
    if error["type"] == "model_type":
        return f"this is a section, with keys of its own {given}", f"known keys: {', '.join(_sections()[key])}"
    if error["type"] == "tuple_type":
        return f"Input should be a list {given}", "write it in brackets, such as [2, 5, 8]"
    if error["type"] == "string_pattern_mismatch":
        return f"not a name for a folder {given}", "use letters, digits, '.', '_' and '-', 64 at most"
    near = []
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].replace("'", " ").split(), n=1)
    return f"{error['msg']} {given}", f"did you mean {near[0]}?" if near else f"lcprune schema describes {key}"


def _known_instead(key: str) -> str:
    """What to write instead of an unknown key: the nearest known one, else all of its section."""
    section, _, name = key.rpartition(".")
    sections = _sections()
    neighbours = sections.get(section, []) if section else list(sections)
    prefix = f"{section}." if section else ""
    if near := difflib.get_close_matches(name, neighbours, n=1):
        return f"did you mean {prefix}{near[0]}?"
    everywhere = {known.rpartition(".")[2]: known for known in _known_keys()}
    if near := difflib.get_close_matches(name, everywhere, n=1):
        return f"did you mean {everywhere[near[0]]}?"
    return f"known keys: {', '.join(prefix + known for known in neighbours)}"


def _where(path: Sequence[str | int], document: Any, origin: str, overrides: Sequence[str]) -> str:
    """``FILE, line N`` of the deepest part of `path` that the text holds, or the override that is to blame."""
    line = None
    held = 0
    node = document
    for part in path:
        is_section = isinstance(node, Mapping)
        try:
            line = node.lc.key(part)[0] if is_section else node.lc.item(part)[0]
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
        held += 1
    for override in reversed(overrides):
        key = tuple(override.partition("=")[0].strip().split("."))
        inside_it = path[: len(key)] == key
        made_by_it = held < len(path) and key[: len(path)] == tuple(path)
        if inside_it or made_by_it:
            return f"--set {override}"
    return origin if line is None else f"{origin}, line {line + 1}"
