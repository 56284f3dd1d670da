"""What an export says of itself is what the file does when it is run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcprune import runs
from lcprune.analysis.cost import CascadeCost
from lcprune.analysis.select import Budget
from lcprune.analysis.thresholds import Rows
from lcprune.data import sources
from lcprune.errors import BudgetError
from lcprune.pipeline import evaluate_onnx, stored
from lcprune.pipeline import export as pipeline
from lcprune.pipeline.export import ExportRequest, calibration
from lcprune.pipeline.export.exported_cascade import ExportedCascade, reduced, warn_of_loss
from lcprune.pipeline.export.latency_cost import CascadeLatency
from lcprune.pipeline.export.scores import ExitScores
from lcprune.pipeline.select import select
from lcprune_runtime.session import ProgressiveSession

Asked = Callable[..., ExportRequest]
COSTS = "warning: int8 costs 0.90 points at the last exit, on 1,000 images"


def write(run: Path, request: ExportRequest) -> dict[str, Any]:
    return pipeline.export(run, request, notice=lambda _: None)


def measured(result: dict[str, Any]) -> dict[str, Any]:
    """What `evaluate` finds by running the graph on the test images."""
    return evaluate_onnx.evaluate(Path(result["path"]), "digits", Path("data"))


def lost_pct(run: Path, asked: Asked, precision: str, exit_index: int) -> float:
    """Points that an exit in `precision` loses to float32's main, on validation.

    The network of `run` is hardly trained: rounding changes the class of some images, and which ones is another matter
    with every version of torch and onnxruntime and every processor.
    """
    arrays = runs.read_predictions(run)
    own = of_fp32 = 100 * (arrays["val_logits"].argmax(2) == arrays["val_labels"]).mean(1)
    if precision != "fp32":
        own = write(run, asked(threshold="0.5,0.4,0.3", precision=precision))["agreement"]["accuracy_pct"]
    return max(0.0, float(of_fp32[-1] - own[exit_index]))


@pytest.mark.parametrize(
    "options",
    [
        {"max_drop_pct": 2.0, "exits": ("1", "2", "3")},
        {"max_drop_pct": 2.0, "exits": ("1", "2", "3"), "criterion": "auto"},
        {"max_drop_pct": 2.0, "exits": ("1", "3"), "criterion": "agreement", "temperature": False},
        {"max_macs": 800_000, "criterion": "margin", "confidence": None},
        {"threshold": "0.45,0.35,0.3"},
        {"threshold": "0.3,0.2,0.1", "criterion": "entropy"},
        {"threshold": "0.4", "threshold_input": "none"},
        {"threshold": "0.4", "threshold_input": "required"},
    ],
    ids=["auto", "auto criterion", "agreement", "macs", "by hand", "entropy by hand", "none", "required"],
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


def test_a_budget_of_macs_is_held_and_used(run: Path, asked: Asked) -> None:
    cheap, dear = (write(run, asked(max_macs=macs)) for macs in (500_000, 900_000))
    content = runs.read_json(run / runs.THRESHOLDS)
    assert (content["max_macs"], content["max_drop_pct"], content["confidence"]) == (900_000, None, None)
    assert content["mean_macs"] <= 900_000
    assert cheap["val_accuracy_pct"] <= dear["val_accuracy_pct"]
    assert dear["criterion"] == content["criterion"] == "softmax"
    assert dear["temperatures"] == list(ProgressiveSession(dear["path"]).info.temperatures)
    assert len(set(dear["temperatures"])) == len(dear["temperatures"])  # fitted, each by itself


@pytest.mark.slow
def test_a_budget_of_time_is_held(run: Path, asked: Asked) -> None:
    with pytest.raises(BudgetError, match=r"within 1e-06 ms: where all leave at the first exit it is [0-9.]+ ms"):
        write(run, asked(max_latency_ms=1e-6))
    said = write(run, asked(max_latency_ms=1000.0, exits=("1", "2")))  # all the time there is
    assert 0 < said["mean_latency_ms"] == runs.read_json(run / runs.THRESHOLDS)["mean_latency_ms"] < 1000
    assert said["val_accuracy_pct"] >= said["main_val_accuracy_pct"]


def test_the_least_time_is_not_the_fewest_macs(run: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critic 1 takes so long that no row may pay for it, whatever its MACs."""
    slow = CascadeLatency((0.001, 0.001, 0.001, 0.001), (1000.0, 1e-6, 1e-6))
    monkeypatch.setattr(calibration, "cascade_latency", lambda *_: slow)
    by_macs = write(run, asked(max_drop_pct=5.0))
    by_time = write(run, asked(max_drop_pct=5.0, minimize="latency"))
    assert "sub-model 1" in by_macs["exits"]
    assert "sub-model 1" not in by_time["exits"]
    content = runs.read_json(run / runs.THRESHOLDS)
    assert content["mean_macs"] > 1000  # still counted in MACs
    assert content["mean_latency_ms"] < 0.01
    assert by_time["mean_latency_ms"] == content["mean_latency_ms"]


def test_fixed_thresholds_hide_the_exits_from_evaluate(run: Path, asked: Asked) -> None:
    result = measured(write(run, asked(threshold="0.4", threshold_input="none")))
    assert (result["exits"], result["ensembles"], len(result["progressive"])) == ([], {}, 1)


def test_the_selected_sub_model_does_what_select_said(run: Path, asked: Asked) -> None:
    selected = select(run, Budget(max_drop_pct=30), use_test_split=False).selected
    said = write(run, asked(progressive=False))
    assert said["test_accuracy_pct"] == selected.test_accuracy_pct
    found = measured(said)
    assert [{key: row[key] for key in ("name", "exit_index", "accuracy_pct")} for row in found["exits"]] == [
        {"name": selected.name, "exit_index": selected.exit_index, "accuracy_pct": selected.test_accuracy_pct}
    ]
    assert found["progressive"] == []


def test_metadata_is_what_the_run_knows(run: Path, asked: Asked) -> None:
    facts = stored.read_facts(run)
    arrays = runs.read_predictions(run)
    info = ProgressiveSession(write(run, asked(threshold="0.4"))["path"]).info
    assert (info.classes, info.mean, info.std) == (facts.classes, facts.mean, facts.std)
    assert (info.input.size, info.input.channels) == (8, 1)
    correct = (arrays["val_logits"].argmax(2) == arrays["val_labels"]).mean(1) * 100
    assert [exit_info.val_accuracy_pct for exit_info in info.exits] == pytest.approx(correct, abs=1e-9)
    assert info.recipe_sha256 == runs.sha256(run / runs.RECIPE)


def test_an_int8_file_holds_the_budget_by_its_own_logits(run: Path, asked: Asked) -> None:
    """What is said is what the file does, and float32 stands beside it."""
    budget = 2.0 + lost_pct(run, asked, "int8", 3)
    plain = write(run, asked(max_drop_pct=budget, exits=("1", "2", "3")))
    price = runs.read_json(run / runs.THRESHOLDS)["price"]
    said = write(run, asked(max_drop_pct=budget, exits=("1", "2", "3"), precision="int8"))
    assert (said["precision"], said["kind"]) == ("int8", "progressive")
    assert said["path"].endswith("progressive-int8.onnx")
    assert said["parity"]["against"] == "its own stages"
    assert (said["parity"]["max_abs_diff"], said["parity"]["exits_agree"]) == (0.0, True)
    same = ("thresholds", "test_accuracy_pct", "macs_ratio", "exit_fractions")
    assert {key: said["fp32"][key] for key in same} == {key: plain[key] for key in same}
    assert said["fp32"]["size_bytes"] == pytest.approx(plain["size_bytes"], rel=0.01)
    assert said["thresholds"] != plain["thresholds"]

    own = measured(said)["progressive"][0]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    assert own["mean_macs"] == pytest.approx(said["mean_macs"])
    assert own["exit_fractions"] == pytest.approx(said["exit_fractions"], abs=1e-12)

    folder, recipe = runs.open_run(run)
    val = sources.load(recipe.data, Path(stored.read_facts(folder).folder), recipe.train.seed, download=False).val
    correct = 100 * (ProgressiveSession(said["path"])(val.images).labels == val.labels).mean()
    arrays = runs.read_predictions(run)
    main = 100 * (arrays["val_logits"][-1].argmax(1) == arrays["val_labels"]).mean()
    assert main - correct <= budget + 1e-9
    thresholds = runs.read_json(run / runs.THRESHOLDS)
    assert (thresholds["precision"], thresholds["thresholds"]) == ("int8", said["thresholds"])
    assert thresholds["drop_pct"] == pytest.approx(main - correct)
    assert thresholds["price"] >= price
    assert runs.changed_files(run) == []


@pytest.mark.parametrize(
    ("lost", "images", "options", "said"),
    [
        (9, 1000, {}, f"{COSTS}; for processors with VNNI and ARM64, --int8-range full rounds less"),
        (9, 1000, {"int8_range": "full"}, COSTS),
        (2, 1000, {}, None),
        (1, 300, {}, None),  # within two standard errors
    ],
)
def test_what_a_precision_costs_is_said(
    asked: Asked, lost: int, images: int, options: dict[str, Any], said: str | None
) -> None:
    def scores(wrong: int) -> ExitScores:
        correct = np.arange(images)[None] >= wrong
        rows = Rows(np.ones((1, images), np.float32), correct, CascadeCost((10,), ()))
        return ExitScores({"softmax": {"val": rows}}, (1.0,))

    heard: list[str] = []
    warn_of_loss(scores(lost), scores(0), asked(precision="int8", **options), heard.append)
    assert heard == [said] * (said is not None)


@pytest.mark.parametrize("precision", ["fp16", "w8"])
def test_fewer_bits_at_thresholds_by_hand(run: Path, asked: Asked, precision: str) -> None:
    said = write(run, asked(threshold="0.45,0.35,0.3", precision=precision))
    own = measured(said)["progressive"][0]
    assert said["thresholds"] == said["fp32"]["thresholds"] == [0.45, 0.35, 0.3]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=0.3)  # a row or two on a threshold
    assert said["agreement"]["split"] == "val"
    assert min(said["agreement"]["same_class_pct"]) > 90
    assert said["size_bytes"] < said["fp32"]["size_bytes"]
    assert said["quantization"] == {
        "precision": precision,
        "method": None,
        "samples": 0,
        "int8_convolutions": 0,
        "int8_range": None,
        "float_operators": {},
        "agreement_pct": None,
    }


def test_a_sub_model_in_int8(run: Path, asked: Asked) -> None:
    said = write(run, asked(progressive=False, exit_name="2", precision="int8"))
    assert (said["name"], said["kind"], said["precision"]) == ("sub-model 2", "submodel", "int8")
    assert Path(said["path"]).name == "sub-model-2-int8.onnx"
    assert said["quantization"]["int8_convolutions"] > 2
    found = measured(said)
    assert found["exits"][0]["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9)
    arrays = runs.read_predictions(run)
    assert said["fp32"]["test_accuracy_pct"] == pytest.approx(
        100 * (arrays["test_logits"][1].argmax(1) == arrays["test_labels"]).mean()
    )


def worse_by(points: float, run: Path) -> Callable[..., ExportedCascade]:
    """`reduced` for a main that is wrong about that many more images than float32's, whatever rounding does.

    The early exits are wrong about 10 points more than that.
    """
    arrays = runs.read_predictions(run)
    right = np.flatnonzero(arrays["val_logits"][-1].argmax(1) == arrays["val_labels"])
    percent = len(arrays["val_labels"]) // 100
    lost = int(points * percent)
    more = right[lost :: (len(right) - lost) // (10 * percent)]

    def reduce(*arguments: Any) -> ExportedCascade:
        own = reduced(*arguments)
        rows = own.scores.by_criterion["softmax"]
        correct = np.zeros_like(rows["val"].correct)
        correct[:, right[lost:]] = True
        correct[:-1, more] = False
        rows["val"] = replace(rows["val"], correct=correct)
        return own

    return reduce


def test_a_main_that_loses_the_budget_to_its_precision_is_refused(
    run: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "reduced", worse_by(10, run))
    with pytest.raises(BudgetError, match="in w8 main alone loses .* points against float32's main; 2 are allowed"):
        write(run, asked(max_drop_pct=2.0, exits=("1", "2", "3"), precision="w8"))
    assert not (run / "export" / "progressive-w8.onnx").exists()
    assert not (run / runs.THRESHOLDS).exists()


def test_in_another_precision_the_budget_is_what_is_lost_against_float32s_main(
    run: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "reduced", worse_by(4, run))
    said, content = (
        write(run, asked(max_drop_pct=10.0, exits=("1", "2", "3"), precision="w8")),
        runs.read_json(run / runs.THRESHOLDS),
    )
    arrays = runs.read_predictions(run)
    float32_pct = 100 * (arrays["val_logits"][-1].argmax(1) == arrays["val_labels"]).mean()
    assert said["main_val_accuracy_pct"] == pytest.approx(float32_pct)
    assert content["drop_pct"] == pytest.approx(float32_pct - content["accuracy_pct"], abs=1e-6)
    assert max(content["drop_pct"], content["expected_drop_pct"]) <= 10.0  # 14 if the budget were its own main's


@pytest.mark.parametrize("precision", ["fp32", "w8"])
def test_a_cascade_may_end_before_main(run: Path, asked: Asked, precision: str) -> None:
    """Sub-model 3 takes all that come to it; drops and ratios are still to main, and main is not in the file."""
    arrays = runs.read_predictions(run)
    budget = 3.0 + lost_pct(run, asked, precision, 2)
    whole = write(run, asked(max_drop_pct=budget, exits=("1", "2"), precision=precision))
    said = write(run, asked(max_drop_pct=budget, exits=("1", "2"), exit_name="3", precision=precision))
    content = runs.read_json(run / runs.THRESHOLDS)
    assert said["exits"] == ["sub-model 1", "sub-model 2", "sub-model 3"]
    assert Path(said["path"]).stem == "progressive-3" + ("" if precision == "fp32" else "-w8")
    assert said["size_bytes"] < 0.7 * whole["size_bytes"]
    assert said["main_test_accuracy_pct"] == pytest.approx(
        100 * (arrays["test_logits"][-1].argmax(1) == arrays["test_labels"]).mean()
    )
    assert said["val_accuracy_pct"] >= said["main_val_accuracy_pct"] - budget - 1e-9
    assert content["last"] == "sub-model 3"
    assert content["drop_pct"] == pytest.approx(said["main_val_accuracy_pct"] - content["accuracy_pct"], abs=1e-6)
    main_macs = runs.read_json(run / runs.PROFILE)["exits"][-1]["macs"]
    assert said["macs_ratio"] == pytest.approx(said["mean_macs"] / main_macs)
    own = measured(said)["progressive"][0]
    assert own["accuracy_pct"] == pytest.approx(said["test_accuracy_pct"], abs=1e-9 if precision == "fp32" else 0.3)
    assert own["macs_ratio"] == pytest.approx(said["macs_ratio"], abs=1e-9 if precision == "fp32" else 0.01)


@pytest.mark.parametrize("precision", ["fp32", "w8"])
def test_a_last_exit_that_loses_the_budget_by_itself_is_refused(run: Path, asked: Asked, precision: str) -> None:
    arrays = runs.read_predictions(run)
    spoilt = dict(arrays)
    spoilt["val_logits"] = arrays["val_logits"].copy()
    right = np.flatnonzero(spoilt["val_logits"][2].argmax(1) == arrays["val_labels"])
    spoilt["val_logits"][2, right[::2]] *= -1
    runs.write_predictions(run, spoilt)
    with pytest.raises(
        BudgetError, match=r"sub-model 3 alone loses [0-9.]+ points against float32's main; 2 are allowed"
    ):
        write(run, asked(max_drop_pct=2.0, exit_name="3", precision=precision))


def test_where_hardly_an_image_comes_to_main_the_file_could_end_before(run: Path, asked: Asked) -> None:
    arrays = dict(runs.read_predictions(run))
    sure = arrays["val_logits"].copy()
    sure[1:] = 50 * np.eye(sure.shape[2], dtype=np.float32)[arrays["val_labels"]]  # right and sure
    sure[1, ::2] = 0  # some have to go on, and sub-model 3 is right about all of them
    runs.write_predictions(run, {**arrays, "val_logits": sure})
    notices: list[str] = []
    pipeline.export(run, asked(max_drop_pct=1.0, exits=("2", "3")), notice=notices.append)
    assert notices == [
        "0.0 % of the images go on to main: --exit 3 ends the graph at sub-model 3 and leaves main out of the file"
    ]
