"""Evaluation of a run is arithmetic on its stored logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.analysis.evaluate import sweep
from lcprune.data.sources import read_digits
from lcprune.errors import RunError
from lcprune.pipeline import evaluate_onnx, stored
from lcprune.pipeline.evaluate_run import evaluate
from lcprune.pipeline.export import ExportRequest, export
from lcprune_runtime.predict import predict


def test_by_hand_on_three_images(shaped_run: Callable[..., Path]) -> None:
    run = shaped_run(val=None, test=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    result = evaluate(run)
    assert (result["split"], result["samples"]) == ("test", 3)
    assert [row["accuracy_pct"] for row in result["exits"]] == pytest.approx([100 / 3, 100 / 3, 100 / 3, 200 / 3])
    # Of exits 1 to 3, one votes for the right class and two for the next one; main makes it a tie on images 1 and 2,
    # which the lower class wins, and leaves 1 : 3 on image 3. Right are the labels 0 and 1, which are the lower ones.
    assert result["ensembles"] == pytest.approx({"1+2+3": 0, "1+2+3+main": 200 / 3})


def test_other_ensembles_are_fitted_on_validation_and_judged_on_test(shaped_run: Callable[..., Path]) -> None:
    # On validation exit 3 alone is right, so that it has all the weight; on test it is right once in two.
    run = shaped_run(val=[[0, 0], [0, 0], [1, 1], [0, 0]], test=[[1, 1], [1, 1], [1, 0], [1, 1]])
    kinds = {(row["members"], row["kind"]): row for row in evaluate(run)["ensemble_kinds"]}
    assert kinds[("1+2+3", "weighted")]["weights"] == pytest.approx((0, 0, 1), abs=1e-6)
    assert {key: row["accuracy_pct"] for key, row in kinds.items() if key[0] == "1+2+3"} == {
        ("1+2+3", "logits"): 100,
        ("1+2+3", "probabilities"): 100,
        ("1+2+3", "weighted"): 50,
    }


@pytest.mark.parametrize("without", ["val", "test"])
def test_weights_are_never_judged_by_the_rows_that_they_were_found_on(
    shaped_run: Callable[..., Path], without: str
) -> None:
    splits = {"val": [[1], [0], [1], [1]], "test": [[1], [0], [1], [1]]} | {without: None}
    kinds = [row["kind"] for row in evaluate(shaped_run(**splits))["ensemble_kinds"]]
    assert kinds == ["logits", "probabilities"] * 2


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


def test_ensembles_of_a_file_are_named_by_the_exits_that_are_in_it(
    run: Path, asked: Callable[..., ExportRequest]
) -> None:
    said = export(run, asked(threshold="0.5", exits=("2",), exit_name="3"), notice=lambda _: None)
    result = evaluate_onnx.evaluate(Path(said["path"]), "digits", Path("data"))
    assert [row["name"] for row in result["exits"]] == ["sub-model 2", "sub-model 3"]
    arrays = runs.read_predictions(run)
    summed = arrays["test_logits"][1] + arrays["test_logits"][2]
    right = 100 * float((summed.argmax(axis=1) == arrays["test_labels"]).mean())
    two_rows_pct = 200 / len(arrays["test_labels"])  # whose two largest sums are equal but for rounding
    assert result["ensembles"] == {"2+3": pytest.approx(right, abs=two_rows_pct)}


def flipped_by_hand(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean logits ``(K, N, C)`` of the test digits and their mirror images, and the labels."""
    network, _ = stored.load_network(run, recipes.load("digits", ["model.width=0.0625", "critics.channels=8"]))
    _, test = read_digits()
    pixels = torch.from_numpy(test.images).float() / 255
    with torch.inference_mode():
        both = [torch.stack(network(images)) for images in (pixels, pixels.flip(3))]
    return ((both[0] + both[1]) / 2).numpy(), test.labels


def test_flip_averages_the_logits_of_an_image_and_its_mirror_image_and_pays_for_both(run: Path) -> None:
    stored_before = (run / runs.PREDICTIONS).read_bytes()
    plain, flipped = evaluate(run), evaluate(run, flip=True)
    logits, labels = flipped_by_hand(run)
    expected = 100 * (logits.argmax(2) == labels).mean(1)
    assert [row["accuracy_pct"] for row in flipped["exits"]] == pytest.approx(expected)
    assert [row["accuracy_pct"] for row in plain["exits"]] != pytest.approx(expected)  # or this test could not fail
    assert (flipped["split"], flipped["samples"], flipped["flip"]) == ("test", 360, True)
    assert "flip" not in plain
    assert (run / runs.PREDICTIONS).read_bytes() == stored_before

    profiled = runs.read_json(run / runs.PROFILE)
    groups, critics = np.cumsum(profiled["group_macs"]), np.cumsum([*profiled["critic_macs"], 0])
    by_hand = sweep(logits, labels, (groups + critics).tolist(), int(groups[-1]), [[0.5] * 3])[0]
    row = flipped["progressive"][0]
    assert row["threshold"] == 0.5
    assert row["exit_fractions"] == pytest.approx(by_hand.exit_fractions)
    assert row["mean_macs"] == pytest.approx(2 * by_hand.mean_macs)
    assert row["macs_ratio"] == pytest.approx(2 * by_hand.macs_ratio)


def test_flip_reads_the_images_that_the_run_was_trained_on(run: Path) -> None:
    facts = runs.read_json(run / runs.DATASET)
    runs.write_json(run / runs.DATASET, facts | {"mean": [0.125]})
    runs.record(run, runs.DATASET)
    with pytest.raises(RunError, match="are not those that .* was trained on"):
        evaluate(run, flip=True)
    assert evaluate(run)
