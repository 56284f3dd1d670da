"""The file of single images' losses: what goes in comes out, and a resumed run overwrites what it does again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lcprune import runs
from lcprune.data.sources import Split
from lcprune.errors import RunError
from lcprune.paper.recording import LossRecord, read, recording_steps

IMAGES = Split(np.zeros((2, 1, 1, 1), dtype=np.uint8), np.array([0, 1]))


def record(folder: Path) -> LossRecord:
    return LossRecord(folder / runs.SAMPLE_LOSSES, IMAGES, frozenset({0, 3, 9}))


def logits(*of_class_0: float) -> torch.Tensor:
    """``(2, 2, 2)``: two exits say the same of both images; 0 for class 1."""
    one_exit = torch.tensor([[value, 0.0] for value in of_class_0], dtype=torch.float32)
    return torch.stack([one_exit, 2 * one_exit])


def test_losses_by_hand(tmp_path: Path) -> None:
    record(tmp_path).add(0, logits(np.log(3), np.log(3)))  # probabilities 3/4 and 1/4; with 2 log 3, 9/10 and 1/10
    arrays = read(tmp_path / runs.SAMPLE_LOSSES)
    assert arrays["losses"].dtype == np.float32
    np.testing.assert_allclose(arrays["losses"], -np.log([[[3 / 4, 1 / 4], [9 / 10, 1 / 10]]]), rtol=1e-6)
    assert (arrays["steps"].tolist(), arrays["labels"].tolist()) == ([0], [0, 1])
    assert runs.changed_files(tmp_path) == []
    assert runs.recorded_files(tmp_path) == [runs.SAMPLE_LOSSES]


def test_steps_follow_each_other_and_are_never_there_twice(tmp_path: Path) -> None:
    losses = record(tmp_path)
    for step, value in ((0, 0.0), (3, 1.0), (9, 2.0), (3, 5.0)):
        losses.add(step, logits(value, value))
    arrays = read(tmp_path / runs.SAMPLE_LOSSES)
    assert arrays["steps"].tolist() == [0, 3]
    np.testing.assert_allclose(arrays["losses"][1, 0, 1], np.log(1 + np.exp(5.0)), rtol=1e-6)


def test_what_came_after_the_step_of_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    losses = record(tmp_path)
    losses.forget_after(0)  # nothing is there yet
    for step in (0, 3, 9):
        losses.add(step, logits(0, 0))
    losses.forget_after(3)
    assert read(tmp_path / runs.SAMPLE_LOSSES)["steps"].tolist() == [0, 3]
    assert runs.changed_files(tmp_path) == []


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / runs.SAMPLE_LOSSES
    record(tmp_path).add(0, logits(0, 0))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged") as error:
        read(path)
    assert error.value.fix == "delete it, and train again where you need it"


def test_steps_grow_by_the_same_factor() -> None:
    assert recording_steps(100, 3) == (0, 1, 10, 100)
    paper = recording_steps(80_000)
    assert (len(paper), paper[:5], paper[-1]) == (21, (0, 1, 2, 3, 6), 80_000)


@pytest.mark.parametrize(("iterations", "steps"), [(1, (0, 1)), (2, (0, 1, 2)), (3, (0, 1, 2, 3))])
def test_a_short_run_has_no_step_twice(iterations: int, steps: tuple[int, ...]) -> None:
    assert recording_steps(iterations) == steps
