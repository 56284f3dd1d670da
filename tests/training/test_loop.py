"""The loop: what happens at which step, and the ways in which a run can end."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lcprune import recipe as recipes
from lcprune.data.loaders import TrainLoader
from lcprune.data.sources import Split
from lcprune.errors import Interrupted, NotFiniteError, TrainingError
from lcprune.models import Network
from lcprune.paper import recording
from lcprune.paper.recording import LossRecord
from lcprune.training import checkpoint, predicting
from lcprune.training.checkpoint import TrainingState
from lcprune.training.loop import Evaluation, LoggedStep, Trainer
from lcprune.training.methods import Losses
from lcprune.training.optim import build_optimizers
from lcprune.training.parallel import coordinator
from lcprune.training.predicting import predict_logits

CPU = torch.device("cpu")


class Scripted:
    """A method whose losses at step n are n + 1 and 2n, and that moves one weight by the learning rate."""

    def __init__(self, network: Network, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.weight = network.groups[0][1].weight
        self.at, self.act = at, act
        self.steps: list[int] = []

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Losses:
        assert images.shape == (2, 1, 2, 2)
        self.steps.append(step)
        if step == self.at:
            self.act()
        self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad[0, 0] = -1
        return Losses(torch.tensor([step + 1.0, 2.0 * step]), torch.tensor([0.5]))


class Heard:
    """Everything that a listener is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self.logged: list[LoggedStep] = []
        self.evaluations: list[Evaluation] = []

    def stepped(self, step: int, logged: LoggedStep | None) -> None:
        self.events.append((step, "step" if logged is None else "logged"))
        self.logged += [] if logged is None else [logged]

    def evaluated(self, evaluation: Evaluation) -> None:
        self.events.append((evaluation.step, "evaluated"))
        self.evaluations.append(evaluation)


class Bench:
    """A tiny run: 2 exits, 10 images of 2 x 2, batches of 2."""

    def __init__(self, folder: Path, *overrides: str, held_out: int = 3, name: str = "val") -> None:
        self.recipe = recipes.parse(
            "name: tiny\ndata: {source: digits, batch_size: 2}\n"
            "train: {iterations: 6, lr: 0.5, schedule: constant, momentum: 0, weight_decay: 0,"
            " evaluate_every: 4, checkpoint_every: 3}\nlogging: {every: 2}\n",
            overrides=overrides,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            groups = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), nn.Linear(3, 2)]
            self.network = Network(nn.Identity(), groups, [nn.Linear(3, 2)])
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (10, 1, 2, 2), dtype=np.uint8)
        labels = np.arange(10) % 2
        self.state = TrainingState(self.network, build_optimizers(self.recipe, self.network))
        loader = TrainLoader(Split(images, labels), batch_size=2, augment="none", pad=1, seed=0, device=CPU)
        self.folder = folder
        self.trainer = Trainer(
            recipe=self.recipe,
            iterations=self.recipe.train.iterations or 0,
            loader=loader,
            held_out=Split(images[:held_out], labels[:held_out]),
            held_out_name=name,
            checkpoints=folder,
            reproducibility={"threads": 1},
        )
        self.heard = Heard()

    def fit(self, at: int = -1, act: Callable[[], None] = lambda: None) -> Scripted:
        method = Scripted(self.network, at, act)
        self.trainer.fit(method, self.state, self.heard)
        return method

    def saved(self) -> dict[str, int]:
        return {path.name: checkpoint.load(path)["step"] for path in sorted(self.folder.iterdir())}


def sigint() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_happens_at_which_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.fit().steps == [0, 1, 2, 3, 4, 5]
    assert bench.heard.events == [
        (1, "step"),
        (2, "logged"),
        (3, "logged"),  # a checkpoint is due, which knows the seconds
        (4, "logged"),
        (4, "evaluated"),
        (5, "step"),
        (6, "logged"),
        (6, "evaluated"),  # the end
    ]
    assert bench.saved()["last.pt"] == 6
    assert bench.saved()["last_good.pt"] == 3


def test_logged_losses_are_means_since_the_line_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fit()
    assert [line.loss for line in bench.heard.logged] == [[1.5, 1.0], [3.0, 4.0], [4.0, 6.0], [5.5, 9.0]]
    assert [line.critic_loss for line in bench.heard.logged] == [[0.5]] * 4
    assert [line.epoch for line in bench.heard.logged] == pytest.approx([2 / 5, 3 / 5, 4 / 5, 6 / 5])
    assert {line.lr for line in bench.heard.logged} == {0.5}
    assert all(line.images_per_s > 0 for line in bench.heard.logged)
    assert bench.state.seconds > 0


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.state.step = 6
    assert bench.fit().steps == []
    assert bench.heard.events == []
    assert bench.saved() == {}


@pytest.mark.parametrize("send", [sigint, sigterm])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(tmp_path: Path, send: Callable[[], None]) -> None:
    bench = Bench(tmp_path)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as error:
        bench.fit(at=3, act=send)
    assert str(error.value) == f"interrupted at step 4: saved; continue with: lcprune resume {tmp_path.parent}"
    assert error.value.exit_code == 130
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 4
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert bench.fit().steps == [4, 5]


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def twice() -> None:
        sigint()
        sigint()

    with pytest.raises(KeyboardInterrupt):
        bench.fit(at=1, act=twice)
    assert bench.saved() == {}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_at_the_last_step_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fit(at=5, act=sigint)
    assert bench.state.step == 6
    assert bench.saved()["last.pt"] == 6


def test_it_also_runs_outside_the_main_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    thread = threading.Thread(target=bench.fit)
    thread.start()
    thread.join()
    assert bench.state.step == 6


@pytest.mark.parametrize(("exit_index", "name"), [(0, "layer group 1 (sub-model 1)"), (1, "layer group 2 (main)")])
def test_a_loss_that_is_not_finite_names_the_group(tmp_path: Path, exit_index: int, name: str) -> None:
    bench = Bench(tmp_path)
    method = Scripted(bench.network)

    def backward(images: Tensor, labels: Tensor, step: int) -> Losses:
        losses = Scripted.backward(method, images, labels, step)
        losses.exits[exit_index] = float("nan") if step == 4 else losses.exits[exit_index]
        return losses

    with pytest.raises(TrainingError) as error:
        bench.trainer.fit(type("Failing", (), {"backward": staticmethod(backward)})(), bench.state, bench.heard)
    assert error.value.problem == f"the loss of {name} is no longer a finite number at step 6"
    assert error.value.fix == (
        f"train again with a lower learning rate: --set train.lr=0.125, or resume with a lower one: "
        f"lcprune resume {tmp_path.parent} --set train.on_nonfinite=retry"
    )
    assert bench.saved()["last.pt"] == 3


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def spoil() -> None:
        with torch.no_grad():
            bench.network.critics[0].weight[0, 0] = float("inf")

    with pytest.raises(NotFiniteError) as error:
        bench.fit(at=1, act=spoil)
    assert error.value.problem == "the weight critics.0.weight of critic 1 is no longer a finite number at step 2"
    assert error.value.fix == "train again with a lower learning rate: --set train.lr=0.125"  # no checkpoint yet
    assert bench.saved() == {}


@pytest.mark.parametrize(("critic", "group"), [(float("nan"), 0.0), (0.5, float("-inf"))])
def test_a_critic_loss_and_a_gradient_that_are_not_finite_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critic: float, group: float
) -> None:
    bench = Bench(tmp_path, "train.lr=1e-30")  # nothing becomes of the gradient
    method = Scripted(bench.network)

    def backward(images: Tensor, labels: Tensor, step: int) -> Losses:
        losses = Scripted.backward(method, images, labels, step)
        if step == 3:
            losses.critics[0] = critic
            bench.network.groups[1].bias.grad = torch.tensor([group, 0.0])
        return losses

    for optimizer in bench.state.optimizers:
        monkeypatch.setattr(optimizer, "step", lambda: None)
    with pytest.raises(NotFiniteError) as error:
        bench.trainer.fit(type("Failing", (), {"backward": staticmethod(backward)})(), bench.state, bench.heard)
    named = "the loss of critic 1" if critic != 0.5 else "the gradient of groups.1.bias in layer group 2"
    assert error.value.problem == f"{named} is no longer a finite number at step 4"
    assert bench.saved()["last.pt"] == 3


def test_a_run_that_went_back_goes_on_with_a_lower_learning_rate(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.state.retries = 2
    before = bench.network.groups[0][1].weight[0, 0].item()
    bench.fit()
    assert bench.network.groups[0][1].weight[0, 0].item() == pytest.approx(before + 6 * 0.5 / 16)
    assert {line.lr for line in bench.heard.logged} == {0.5 / 16}
    assert checkpoint.load(tmp_path / "last.pt")["retries"] == 2


@pytest.fixture
def six_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 images, main is right on these numbers."""
    accuracies = iter([1, 3, 2, 3, 0, 2])

    def logits(*_: object) -> Tensor:
        right = next(accuracies)
        labels = torch.tensor([0, 1, 0])
        said = torch.where(torch.arange(3) < right, labels, 1 - labels)
        return nn.functional.one_hot(said, 2).float().repeat(2, 1, 1)

    monkeypatch.setattr(coordinator, "predict_logits", logits)


@pytest.mark.usefixtures("six_evaluations")
def test_a_run_ends_once_the_accuracy_has_not_risen_for_as_many_evaluations(tmp_path: Path) -> None:
    settings = ("train.evaluate_every=1", "train.early_stopping=2", "train.checkpoint_every=99", "logging.every=99")
    bench = Bench(tmp_path, *settings)
    assert bench.fit().steps == [0, 1, 2, 3]  # as good is no better
    assert [each.kept_step for each in bench.heard.evaluations] == [None, None, None, 2]
    assert bench.saved() == {"best.pt": 2, "last.pt": 4, "last_good.pt": 3}
    resumed = Bench(tmp_path, *settings)
    checkpoint.restore(resumed.state, checkpoint.load(tmp_path / "last.pt"))
    assert resumed.fit().steps == []
    assert (resumed.state.best_step, resumed.state.evaluations_since_best) == (2, 2)
    longer = Bench(tmp_path, *settings, "train.early_stopping=4")
    checkpoint.restore(longer.state, checkpoint.load(tmp_path / "last.pt"))
    assert longer.fit().steps == [4, 5]
    assert [each.kept_step for each in longer.heard.evaluations] == [None, 2]


@pytest.mark.usefixtures("six_evaluations")
def test_the_best_checkpoint_is_of_the_best_evaluation(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "train.evaluate_every=1")
    bench.fit()
    assert [evaluation.accuracy_pct[1] for evaluation in bench.heard.evaluations] == pytest.approx(
        [100 / 3, 100, 200 / 3, 100, 0, 200 / 3]
    )
    assert bench.saved()["best.pt"] == 2
    assert bench.state.best_accuracy_pct == 100
    assert {evaluation.kept_step for evaluation in bench.heard.evaluations} == {None}


def test_without_held_out_images_nothing_is_evaluated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, held_out=0)
    bench.fit()
    assert bench.heard.evaluations == []


def test_losses_of_single_images_at_their_steps(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    watched = bench.trainer.held_out
    record = LossRecord(tmp_path / "run" / "sample_losses.npz", watched, frozenset({0, 1, 6, 99}))
    record.path.parent.mkdir()
    trainer = replace(bench.trainer, loss_record=record)
    first = predict_logits(bench.network, watched, CPU, channels_last=False)
    trainer.fit(Scripted(bench.network), bench.state, bench.heard)
    last = predict_logits(bench.network, watched, CPU, channels_last=False)
    arrays = recording.read(record.path)
    assert arrays["steps"].tolist() == [0, 1, 6]
    for found, logits in ((arrays["losses"][0], first), (arrays["losses"][-1], last)):
        by_hand = -logits.log_softmax(2)[:, torch.arange(3), torch.from_numpy(watched.labels)]
        np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    assert bench.network.training


def test_a_resumed_run_records_no_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.state.step = 4
    record = LossRecord(tmp_path / "sample_losses.npz", bench.trainer.held_out, frozenset({0, 4, 5}))
    replace(bench.trainer, loss_record=record).fit(Scripted(bench.network), bench.state, bench.heard)
    assert recording.read(record.path)["steps"].tolist() == [5]


def test_a_test_curve_beside_the_validation_split(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    test = Split(
        bench.trainer.held_out.images, 1 - bench.trainer.held_out.labels
    )  # two classes: right where val is wrong
    replace(bench.trainer, test_curve=test).fit(Scripted(bench.network), bench.state, bench.heard)
    for evaluation in bench.heard.evaluations:
        assert evaluation.test_accuracy_pct == pytest.approx([100 - value for value in evaluation.accuracy_pct])
    assert bench.state.best_accuracy_pct == max(e.accuracy_pct[-1] for e in bench.heard.evaluations)


def test_the_test_split_is_not_looked_at_twice_and_chooses_no_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, name="test")
    calls: list[Split] = []

    def counted(network: Network, split: Split, *rest: object) -> Tensor:
        calls.append(split)
        return torch.zeros(2, len(split), 2)

    monkeypatch.setattr(coordinator, "predict_logits", counted)
    replace(bench.trainer, test_curve=bench.trainer.held_out).fit(Scripted(bench.network), bench.state, bench.heard)
    assert len(calls) == len(bench.heard.evaluations) == 2
    assert [e.test_accuracy_pct for e in bench.heard.evaluations] == [e.accuracy_pct for e in bench.heard.evaluations]
    assert {e.split for e in bench.heard.evaluations} == {"test"}
    assert "best.pt" not in bench.saved()


def test_logits_of_every_exit_in_eval_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, held_out=10)
    bench.network.critics[0] = nn.Sequential(nn.Dropout(0.9), bench.network.critics[0])
    bench.network.train()
    monkeypatch.setattr(predicting, "EVAL_BATCH", 4)
    found = predict_logits(bench.network, bench.trainer.held_out, CPU, channels_last=False)
    assert bench.network.training
    pixels = torch.from_numpy(bench.trainer.held_out.images.astype(np.float32) / 255)
    with torch.no_grad():
        expected = torch.stack(bench.network.eval()(pixels))
    assert found.shape == (2, 10, 2)
    torch.testing.assert_close(found, expected)
