"""The GPU suite: its pieces on a CPU, its bookkeeping, and what it says without a device."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, throughput

CPU = torch.device("cpu")
TINY = ("model.width=0.05", "critics.channels=4", "data.batch_size=4")
SHORT = (1, 2, 3)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu.Suite:
    options = gpu.parser().parse_args(
        ["--runs", str(tmp_path / "runs"), "--seeds", "0", "1", "--lengths", "100", "200"]
    )
    return gpu.Suite(options, tmp_path / "device.json", "a device")


def test_without_cuda_it_says_so_in_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "there is no CUDA device here: nothing was measured\n"


@pytest.mark.parametrize("method", ["backprop", "local_critic"])
@pytest.mark.parametrize("variant", ["eager, fp32", "eager, bf16 channels_last", "cuda_graph, overlap"])
def test_a_variant_is_measured(method: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "MATRIX_SIZES", {"cpu": 16})
    (row,) = gpu.measure_variant(method, variant, CPU, SHORT, TINY)
    assert (row["method"], row["variant"]) == (method, variant)
    assert 0 < row["step_ms"]["low"] <= row["step_ms"]["median"] <= row["step_ms"]["high"]
    assert row["images_per_s"] == pytest.approx(4 * 1000 / row["step_ms"]["median"])
    assert row["share_of_bf16_rate"]["median"] > 0


def test_the_protocol_is_80000_sampled_steps() -> None:
    (row,) = gpu.measure_protocol("eager, fp32", CPU, SHORT, TINY)
    assert row["measured_steps"] == 6
    assert row["met"] == (row["minutes"] <= 4)


def test_minutes_come_from_the_median_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "measure_steps", lambda *_: [0.003, 0.001, 0.002])
    (row,) = gpu.measure_protocol("compile", CPU, SHORT)
    assert row["minutes"] == pytest.approx(80_000 * 0.002 / 60)
    assert row["met"]


def test_a_case_that_is_in_the_file_is_not_measured_again(suite: gpu.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(words: list[str], seconds: float) -> str:
        asked.append(words[-1])
        return json.dumps([{"method": "local_critic", "variant": words[-1].split(", ", 1)[1], "step_ms": STEP, **ROW}])

    monkeypatch.setattr(gpu, "run_for", measured)
    suite.run("variants")
    assert len(asked) == 2 * len(gpu.VARIANTS)
    assert asked[0] == "backprop, eager, fp32"
    suite.run("variants")
    assert len(asked) == 2 * len(gpu.VARIANTS)
    content = json.loads(suite.path.read_text())["variants"]
    assert content["device"] == "a device"
    assert [row["case"] for row in content["rows"]][-1] == "local_critic, cuda_graph, overlap"


def test_the_whole_protocol_is_trained_in_the_fastest_variant(
    suite: gpu.Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite._options.full = True
    for variant, median in (("cuda_graph", 1.0), ("eager, fp32", 3.0)):
        row = {"method": "local_critic", "variant": variant, "step_ms": {**STEP, "median": median}, **ROW}
        suite._add("variants", f"local_critic, {variant}", [row])
    trained: list[tuple[str, list[str]]] = []

    def lcprune(words: list[str], seconds: float) -> str:
        if "--case" in words:
            return json.dumps(
                [{"how": "from a sample", "variant": "cuda_graph", "measured_steps": 4000, "minutes": 2.0, "met": True}]
            )
        trained.append((words[4], [words[i + 1] for i, word in enumerate(words) if word == "--set"]))
        return json.dumps({"iterations": 80_000, "seconds": 120.0, "test_accuracy_pct": [80.0, 92.0]})

    monkeypatch.setattr(gpu, "run_for", lcprune)
    suite.protocol()
    assert [recipe for recipe, _ in trained] == ["vgg_cifar10", "vgg_cifar10", "vgg_cifar100", "vgg_cifar100"]
    assert all("train.cuda_graph=true" in keys for _, keys in trained)
    assert ["train.method=backprop" in keys for _, keys in trained] == [False, True, False, True]
    rows = json.loads(suite.path.read_text())["protocol"]["rows"]
    assert [row["minutes"] for row in rows] == [2.0] * 5
    assert rows[1]["test_accuracy_pct"] == [80.0, 92.0]


STEP = {"median": 2.0, "low": 1.0, "high": 3.0}
ROW = {"images_per_s": 1.0, "share_of_bf16_rate": STEP}


def test_what_fails_or_finds_no_time_is_left_for_the_next_call(
    suite: gpu.Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_for", lambda *_: None)
    suite.protocol()
    suite.run("speed")
    assert suite.left == ["protocol (needs variants)", "speed: backprop", "speed: local_critic"]
    assert not suite.path.exists()


def test_the_fast_recipe_is_trained_for_every_length_and_seed(
    suite: gpu.Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accuracy = {"100": 92.0, "200": 93.0}

    def lcprune(words: list[str], seconds: float) -> str:
        if "evaluate" in words:
            length = words[words.index("evaluate") + 1].rsplit("-", 3)[1]
            return json.dumps({"exits": [{"accuracy_pct": 1.0}, {"accuracy_pct": accuracy[length]}]})
        folder = Path(words[words.index("--out") + 1])
        assert folder.parent == tmp_path / "runs"
        keys = dict(words[i + 1].split("=") for i, word in enumerate(words) if word == "--set")
        length = int(keys["train.iterations"])
        seconds = length / 10 + int(keys["train.seed"])
        return json.dumps(
            {"run": str(folder), "iterations": length, "seconds": seconds, "test_accuracy_pct": [50.0, 91.0]}
        )

    monkeypatch.setattr(gpu, "run_for", lcprune)
    suite.fast()
    content = json.loads(suite.path.read_text())
    assert len(content["fast_runs"]["rows"]) == 4
    assert content["fast"]["rows"] == [
        {
            "iterations": length,
            "seeds": [0, 1],
            "test_accuracy_pct": [flipped] * 2,
            "mean_pct": flipped,
            "train_s": [length / 10, length / 10 + 1],
        }
        for length, flipped in ((100, 92.0), (200, 93.0))
    ]
    assert content["fast"]["time_to_pct"] == {"92.39": 20.5, "93.93": None}


@pytest.mark.parametrize(
    ("code", "expected"),
    [("print('done')", "done\n"), ("raise SystemExit(1)", None), ("import time; time.sleep(60)", None)],
)
def test_a_command_gets_so_much_time(code: str, expected: str | None) -> None:
    assert gpu.run_for([sys.executable, "-c", code], 2.0) == expected
