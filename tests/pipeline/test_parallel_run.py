"""One training in several processes, from the recipe to the run folder. Three starts of processes serve all tests."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.errors import LcpruneError, RunError, SetupError
from lcprune.pipeline import parallel_run, train
from lcprune.training import checkpoint
from lcprune.training.parallel import ParallelOptions, layers, mesh

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("parallel run")]

STEPS = 24
RECIPE = """\
name: tiny
data: {source: digits, batch_size: 8, val_size: 101, augment: crop, pad: 1}
model: {trunk: vgg, width: 0.0625}
critics: {head: pooled, channels: 4, pool_to: 1}
train: {iterations: 24, lr: 0.02, evaluate_every: 12, checkpoint_every: 4}
logging: {every: 4}
"""


@dataclass(frozen=True)
class Job:
    """One training, begun or gone on with."""

    folder: str
    parallel: str | None
    """None: as it was begun."""
    staleness: int = 0
    groups_per_rank: tuple[int, ...] = ()
    overrides: tuple[str, ...] = ()
    goes_on: bool = False
    stopped_at: int = 0
    """Where all processes are to stop, because the last one was told to a little before."""
    spoilt_at: int = -1
    """The step at which weights of the last process are no longer numbers, once."""


@dataclass
class Found:
    """What one process knows of a job."""

    error: str = ""
    reports: bool | None = None
    losses: list[list[float]] = field(default_factory=list)
    test_accuracy_pct: tuple[float, ...] = ()
    sent_bytes: int = 0


class Listener:
    """Tells this process to stop."""

    def __init__(self, found: Found, at: int) -> None:
        self._found = found
        self._at = at

    def stepped(self, step: int, logged: Any) -> None:
        if logged is not None:
            self._found.losses.append(logged.loss)
        if step == self._at:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluated(self, _: Any) -> None: ...


def done(job: Job, is_last: bool) -> Found:
    """A job, in the process that calls."""
    found = Found()
    asked_at = job.stopped_at - 3 - job.staleness if job.stopped_at and is_last else -1
    options = ParallelOptions(job.parallel, job.staleness, job.groups_per_rank, 60) if job.parallel else None
    common: dict[str, Any] = {
        "device": "cpu",
        "display": lambda *_: nullcontext(Listener(found, asked_at)),
        "notice": lambda _: None,
    }
    isend, backward, is_spoilt = dist.isend, layers.LayerParallel.backward, False

    def noted(message: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        found.sent_bytes += message.nbytes
        return isend(message, *arguments, **options)

    def spoilt(method: layers.LayerParallel, images: Any, labels: Any, step: int) -> Any:
        nonlocal is_spoilt
        if step == job.spoilt_at and is_last and not is_spoilt:
            is_spoilt = True
            with torch.no_grad():
                next(next(iter(method.parts())).parameters()).fill_(float("nan"))
        return backward(method, images, labels, step)

    with (
        mock.patch.object(dist, "isend", noted),
        mock.patch.object(layers.LayerParallel, "backward", spoilt),
    ):
        try:
            if job.goes_on:
                trained = train.resume(Path(job.folder), job.overrides, parallel=options or ParallelOptions(), **common)
            else:
                loaded = recipes.parse(RECIPE, "tiny", job.overrides)
                trained = train.train(
                    loaded, out=Path(job.folder), data_root=Path(), is_latest=False, parallel=options, **common
                )
            found.test_accuracy_pct = trained.test_accuracy_pct
        except LcpruneError as error:
            found.error, found.reports = error.problem, error.reports
    return found


def work(rank: int, size: int, jobs: list[dict[str, Any]], ports: list[int]) -> list[Found]:
    """All jobs, one after the other, in one of `size` processes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    found = []
    for job, port in zip(jobs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(done(Job(**job), is_last=rank == size - 1))
    return found


STARTER = """
import importlib.util, pickle, sys
spec = importlib.util.spec_from_file_location("work", sys.argv[1])
work = importlib.util.module_from_spec(spec)
sys.modules["work"] = work
spec.loader.exec_module(work)
rank, size, jobs, ports = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([vars(found) for found in work.work(rank, size, jobs, ports)]))
"""


def started(size: int, folder: Path, *jobs: Job) -> dict[str, list[Found]]:
    """What each of `size` processes knows of each job, by the name of its folder."""
    sockets = [socket.socket() for _ in jobs]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    line = [sys.executable, "-c", STARTER, __file__]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment) for _ in range(size)
    ]
    for rank, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((rank, size, [asdict(job) for job in jobs], ports)))
        process.stdin.flush()
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, b"\n".join(o[1] for o in outputs).decode()
    everyone = [[Found(**found) for found in pickle.loads(output[0])] for output in outputs]
    return {job.folder: [found[number] for found in everyone] for number, job in enumerate(jobs)}


@contextmanager
def one_thread() -> Iterator[None]:
    """As in the started processes: sums in several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[..., Path]:
    """``alone("train.lr=0.1")``: the run folder of one process."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in made:
            path = folder / f"alone-{len(made)}"
            with one_thread():
                assert done(Job(str(path), None, overrides=overrides), is_last=False).error == ""
            made[overrides] = path
        return made[overrides]

    return run


SPOILT = ("train.on_nonfinite=retry",)
HALVES = (2, 2)
"""With a staleness the result depends on where the network is cut, and by default that depends on measured times."""
DROPOUT = ("model.trunk=tests.trials.faults.training:build", "model.groups=2", "model.width=1")


@pytest.fixture(scope="module")
def three(folder: Path) -> dict[str, list[Found]]:
    (folder / "taken").mkdir()
    (folder / "taken" / "file").touch()
    return started(
        3,
        folder,
        Job("layers-3", "layers"),
        Job("stopped-3", "layers", stopped_at=12),
        Job("taken", "layers"),
        Job("spoilt", "layers", spoilt_at=9),
        Job("spoilt-retry", "layers", staleness=1, overrides=SPOILT, spoilt_at=9),
    )


@pytest.fixture(scope="module")
def two(folder: Path, three: dict[str, list[Found]]) -> dict[str, list[Found]]:
    for name in ("stopped-2", "stopped-1"):
        shutil.copytree(folder / "stopped-3", folder / name)
    return started(
        2,
        folder,
        Job("layers-2", "layers", groups_per_rank=(3, 1), overrides=("critics.update_every=2",)),
        Job("late", "layers", staleness=2, groups_per_rank=HALVES),
        Job("late-again", "layers", staleness=2, groups_per_rank=HALVES),
        Job("late-stopped", "layers", staleness=2, groups_per_rank=HALVES, stopped_at=12),
        Job("./late-stopped", None, staleness=2, goes_on=True),
        Job("data", "data"),
        Job("stopped-2", None, goes_on=True),
        Job("dropout", "layers", overrides=DROPOUT),
        Job("dropout-stopped", "layers", overrides=DROPOUT, stopped_at=12),
        Job("./dropout-stopped", None, goes_on=True),
        Job("distilling", "layers", overrides=("critics.distill=0.5",)),
    )


@pytest.fixture(scope="module")
def four(folder: Path, two: dict[str, list[Found]]) -> dict[str, list[Found]]:
    return started(
        4,
        folder,
        Job("layers-4", "layers"),
        Job("both", "both"),
        Job("both-late", "both", staleness=1),
        Job("stopped-3", None, goes_on=True),
    )


def content(run: Path, name: str = checkpoint.LAST) -> dict[str, Any]:
    return checkpoint.load(run / runs.CHECKPOINTS / name)


def same_bits(one: Path, other: Path) -> bool:
    return all(runs.sha256(one / name) == runs.sha256(other / name) for name in (runs.WEIGHTS, runs.PREDICTIONS))


def flat(value: Any) -> list[Any]:
    """Tensors and numbers, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in flat(value[key])]
    return [leaf for each in value for leaf in flat(each)] if isinstance(value, list | tuple) else [value]


def gap(one: Path, other: Path) -> float:
    """Between weights, statistics and the states of optimizers."""
    left, right = ([*flat(content(run)["network"]), *flat(content(run)["optimizers"])] for run in (one, other))
    assert len(left) == len(right)
    pairs = zip(left, right, strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if isinstance(a, torch.Tensor))


def ranks_of(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / runs.PARALLEL).read_text())["ranks"]
    return found


def test_layers_on_three_processes_are_one(folder: Path, three: dict[str, list[Found]], alone: Any) -> None:
    assert {found.error for found in three["layers-3"]} == {""}
    assert same_bits(folder / "layers-3", alone())
    assert gap(folder / "layers-3", alone()) == 0
    assert {found.test_accuracy_pct for found in three["layers-3"]} == {three["layers-3"][0].test_accuracy_pct}
    assert all(found.losses == three["layers-3"][0].losses for found in three["layers-3"])
    assert np.array(three["layers-3"][0].losses).shape == (STEPS // 4, 4)
    lines = [(run / runs.METRICS).read_text().count("\n") for run in (folder / "layers-3", alone())]
    assert lines[0] == lines[1]


def test_layers_on_two_and_four(folder: Path, two: dict[str, Any], four: dict[str, Any], alone: Any) -> None:
    assert same_bits(folder / "layers-2", alone("critics.update_every=2"))
    assert [rank["groups"] for rank in ranks_of(folder / "layers-2")] == [[1, 2, 3], [4]]
    assert same_bits(folder / "layers-4", alone())
    assert [rank["groups"] for rank in ranks_of(folder / "layers-4")] == [[1], [2], [3], [4]]


def test_bytes_are_counted_as_they_are_foretold(
    folder: Path, three: dict[str, list[Found]], two: dict[str, list[Found]], four: dict[str, list[Found]]
) -> None:
    for name, everyone in (("layers-3", three), ("layers-2", two), ("late", two), ("layers-4", four)):
        foretold = [STEPS * rank["bytes_sent_per_step"] for rank in ranks_of(folder / name)]
        assert [found.sent_bytes for found in everyone[name]] == foretold
    first, *_, last = ranks_of(folder / "layers-4")
    assert last["bytes_sent_per_step"] == 8 + 4 * 8  # a header, and the losses of 8 samples
    assert (
        first["bytes_sent_per_step"]
        == 8 + 4 * 8 * content(folder / "layers-4")["network"]["groups.1.1.weight"].shape[1] * 8 * 8 // 4
    )


def test_late_critics_give_the_same_bits_again(folder: Path, two: dict[str, list[Found]], alone: Any) -> None:
    assert same_bits(folder / "late", folder / "late-again")
    assert gap(folder / "late", alone()) > 1e-6


def test_told_to_stop_all_stop_at_the_same_step(folder: Path, three: Any, two: Any) -> None:
    assert {found.error for found in three["stopped-3"]} == {"interrupted at step 12: saved"}
    assert {found.error for found in two["late-stopped"]} == {"interrupted at step 12: saved"}
    assert [found.reports for found in three["stopped-3"]].count(True) == 1


def test_others_go_on_to_the_same_bits(folder: Path, four: dict[str, list[Found]], alone: Any) -> None:
    assert same_bits(folder / "late-stopped", folder / "late")
    assert same_bits(folder / "dropout-stopped", folder / "dropout")
    assert same_bits(folder / "stopped-2", alone())
    with one_thread():
        assert done(Job(str(folder / "stopped-1"), None, goes_on=True), is_last=False).error == ""
    assert same_bits(folder / "stopped-1", alone())
    assert same_bits(folder / "stopped-3", alone())
    assert len(ranks_of(folder / "stopped-3")) == 4


def test_batches_are_shared(
    folder: Path, two: dict[str, list[Found]], four: dict[str, list[Found]], alone: Any
) -> None:
    for name in ("data", "both"):
        ours, theirs = content(folder / name)["network"], content(alone())["network"]
        for key, value in ours.items():
            # Normalised over 8 samples at one place, the last group makes much of a rounded digit.
            limit = 2e-2 if "groups.3" in key else 1e-3
            assert float((value.double() - theirs[key].double()).abs().max()) < limit, key
    assert gap(folder / "data", folder / "both") < 1e-4
    assert gap(folder / "both-late", folder / "both") > 1e-6
    assert [rank["groups"] for rank in ranks_of(folder / "both")][::2] == [
        rank["groups"] for rank in ranks_of(folder / "both")
    ][1::2]
    assert {found.error for name in ("data", "both", "both-late") for found in (two | four)[name]} == {""}


def test_one_process_tells(folder: Path, three: dict[str, list[Found]], two: dict[str, list[Found]]) -> None:
    for found in (three["taken"], three["spoilt"]):
        assert len({each.error for each in found}) == 1
        assert sorted(each.reports for each in found if each.reports is not None) == [False, False, True]
    assert three["taken"][0].error == "taken is there already and holds something"
    assert "critics.distill does not go with layers on several processes" in two["distilling"][0].error


def test_numbers_that_are_not_finite_are_everybodys(folder: Path, three: dict[str, list[Found]]) -> None:
    assert three["spoilt"][0].error.endswith("is no longer a finite number at step 12")
    assert "layer group" in three["spoilt"][0].error
    assert content(folder / "spoilt")["step"] == 8
    assert {found.error for found in three["spoilt-retry"]} == {""}
    last = content(folder / "spoilt-retry")
    assert (last["step"], last["retries"]) == (STEPS, 1)
    assert all(value.isfinite().all() for value in last["network"].values())


def test_the_run_that_torchrun_began_before(tmp_path: Path) -> None:
    assert parallel_run.begun_before_a_restart(tmp_path, ["a"]) is None
    (tmp_path / runs.RECIPE).touch()
    runs.write_json(tmp_path / runs.ENVIRONMENT, {"launches": ["a", "b"]})
    assert parallel_run.begun_before_a_restart(tmp_path, ["b", "c"]) == tmp_path
    assert parallel_run.begun_before_a_restart(tmp_path, ["c"]) is None
    assert parallel_run.begun_before_a_restart(tmp_path, []) is None


def test_layers_are_divided_as_before(tmp_path: Path) -> None:
    def before(stages: int) -> tuple[int, ...]:
        return parallel_run.groups_before(tmp_path, stages)

    assert before(2) == ()
    ranks = [{"rank": rank, "groups": groups} for rank, groups in enumerate(([1], [1], [2, 3, 4], [2, 3, 4]))]
    runs.write_json(tmp_path / runs.PARALLEL, {"parallel": "both", "staleness": 0, "ranks": ranks})
    assert before(2) == (1, 3)
    assert before(3) == ()
    runs.write_json(tmp_path / runs.PARALLEL, {"ranks": [{"rank": 0}]})
    with pytest.raises(RunError, match=r"parallel.json is damaged"):
        before(2)


def test_what_is_not_asked_for_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def before(**options: Any) -> ParallelOptions:
        return parallel_run.options_before(tmp_path, ParallelOptions(**options))

    assert before() == ParallelOptions()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert before() == ParallelOptions()
    runs.write_json(tmp_path / runs.PARALLEL, {"parallel": "layers", "staleness": 2, "ranks": []})
    assert before() == ParallelOptions("layers", 2)
    assert before(timeout_s=7.0) == ParallelOptions("layers", 2, timeout_s=7.0)
    assert before(staleness=0) == ParallelOptions("layers", 0)
    runs.write_json(tmp_path / runs.PARALLEL, {"parallel": "layers"})
    with pytest.raises(RunError, match=r"parallel.json is damaged"):
        before()


def test_a_resume_that_asks_for_no_others_is_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a cell of a table, of which each process has its own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(mesh, "connected", lambda *_: pytest.fail("it waited for others"))
    shown = {"display": lambda *_: nullcontext(Listener(Found(), -1)), "notice": lambda _: None}
    assert train.resume(run, (), device="cpu", **shown).run == run.resolve()


def test_too_many_processes_and_no_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    for parallel, size, problem in (
        ("layers", 5, "5 processes cannot share 4"),
        ("both", 3, "3 processes are no grid"),
    ):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        with pytest.raises(SetupError, match=problem):
            mesh.connected(parallel, 4, torch.device("cpu"), 60).__enter__()
    assert [mesh._stages("both", size, 4) for size in (4, 6, 8, 16)] == [2, 3, 4, 4]
    assert [mesh._stages("data", 7, 4), mesh._stages("layers", 3, 4)] == [1, 3]
