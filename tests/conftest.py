"""Fixtures that more than one test module uses."""

import copy
import functools
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from filelock import FileLock
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.cli import app
from lcprune.data.sources import read_digits
from lcprune.exporters import stages, verify
from lcprune.pipeline import train as training
from lcprune.pipeline.export import ExportRequest, export
from lcprune.pipeline.profile import profile_run
from tests.advice import unknown_options

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background, where tests may run, ignores it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-deprecation", action="store_true", help="fail if the summary lists what a dependency deprecates"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only deprecations get into the summary of warnings: all others are errors (pyproject.toml)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # the workers of xdist have none
    if session.config.getoption("fail_on_deprecation") and reporter and reporter.stats.get("warnings"):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


REPOSITORY = Path(__file__).resolve().parents[1]

TINY = (
    "model.width=0.0625",
    "critics.channels=8",
    "train.iterations=60",
    "train.checkpoint_every=20",
    "train.evaluate_every=30",
)
"""Overrides that make `digits` a run of a second."""

TEST_IMAGES = 20


LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def _blocked(real: Callable[..., Any]) -> Callable[..., Any]:
    """`connect` of a socket, but to this machine only."""

    def connect(self: socket.socket, address: Any, *arguments: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            pytest.fail(f"a test asked the network for {address[0]}")  # no Exception: nothing can catch it by mistake
        return real(self, address, *arguments)

    return connect


def _looked_up(real: Callable[..., Any]) -> Callable[..., Any]:
    """`getaddrinfo`, for this machine only."""

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name != socket.gethostname() and not str(name).startswith(LOOPBACK):
            pytest.fail(f"a test asked the network for {name}")
        return real(host, *arguments, **options)

    return look_up


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Sockets of this process reach this machine and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _blocked(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", _looked_up(socket.getaddrinfo))
        yield


class Quiet:
    """A listener that says nothing."""

    def stepped(self, *_: Any) -> None: ...

    def evaluated(self, *_: Any) -> None: ...


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder with the official CIFAR-10 and CIFAR-100; the test is skipped where they cannot be had."""
    root = REPOSITORY / "data"
    root.mkdir(exist_ok=True)
    with FileLock(root / ".unpacking"):  # every test worker comes here
        if (root / "cifar-10-batches-py" / "test_batch").is_file() and (root / "cifar-100-python" / "test").is_file():
            return root
        unpack = REPOSITORY.parent / "shared" / "data" / "unpack_cifar.py"
        if not unpack.is_file():
            pytest.skip(f"CIFAR is not in {root}")
        done = subprocess.run([sys.executable, unpack, root, "--dataset", "all"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"CIFAR could not be unpacked into {root}: {done.stderr.strip()[-200:]}")
    return root


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides that make `digits` a run of a second."""
    return TINY


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., training.Trained]:
    """``train_tiny(folder, *overrides)``: digits, trained for some steps without a word."""

    def train(out: Path, *overrides: str, notice: Callable[[str], None] = lambda _: None) -> training.Trained:
        return training.train(
            recipes.load("digits", [*TINY, *overrides]),
            out=out,
            data_root=out.parent,
            device="cpu",
            display=lambda *_: nullcontext(Quiet()),
            notice=notice,
        )

    return train


SHARED_VALUES = 100_000
"""Of weights: an export of more is not kept."""


def _digest(module: nn.Module, *more: Any) -> str:
    """Of all that an export depends on: classes, settings and tensors."""
    plain = vars(nn.Module()).keys() - {"training"}
    digest = hashlib.sha256(repr(more).encode())
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if key not in plain}
        digest.update(repr((name, type(part), settings)).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode() + tensor.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="session", autouse=True)
def exported_once() -> Iterator[None]:
    """torch exports a small network once per session, which takes a second each time; what comes after is as ever."""
    made: dict[str, onnx.ModelProto | None] = {}
    export = stages._export_any_batch

    @functools.wraps(export)
    def once(module: nn.Module, *arguments: Any) -> onnx.ModelProto | None:
        if sum(tensor.numel() for tensor in module.parameters()) > SHARED_VALUES:
            return export(module, *arguments)
        key = _digest(module, *arguments)
        if key not in made:
            made[key] = export(module, *arguments)
        return copy.deepcopy(made[key])  # metadata is attached to it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_export_any_batch", once)
        yield


@pytest.fixture(scope="session")
def plain_logits() -> Callable[[Sequence[onnx.ModelProto], np.ndarray], np.ndarray]:
    """`stage_logits` of the integers in the file, without the integer kernels of this processor.

    Where it has no VNNI, onnxruntime's kernels cut the sum of two products off at 16 bits, and what is lost by that is
    another matter. Without optimisation it runs every operator as it stands: convolutions in float32, between
    rounding to integers and back.
    """

    def open_plain(model: bytes, _: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(stages: Sequence[onnx.ModelProto], images: np.ndarray) -> np.ndarray:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "open_session", open_plain)
            return verify.stage_logits(stages, images)

    return run


@pytest.fixture(scope="session")
def asked() -> Callable[..., ExportRequest]:
    """``asked(threshold="0.9")``: what ``lcprune export --progressive --threshold 0.9`` asks for."""

    def ask(**options: Any) -> ExportRequest:
        plain: dict[str, Any] = {
            "progressive": True,
            "exit_name": None,
            "threshold": "auto",
            "max_drop_pct": None,
            "confidence": None,
            "exits": None,
            "threshold_input": "optional",
            "use_test_split": False,
            "output": None,
        }
        return ExportRequest(**plain | options)

    return ask


@pytest.fixture(scope="session")
def _finished_run(
    tmp_path_factory: pytest.TempPathFactory,
    train_tiny: Callable[..., training.Trained],
    asked: Callable[..., ExportRequest],
) -> Path:
    """A run of digits, profiled, with a progressive export at thresholds by hand."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = train_tiny(folder / "digits-1").run
        profile_run(run)
        export(run, asked(threshold="0.5,0.4,0.3"), notice=lambda _: None)
    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LCPRUNE_DATA", raising=False)
    return tmp_path


@pytest.fixture
def run(_finished_run: Path, here: Path) -> Path:
    """A finished and profiled run of digits of its own, ``runs/digits-1``, which ``runs/latest`` names.

    ``export/progressive.onnx`` has the thresholds 0.5, 0.4 and 0.3.
    """
    folder = here / "runs" / "digits-1"
    shutil.copytree(_finished_run, folder)
    (here / runs.LATEST).symlink_to("digits-1", target_is_directory=True)
    return folder


@pytest.fixture
def shaped_run(run: Path) -> Callable[..., Path]:
    """``shaped_run(val, test)`` makes up the predictions of the run: whether each exit ``(4, N)`` is right.

    All confidences are the same.
    """

    def shape(val: Sequence[Sequence[int]] | None, test: Sequence[Sequence[int]] | None = None) -> Path:
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for name, right in (("val", val), ("test", test)):
            of_exits = np.array([[], [], [], []] if right is None else right, dtype=np.int64)  # (K, N)
            labels = np.arange(of_exits.shape[1]) % 10
            said = np.where(of_exits == 1, labels, (labels + 1) % 10)
            arrays |= {f"{name}_labels": labels, f"{name}_logits": np.eye(10, dtype=np.float32)[said]}
        runs.write_predictions(run, arrays)
        return run

    return shape


@pytest.fixture
def digit_folder(here: Path) -> Path:
    """The first test images of digits as ``digit-images/CLASS/N.png``."""
    _, test = read_digits()
    for index in range(TEST_IMAGES):
        folder = here / "digit-images" / str(test.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images[index, 0]).save(folder / f"{index}.png")
    return here / "digit-images"


@pytest.fixture
def cli() -> Callable[..., Any]:
    """``cli("select", "--max-drop", "2")``: the result, with ``exit_code``, ``stdout`` and ``stderr``."""

    def invoke(*arguments: str | Path) -> Any:
        return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return invoke


@pytest.fixture
def refused(cli: Callable[..., Any]) -> Callable[..., dict[str, str]]:
    """Runs a command that must fail, both ways, and gives the error that ``--json`` printed.

    With ``--json`` stdout is the error and nothing else; without, stdout is empty and stderr has the same two lines.
    """

    def check(*arguments: str | Path, exit_code: int = 1) -> dict[str, str]:
        as_json, plain = cli(*arguments, "--json"), cli(*arguments)
        assert (as_json.exit_code, plain.exit_code) == (exit_code, exit_code)
        content = json.loads(as_json.stdout)
        assert list(content) == ["error"]
        error: dict[str, str] = content["error"]
        assert set(error) == {"kind", "problem", "fix"}
        assert all(error.values())
        assert unknown_options(error["fix"], str(arguments[0])) == [], error["fix"]
        assert plain.stdout == ""
        assert f"error: {error['problem']}\n  fix: {error['fix']}\n" in plain.stderr
        assert "Traceback" not in plain.stderr + as_json.stderr
        return error

    return check
