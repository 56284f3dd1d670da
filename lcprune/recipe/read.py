"""Reading and writing recipes."""

import difflib
import importlib.resources
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLFutureWarning, YAMLWarning

from lcprune.errors import RecipeError
from lcprune.recipe import limits
from lcprune.recipe.diagnosis import explain
from lcprune.recipe.schema.recipe import Recipe, known_keys

DEFAULT_RECIPE = Path("lcprune.yaml")


def shipped() -> dict[str, str]:
    """The recipes that ship inside the package: name to YAML text."""
    folder = importlib.resources.files("lcprune") / "recipes"
    found = {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def description(text: str) -> str:
    """The first comment of a recipe's YAML: its description in one line."""
    first = text.lstrip().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def load(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped one of that name; without one, ``./lcprune.yaml``.

    Args:
        source: Path of a YAML file, or a name that `shipped` lists.
        overrides: ``KEY=VALUE`` each, such as ``train.lr=0.05``; the value is read as YAML.

    Raises:
        RecipeError: If it cannot be found or read, or has keys or values that are not valid.
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
        raise explain(error, values, document, origin, overrides) from None


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
            with path.open(encoding="utf-8") as file:  # of any length: a longer one is refused afterwards
                return file.read(limits.MAX_CHARACTERS + 1), str(path)
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
        limits.check(_yaml(), text, origin)
        with warnings.catch_warnings():
            for category in (YAMLWarning, YAMLFutureWarning):  # of things that no recipe needs
                warnings.simplefilter("error", category)
            return _yaml().load(text)
    except RecipeError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or error.context or "it cannot be parsed").strip().splitlines()[0]
        if problem.startswith("but ") and error.context:  # the second half of a sentence
            problem = f"{error.context}, {problem}"
        fix = "keep one of the two" if "duplicate key" in problem else "fix the YAML there"
        raise RecipeError(f"{origin}{line}: {problem}", fix) from None
    except Exception as error:  # ruamel raises plain ValueError and others on a hostile text
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{origin} is not YAML: {reason[:200]}", "fix the YAML there") from None


def _plain(node: Any) -> Any:
    """The document as plain dicts and lists, without the line numbers that the YAML reader keeps."""
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
            raise RecipeError(f"--set {override}: {section} holds no keys", f"known keys: {', '.join(known_keys())}")
    target[name] = _plain(_read_yaml(text, f"--set {key}"))
    if key in ("train.iterations", "train.epochs"):  # the length that is named last wins
        target.pop("epochs" if name == "iterations" else "iterations", None)
