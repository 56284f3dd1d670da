"""examples/server: what it answers, over a real connection, and what it refuses before the work begins."""

import asyncio
import importlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from lcprune import ProgressiveSession

SERVER = Path(__file__).resolve().parents[2] / "examples/server"
PNG = {"Content-Type": "image/png"}

Serve = Callable[..., httpx.Client]


class Waiting:
    """A model that does not answer before `go` is set."""

    def __init__(self, session: ProgressiveSession) -> None:
        self.session, self.info, self.name = session, session.info, session.name
        self.started, self.go = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self.started.set()
        self.go.wait(30)
        return self.session(*arguments)


@pytest.fixture(scope="module")
def example() -> Iterator[Callable[[str], ModuleType]]:
    """``example("uploads")``: a module of the example."""
    sys.path.insert(0, str(SERVER))
    yield importlib.import_module
    sys.path.remove(str(SERVER))


@pytest.fixture
def session(run: Path) -> ProgressiveSession:
    return ProgressiveSession(run / "export/progressive.onnx", threads=1)


@pytest.fixture
def waiting(session: ProgressiveSession) -> Iterator[Waiting]:
    model = Waiting(session)
    yield model
    model.go.set()


@pytest.fixture
def digits(digit_folder: Path) -> list[Path]:
    return sorted(digit_folder.glob("*/*.png"))


@pytest.fixture
def serve(example: Callable[[str], ModuleType], session: ProgressiveSession) -> Iterator[Serve]:
    """``serve(images=2)``: a client of a running service with these limits."""
    with ExitStack() as stack:

        def start(model: Any = session, **limits: Any) -> httpx.Client:
            app = example("app").create_app(model, example("uploads").Limits(**limits))
            server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
            thread = threading.Thread(target=server.run)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            host, port = server.servers[0].sockets[0].getsockname()
            return stack.enter_context(httpx.Client(base_url=f"http://{host}:{port}", timeout=60, trust_env=False))

        yield start


def post(client: httpx.Client, image: Path | bytes, **options: Any) -> httpx.Response:
    content = image if isinstance(image, bytes) else image.read_bytes()
    return client.post("/classify", content=content, **{"headers": PNG, **options})


def error_of(response: httpx.Response, status: int) -> str:
    """The one message of a refusal."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    message = response.json()["error"]
    assert isinstance(message, str)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def metric(client: httpx.Client, name: str) -> float:
    """A sample such as ``lcprune_images_total{exit="main"}``."""
    lines = [line.rpartition(" ") for line in client.get("/metrics").text.splitlines()]
    (value,) = [float(value) for key, _, value in lines if key == name]
    return value


def png(width: int, height: int) -> bytes:
    """The header says that it is so large; there is next to nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def connect(client: httpx.Client, headers: str, body: bytes) -> socket.socket:
    """A POST by hand."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)
    request = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{headers}\r\n\r\n"
    connection.sendall(request.encode() + body)
    return connection


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_says_what_predict_says(serve: Serve, digits: list[Path], run: Path, cli: Callable[..., Any]) -> None:
    client = serve(images=len(digits))
    predicted = json.loads(cli("predict", run / "export/progressive.onnx", *digits, "--json").stdout)["images"]
    files = [("file", (path.name, path.read_bytes(), "image/png")) for path in digits]
    response = client.post("/classify", files=files)
    assert response.status_code == 200
    rows = response.json()["images"]
    assert [row["name"] for row in rows] == [path.name for path in digits]
    for row, expected in zip(rows, predicted, strict=True):
        for key in ("class", "exit", "exit_index", "macs_ratio"):
            assert row[key] == expected[key]
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
    (alone,) = post(client, digits[0]).json()["images"]
    assert alone | {"name": "", "confidence": 0} == rows[0] | {"name": "", "confidence": 0}


def test_thresholds_of_a_request(serve: Serve, digits: list[Path]) -> None:
    client = serve()
    for thresholds, name in (([2], "main"), ([0], "sub-model 1"), ([2, 0, 2], "sub-model 2")):
        (row,) = post(client, digits[0], params={"threshold": thresholds}).json()["images"]
        assert row["exit"] == name
    for wrong, message in (
        ([0.5, 0.5], "takes 3 thresholds, not 2"),
        (["high"], "not a number"),
        (["nan"], "not a num"),
    ):
        assert message in error_of(post(client, digits[0], params={"threshold": wrong}), 400)


def test_a_long_body_is_refused_before_it_is_sent(serve: Serve) -> None:
    client = serve(body_bytes=1000)
    with connect(client, "Content-Length: 1000000000000", b"") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("image/png", b"\x89PNG"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'),
    ],
)
def test_a_body_of_unknown_length_is_cut_off(
    example: Callable[[str], ModuleType], session: ProgressiveSession, kind: str, head: bytes
) -> None:
    app = example("app").create_app(session, example("uploads").Limits(body_bytes=100_000))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        while True:
            sent += 1
            yield bytes(10_000)

    async def ask(headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.post("/classify", content=endless(), headers=headers)

    for lie in ({}, {"Content-Length": "no number"}, {"Content-Length": "10"}):
        sent = 0
        assert "100,000 bytes" in error_of(asyncio.run(ask({"Content-Type": kind, **lie})), 413)
        assert sent == 10


@pytest.mark.parametrize("size", [(1001, 1000), (10_000, 10_000), (60_000, 60_000)])
def test_an_image_of_too_many_pixels_is_not_decoded(
    serve: Serve, example: Callable[[str], ModuleType], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example("uploads"), "read_prepared", lambda *_: pytest.fail("it was decoded"))
    client = serve(image_pixels=1_000_000)
    assert error_of(post(client, png(*size)), 413) == "image has more than 1,000,000 pixels"


def test_a_bad_image_gets_one_message(serve: Serve, digits: list[Path]) -> None:
    client = serve()
    tiff = io.BytesIO()
    Image.new("L", (8, 8)).save(tiff, "TIFF")  # Pillow reads it, the service does not
    for content in (b"no image", digits[0].read_bytes()[:60], png(8, 8), tiff.getvalue()):
        assert error_of(post(client, content), 400) == "image is damaged, or no image of a kind that is taken here"
    files = [("file", ("fine.png", digits[0].read_bytes())), ("file", ("../../bad.png", b"no image"))]
    message = error_of(client.post("/classify", files=files), 400)
    assert message.startswith("../../bad.png is damaged")
    assert metric(client, 'lcprune_rejected_total{reason="bad_image"}') == 5


def test_types_that_are_not_taken(serve: Serve, digits: list[Path]) -> None:
    client = serve()
    for headers, problem in (
        ({"Content-Type": "text/html"}, "text/html is not taken"),
        ({"Content-Type": "image/svg+xml"}, "image/svg+xml is not taken"),
        ({}, "the content type is missing"),
    ):
        message = error_of(post(client, digits[0], headers=headers), 415)
        assert message.startswith(f"{problem}; send image/bmp, ")
    files = {"file": ("page.html", digits[0].read_bytes(), "text/html")}
    assert "text/html is not taken" in error_of(client.post("/classify", files=files), 415)
    assert post(client, digits[0], headers={"Content-Type": "Image/PNG; q=1"}).status_code == 200
    assert post(client, digits[0], headers={"Content-Type": "application/octet-stream"}).status_code == 200


def test_forms_that_are_not_taken(serve: Serve, digits: list[Path]) -> None:
    client = serve(images=2)
    content = digits[0].read_bytes()
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert error_of(post(client, b""), 400) == "the body is empty"
    assert error_of(post(client, b"--x--\r\n", headers=form), 400) == "the form has no file"
    assert "boundary" in error_of(post(client, content, headers={"Content-Type": "multipart/form-data"}), 400)
    assert error_of(post(client, content, headers=form), 400)
    assert "Maximum number of files is 2" in error_of(client.post("/classify", files=[("file", content)] * 3), 400)
    files = {"file": content}
    assert "Too many fields" in error_of(client.post("/classify", files=files, data={"path": "/etc/passwd"}), 400)
    assert len(client.post("/classify", files=[("a", content), ("b", content)]).json()["images"]) == 2


def test_a_full_house_refuses_and_the_loop_stays_free(serve: Serve, waiting: Waiting, digits: list[Path]) -> None:
    client = serve(waiting, requests=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, digits[0])
        assert waiting.started.wait(30)
        refused = post(client, digits[0])
        assert "too many requests" in error_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert client.get("/healthz").status_code == 200  # while the model is at work
        waiting.go.set()
        assert first.result().status_code == 200
    until(lambda: post(client, digits[0]).status_code == 200)
    assert metric(client, 'lcprune_rejected_total{reason="busy"}') >= 1


def test_work_that_takes_too_long(serve: Serve, waiting: Waiting, digits: list[Path]) -> None:
    client = serve(waiting, requests=2, timeout_s=0.3)
    assert "took too long" in error_of(post(client, digits[0]), 504)
    assert "took too long" in error_of(post(client, digits[0]), 504)  # has waited for the only thread
    assert "took too long" in error_of(post(client, digits[0]), 504)  # the place of what waited is free, so no 503
    with ThreadPoolExecutor(2) as pool:  # but that of what still runs is not, so of two at once one finds no place
        until(lambda: 503 in [r.status_code for r in pool.map(lambda _: post(client, digits[0]), range(2))])
    assert waiting.calls == 1
    waiting.go.set()
    until(lambda: post(client, digits[0]).status_code == 200)


def test_a_body_that_arrives_too_slowly(serve: Serve, digits: list[Path]) -> None:
    client = serve(requests=1, timeout_s=0.3)
    with connect(client, "Content-Length: 500", b"\x89PNG") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
    until(lambda: post(client, digits[0]).status_code == 200)
    assert metric(client, 'lcprune_rejected_total{reason="slow"}') == 1


def test_a_client_that_goes_away_gives_its_place_back(serve: Serve, digits: list[Path]) -> None:
    client = serve(requests=1)
    connect(client, "Content-Length: 500", b"\x89PNG").close()
    until(lambda: metric(client, 'lcprune_rejected_total{reason="disconnected"}') == 1)
    assert post(client, digits[0]).status_code == 200


def test_metrics_count(serve: Serve, digits: list[Path]) -> None:
    client = serve()
    for exit_name in ("sub-model 1", "sub-model 2", "sub-model 3", "main"):
        assert metric(client, f'lcprune_images_total{{exit="{exit_name}"}}') == 0
    files = [("file", path.read_bytes()) for path in digits[:3]]
    client.post("/classify", files=files, params={"threshold": 2})
    post(client, digits[0], params={"threshold": [2, 0, 0]})
    post(client, b"no image")
    assert metric(client, 'lcprune_images_total{exit="main"}') == 3
    assert metric(client, 'lcprune_images_total{exit="sub-model 2"}') == 1
    assert metric(client, 'lcprune_images_total{exit="sub-model 1"}') == 0
    assert metric(client, 'lcprune_requests_total{status="200"}') == 2
    assert metric(client, 'lcprune_requests_total{status="400"}') == 1
    assert metric(client, 'lcprune_rejected_total{reason="bad_image"}') == 1
    assert metric(client, "lcprune_request_duration_seconds_count") == 3
    assert metric(client, 'lcprune_request_duration_seconds_bucket{le="+Inf"}') == 3
    assert client.get("/metrics").headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_health_and_description(serve: Serve) -> None:
    client = serve()
    exits = ["sub-model 1", "sub-model 2", "sub-model 3", "main"]
    expected = {"status": "ok", "model": "progressive.onnx", "classes": 10, "exits": exits}
    assert client.get("/healthz").json() == expected
    described = client.get("/openapi.json").json()["paths"]["/classify"]["post"]
    assert "image/png" in described["requestBody"]["content"]
    assert client.get("/classify").status_code == 405
    assert client.get("/docs").status_code == 404  # FastAPI's page would load scripts from elsewhere


def test_it_starts_from_the_command_line_without_torch(run: Path, here: Path, digits: list[Path]) -> None:
    (here / "blocked").mkdir()
    (here / "blocked/torch.py").write_text("raise ImportError('torch is not to be imported')")
    environment = os.environ | {
        "PYTHONPATH": str(here / "blocked"),
        "LCPRUNE_MODEL": str(run / "export/progressive.onnx"),
    }
    command = [sys.executable, SERVER / "app.py", "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            assert server.stderr is not None
            said = iter(server.stderr)
            address = next(found for line in said if (found := re.search(r"http://127\.0\.0\.1:\d+", line))).group()
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                assert len(post(client, digits[0]).json()["images"]) == 1
        finally:
            server.terminate()


def test_the_command_line_names_what_is_missing(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LCPRUNE_MODEL", raising=False)
    app = example("app")
    for arguments, code, message in (
        ([], 2, "name a model, or set LCPRUNE_MODEL"),
        (["x.onnx", "--max-pixels", "0"], 2, "--max-pixels must be more than 0"),
    ):
        monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
        with pytest.raises(SystemExit, match=str(code)):
            app.main()
        assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["app.py", "nowhere.onnx"])
    assert app.main() == 1
    assert "error: nowhere.onnx cannot be read" in capsys.readouterr().err


def test_the_factory_reads_the_environment(
    example: Callable[[str], ModuleType], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCPRUNE_MODEL", str(run / "export/progressive.onnx"))
    paths = {route.path for route in example("app").from_environment().routes}
    assert {"/classify", "/healthz", "/metrics"} <= paths


def test_the_readme_names_every_limit_with_its_default(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (SERVER / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["app.py", "model.onnx"])
    usual = vars(example("app").parse())
    rows = re.findall(r"^\| .* \| `(--[a-z-]+)` \| ([\d.]+)( MiB| million)? \|", text, re.MULTILINE)
    factor = {"": 1, " MiB": 2**20, " million": 10**6}
    described = {option[2:].replace("-", "_"): float(value) * factor[unit] for option, value, unit in rows}
    assert len(described) == 5
    assert described == {name: usual[name] for name in described}
