"""What all parts of the suite have in common: a part is a list of cases, and a case runs in a process of its own.

What one case leaves behind in the allocator has changed the result of the next one before.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
"""A line of a result: plain numbers and names, as JSON has them."""


def run_case(
    module: str, doc: str | None, cases: Mapping[str, Callable[[], list[Row]]], arguments: Sequence[str] | None
) -> None:
    """The command ``python -m benchmarks.MODULE CASE``: prints the rows of a case as JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=(doc or "").split("\n")[0])
    parser.add_argument("case", choices=list(cases), metavar="CASE", help=", ".join(map(repr, cases)))
    print(json.dumps(cases[parser.parse_args(arguments).case]()))
