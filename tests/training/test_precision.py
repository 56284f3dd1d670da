"""Which number format a device gets."""

import pytest
import torch

from lcprune.training.precision import resolve

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 1), torch.device("mps")


@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_recipe_names_it_gets(precision: str, device: torch.device) -> None:
    assert resolve(precision, device) == precision


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_gpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {CUDA: capability}[device])
    assert resolve("auto", CUDA) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "fp32"),
        ({"architecture": "aarch64", "bf16": True}, "fp32"),
    ],
)
def test_auto_is_bf16_on_cpus_with_amx(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve("auto", CPU) == expected


def test_auto_is_fp32_elsewhere() -> None:
    assert resolve("auto", MPS) == "fp32"
