"""Evaluation of a run is arithmetic on its stored logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lcprune import runs
from lcprune.pipeline import evaluate_onnx
from lcprune.pipeline.evaluate_run import evaluate
from lcprune.pipeline.predict import predict


def test_by_hand_on_three_images(shaped_run: Callable[..., Path]) -> None:
    run = shaped_run(val=None, test=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    result = evaluate(run)
    assert (result["split"], result["samples"]) == ("test", 3)
    assert [row["accuracy_pct"] for row in result["exits"]] == pytest.approx([100 / 3, 100 / 3, 100 / 3, 200 / 3])
    # Of exits 1 to 3, one votes for the right class and two for the next one; main makes it a tie on images 1 and 2,
    # which the lower class wins, and leaves 1 : 3 on image 3. Right are the labels 0 and 1, which are the lower ones.
    assert result["ensembles"] == pytest.approx({"1+2+3": 0, "1+2+3+main": 200 / 3})


def test_progressive_inference_is_recomputed_row_by_row(run: Path) -> None:
    arrays = runs.read_predictions(run)
    logits, labels = arrays["test_logits"].astype(np.float64), arrays["test_labels"]
    exponents = np.exp(logits)
    confidences = (exponents / exponents.sum(2, keepdims=True)).max(2)
    row = evaluate(run)["progressive"][0]
    assert row["threshold"] == 0.5
    left_at = [next((k for k in range(3) if confidences[k, n] >= 0.5), 3) for n in range(len(labels))]
    correct = [logits[k, n].argmax() == labels[n] for n, k in enumerate(left_at)]
    assert row["accuracy_pct"] == pytest.approx(100 * np.mean(correct))
    assert row["exit_fractions"] == pytest.approx([left_at.count(k) / len(labels) for k in range(4)])


def test_a_folder_of_images_and_a_recipe_agree(run: Path, digit_folder: Path) -> None:
    model = run / "export/progressive.onnx"
    of_folder = evaluate_onnx.evaluate(model, str(digit_folder), Path("data"))
    predicted = predict(model, [digit_folder])
    arrays = runs.read_predictions(run)
    first = arrays["test_logits"][:, :20].argmax(2) == arrays["test_labels"][:20]
    assert [row["accuracy_pct"] for row in of_folder["exits"]] == pytest.approx(100 * first.mean(1))
    right = np.mean([Path(row["image"]).parent.name == row["class"] for row in predicted["images"]])
    assert of_folder["progressive"][0]["accuracy_pct"] == pytest.approx(100 * right)
