"""What the page is told of a run folder, and where it is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.data.sources import read_digits
from lcprune.errors import RunError
from lcprune.pipeline import stored
from lcprune.pipeline import train as training
from lcprune.pipeline.costs import costs_of
from lcprune.pipeline.export import ExportRequest, export
from lcprune.pipeline.report import collect, report
from lcprune.pipeline.select import select
from lcprune.pipeline.verify import verify
from lcprune.reporting.page.subject import Subject


def subject_of(run: Path) -> Subject:
    return collect(run, recipes.load(run / runs.RECIPE), with_rdm=False)


def test_it_is_written_into_the_run_and_recorded(run: Path) -> None:
    written = report(run)
    assert written == {
        "path": str(run / "report.html"),
        "size_bytes": (run / "report.html").stat().st_size,
        "split": "test",
        "samples": 360,
    }
    assert "report.html" in verify(run)["files"]
    html = Path(written["path"]).read_text(encoding="utf-8")
    assert html.count("Dissimilarity matrix of layer") == 11
    assert html.count("which a critic follows") == 3
    (run / "report.html").write_text("other")
    with pytest.raises(RunError, match=r"report.html is missing or is not what was written"):
        verify(run)


@pytest.mark.parametrize("name", ["weights.safetensors", "folder.html"])
def test_it_takes_no_other_name(run: Path, name: str) -> None:
    (run / "folder.html").mkdir()
    before = runs.changed_files(run)
    with pytest.raises(RunError, match="is no name for a page"):
        report(run, output=run / name)
    assert runs.changed_files(run) == before


def test_curves_and_time_are_those_of_the_metrics(run: Path) -> None:
    lines = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    intervals = np.diff([0, *(line["step"] for line in steps)])
    by_hand = sum(n * 64 / line["images_per_s"] for n, line in zip(intervals, steps, strict=True))
    with (run / runs.METRICS).open("a") as file:
        file.write('{"step": 70, "lo')  # cut short by a crash
    found = subject_of(run)
    batch = found.recipe.data.batch_size
    assert found.seconds == pytest.approx(by_hand * batch / 64)
    assert found.curves is not None
    assert found.curves.steps.tolist() == [line["step"] for line in steps]
    (run / runs.METRICS).unlink()
    assert (subject_of(run).curves, subject_of(run).seconds) == (None, 0.0)


def test_the_newest_export_gives_the_first_setting(run: Path, asked: Callable[..., ExportRequest]) -> None:
    select(run, Budget(max_drop_pct=40.0), use_test_split=False)
    export(run, asked(threshold="0.2,0.1", exits=("1", "3"), output=run / "export" / "own.onnx"), notice=lambda _: None)
    found = subject_of(run)
    first, second = found.settings
    assert (first.title, first.exits) == ("export own.onnx", (0, 2))
    assert first.thresholds == pytest.approx((0.2, 0.1))
    assert second.title == "calibrated, 40 points"
    assert [path.name for path, _ in found.exported] == ["own.onnx", "progressive.onnx"]
    assert [one.name for one in found.exported[0][1].exits] == ["sub-model 1", "sub-model 3", "main"]
    (run / "export" / "own.onnx").write_bytes(b"damaged")
    assert [path.name for path, _ in subject_of(run).exported] == ["progressive.onnx"]


def test_the_commands_are_those_that_would_do_it_again(run: Path, asked: Callable[..., ExportRequest]) -> None:
    select(run, Budget(max_drop_pct=3.0, exits=("1", "2"), max_macs=10**9), use_test_split=True)
    export(run, asked(max_drop_pct=5.0, use_test_split=True, criterion="margin"), notice=lambda _: None)
    lines = [line for _, line in subject_of(run).commands]
    assert lines[0].split()[0] == "lcprune"
    assert lines[1] == (
        f"lcprune select {run} --max-drop 3.0 --minimize macs --max-macs 1000000000 --exits 1,2 --use-test-split"
    )
    assert lines[2].startswith(
        f"lcprune export {run} --format onnx --progressive --max-drop 5.0 --minimize macs --criterion margin "
        "--precision fp32"
    )
    assert lines[2].endswith("--use-test-split")
    assert lines[3] == f"lcprune report {run}"


def test_all_that_come_to_the_last_exit_of_an_export_leave_there(
    run: Path, asked: Callable[..., ExportRequest]
) -> None:
    said = export(run, asked(max_drop_pct=20.0, exits=("1", "2"), exit_name="3"), notice=lambda _: None)
    subject = subject_of(run)
    setting = subject.settings[0]
    assert setting.exits == (0, 1, 2)
    assert setting.thresholds == (*said["thresholds"], 0.0)
    assert subject.commands[-2][1].endswith("--exit 3")


def test_the_selection_is_marked(run: Path) -> None:
    assert subject_of(run).selected is None
    chosen = select(run, Budget(max_drop_pct=50.0), use_test_split=False)
    assert subject_of(run).selected == chosen.selected.name
    assert subject_of(run).settings[-1].title == "calibrated, 50 points"


def test_the_images_are_those_of_the_split(run: Path) -> None:
    images = subject_of(run).images
    assert images is not None
    np.testing.assert_array_equal(images, read_digits()[1].images)


def test_images_that_are_other_ones_are_not_shown(run: Path) -> None:
    facts = runs.read_json(run / runs.DATASET)
    runs.write_json(run / runs.DATASET, facts | {"val_indices": facts["val_indices"][1:]})
    runs.record(run, runs.DATASET)
    found = collect(run, recipes.load(run / runs.RECIPE), with_rdm=True)
    assert (found.images, found.inside) == (None, None)
    assert f"are not those that {run} was trained on" in found.images_absent
    assert found.inside_absent.startswith("Dissimilarity matrices need the images. The images in")


def test_absent_cifar_is_not_downloaded(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (run / runs.RECIPE).read_text().replace("source: digits", "source: cifar10").replace("channels: 1", "")
    (run / runs.RECIPE).write_text(re.sub(r"augment: \w+", "augment: none", text))
    found = subject_of(run)
    assert found.images is None
    assert "downloading is switched off" in found.images_absent


def test_validation_stands_in_for_absent_test_images(shaped_run: Callable[..., Path]) -> None:
    run = shaped_run([[1, 0], [1, 0], [1, 1], [1, 1]])
    written = report(run, with_rdm=False)
    assert (written["split"], written["samples"]) == ("val", 2)
    html = Path(written["path"]).read_text(encoding="utf-8")
    assert "2 validation images, because the run has no test images" in html
    with pytest.raises(RunError, match="has neither test nor validation images"):
        report(shaped_run(None, None))


def test_without_validation_nothing_is_calibrated(shaped_run: Callable[..., Path]) -> None:
    found = subject_of(shaped_run(None, [[1, 0], [1, 0], [1, 1], [1, 1]]))
    assert found.held_out is None
    assert found.settings == ()  # and the export was made from other predictions
    assert found.split == "test"


def test_backpropagation_has_one_exit(here: Path, train_tiny: Callable[..., Any]) -> None:
    trained: training.Trained = train_tiny(here / "plain", "train.method=backprop")
    written = report(trained.run)
    html = Path(written["path"]).read_text(encoding="utf-8")
    assert 'id="frontier"' not in html
    assert 'id="leaving"' not in html
    assert 'id="explorer-data"' not in html
    assert 'id="calibration"' in html
    assert costs_of(trained.run, recipes.load(trained.run / runs.RECIPE)).exits[-1].name == "main"
    assert stored.read_facts(trained.run).classes[0] == "0"
