"""The mutants that `mutmut run` left unnoticed, without those that ``judged.json`` explains.

    mutmut run ["lcprune.analysis.select*"]; python -m tests.trials.mutants

prints the others; exit code 1 if there are any. An explanation is a function, a pattern of the change, and why no test
need notice it.
"""

import fnmatch
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

FOLDER = Path("mutants")
JUDGED = Path(__file__).with_name("judged.json")
UNNOTICED = (0, 5, 33)
"""Exit codes that mutmut keeps for mutants that survive, or that no test reaches; None was not tried yet."""


def main() -> int:
    """Prints the survivors that nothing explains, and how many mutants were not tried; exit code 1 for the former."""
    rules = json.loads(JUDGED.read_text(encoding="utf-8"))
    unexplained = 0
    for path in sorted(FOLDER.rglob("*.py.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        module = path.relative_to(FOLDER).as_posix().removesuffix(".meta")
        if waiting := sum(code is None for code in codes.values()):
            print(f"{module}: {waiting:,} were not tried yet")
        for name in [name for name, code in codes.items() if code in UNNOTICED]:
            lines = get_diff_for_mutant(name, path=module).splitlines()
            change = "\n".join(line for line in lines if re.match(r"[-+](?![-+]{2} )", line))
            if not explained(name, module, change, rules):
                unexplained += 1
                print(f"not explained: {name}\n{change}")
    return int(unexplained > 0)


def explained(name: str, module: str, change: str, rules: Sequence[Mapping[str, str]]) -> bool:
    """Whether a rule, which says why no test need notice it, is about the function and the change of a mutant."""
    function = re.sub(r"^.*\.x[_ǁ]|__mutmut_\d+$", "", name).replace("ǁ", ".")
    place = f"{module.removeprefix('lcprune/').removesuffix('.py')}:{function}"
    of_place = [rule for rule in rules if fnmatch.fnmatchcase(place, rule["place"])]
    return any(re.search(rule["change"], change, re.DOTALL) for rule in of_place)


if __name__ == "__main__":
    sys.exit(main())
