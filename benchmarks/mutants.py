"""Changes the code in small ways and finds the changes that no test notices: mutmut makes them, forks of pytest judge.

    python -m benchmarks.mutants FOLDER [--only WORD ...] [--without EXPRESSION] [--survivors]

copies the tree into FOLDER, mutates `TARGETS` there and runs their tests. mutmut's own `run` starts pytest for every
mutant, which takes a second. Here pytest collects once and runs every test once, to learn how long it takes and which
functions it calls; then each mutant gets a fork that runs the tests that call it, fast ones first, up to the first
failure. What became of each is kept where mutmut keeps it, so that the same command goes on where it was stopped, and
`mutmut show NAME` in FOLDER shows a mutant. `python -m benchmarks.mutation FOLDER` makes the tables.
"""

import argparse
import gc
import json
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
TARGETS = {
    "lcprune/analysis": ("tests/analysis",),
    "lcprune/export/progressive.py": (
        "tests/export/test_progressive.py",
        "tests/export/test_reduced_files.py",
        "tests/export/test_forms.py",
        "tests/export/test_ort.py",
    ),
}
"""What is changed, and the tests that are to notice."""
COPIED = ("lcprune", "tests", "recipes", "benchmarks", "pyproject.toml", "README.md", "LICENSE")
PYTEST = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
TIMEOUT_S, TIMES = 3, 2
"""CPU time that a mutant may take, besides so many times what its tests take."""
SURVIVED, KILLED, NO_TEST, TIMEOUT = 0, 1, 33, 36
"""Exit codes as mutmut keeps them."""
SAVE_EVERY = 20


def main() -> int:
    """Reads the command line and works until all mutants are judged."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(TARGETS), help="parts of the paths of modules")
    parser.add_argument("--without", metavar="EXPRESSION", help="tests to leave out, as pytest's -k has them")
    parser.add_argument("--survivors", action="store_true", help="judge those again that were not noticed")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "mutants").exists():
        prepare(folder)
    found = sorted((folder / "mutants").rglob("*.py.meta"))
    metas = [path for word in given.only for path in found if word in str(path)]
    tests = [
        test for target, own in TARGETS.items() if any(f"/{target}" in str(path) for path in metas) for test in own
    ]
    os.chdir(folder / "mutants")
    sys.path.insert(0, str(folder / "mutants"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lcprune"]:
        del sys.modules[name]
    chosen = ["-k", f"not ({given.without})"] if given.without else []
    again = {None, SURVIVED, NO_TEST} if given.survivors else {None}
    return int(pytest.main([*PYTEST, *chosen, *tests], plugins=[Judge(metas, again)]))


def prepare(folder: Path) -> None:
    """A copy of the tree in ``FOLDER/mutants`` with all mutants in it, and the plain one in FOLDER for mutmut."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    for place in (folder, folder / "mutants"):
        place.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            whole = ROOT / name
            if whole.is_dir():
                shutil.copytree(whole, place / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(whole, place / name)
    targets = [ROOT / target for target in TARGETS]
    for path in [
        file for target in targets for file in ([target] if target.is_file() else sorted(target.glob("*.py")))
    ]:
        module = path.relative_to(ROOT)
        mutated = mutate_file_contents(str(module), path.read_text(encoding="utf-8"))
        place = folder / "mutants" / module
        place.write_text(mutated.code, encoding="utf-8")
        codes = {get_mutant_name(module, name): None for name in mutated.mutant_names}
        meta = {"exit_code_by_key": codes, "hash_by_function_name": dict(mutated.hash_by_function_name)}
        empty: dict[str, Any] = {
            "durations_by_key": {},
            "estimated_durations_by_key": {},
            "type_check_error_by_key": {},
        }
        place.with_name(f"{place.name}.meta").write_text(json.dumps({**meta, **empty}, indent=4), encoding="utf-8")


class Top:
    """The end of a chain of tests: what the whole session shares stays."""

    def __init__(self, session: pytest.Session) -> None:
        """Of that session."""
        self.session = session

    def listchain(self) -> list[Any]:
        """What is not taken down."""
        return [self.session]


class Judge:
    """A pytest plugin that runs the tests once, and then those of each mutant."""

    def __init__(self, metas: Sequence[Path], again: set[int | None]) -> None:
        """For the mutants in these files of which that is known; None: nothing."""
        self.metas, self.again = metas, again
        self.seconds: dict[Any, float] = {}
        self.of_function: dict[str, list[Any]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        self.learn(session)
        gc.freeze()  # what is never looked at is never copied into the forks
        for meta in self.metas:
            self.judge_module(meta, session)
        gc.unfreeze()
        return True

    def learn(self, session: pytest.Session) -> None:
        """Runs every test once, unchanged."""
        from mutmut.mutation import trampoline

        called: set[str] = set()
        trampoline.record_trampoline_hit = lambda name, caller=None: called.add(name)
        os.environ["MUTANT_UNDER_TEST"] = "stats"
        for item in session.items:
            called.clear()
            started = time.process_time()
            if failed := [report for report in run((item,), session) if report.failed]:
                pytest.exit(f"{item.nodeid} fails without any change:\n{failed[0].longreprtext}", returncode=1)
            self.seconds[item] = time.process_time() - started
            for name in called:
                self.of_function.setdefault(name, []).append(item)
        print(f"{len(session.items)} tests, {sum(self.seconds.values()):.0f} s", flush=True)

    def judge_module(self, meta: Path, session: pytest.Session) -> None:
        """Every mutant of a module that is waiting."""
        content = json.loads(meta.read_text(encoding="utf-8"))
        codes = content["exit_code_by_key"]
        waiting = [name for name, code in codes.items() if code in self.again]
        waiting.sort(key=lambda name: sum(self.seconds[item] for item in self.tests_of(name)))
        started = time.monotonic()
        for number, name in enumerate(waiting, start=1):
            codes[name] = self.judge(name, session)
            if number % SAVE_EVERY == 0 or number == len(waiting):
                part = meta.with_suffix(".part")
                part.write_text(json.dumps(content, indent=4), encoding="utf-8")
                part.replace(meta)
        survived = sum(code == SURVIVED for code in codes.values())
        module = meta.stem
        print(f"{module}: {len(codes)}, {survived} survived, {time.monotonic() - started:.0f} s", flush=True)

    def tests_of(self, name: str) -> list[Any]:
        """The tests that call the function of a mutant, fast ones first."""
        known = self.of_function.get(name.partition("__mutmut_")[0], [])
        return sorted(known, key=self.seconds.__getitem__)

    def judge(self, name: str, session: pytest.Session) -> int:
        """What becomes of one mutant."""
        items = self.tests_of(name)
        if not items:
            return NO_TEST
        process = os.fork()
        if process == 0:
            self.try_mutant(name, items, session)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return code if code in (SURVIVED, KILLED) else TIMEOUT if code == -24 else KILLED

    def try_mutant(self, name: str, items: Sequence[Any], session: pytest.Session) -> None:
        """In a fork: ends it with the verdict."""
        code = KILLED
        try:
            seconds = int(TIMEOUT_S + TIMES * sum(self.seconds[item] for item in items))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            os.environ["MUTANT_UNDER_TEST"] = name
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            code = SURVIVED if passes(items, session) else KILLED
        finally:
            os._exit(code)


def run(items: Sequence[Any], session: pytest.Session) -> Iterable[pytest.TestReport]:
    """Runs tests one after the other; what only some of them share is taken down after the last."""
    for item, following in zip(items, [*items[1:], Top(session)], strict=True):
        yield from runtestprotocol(item, log=False, nextitem=following)


def passes(items: Sequence[Any], session: pytest.Session) -> bool:
    """Whether all tests pass, without the reports that pytest would write; it is left as it is after a failure."""
    warnings.simplefilter("error")
    for item, following in zip(items, [*items[1:], Top(session)], strict=True):
        item._initrequest()
        try:
            session._setupstate.setup(item)
            item.runtest()
            session._setupstate.teardown_exact(following)
        except pytest.skip.Exception:
            session._setupstate.teardown_exact(following)
        except BaseException:  # as a signal or an exit in a changed line would be
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
