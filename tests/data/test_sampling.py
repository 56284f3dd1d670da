import numpy as np
import pytest
import torch

from lcprune.data.loaders import TrainLoader
from lcprune.data.sampling import Targets, class_weights, epoch_order
from lcprune.data.sources import Split
from lcprune.training.methods.base import sample_losses

LABELS = np.array([0] * 6 + [1] * 2, dtype=np.int64)


def test_class_weights_make_up_for_the_sizes() -> None:
    weights = class_weights(LABELS, 3)
    torch.testing.assert_close(weights, torch.tensor([8 / 12, 8 / 4, 0.0]))
    assert weights[torch.from_numpy(LABELS)].mean() == pytest.approx(1)


def test_balanced_sampling_draws_all_classes_equally_often() -> None:
    weights = class_weights(LABELS, 2)[torch.from_numpy(LABELS)]
    drawn = torch.cat([epoch_order(8, 0, epoch, weights) for epoch in range(1000)])
    counts = torch.bincount(drawn, minlength=8) / len(drawn)
    torch.testing.assert_close(counts, torch.tensor([1 / 12] * 6 + [1 / 4] * 2), atol=0.01, rtol=0)
    torch.testing.assert_close(epoch_order(8, 0, 5, weights), drawn[40:48])  # a function of seed and epoch


def test_a_loss_weighs_as_much_as_its_class() -> None:
    weights = torch.tensor([0.5, 2.0])
    labels, logits = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
    _, shares = Targets(2, 0, loss_weights=weights).of(torch.rand(3, 1, 2, 2), labels, 0)
    for smoothing in (0.0, 0.1):
        plain = sample_losses(logits, labels, smoothing)
        torch.testing.assert_close(sample_losses(logits, shares, smoothing), plain * torch.tensor([0.5, 2.0, 2.0]))


def test_mixup_lays_neighbours_over_each_other() -> None:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 2) / 4
    labels = torch.tensor([0, 1, 2, 3])
    state = torch.get_rng_state()
    mixed, shares = Targets(4, seed=5, mixup=0.4).of(images, labels, step=9)
    assert torch.equal(torch.get_rng_state(), state)
    share = shares[1, 1]
    assert 0 < share < 1
    torch.testing.assert_close(shares[1], torch.tensor([1 - share, share, 0, 0]))
    torch.testing.assert_close(mixed[1], images[1] * share + images[0] * (1 - share))
    again, _ = Targets(4, seed=5, mixup=0.4).of(images, labels, step=9)
    other, _ = Targets(4, seed=5, mixup=0.4).of(images, labels, step=10)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_cutmix_pastes_a_part_and_counts_its_pixels() -> None:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 8, 8) / 4
    targets = Targets(4, seed=1, cutmix=1.0)
    mixed, shares = next(
        made for made in (targets.of(images, torch.arange(4), step) for step in range(20)) if 0 < made[1][1, 1] < 1
    )
    own = (mixed[1] == images[1]).float().mean()
    torch.testing.assert_close(shares[1], torch.tensor([1 - own, own, 0, 0]))


def test_with_both_a_batch_has_one_of_them() -> None:
    targets = Targets(2, seed=0, mixup=1.0, cutmix=1.0)
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    values = [len(targets.of(images, torch.arange(2), step)[0][0].unique()) for step in range(20)]
    blended = [targets.of(images, torch.arange(2), step)[0].unique().tolist() for step in range(20)]
    assert any(set(pixels) == {0.0, 1.0} for pixels in blended)  # pasted
    assert any(0 < pixels[0] < 1 for pixels in blended)  # laid over each other
    assert set(values) <= {1, 2}


def test_images_in_memory_are_mixed_and_balanced_too() -> None:
    split = Split(np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), dtype=np.uint8), LABELS)
    weights = class_weights(LABELS, 2)
    loader = TrainLoader(
        split, 4, "none", 1, 0, "cpu", targets=Targets(2, 0, mixup=0.5, loss_weights=weights), weights=weights[LABELS]
    )
    images, shares = loader.batch(3)
    assert images.shape == (4, 3, 4, 4)
    torch.testing.assert_close((shares / weights).sum(dim=1), torch.ones(4))


def test_an_image_that_weighs_nothing_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by the smallest number there is."""
    monkeypatch.setattr(torch, "rand", lambda *sizes, **_: torch.zeros(sizes, dtype=torch.float64))
    assert epoch_order(3, 0, 0, torch.tensor([0.0, 1.0, 1.0])).tolist() == [1, 1, 1]
