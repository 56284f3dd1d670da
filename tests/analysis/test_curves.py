"""At which steps the losses of single samples are recorded."""

import pytest

from lcprune.analysis.curves import recording_steps


def test_steps_grow_by_the_same_factor() -> None:
    assert recording_steps(100, 3) == (0, 1, 10, 100)
    paper = recording_steps(80_000)
    assert (len(paper), paper[:5], paper[-1]) == (21, (0, 1, 2, 3, 6), 80_000)


@pytest.mark.parametrize(("iterations", "steps"), [(1, (0, 1)), (2, (0, 1, 2)), (3, (0, 1, 2, 3))])
def test_a_short_run_has_no_step_twice(iterations: int, steps: tuple[int, ...]) -> None:
    assert recording_steps(iterations) == steps
