"""Deterministic mode is on inside, and nowhere else."""

import pytest
import torch

from lcprune.errors import TrainingError
from lcprune.training.determinism import deterministic


def settings() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_it_is_on_inside_and_as_it_was_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = settings()
    with deterministic(False):
        assert settings() == before
    with deterministic(True):
        assert settings() == (True, True, False)
    assert settings() == before


def test_an_operation_without_such_an_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = settings()
    problem = "train.deterministic: pool does not have a deterministic"
    with pytest.raises(TrainingError, match=problem) as error, deterministic(True):
        raise RuntimeError("pool does not have a deterministic implementation, but you set\nmore")
    assert "train.deterministic: false" in error.value.fix
    assert settings() == before
    with pytest.raises(RuntimeError, match="another"), deterministic(True):
        raise RuntimeError("another error")
