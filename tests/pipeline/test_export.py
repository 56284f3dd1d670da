"""What an export says of itself is what the file does when it is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import runs
from lcprune.analysis.select import Budget
from lcprune.errors import ExportError
from lcprune.export import progressive
from lcprune.export.session import OnnxClassifier
from lcprune.pipeline import evaluate_onnx, stored
from lcprune.pipeline import export as pipeline
from lcprune.pipeline.export import ExportRequest
from lcprune.pipeline.select import select

Asked = Callable[..., ExportRequest]


def write(run: Path, request: ExportRequest) -> dict[str, Any]:
    return pipeline.export(run, request, notice=lambda _: None)


def measured(result: dict[str, Any]) -> dict[str, Any]:
    """What `evaluate` finds by running the graph on the test images."""
    return evaluate_onnx.evaluate(Path(result["path"]), "digits", Path("data"))


@pytest.mark.parametrize(
    "options",
    [
        {"max_drop_pct": 2.0, "exits": (1, 2, 3)},
        {"threshold": "0.45,0.35,0.3"},
        {"threshold": "0.4", "threshold_input": "none"},
        {"threshold": "0.4", "threshold_input": "required"},
    ],
    ids=["auto", "by hand", "none", "required"],
)
def test_a_progressive_file_does_what_was_announced(run: Path, asked: Asked, options: dict[str, Any]) -> None:
    said = write(run, asked(**options))
    own = measured(said)["progressive"][0]
    assert own["threshold"] == said["thresholds"]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    assert own["mean_macs"] == pytest.approx(said["mean_macs"])
    assert own["macs_ratio"] == pytest.approx(said["macs_ratio"])
    assert own["exit_fractions"] == pytest.approx(said["exit_fractions"], abs=1e-12)
    assert max(said["exit_fractions"]) < 1  # several exits take part, so that this compares something


def test_fixed_thresholds_hide_the_exits_from_evaluate(run: Path, asked: Asked) -> None:
    result = measured(write(run, asked(threshold="0.4", threshold_input="none")))
    assert (result["exits"], result["ensembles"], len(result["progressive"])) == ([], {}, 1)


def test_the_exits_of_a_progressive_file_are_those_of_the_run(run: Path, asked: Asked) -> None:
    arrays = runs.read_predictions(run)
    correct = (arrays["test_logits"].argmax(2) == arrays["test_labels"]).mean(1) * 100
    result = measured(write(run, asked(threshold="0.4")))
    assert [row["accuracy_pct"] for row in result["exits"]] == pytest.approx(correct, abs=1e-9)
    summed = (arrays["test_logits"].sum(0).argmax(1) == arrays["test_labels"]).mean() * 100
    assert result["ensembles"]["1+2+3+main"] == pytest.approx(summed, abs=1e-9)
    assert len(result["progressive"]) == 8


def test_the_selected_sub_model_does_what_select_said(run: Path, asked: Asked) -> None:
    selected = select(run, Budget(max_drop_pct=30), use_test_split=False).selected
    said = write(run, asked(progressive=False))
    assert said["test_accuracy_pct"] == selected.test_accuracy_pct
    found = measured(said)
    assert found["exits"] == [
        {"name": selected.name, "exit_index": selected.exit_index, "accuracy_pct": selected.test_accuracy_pct}
    ]
    assert found["progressive"] == []


def test_metadata_is_what_the_run_knows(run: Path, asked: Asked) -> None:
    facts = stored.read_facts(run)
    arrays = runs.read_predictions(run)
    info = OnnxClassifier(write(run, asked(threshold="0.4"))["path"]).info
    assert (info.classes, info.mean, info.std) == (facts.classes, facts.mean, facts.std)
    assert (info.input.size, info.input.channels) == (8, 1)
    correct = (arrays["val_logits"].argmax(2) == arrays["val_labels"]).mean(1) * 100
    assert [exit_info.val_accuracy_pct for exit_info in info.exits] == pytest.approx(correct, abs=1e-9)
    assert info.recipe_sha256 == runs.sha256(run / runs.RECIPE)


def test_a_file_that_differs_from_torch_is_not_written(
    run: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "export/progressive.onnx"
    before = path.read_bytes()
    truth = progressive._torch_logits
    monkeypatch.setattr(progressive, "_torch_logits", lambda *arguments: truth(*arguments) + np.float32(0.01))
    with pytest.raises(ExportError, match=r"progressive\.onnx differs from torch by 1\.0e-02 in a logit"):
        write(run, asked(threshold="0.4"))
    assert path.read_bytes() == before
    assert runs.changed_files(run) == []
