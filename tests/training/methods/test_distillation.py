"""Distillation from one exit to another, worked out by hand."""

import math

import pytest
import torch
from torch import nn

from lcprune.training.methods.critic_loss import distillation_losses

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


def test_distillation_has_the_gradient_of_two_probabilities() -> None:
    own, teacher = LOGITS_1.clone().requires_grad_(), LOGITS_3.clone().requires_grad_()
    distillation_losses(own, teacher, 2.0).sum().backward()
    assert own.grad.tolist() == [pytest.approx([2 * (0.5 - 0.75), 2 * (0.5 - 0.25)])]  # T * (p_own - p_teacher)
    assert teacher.grad is None


def test_distillation_is_torchs_kl_div_in_float64() -> None:
    torch.manual_seed(0)
    own, teacher = (5 * torch.randn(7, 6, dtype=torch.float64) for _ in range(2))
    for temperature in (0.5, 1.0, 4.0):
        said = nn.functional.log_softmax(own / temperature, dim=1)
        wanted = nn.functional.softmax(teacher / temperature, dim=1)
        expected = nn.functional.kl_div(said, wanted, reduction="none").sum(dim=1) * temperature**2
        torch.testing.assert_close(distillation_losses(own, teacher, temperature), expected, rtol=1e-12, atol=1e-14)


def test_distillation_is_in_float32_and_finite_where_its_teacher_is_certain() -> None:
    certain, other = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    losses = distillation_losses(other.bfloat16(), certain.bfloat16(), 1.0)
    assert losses.dtype == torch.float32
    assert losses.tolist() == [1000.0]


def test_logits_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"own is \(1, 2\) but its teacher is \(2, 2\)"):
        distillation_losses(LOGITS_1, torch.zeros(2, 2), 1.0)
