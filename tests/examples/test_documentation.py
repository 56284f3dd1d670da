"""What README.md and docs/ say is true: commands parse, recipes load, Python runs, and tables are complete."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from lcprune import recipe as recipes
from lcprune.cli import app
from lcprune.data.sources import read_digits
from lcprune.recipe.schema.recipe import sections
from lcprune_runtime.images import Preparation, read_prepared
from lcprune_runtime.metadata import PREFIX, InputInfo, ModelInfo
from lcprune_runtime.session import ProgressiveSession

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
README = TEXTS["README.md"]
COMMANDS = typer.main.get_command(app).commands


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(True)) for indent, body in found]


def command_lines(text: str) -> list[str]:
    """Every ``lcprune ...`` of a page, in a block or within a sentence, that has more than the command's name."""
    lines = [
        line.removeprefix("$ ") for kind in ("sh", "console") for b in blocks(text, kind) for line in b.splitlines()
    ]
    spans = re.findall(r"`(lcprune [^`]+)`", text)
    return sorted({line for line in [*lines, *spans] if line.startswith("lcprune ")})


def check(line: str) -> None:
    """Parses a command line as the command would; an error is raised for what the command would refuse."""
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    if words[-1] == "--help":  # parsing it would print the page and leave
        assert set(words[:-1]) <= set(COMMANDS)
        return
    command = COMMANDS[words[0]]
    if len(words) > 1:  # else it is no more than a name in a sentence
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize(
    "preparation",
    [Preparation(8, 1), Preparation(8, 3, 11, "bicubic"), Preparation(5, 1, 8)],
    ids=["stretched", "cut", "cut of an even size"],
)
@pytest.mark.parametrize("size", [(37, 50), (50, 37), (20, 20), (9, 10)], ids=str)
def test_the_page_of_the_onnx_files_reads_an_image_as_python_does(
    preparation: Preparation, size: tuple[int, int], tmp_path: Path
) -> None:
    (block,) = (block for block in blocks(TEXTS["docs/onnx.md"], "python") if "shorter_side" in block)
    reading = block[block.index("image = ") : block.index("logits, exit_index")]
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    names = {"Image": Image, "np": np, "wanted": json.loads(json.dumps(asdict(InputInfo.of(preparation))))}
    exec(reading.replace("demo/images/7_021.png", str(path)), names)
    np.testing.assert_array_equal(np.rint(names["pixels"][0] * 255), read_prepared(path, preparation))


def test_the_pages_are_there() -> None:
    assert set(TEXTS) >= {"README.md", "docs/recipes.md", "docs/onnx.md", "docs/methods.md"}


@pytest.mark.parametrize("line", sorted({line for text in TEXTS.values() for line in command_lines(text)}))
def test_a_command_line_parses(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    "line", ["lcprune select --max-drp 2", "lcprune select --max-drop -1", "lcprune predict x.onnx"]
)
def test_a_wrong_command_line_would_be_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"No such option|range|greater than or equal|Missing (argument|parameter)"):
        check(line)


def test_every_command_stands_in_the_readme() -> None:
    named = {line.split()[1] for line in re.findall(r"^\| `(lcprune [^`]+)`", README, re.MULTILINE)}
    assert named == set(COMMANDS)


def test_every_make_target_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXTS[page]):
        assert ((REPOSITORY / page).parent / link).exists(), link


@pytest.mark.parametrize(
    ("page", "number"), [(page, n) for page, t in TEXTS.items() for n in range(len(blocks(t, "yaml")))]
)
def test_a_recipe_loads(page: str, number: int) -> None:
    recipes.parse(blocks(TEXTS[page], "yaml")[number], page)


def test_every_shipped_recipe_is_described() -> None:
    for page in ("README.md", "docs/recipes.md"):
        described = set(re.findall(r"`([a-z0-9_]+)`", "\n".join(re.findall(r"^\| .*$", TEXTS[page], re.MULTILINE))))
        assert set(recipes.shipped()) <= described, page


def test_the_keys_of_the_page_are_those_of_the_schema() -> None:
    with_tables = runpy.run_path(str(REPOSITORY / "docs" / "keys.py"))["with_tables"]
    assert with_tables(TEXTS["docs/recipes.md"]) == TEXTS["docs/recipes.md"], "run this: python docs/keys.py"
    rows = re.findall(r"^\| `([a-z_]+)` \| .* \| .* \| .{10,} \|$", TEXTS["docs/recipes.md"], re.MULTILINE)
    assert set(rows) >= {key for section in sections().values() for key in section}


def test_the_segments_of_the_page_run_and_leave_where_the_graph_does(
    run: Path, here: Path, cli: Callable[..., Any]
) -> None:
    (snippet,) = [block for block in blocks(TEXTS["docs/onnx.md"], "python") if "manifest" in block]
    assert cli("export", "--progressive", "--threshold", "0.5,0.4,0.3", "--segments", "--quiet").exit_code == 0
    shutil.copytree(here / "runs", here / "demo/runs", symlinks=True)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    prediction = ProgressiveSession(run / "export/progressive.onnx")(np.zeros((7, 1, 8, 8), np.float32))
    names = [str(label) for label in prediction.labels]
    assert done.stdout == f"{names} at exits {prediction.exits}\n"


def test_every_key_of_the_metadata_is_described() -> None:
    table = TEXTS["docs/onnx.md"].partition("## Metadata")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_0-9]+)`", "\n".join(re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted([*(field.name for field in fields(ModelInfo)), "quantization"])
    assert f"`{PREFIX}`" in TEXTS["docs/onnx.md"]


def test_the_costs_of_the_papers_network_are_those_of_the_dry_run(cli: Callable[..., Any]) -> None:
    (table,) = [block for block in blocks(README, "console") if "all exits in cascade" in block]
    printed = cli("train", "vgg_cifar10", "--dry-run").stdout
    assert [line.rstrip() for line in table.splitlines()] == [line.rstrip() for line in printed.splitlines()]


def test_the_python_of_the_readme_runs_without_torch_and_says_what_predict_says(
    run: Path, here: Path, cli: Callable[..., Any]
) -> None:
    shutil.copytree(here / "runs", here / "demo/runs", symlinks=True)
    (here / "demo/images").mkdir()
    _, test = read_digits()
    Image.fromarray(test.images[21, 0]).save(here / "demo/images/7_021.png")
    (snippet,) = blocks(README, "python")
    code = f"import sys; sys.modules['torch'] = None\n{snippet}"
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(cli("predict", run / "export/progressive.onnx", here / "demo/images", "--json").stdout)[
        "images"
    ]
    assert done.stdout == f"{row['class']} at exit {row['exit_index']}\n"
