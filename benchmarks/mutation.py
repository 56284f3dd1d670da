"""What the mutation check found: counts for each module, and each change that no test noticed, judged.

    python -m benchmarks.mutation FOLDER [FOLDER ...]

reads what mutmut left in folders (`make mutation` has build/mutation) and prints the survivors that nobody has judged;
exit code 1 if there are any. If all changes were tried, it writes benchmarks/results/mutation.json and the tables of
docs/security.md. Judgements
stand in benchmarks/mutants_judged.json: a function, a pattern of the change, and why no test need notice it.
"""

import argparse
import ast
import difflib
import fnmatch
import functools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

RESULT = Path(__file__).parent / "results" / "mutation.json"
JUDGED = Path(__file__).parent / "mutants_judged.json"
PAGE = Path(__file__).parents[1] / "docs" / "security.md"
BEGIN, END = "<!-- tables of benchmarks/results/mutation.json -->", "<!-- end of the tables -->"
KILLED, SURVIVED, TIMEOUT = {1, 3}, {0}, {24, 36, 152, 255, -24}
"""Exit codes that mutmut keeps; None was not run. A change that never ends is noticed, too."""

Diff = Callable[[str, str], str]
"""Unified diff of a mutant, by its name and the path of its module."""


def main() -> int:
    """Reads the command line and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation")
    parser.add_argument("folders", nargs="+", type=Path, help="in which mutmut ran")
    given = parser.parse_args()
    rules = json.loads(JUDGED.read_text(encoding="utf-8"))
    modules, survivors = [], []
    for folder in given.folders:
        for row, names in counted(folder):
            modules.append(row)
            survivors += [survivor(name, row["module"], diff_in(folder), rules) for name in names]
    if waiting := sum(row["not_run"] for row in modules):
        print(f"{waiting:,} changes were not tried yet: the tables stay as they are. `make mutation` tries the rest.")
    else:
        write(modules, survivors)
    open_ones = [entry for entry in survivors if entry["judged"] is None]
    for entry in open_ones:
        print(f"not judged: {entry['mutant']}\n{entry['change']}")
    return int(bool(open_ones))


def write(modules: Sequence[Mapping[str, Any]], survivors: Sequence[Mapping[str, Any]]) -> None:
    """The result, and its tables."""
    result = {
        **provenance("benchmarks.mutation", 0),
        "mutmut": metadata.version("mutmut"),
        "modules": sorted(modules, key=lambda row: str(row["module"])),
        "survivors": survivors,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")


def counted(folder: Path) -> Iterable[tuple[dict[str, Any], list[str]]]:
    """The counts of each module that has been mutated, and the names of its survivors."""
    for path in sorted((folder / "mutants").rglob("*.py.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if not codes:
            continue
        kinds = Counter(kind(code) for code in codes.values())
        module = path.relative_to(folder / "mutants").as_posix().removesuffix(".meta")
        names = [name for name, code in codes.items() if kind(code) in ("survived", "no_test")]
        yield {"module": module, "made": len(codes), **{name: kinds[name] for name in KINDS}}, names


KINDS = ("killed", "timeout", "survived", "no_test", "not_run")


def kind(code: int | None) -> str:
    """What became of a mutant."""
    if code is None:
        return "not_run"
    of_codes = ((KILLED, "killed"), (SURVIVED, "survived"), (TIMEOUT, "timeout"), ({5, 33}, "no_test"))
    return next((name for codes, name in of_codes if code in codes), "killed")  # a crash is noticed


def survivor(name: str, module: str, diff: Diff, rules: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A mutant that no test noticed: the lines that changed, and why that does not matter, None where nobody knows."""
    lines = [line for line in diff(name, module).splitlines() if not line.startswith(("---", "+++", "@@"))]
    change = "\n".join(line for line in lines if line.startswith(("-", "+")))
    function = re.sub(r"^.*\.x[_ǁ]|__mutmut_\d+$", "", name).replace("ǁ", ".")
    place = f"{module.removeprefix('lcprune/').removesuffix('.py')}:{function}"
    why = next((rule["why"] for rule in rules if judges(rule, place, change)), None)
    return {"mutant": name, "place": place, "change": change, "judged": why}


def judges(rule: Mapping[str, str], place: str, change: str) -> bool:
    """Whether a rule is about this change."""
    return fnmatch.fnmatchcase(place, rule["place"]) and re.search(rule["change"], change, re.DOTALL) is not None


def diff_in(folder: Path) -> Diff:
    """Diffs of the mutants in a folder; mutmut's own parses the module again for each."""

    @functools.cache
    def functions(module: str) -> dict[str, list[str]]:
        source = (folder / "mutants" / module).read_text(encoding="utf-8")
        found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        lines = source.splitlines()
        return {node.name: lines[node.lineno - 1 : node.end_lineno] for node in found}

    def diff(name: str, module: str) -> str:
        mutant = name.rpartition(".")[-1]
        of_module = functions(module)
        original = re.sub(r"\d+$", "orig", mutant)
        plain = [line.replace(original, mutant) for line in of_module[original]]
        return "\n".join(difflib.unified_diff(plain, of_module[mutant], lineterm=""))

    return diff


def tables(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    lines = ["| module | changes | noticed | not noticed |", "|---|---|---|---|"]
    for row in result["modules"]:
        noticed = row["killed"] + row["timeout"]
        unnoticed = row["survived"] + row["no_test"]
        lines.append(f"| `{row['module']}` | {row['made']:,} | {noticed:,} | {unnoticed:,} |")
    lines += ["", "| why no test need notice it | changes | for example in |", "|---|---|---|"]
    by_reason: dict[str, list[str]] = {}
    for entry in result["survivors"]:
        by_reason.setdefault(entry["judged"] or "not judged yet", []).append(entry["place"])
    for why, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(f"`{place}`" for place in sorted(set(places))[:3])
        lines.append(f"| {why} | {len(places)} | {shown} |")
    return "\n".join(lines)


def with_tables(page: str, result: Mapping[str, Any]) -> str:
    """The page with its tables written anew."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{tables(result)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
