"""The page of examples/web, in a real browser: it says what Python says, and asks nobody but its own server."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lcprune import runs
from lcprune.data.sources import read_digits
from lcprune.pipeline.export import ExportRequest, export
from lcprune.specs import CRITERIA, Criterion
from lcprune_runtime.criterion import row_scores
from lcprune_runtime.images import Preparation, read_prepared
from lcprune_runtime.metadata import InputInfo, read_info
from lcprune_runtime.session import ProgressiveSession

pytestmark = pytest.mark.xdist_group("web example")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "web"
IMAGES = 20
NODE = (20, 19)  # what Vite asks for
OFFLINE = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT")
MOST_LEVELS = {"tall.png": 1, "transparent.png": 2, "turned.jpg": 2}
"""By how much a pixel may differ: the order of two roundings, premultiplied alpha, another JPEG decoder."""
NEVER = 1.01  # the last place of a slider


@dataclass(frozen=True)
class Row:
    """What is said about one image."""

    label: str
    exit_number: int
    """From 1, as the page counts for people."""
    confidence_pct: float
    macs_pct: float


def softmax_maximum(logits: np.ndarray) -> np.ndarray:
    """By the definition, in float64."""
    exponents = np.exp(logits.astype(np.float64))
    return np.asarray((exponents / exponents.sum(-1, keepdims=True)).max(-1))


def spread_thresholds(confidences: np.ndarray) -> list[float]:
    """Thresholds with which a third of the rows that are left leave at each exit, midway between two confidences.

    Args:
        confidences: ``(exits - 1, N)``.
    """
    thresholds = []
    left = np.ones(confidences.shape[1], dtype=bool)
    for row in confidences:
        ordered = np.sort(row[left])[::-1]
        third = max(1, len(ordered) // 3)
        thresholds.append(float(ordered[third - 1 : third + 1].mean()))
        left &= row < thresholds[-1]
    return thresholds


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, _finished_run: Path, asked: Callable[..., ExportRequest]) -> Path:
    """A model with four exits, all of which the first test images take, that must be fed its thresholds."""
    folder = tmp_path_factory.mktemp("web-model")
    run = folder / "run"
    shutil.copytree(_finished_run, run)
    logits = runs.read_predictions(run)["test_logits"][:-1, :IMAGES]
    thresholds = ",".join(map(repr, spread_thresholds(softmax_maximum(logits))))
    path = folder / "web.onnx"
    export(run, asked(threshold=thresholds, threshold_input="required", output=path), notice=lambda _: None)
    return path


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images, of the model's own size."""
    folder = tmp_path_factory.mktemp("digits")
    _, test = read_digits()
    paths = [folder / f"{index}.png" for index in range(IMAGES)]
    for path, image in zip(paths, test.images, strict=False):
        Image.fromarray(image[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def python_says(model: Path, digit_files: list[Path]) -> Callable[[list[float]], dict[str, Row]]:
    """``python_says(thresholds)``: what onnxruntime says about the test images, by the name of the file."""
    info = read_info(model)
    session = onnxruntime.InferenceSession(model)
    pixels = np.stack([np.asarray(Image.open(path)) for path in digit_files])[:, None].astype(np.float32) / 255

    def ask(thresholds: list[float]) -> dict[str, Row]:
        feed = {"image": pixels, "threshold": np.array(thresholds, np.float32)}
        logits, exits = session.run(["logits", "exit_index"], feed)
        return {
            path.name: Row(info.classes[label], k + 1, 100 * confidence, 100 * info.exit_macs[k] / info.main_macs)
            for path, label, k, confidence in zip(
                digit_files, logits.argmax(1), exits, softmax_maximum(logits), strict=True
            )
        }

    return ask


def prepare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLE / "prepare.py", *arguments], capture_output=True, text=True)


def tool(*names: str) -> str:
    """The first of these programs that is there; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"the web example is tested with {names[0]}, which is not installed")
    return found


def build(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The built page with the model, from a copy, so that what a developer has built stays."""
    node, npm = tool("node"), tool("npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < NODE:
        pytest.skip(f"the web example is built with Node.js 20.19 or newer, not {version.strip()}")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "model"))
    done = prepare(model, "--out", folder / "public" / "model")
    assert (done.returncode, done.stderr) == (0, "")
    build(folder, npm, "ci", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1")
    build(folder, npm, "run", "build")
    return folder / "dist"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = tool("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=chromium,
            args=[
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield launched
        launched.close()


@pytest.fixture
def tab(browser: Any, server: str) -> Iterator[Any]:
    """An empty tab of a phone's size; afterwards, nothing may have been asked of another machine."""
    context = browser.new_context(viewport={"width": 375, "height": 740}, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    yield page
    context.close()
    elsewhere = [url for url in asked_for if not url.startswith((server + "/", f"blob:{server}/"))]
    assert asked_for
    assert elsewhere == []


@pytest.fixture
def page(tab: Any, server: str) -> Iterator[Any]:
    """The page with its model loaded; afterwards, the console must be empty."""
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(server)
    tab.locator("#app").wait_for()
    yield tab
    assert said == []


def rows(page: Any, count: int) -> dict[str, Row]:
    """What the page says about each of `count` images, by title."""
    page.wait_for_function(
        "count => document.querySelectorAll('#results .verdict .exit').length === count"
        " && document.querySelector('#results').getAttribute('aria-busy') === 'false'",
        arg=count,
    )
    cards = page.locator("#results .card").evaluate_all(
        "cards => cards.map(card => ['.title', '.class strong', '.class', '.exit', '.cost']"
        ".map(part => card.querySelector(part).textContent))"
    )
    read = {}
    for title, label, line, exit_text, cost in cards:
        exit_number, exits = map(int, re.findall(r"\d+", exit_text))
        assert exits == 4
        confidence = re.fullmatch(rf"{re.escape(label)} ([\d.]+) %", line)
        share = re.fullmatch(r"([\d.]+) % of main's MACs", cost)
        assert confidence, line
        assert share, cost
        read[title] = Row(label, exit_number, float(confidence[1]), float(share[1]))
    return read


def assert_same(shown: dict[str, Row], expected: dict[str, Row]) -> None:
    def decisions(said: dict[str, Row]) -> dict[str, tuple[str, int]]:
        return {name: (row.label, row.exit_number) for name, row in said.items()}

    assert decisions(shown) == decisions(expected)
    for name, row in expected.items():
        assert shown[name].confidence_pct == pytest.approx(row.confidence_pct, abs=0.051), name  # one decimal is shown
        assert shown[name].macs_pct == pytest.approx(row.macs_pct, abs=0.051), name


def alerts(page: Any) -> list[str]:
    page.locator("#messages p").first.wait_for()
    return list(page.locator("#messages p").all_text_contents())


@pytest.mark.slow
def test_twenty_images_get_the_labels_and_exits_of_python_also_when_a_slider_moves(
    page: Any, model: Path, digit_files: list[Path], python_says: Callable[[list[float]], dict[str, Row]]
) -> None:
    calibrated = list(read_info(model).thresholds)
    expected = python_says(calibrated)
    assert {row.exit_number for row in expected.values()} == {1, 2, 3, 4}  # else the test would show little

    page.locator("#files").set_input_files(digit_files)
    assert_same(rows(page, IMAGES), expected)
    mean = np.mean([row.macs_pct for row in expected.values()])
    said = page.locator("#summary p").first.inner_text()
    assert re.fullmatch(rf"20 images: on average {mean:.1f} % of main's MACs and [\d.]+ ms\.", said), said
    counts = page.locator("#summary .exits li").evaluate_all("rows => rows.map(row => +row.lastChild.textContent)")
    assert counts == [sum(row.exit_number == k for row in expected.values()) for k in (1, 2, 3, 4)]

    moved = [round(float(np.mean(calibrated)), 3)] * 3
    page.get_by_label("All exits").fill(str(moved[0]))
    assert python_says(moved) != expected
    assert_same(rows(page, IMAGES), python_says(moved))

    page.locator("#each-exit summary").click()
    page.get_by_label("Exit 1", exact=True).press("End")
    assert page.locator("#sliders output").all_text_contents()[0] == "never"
    page.get_by_label("Exit 3", exact=True).press("Home")
    assert_same(rows(page, IMAGES), python_says([NEVER, moved[0], 0]))

    page.get_by_role("button", name="Back to the calibrated ones").click()
    assert_same(rows(page, IMAGES), expected)
    page.get_by_role("button", name="Remove all images").click()
    assert rows(page, 0) == {}
    assert page.locator("#summary").inner_text() == "No image yet."


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_confidence_is_the_score_of_the_models_criterion_and_temperatures(
    tab: Any, server: str, site: Path, model: Path, digit_files: list[Path], criterion: Criterion
) -> None:
    """The graph decides; what the page has to compute is what it shows."""
    temperatures = [0.5, 0.8, 1.5, 2.0]
    told = json.loads((site / "model" / "model.json").read_text(encoding="utf-8"))
    answer = json.dumps(told | {"criterion": criterion, "temperatures": temperatures})
    tab.route("**/model/model.json", lambda route: route.fulfill(body=answer, content_type="application/json"))
    tab.goto(server)
    tab.locator("#app").wait_for()
    tab.locator("#files").set_input_files(digit_files)
    shown = rows(tab, IMAGES)
    prediction = ProgressiveSession(model)(np.stack([np.asarray(Image.open(path))[None] for path in digit_files]))
    scores = row_scores(prediction.logits, criterion, np.float32(temperatures)[prediction.exits])[0]
    assert {row.exit_number for row in shown.values()} == {1, 2, 3, 4}
    for path, score in zip(digit_files, scores, strict=True):
        assert shown[path.name].confidence_pct == pytest.approx(100 * score, abs=0.051), path.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "preparation",
    [Preparation(8, 1), Preparation(8, 1, shorter_side=11, interpolation="bicubic")],
    ids=["stretched", "cut"],
)
def test_images_of_any_kind_are_read_as_python_reads_them(
    tab: Any, server: str, site: Path, tmp_path: Path, preparation: Preparation
) -> None:
    told = json.loads((site / "model" / "model.json").read_text(encoding="utf-8"))
    answer = json.dumps(told | {"input": asdict(InputInfo.of(preparation))})
    tab.route("**/model/model.json", lambda route: route.fulfill(body=answer, content_type="application/json"))
    tab.goto(server)
    tab.locator("#app").wait_for()  # before it is there, nobody hears of a chosen file
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.integers(0, 256, shape, dtype=np.uint8)

    upright = Image.Exif()
    upright[0x0112] = 6  # turned by 90 degrees
    smooth = Image.fromarray(noise(4, 6, 3)).resize((60, 40), Image.Resampling.BICUBIC)
    Image.fromarray(noise(8, 8)).save(tmp_path / "grey.png")
    Image.fromarray(noise(37, 50, 3)).save(tmp_path / "shrinks.png")
    Image.fromarray(noise(90, 30, 3)).save(tmp_path / "tall.png")
    Image.fromarray(noise(3, 5, 3)).save(tmp_path / "grows.png")
    Image.fromarray(noise(8, 90, 3)).save(tmp_path / "wide.png")
    Image.fromarray(noise(20, 20, 3)).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(noise(20, 20, 4)).save(tmp_path / "transparent.png")
    smooth.save(tmp_path / "turned.jpg", exif=upright, quality=95)
    paths = sorted(tmp_path.iterdir())
    tab.locator("#files").set_input_files(paths)
    assert set(rows(tab, len(paths))) == {path.name for path in paths}
    for path in paths:
        canvas = tab.get_by_role("img", name=f"{path.name}, as the model sees it")
        shown = canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
        seen = np.array(shown).reshape(8, 8, 4)[..., 0]
        difference = np.abs(seen - read_prepared(path, preparation)[0].astype(int)).max()
        assert difference <= MOST_LEVELS.get(path.name, 0), path.name


@pytest.mark.slow
def test_what_is_no_image_is_named_and_the_others_are_classified(
    page: Any, tmp_path: Path, digit_files: list[Path]
) -> None:
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    page.locator("#files").set_input_files([tmp_path / "notes.png", digit_files[0]])
    assert alerts(page) == ["notes.png is no image that this browser can read: take a PNG or JPEG file."]
    assert set(rows(page, 1)) == {digit_files[0].name}
    page.locator("#files").set_input_files(digit_files[1])
    rows(page, 2)
    assert page.locator("#messages p").count() == 0  # said once


@pytest.mark.slow
def test_samples_drops_and_the_camera_bring_images(page: Any, digit_files: list[Path]) -> None:
    sample = page.get_by_role("button", name="Sample 3")
    sample.focus()
    page.keyboard.press("Enter")
    assert set(rows(page, 1)) == {"Sample 3"}

    page.evaluate(
        """bytes => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true}));
        }""",
        list(digit_files[0].read_bytes()),
    )
    assert set(rows(page, 2)) == {"Sample 3", "dropped.png"}

    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    assert set(rows(page, 3)) == {"Sample 3", "dropped.png", "Camera"}
    assert not page.locator("#viewfinder").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_is_wider_than_the_screen(page: Any, width: int, digit_files: list[Path]) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.locator("#files").set_input_files(digit_files[:3])
    rows(page, 3)
    page.locator("#each-exit summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "answer", "message"),
    [
        ("model.json", {"status": 404}, "There is no model here yet: run prepare.py"),
        ("model.json", {"body": "{}"}, "model.json is damaged"),
        ("model.json", "criterion", "model.json is damaged"),
        ("model.onnx", {"status": 404}, "model.onnx could not be fetched"),
        ("model.onnx", {"body": "no model"}, "onnxruntime-web cannot load model.onnx"),
    ],
)
def test_a_missing_or_damaged_model_is_said(
    tab: Any, server: str, site: Path, file: str, answer: dict[str, Any] | str, message: str
) -> None:
    if isinstance(answer, str):  # a key that is missing, as in a file of an older prepare.py
        told = json.loads((site / "model" / file).read_text(encoding="utf-8"))
        answer = {"body": json.dumps({key: value for key, value in told.items() if key != answer})}
    tab.route(f"**/model/{file}", lambda route: route.fulfill(**answer))
    tab.goto(server)
    (said,) = alerts(tab)
    assert said.startswith(message)
    assert tab.locator("#facts").inner_text() == "The model could not be loaded."
    assert not tab.locator("#app").is_visible()


def test_prepare_writes_the_model_its_metadata_and_samples(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "model"
    done = prepare(model, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(map(Path, done.stdout.split())) == sorted(out.iterdir())
    assert (out / "model.onnx").read_bytes() == model.read_bytes()
    info, written = read_info(model), json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert written["file"] == "model.onnx"
    assert written["classes"] == list("0123456789")
    assert written["thresholds"] == list(info.thresholds)
    assert written["exit_macs"] == list(info.exit_macs)
    assert [exit_["name"] for exit_ in written["exits"]] == ["sub-model 1", "sub-model 2", "sub-model 3", "main"]
    assert [sample["title"] for sample in written["samples"]] == [f"Sample {digit}" for digit in range(10)]
    _, test = read_digits()
    with Image.open(out / written["samples"][7]["file"]) as image:
        np.testing.assert_array_equal(np.asarray(image), test.images[list(test.labels).index(7), 0])


def test_prepare_takes_samples_and_removes_older_ones(model: Path, tmp_path: Path, digit_files: list[Path]) -> None:
    out = tmp_path / "model"
    prepare(model, "--out", out)
    done = prepare(model, "--samples", digit_files[3], digit_files[0], "--out", out)
    assert done.returncode == 0, done.stderr
    written = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert written["samples"] == [
        {"file": "sample-00.png", "title": "3"},
        {"file": "sample-01.png", "title": "0"},
    ]
    assert sorted(path.name for path in out.glob("sample*")) == ["sample-00.png", "sample-01.png"]
    assert (out / "sample-00.png").read_bytes() == digit_files[3].read_bytes()


def test_prepare_refuses_what_the_page_cannot_use(
    model: Path, run: Path, tmp_path: Path, digit_files: list[Path]
) -> None:
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    for arguments, problem in [
        ([run], "has thresholds that a browser cannot feed"),  # optional: with a default
        ([tmp_path / "none.onnx"], "cannot be read"),
        ([model, "--samples", tmp_path / "notes.png"], "cannot be read as an image"),
        ([model, "--samples", digit_files[0].with_suffix(".tif")], "browsers cannot show"),
    ]:
        done = prepare(*arguments, "--out", tmp_path / "model")
        assert done.returncode == 1, arguments
        assert problem in done.stderr
        assert "  fix: " in done.stderr
        assert not (tmp_path / "model").exists()
