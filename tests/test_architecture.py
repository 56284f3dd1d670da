"""Imports go down only, every wrapped library has one home, and `lcprune --help` needs no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lcprune"
RUNTIME = Path(__file__).parents[1] / "runtime" / "lcprune_runtime"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.glob("**/*.py"))
}

LAYERS = (  # lowest first; a part may import what stands below it, and itself
    {"errors", "exits", "specs"},
    {"recipe"},
    {"models", "data", "runs"},
    {"training", "analysis", "exporters"},
    {"reporting"},
    {"pipeline"},
    {"paper"},
    {"cli"},
    {"__main__"},
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

HOMES = {  # who may import a library, as prefixes of module names
    "fvcore": ("lcprune.analysis.counting",),
    "onnx": ("lcprune.exporters.",),
    "onnxscript": ("lcprune.exporters.",),
    "onnxruntime": ("lcprune.exporters.",),
    "rich": ("lcprune.reporting.progress",),
    "matplotlib": ("lcprune.paper.plots",),
    "torchvision": ("lcprune.data.cifar", "lcprune.data.transforms", "lcprune.models.backbones"),
    "jinja2": ("lcprune.reporting.",),
    "typer": ("lcprune.cli",),
    "pydantic": ("lcprune.recipe",),
    "pydantic_core": ("lcprune.recipe",),
    "ruamel": ("lcprune.recipe",),
}
INSTANT = ("lcprune", "lcprune.errors", "lcprune.specs", "lcprune.recipe", "lcprune.cli")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy", "matplotlib", "fvcore", "rich")


def imports(source: str, module: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its text; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str | None:
    """``recipe`` of ``lcprune.recipe.load``; None for the bare package and for names such as ``__version__``."""
    parts = name.split(".")
    is_part = len(parts) > 1 and (parts[1] == "__main__" or not parts[1].startswith("__"))
    return parts[1] if is_part else None


def wrong_imports(module: str, source: str) -> list[str]:
    own = part_of(module)
    if own is None:  # lcprune/__init__.py
        return [name for name in imports(source, module) if name.split(".")[0] == "lcprune"]
    lower = {part for part, level in LEVEL.items() if level < LEVEL[own]}
    names = [name for name in imports(source, module) if name.split(".")[0] == "lcprune"]
    return [name for name in names if part_of(name) not in {None, own, *lower}]


def forbidden(module: str, source: str) -> list[str]:
    """Libraries that the module imports although their home is elsewhere."""
    libraries = {name.split(".")[0] for name in imports(source, module)}
    return sorted(lib for lib in libraries if lib in HOMES and not module.startswith(HOMES[lib]))


def test_every_module_has_a_layer() -> None:
    assert {part_of(name) for name in MODULES} - {None} <= set(LEVEL)
    assert len(MODULES) > 10


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    assert wrong_imports(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) != "paper"])
def test_the_product_does_not_import_the_paper(module: str) -> None:
    """`lcprune reproduce` does, inside the command; a method is loaded by the module name in its table."""
    names = {name for name in imports(MODULES[module].read_text(encoding="utf-8"), module) if part_of(name) == "paper"}
    assert not names or module == "lcprune.cli.reproduce"


@pytest.mark.parametrize("module", MODULES)
def test_every_wrapped_library_has_one_home(module: str) -> None:
    assert forbidden(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_the_rules_see_what_they_forbid() -> None:
    assert wrong_imports("lcprune.models.vgg", "import lcprune.training.loop") == ["lcprune.training.loop"]
    assert wrong_imports("lcprune.models.vgg", "from lcprune import recipe, data") == ["lcprune.data"]
    assert wrong_imports("lcprune.exporters.verify", "def f():\n    from lcprune.analysis import select") == [
        "lcprune.analysis.select"
    ]
    assert (
        wrong_imports("lcprune.exporters.verify", "from lcprune.exporters.flat import a\nfrom lcprune import runs")
        == []
    )
    assert wrong_imports("lcprune", "from lcprune.recipe import load") == ["lcprune.recipe.load"]
    assert wrong_imports("lcprune.runs", "from lcprune import __version__") == []
    assert forbidden("lcprune.cli", "import typer\nfrom onnx import helper") == ["onnx"]
    assert forbidden("lcprune.analysis.select", "def f():\n    import fvcore.nn") == ["fvcore"]
    assert forbidden("lcprune.exporters.verify", "import onnx, onnxruntime, numpy") == []


@pytest.mark.parametrize("path", sorted(RUNTIME.glob("*.py")), ids=lambda path: path.stem)
def test_the_runtime_needs_little(path: Path) -> None:
    """The device has no torch, no onnx and no lcprune; typer and rich are for the commands alone."""
    libraries = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"), path.stem)}
    commands = {"typer", "rich"} if path.stem in ("__main__", "commands", "command_line", "tables") else set()
    commands |= {"pillow_heif"} if path.stem == "decoding" else set()  # an extra
    assert libraries - set(sys.stdlib_module_names) <= {"lcprune_runtime", "numpy", "onnxruntime", "PIL"} | commands


@pytest.mark.parametrize("module", [module for module in INSTANT if module in MODULES])
def test_a_command_starts_without_what_is_slow_to_import(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
