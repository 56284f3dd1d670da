"""What a critic learns from, sample by sample."""

import math

import pytest
import torch

from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput


def outputs() -> tuple[ExitOutput, ExitOutput]:
    """Three samples, at which the exit is better than its target, as good, and worse."""
    own = ExitOutput(torch.zeros(3, 2), torch.tensor([1.0, 2.0, 4.0], requires_grad=True))
    return own, ExitOutput(torch.tensor([[math.log(3), 0.0]] * 3), torch.tensor([1.5, 2.0, 3.0], requires_grad=True))


@pytest.mark.parametrize(
    ("loss", "expected", "weights"),
    [
        (CriticLoss("cascade"), [0.5, 0.0, 1.0], [-1, 0, 1]),
        (CriticLoss("cascade", one_sided=True), [0.0, 0.0, 1.0], [0, 0, 1]),
        (CriticLoss("cross_entropy"), [1.0, 2.0, 4.0], [1, 1, 1]),
        (CriticLoss("mix", 0.25), [0.875, 1.5, 3.25], [0.5, 0.75, 1]),
        (CriticLoss("mix", 0.25, one_sided=True), [0.75, 1.5, 3.25], [0.75, 0.75, 1]),
    ],
    ids=str,
)
def test_losses_and_weights_worked_out_by_hand(loss: CriticLoss, expected: list[float], weights: list[float]) -> None:
    own, target = outputs()
    losses = loss.of_samples(own, target)
    losses.sum().backward()
    assert losses.tolist() == expected
    assert own.losses.grad.tolist() == weights  # the derivative, and so what one backward pass weighs samples with
    assert loss.weights(own, target).tolist() == weights
    assert target.losses.grad is None


def test_distillation_takes_its_share() -> None:
    own, target = outputs()
    losses = CriticLoss("cascade", distill=0.25).of_samples(own, target)
    pull = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL((3/4, 1/4) || (1/2, 1/2))
    assert losses.tolist() == pytest.approx([0.75 * gap + 0.25 * pull for gap in (0.5, 0.0, 1.0)])


@pytest.mark.parametrize(
    ("loss", "waits", "is_weighted"),
    [
        (CriticLoss("cascade"), True, True),
        (CriticLoss("cross_entropy"), False, True),
        (CriticLoss("mix", 0.0), False, True),
        (CriticLoss("mix", 0.1), True, True),
        (CriticLoss("cross_entropy", distill=0.1), True, False),
    ],
    ids=str,
)
def test_what_a_loss_needs(loss: CriticLoss, waits: bool, is_weighted: bool) -> None:
    assert (loss.waits, loss.is_weighted) == (waits, is_weighted)
