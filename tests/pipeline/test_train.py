"""Training into a run folder, and going on as if it had never stopped."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lcprune import recipe as recipes
from lcprune import runs
from lcprune.data import sources
from lcprune.data.sources import read_digits
from lcprune.errors import NotFiniteError, RecipeError, TrainingError
from lcprune.pipeline import train as pipeline
from lcprune.pipeline.stored import build_network, load_network
from lcprune.training import checkpoint
from lcprune.training.loop import Evaluation, Interrupted, LoggedStep
from lcprune.training.predicting import predict_logits

TINY = (
    "model.width=0.0625",
    "critics.channels=8",
    "data.batch_size=64",
    "train.iterations=30",
    "train.checkpoint_every=10",
    "train.evaluate_every=15",
    "logging.every=5",
)


class Recording:
    """A listener that remembers, and does something at one step."""

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act
        self.logged: list[LoggedStep] = []
        self.evaluations: list[Evaluation] = []

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        if logged is not None:
            self.logged.append(logged)
        if step == self.at:
            self.act()

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def train(out: Path, *overrides: str, listener: Recording | None = None) -> pipeline.Trained:
    return pipeline.train(
        recipes.load("digits", [*TINY, *overrides]),
        out=out,
        data_root=out.parent,
        device="cpu",
        display=lambda *_: nullcontext(listener or Recording()),
        notice=lambda _: None,
    )


def resume(run: Path, *overrides: str, notices: list[str] | None = None) -> pipeline.Trained:
    return pipeline.resume(
        run,
        overrides,
        device="cpu",
        display=lambda *_: nullcontext(Recording()),
        notice=([] if notices is None else notices).append,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``whole("train.seed=1")``: a run that was not interrupted, trained once per module; to be read only."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in made:
            made[overrides] = train(tmp_path_factory.mktemp("whole") / "run", *overrides).run
        return made[overrides]

    return run


@pytest.fixture
def finished(whole: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run of its own, to be changed."""
    return Path(shutil.copytree(whole(), tmp_path / "run"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def equal_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / runs.WEIGHTS), load_file(other / runs.WEIGHTS)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_folder_holds_what_the_contract_says(tmp_path: Path) -> None:
    result = train(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "recipe.yaml",
        "environment.json",
        "dataset.json",
        "metrics.jsonl",
        "weights.safetensors",
        "checkpoints",
        "predictions.npz",
        "profile.json",
        "manifest.json",
    }
    with np.load(tmp_path / "run/predictions.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "val_logits": (4, 300, 10),
            "val_labels": (300,),
            "test_logits": (4, 360, 10),
            "test_labels": (360,),
        }
        correct = (arrays["test_logits"].argmax(2) == arrays["test_labels"]).mean(1) * 100
    assert result.test_accuracy_pct == pytest.approx(correct)
    assert result.iterations == 30
    assert (tmp_path / "runs/latest").resolve() == tmp_path / "run"


def test_metrics_have_a_line_for_every_interval_and_evaluation(whole: Callable[..., Path]) -> None:
    lines = [json.loads(line) for line in (whole() / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [5, 10, 15, 20, 25, 30]
    assert set(logged[0]) == {"step", "epoch", "lr", "loss", "critic_loss", "images_per_s"}
    assert len(logged[0]["loss"]) == 4
    assert len(logged[0]["critic_loss"]) == 3
    assert logged[0]["epoch"] == pytest.approx(5 / (1137 // 64))
    assert [(line["step"], line["split"]) for line in lines if "accuracy_pct" in line] == [(15, "val"), (30, "val")]


LOOKS = ("logging.sample_losses=20", "logging.test_curve=true")


def test_looking_on_changes_nothing_of_the_training(whole: Callable[..., Path]) -> None:
    plain_run, looked_at = whole(), whole(*LOOKS)
    assert equal_weights(plain_run, looked_at)
    lines = [json.loads(line) for line in (looked_at / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "accuracy_pct" in line]
    keys = {"step", "split", "accuracy_pct", "test_accuracy_pct"}
    assert [set(line) for line in evaluated] == [keys | {"old_statistics"}, keys]
    assert evaluated[0]["old_statistics"] == pytest.approx(0.9**15)
    with np.load(looked_at / "predictions.npz") as arrays:
        at_the_end = (arrays["test_logits"].argmax(2) == arrays["test_labels"]).mean(1) * 100
    assert evaluated[-1]["test_accuracy_pct"] == pytest.approx(at_the_end)
    plain = (plain_run / "metrics.jsonl").read_text()
    assert "test_accuracy_pct" not in plain
    assert not (plain_run / "sample_losses.npz").exists()


def test_sample_losses_of_the_first_images_of_each_class(tmp_path: Path, whole: Callable[..., Path]) -> None:
    run = whole(*LOOKS)
    recipe = recipes.load(run / "recipe.yaml")
    images = sources.load(recipe.data, tmp_path, recipe.train.seed).train
    places = [place for label in range(10) for place in np.flatnonzero(images.labels == label)[:2]]
    network, _ = load_network(run, recipe)
    logits = predict_logits(network, images.subset(np.array(places)), torch.device("cpu"), channels_last=False)
    with np.load(run / "sample_losses.npz") as arrays:
        assert arrays["steps"].tolist()[:4] == [0, 1, 2, 3]
        assert arrays["steps"][-1] == 30
        assert arrays["labels"].tolist() == [label for label in range(10) for _ in range(2)]
        by_hand = -logits.log_softmax(2)[:, torch.arange(20), torch.from_numpy(arrays["labels"])]
        np.testing.assert_allclose(arrays["losses"][-1], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop_at", [3, 13])
def test_a_resumed_run_records_the_same_losses(tmp_path: Path, whole: Callable[..., Path], stop_at: int) -> None:
    run = whole(*LOOKS)
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", *LOOKS, listener=Recording(stop_at, interrupt))
    shutil.copy(run / "sample_losses.npz", tmp_path / "stopped")  # as if it had gone on without a checkpoint
    resume(tmp_path / "stopped")
    assert equal_weights(run, tmp_path / "stopped")
    with np.load(run / "sample_losses.npz") as one, np.load(tmp_path / "stopped/sample_losses.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in ("steps", "losses", "labels"))
    assert runs.changed_files(tmp_path / "stopped") == []


def test_a_run_made_longer_keeps_what_it_recorded(tmp_path: Path, whole: Callable[..., Path]) -> None:
    shutil.copytree(whole(*LOOKS), tmp_path / "run")
    resume(tmp_path / "run", "train.iterations=40")
    with np.load(tmp_path / "run/sample_losses.npz") as arrays:
        assert arrays["steps"].tolist()[-3:] == [30, 33, 40]


@pytest.mark.parametrize(
    ("mode", "stop_at"),
    [("train.channels_last=true", 3), ("train.channels_last=false", 13), ("train.memory=lean", 20)],
)
def test_resume_is_bit_identical_to_an_uninterrupted_run(
    tmp_path: Path, whole: Callable[..., Path], mode: str, stop_at: int
) -> None:
    with pytest.raises(Interrupted):  # 13 and 20 are no ends of an epoch, which has 17 steps
        train(tmp_path / "stopped", mode, listener=Recording(stop_at, interrupt))
    stopped = checkpoint.load(tmp_path / "stopped/checkpoints/last.pt")
    assert stopped["step"] == stop_at + 1
    resume(tmp_path / "stopped")
    assert equal_weights(whole(mode), tmp_path / "stopped")
    with np.load(whole(mode) / "predictions.npz") as one, np.load(tmp_path / "stopped/predictions.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one)


FAST = (
    "model.whiten=true",
    "data.augment=crop_flip",
    "data.flip=alternating",
    "train.average=0.5",
    "train.average_every=4",
    "critics.batch_norm=true",
)


EMA = (*FAST, "train.average=0", "train.ema=0.9")


def test_resume_is_bit_identical_with_a_moving_average(tmp_path: Path, whole: Callable[..., Path]) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", *EMA, listener=Recording(20, interrupt))
    assert int(checkpoint.load(tmp_path / "stopped/checkpoints/last.pt")["average"]["n_averaged"]) == 21
    resume(tmp_path / "stopped")
    assert equal_weights(whole(*EMA), tmp_path / "stopped")
    assert not equal_weights(whole(*EMA), whole(*FAST))


@pytest.mark.parametrize("settings", [FAST, EMA])
def test_evaluations_change_nothing_of_the_training(
    tmp_path: Path, whole: Callable[..., Path], settings: tuple[str, ...]
) -> None:
    train(tmp_path / "often", *settings, "train.evaluate_every=3")
    assert equal_weights(whole(*settings), tmp_path / "often")


@pytest.mark.parametrize(
    ("method", "stop_at"), [("local_critic", 8), ("local_critic", 20), ("backprop", 20), ("deep_supervision", 20)]
)
def test_resume_is_bit_identical_with_everything_of_the_fast_recipe(
    tmp_path: Path, whole: Callable[..., Path], method: str, stop_at: int
) -> None:
    settings = (*FAST, f"train.method={method}")
    with pytest.raises(Interrupted):  # the average begins at step 18 and has two members at step 22
        train(tmp_path / "stopped", *settings, listener=Recording(stop_at, interrupt))
    average = checkpoint.load(tmp_path / "stopped/checkpoints/last.pt")["average"]
    assert (0 if average is None else int(average["n_averaged"])) == {8: 0, 20: 1}[stop_at]
    resume(tmp_path / "stopped")
    assert equal_weights(whole(*settings), tmp_path / "stopped")
    before = (tmp_path / "stopped/weights.safetensors").read_bytes()
    resume(tmp_path / "stopped")  # nothing to do
    assert (tmp_path / "stopped/weights.safetensors").read_bytes() == before


def test_weights_predictions_and_evaluations_are_the_averaged_ones(tmp_path: Path) -> None:
    plain, averaged = Recording(), Recording()
    train(tmp_path / "plain", *FAST, "train.average=0", listener=plain)
    result = train(tmp_path / "averaged", *FAST, listener=averaged)
    assert averaged.evaluations[-1].accuracy_pct == pytest.approx(result.val_accuracy_pct)  # 17 batches are an epoch
    assert averaged.evaluations[-1] != plain.evaluations[-1]
    assert averaged.logged[-1].loss == plain.logged[-1].loss
    one, other = (load_file(tmp_path / name / runs.WEIGHTS) for name in ("plain", "averaged"))
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert {"groups.0.1.weight", "groups.0.2.running_mean"} <= changed
    assert any(name.startswith("critics.0.") and name.endswith("running_var") for name in changed)
    assert torch.equal(one["groups.0.0.convolution.weight"], other["groups.0.0.convolution.weight"])
    mean = checkpoint.load(tmp_path / "averaged/checkpoints/last.pt")["average"]
    assert torch.equal(other["groups.0.1.weight"], mean["module.groups.0.1.weight"])
    assert int(mean["n_averaged"]) == 4  # 18, 22, 26, 30
    network = load_network(tmp_path / "averaged", recipes.load("digits", [*TINY, *FAST]))[0]
    _, test = read_digits()
    logits = predict_logits(network, test, torch.device("cpu"), channels_last=False)
    with np.load(tmp_path / "averaged/predictions.npz") as arrays:
        np.testing.assert_allclose(logits, arrays["test_logits"], atol=1e-5)
    assert result.test_accuracy_pct[-1] == pytest.approx(100 * (logits[-1].argmax(1).numpy() == test.labels).mean())


@pytest.mark.parametrize(("settings", "every"), [((), 1), (EMA, 3)])
def test_a_run_that_ends_early_keeps_the_weights_of_the_best_evaluation(
    tmp_path: Path, whole: Callable[..., Path], settings: tuple[str, ...], every: int
) -> None:
    often = (*settings, f"train.evaluate_every={every}")
    lines = [json.loads(line) for line in (whole(*often) / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["accuracy_pct"][-1] for line in lines if "accuracy_pct" in line]
    best = next(k for k in range(len(accuracies) - 1) if accuracies[k + 1] <= max(accuracies[: k + 1]))
    kept, last = every * (best + 1), every * (best + 2)
    result = train(tmp_path / "run", *often, "train.early_stopping=1")
    assert last < 30
    assert (result.iterations, result.kept_step) == (last, kept)
    assert result.as_json()["kept_step"] == kept
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["kept_step"] == kept
    saved = checkpoint.load(tmp_path / "run/checkpoints/best.pt")
    tensors = {f"module.{name}": value for name, value in saved["network"].items()} | (saved["average"] or {})
    weights = load_file(tmp_path / "run" / runs.WEIGHTS)
    names = [name for name in weights if name.endswith(("weight", "bias"))]  # statistics are measured anew
    assert all(torch.equal(weights[name], tensors[f"module.{name}"]) for name in names)
    if not settings:
        assert result.val_accuracy_pct[-1] == pytest.approx(accuracies[best])
    before = (tmp_path / "run" / runs.WEIGHTS).read_bytes()
    again = resume(tmp_path / "run")
    assert (again.iterations, again.kept_step) == (last, kept)
    assert (tmp_path / "run" / runs.WEIGHTS).read_bytes() == before
    assert resume(tmp_path / "run", "train.early_stopping=0").kept_step is None  # on to the end
    assert equal_weights(tmp_path / "run", whole(*often))


def test_an_early_end_needs_validation_images(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="train.early_stopping decides by the accuracy on validation images"):
        train(tmp_path / "run", "train.early_stopping=1", "data.val_size=0")
    assert not (tmp_path / "run").exists()


def test_whitening_is_found_in_the_training_images_and_stays(tmp_path: Path, whole: Callable[..., Path]) -> None:
    recipe = recipes.load("digits", [*TINY, *FAST])
    network, facts = load_network(whole(*FAST), recipe)
    fresh = build_network(recipe, facts)
    initial = fresh.groups[0][0].convolution.weight.clone()
    fresh.groups[0][0].fit(sources.load(recipe.data, tmp_path, 0).train.images, fresh.normalize)
    assert torch.equal(network.groups[0][0].convolution.weight, fresh.groups[0][0].convolution.weight)
    assert not torch.equal(initial, fresh.groups[0][0].convolution.weight)


@pytest.mark.parametrize(("amx", "became"), [(True, "bf16"), (False, "fp32")])
def test_an_automatic_precision_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, became: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    train(tmp_path / "auto", "train.precision=auto", "train.iterations=3")
    train(tmp_path / "named", f"train.precision={became}", "train.iterations=3")
    assert runs.read_json(tmp_path / "auto" / runs.ENVIRONMENT)["precision"] == became
    assert recipes.load(tmp_path / "auto" / runs.RECIPE).train.precision == "auto"
    assert equal_weights(tmp_path / "auto", tmp_path / "named")
    notices: list[str] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not amx})
    resume(tmp_path / "auto", "train.iterations=4", notices=notices)
    assert any(notice.startswith(f"precision was {became} and is ") for notice in notices)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_overflow_is_named_and_never_saved(tmp_path: Path, precision: str) -> None:
    settings = (f"train.precision={precision}", "train.schedule=step", "logging.every=1", "train.checkpoint_every=2")
    with pytest.raises(NotFiniteError, match=r"(layer group|critic) \d.* is no longer a finite number at step \d"):
        train(tmp_path / "wild", *settings, "train.lr=1e38")
    assert not (tmp_path / "wild" / runs.WEIGHTS).exists()
    for path in (tmp_path / "wild" / runs.CHECKPOINTS).glob("*.pt"):
        assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.load(path)["network"].values())


def test_the_environment_names_the_memory_format(tmp_path: Path) -> None:
    train(tmp_path / "run", "train.channels_last=true", "train.iterations=1")
    assert runs.read_json(tmp_path / "run" / runs.ENVIRONMENT)["memory_format"] == "channels_last"


def test_a_run_that_died_before_its_first_checkpoint_starts_again(tmp_path: Path, whole: Callable[..., Path]) -> None:
    def die() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        train(tmp_path / "died", listener=Recording(7, die))
    assert not list((tmp_path / "died/checkpoints").iterdir())
    resume(tmp_path / "died")
    assert equal_weights(whole(), tmp_path / "died")
    steps = [json.loads(line)["step"] for line in (tmp_path / "died/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps.count(5) == 1


def test_another_seed_gives_other_weights(tmp_path: Path, whole: Callable[..., Path]) -> None:
    train(tmp_path / "other", "train.seed=1")
    assert not equal_weights(whole(), tmp_path / "other")


def test_resume_announces_another_number_of_threads(finished: Path) -> None:
    content = checkpoint.load(finished / "checkpoints/last.pt")
    content["surroundings"]["threads"] = 64
    torch.save(content, finished / "checkpoints/last.pt")
    notices: list[str] = []
    resume(finished, notices=notices)
    threads = torch.get_num_threads()
    assert f"threads was 64 and is {threads}: the result will not be bit-identical to an uninterrupted run" in notices


def test_a_loss_that_is_not_finite_names_the_group_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"layer group 1 .* is no longer a finite number") as error:
        train(tmp_path / "run", "train.lr=1e30", "train.schedule=constant", "train.checkpoint_every=1")
    assert "--set train.lr=2.5e+29" in error.value.fix
    kept = checkpoint.load(tmp_path / "run/checkpoints/last.pt") if error.value.fix.count("resume") else None
    assert kept is None or all(bool(t.isfinite().all()) for t in kept["network"].values())


def test_without_validation_images_the_test_set_is_shown_but_decides_nothing(tmp_path: Path) -> None:
    recording = Recording()
    result = train(tmp_path / "run", "data.val_size=0", listener=recording)
    assert [evaluation.split for evaluation in recording.evaluations] == ["test", "test"]
    assert result.val_accuracy_pct == ()
    assert not (tmp_path / "run/checkpoints/best.pt").exists()


def test_bf16_and_deep_supervision_train(tmp_path: Path) -> None:
    listener = Recording()
    train(tmp_path / "run", "train.method=deep_supervision", "train.precision=bf16", listener=listener)
    first, last = listener.logged[0].loss, listener.logged[-1].loss
    assert len(first) == 4
    assert all(after < before for before, after in zip(first, last, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiled_training_is_near_the_plain_one(tmp_path: Path) -> None:
    pooled = ("critics.head=pooled", "critics.pool_to=2", "train.channels_last=true")
    short = ("train.iterations=3", "critics.after=[5]", "train.schedule=constant", "train.lr=0.01", *pooled)
    train(tmp_path / "plain", *short)
    train(tmp_path / "compiled", *short, "train.compile=true")
    plain, compiled = (load_file(tmp_path / name / runs.WEIGHTS) for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)


def test_weights_that_decay_know_the_length_of_a_run_in_epochs(tmp_path: Path) -> None:
    settings = ("train.method=deep_supervision", "critics.weight_schedule=decay", "train.epochs=1")
    train(tmp_path / "decay", *settings)
    train(tmp_path / "constant", *settings, "critics.weight_schedule=constant")
    assert not equal_weights(tmp_path / "decay", tmp_path / "constant")
