import numpy as np
import pytest

from lcprune.data.split import balanced_split


def test_quotas_follow_the_largest_remainders() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    _, val = balanced_split(labels, 4, seed=0)
    # shares 2.0, 1.2, 0.8: two, one and none are sure, the last seat goes to the remainder 0.8
    assert np.bincount(labels[val]).tolist() == [2, 1, 1]


def test_a_tie_goes_to_the_lower_label() -> None:
    labels = np.repeat([2, 0, 1], 3)
    _, val = balanced_split(labels, 5, seed=0)  # 5/3 each: one sure, two seats left for three equal remainders
    assert np.bincount(labels[val]).tolist() == [2, 2, 1]


@pytest.mark.parametrize("val_size", [0, 1, 7, 99, 100])
def test_both_sides_are_ascending_and_together_everything(val_size: int) -> None:
    labels = np.arange(100) % 7
    train, val = balanced_split(labels, val_size, seed=3)
    assert len(val) == val_size
    assert train.dtype == val.dtype == np.int64
    assert train.tolist() == sorted(train)
    assert val.tolist() == sorted(val)
    assert sorted([*train, *val]) == list(range(100))


def test_the_seed_decides() -> None:
    labels = np.arange(12) % 2
    assert balanced_split(labels, 4, seed=0)[1].tolist() == [1, 3, 4, 10]
    assert balanced_split(labels, 4, seed=1)[1].tolist() == [3, 6, 9, 10]


def test_more_than_there_is_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="cannot hold out 3 of 2 images"):
        balanced_split(np.zeros(2, dtype=np.int64), 3, seed=0)
