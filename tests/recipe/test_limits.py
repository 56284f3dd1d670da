import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcprune.errors import RecipeError
from lcprune.recipe import limits, parse

GOOD = "name: mine\ndata: {source: digits}\n"
TRAIN = "train: {method: local_critic, iterations: 9, lr: %s}\n"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)
"""Nine to the tenth nodes, where somebody counts them."""

MEASURED = """
import json, re, sys, time
from pathlib import Path
from lcprune.errors import RecipeError
from lcprune.recipe import load
said = []
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        load(path)
    except RecipeError as error:
        said.append([error.problem, time.process_time() - start])
kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]  # the largest it ever was
print(json.dumps([said, int(kilobytes) / 1024]))
"""
BOMBS = {
    "laughs": (LAUGHS, "line 4: it has more than 2,000 nodes"),
    "merges": ("a: &a {b: 1}\nc:\n  <<: [" + ", ".join(["*a"] * 3000) + "]\n", "line 3: it has more than 2,000 nodes"),
    "brackets": ("[" * 30_000, "more than 2,000 brackets"),
    "nested": ("[" * 1999, "line 1: it is nested more than 16 deep"),
    "dashes": ("- " * 15_000, "line 1: it is nested more than 16 deep"),
    "100 MB": ("a: 1\n" * 20_000_000, "more than 32,768 characters"),
}

SECONDS = 1.0
MEGABYTES = 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell how much memory it took")
def test_a_bomb_ends_in_an_error_soon_and_small(tmp_path: Path) -> None:
    for name, (text, _) in BOMBS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in BOMBS)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # it takes time
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=True)
    all_said, megabytes = json.loads(done.stdout)
    for (said, seconds), (_, problem) in zip(all_said, BOMBS.values(), strict=True):
        assert problem in said
        assert seconds < SECONDS
    assert megabytes < MEGABYTES


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x [*x]", "line 1: the anchor x contains itself"),
        ("a: &x 1\nb: &x 2", "line 2: it has the anchor x twice"),
        ("name: !!python/object/apply:os.system ['true']", "line 1: it has the tag tag:yaml.org,2002:python/object/"),
        ("name: !mine 1", "line 1: it has the tag !mine"),
        ("name: 0x" + "f" * 2001, "line 1: it has a value of more than 2,000 characters"),
    ],
)
def test_what_no_recipe_needs(text: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert problem in caught.value.problem


def test_a_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(f"name: [{', '.join('1' * 500)}]\ndata: {{source: digits}}\n" + TRAIN % f"0x{'f' * 1900}")
    assert "(given: " in caught.value.problem
    assert len(caught.value.problem) < 2 * 350  # of two mistakes


def test_anchors_aliases_and_merges_are_taken() -> None:
    recipe = parse(GOOD + TRAIN % 0.5 + "critics:\n  lr: 0.25\n  <<: {depth: 2}\nmodel: {width: &w 0.5}\n")
    assert (recipe.train.lr, recipe.critics.lr, recipe.model.width) == (0.5, 0.25, 0.5)
    twice = parse(GOOD + TRAIN % "&x 0.5" + "critics: {lr: *x}\n")
    assert twice.critics.lr == 0.5


@pytest.mark.parametrize(("nodes", "fits"), [(limits.MAX_NODES, True), (limits.MAX_NODES + 1, False)])
def test_nodes_are_counted_to_the_last(nodes: int, fits: bool) -> None:
    """A section and `name: mine` are 3, `x:` and its list 2, an anchored 1 and its aliases the rest."""
    text = "name: mine\nx: [&a 1" + ", *a" * (nodes - 6) + "]\n"
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert ("nodes" not in caught.value.problem) == fits


@pytest.mark.parametrize(("depth", "fits"), [(limits.MAX_DEPTH, True), (limits.MAX_DEPTH + 1, False)])
def test_depth_is_counted_from_the_document_on(depth: int, fits: bool) -> None:
    with pytest.raises(RecipeError) as caught:
        parse("x: " + "[" * (depth - 1) + "]" * (depth - 1))
    assert ("deep" not in caught.value.problem) == fits
