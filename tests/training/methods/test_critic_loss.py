"""What a critic learns from, sample by sample."""

import math

import pytest
import torch

from lcprune.training.methods.critic_loss import CriticLoss, ExitOutput, distillation_losses


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


LN3 = math.log(3)
LOGITS_3 = torch.tensor([[2 * LN3, 0.0]])  # at temperature 2, p = (3/4, 1/4); at 1, (9/10, 1/10)
LOGITS_1 = torch.zeros(1, 2)  # p = (1/2, 1/2) at every temperature


def test_distillation_worked_out_by_hand() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln(3/2) + 1/4 ln(1/2), times 2^2
    losses = distillation_losses(LOGITS_1, LOGITS_3, 2.0)
    assert losses.tolist() == pytest.approx([4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))])
    # the other way round it is KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln(2)
    turned = distillation_losses(LOGITS_3, LOGITS_1, 2.0)
    assert turned.tolist() == pytest.approx([4 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))])
    assert distillation_losses(LOGITS_3, LOGITS_3, 2.0).tolist() == [0.0]
    with pytest.raises(ValueError, match=r"own is \(1, 2\) but its teacher is \(2, 2\)"):
        distillation_losses(LOGITS_1, torch.zeros(2, 2), 1.0)


def test_distillation_is_in_float32_and_finite_where_its_teacher_is_certain() -> None:
    certain, other = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    losses = distillation_losses(other.bfloat16(), certain.bfloat16(), 1.0)
    assert losses.dtype == torch.float32
    assert losses.tolist() == [1000.0]
