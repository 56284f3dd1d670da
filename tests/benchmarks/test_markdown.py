"""The tables, exactly."""

from benchmarks import markdown

SPREAD = {"median": 1.234, "low": 1.1, "high": 1.3}


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_speed() -> None:
    row = {
        "network": "paper width",
        "recipe": "vgg_cifar10",
        "overrides": ["a=1"],
        "batch_size": 128,
        "method": "backprop",
        "over_loader": SPREAD,
        "over_bare": {"median": 0.99, "low": 0.98, "high": 1.0},
        "share_of_arithmetic": {"median": 0.5, "low": 0.4, "high": 0.6},
        "met": True,
    }
    assert table_of(markdown.TABLES["speed"]({"speed": {"rows": [row]}})) == [
        "| network | batch | method | over a DataLoader loop | over a bare loop | of the arithmetic | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| paper width (`vgg_cifar10 a=1`) | 128 | `backprop` | 1.23 (1.10 to 1.30) | 0.99 (0.98 to 1.00) "
        "| 50 % (40 to 60) | yes |",
    ]


def test_methods() -> None:
    row = {
        "network": "n",
        "recipe": "r",
        "overrides": [],
        "batch_size": 32,
        "lc_over_bp": SPREAD,
        "mac_ratio": 1.1,
        "limit": 1.155,
        "met": False,
    }
    assert table_of(markdown.TABLES["methods"]({"methods": {"rows": [row]}}))[-1] == (
        "| n (`r`) | 32 | 1.234 (1.100 to 1.300) | 1.100 | 1.155 | no |"
    )


def test_memory_joins_bytes_and_times() -> None:
    def row(groups: int, **more: object) -> dict[str, object]:
        return {"network": "VGG", "groups": groups, "limit": 0.75, **more}

    counted = [
        row(1, peak_bytes=440_000_000, over_backprop=1.0),
        row(4, mode="fast", after=[2, 5, 8], over_backprop=0.9),
        row(4, mode="lean", after=[2, 5, 8], over_backprop=0.7),
    ]
    timed = [row(4, mode="lean", lc_over_bp=SPREAD)]
    text = markdown.TABLES["memory"]({"memory": {"rows": counted}, "memory time": {"rows": timed}})
    assert table_of(text)[-1] == "| VGG | 4 | 2, 5, 8 | 0.900 | 0.700 | - | 1.23 (1.10 to 1.30) |"
    assert "VGG: 440 MB, and 0.700 of it at best (limit 0.75: yes)" in text
    assert table_of(markdown.TABLES["memory"]({"memory": {"rows": counted}}))[-1].endswith("| - | - |")


def test_analysis_start_and_export() -> None:
    analysis = {
        "samples": 50_000,
        "classes": 1_000,
        "exits": 6,
        "evaluate_s": 1.0,
        "calibrate_s": 2.0,
        "select_s": 3.0,
        "total_s": 6.0,
        "peak_bytes": 3 * 2**30,
        "met": True,
    }
    assert table_of(markdown.TABLES["analysis"]({"analysis": {"rows": [analysis]}}))[-1] == (
        "| 50,000 x 1,000, 6 exits | 1.0 s | 2.0 s | 3.0 s | 6.0 s | 3.0 GiB | yes |"
    )
    start = {"what": "lcprune --help", "over_python": SPREAD, "median_s": 0.2, "limit_s": None, "met": None}
    assert table_of(markdown.TABLES["start"]({"start": {"rows": [start]}}))[-1] == (
        "| `lcprune --help` | 1.2 (1.1 to 1.3) | 0.200 s | - | - |"
    )
    export = {"what": "progressive export of x", "over_main": SPREAD}
    assert table_of(markdown.TABLES["export"]({"export": {"rows": [export]}}))[-1] == (
        "| progressive export of x | 1.23 (1.10 to 1.30) |"
    )


def test_the_tables_of_a_gpu() -> None:
    variant = {
        "method": "backprop",
        "variant": "cuda_graph",
        "step_ms": SPREAD,
        "images_per_s": 103_727.7,
        "share_of_bf16_rate": {"median": 0.25, "low": 0.2, "high": 0.3},
    }
    assert table_of(markdown.TABLES["variants"]({"variants": {"device": "H200", "rows": [variant]}}))[-1] == (
        "| `backprop` | cuda_graph | 1.234 (1.100 to 1.300) | 103,728 | 25 % (20 to 30) |"
    )
    whole = {"how": "from a sample", "variant": "compile", "measured_steps": 4000, "minutes": 3.456, "met": True}
    assert table_of(markdown.TABLES["protocol"]({"protocol": {"device": "H200", "rows": [whole]}}))[-1] == (
        "| from a sample | compile | 4,000 | 3.46 | yes |"
    )
    run = {"iterations": 900, "test_accuracy_pct": [92.5, 92.7], "mean_pct": 92.6, "train_s": [5.04, 5.1]}
    fast = {"device": "H200", "rows": [run], "time_to_pct": {"92.39": 5.07, "93.93": None}}
    text = markdown.TABLES["fast"]({"fast": fast})
    assert table_of(text)[-1] == "| 900 | 92.50, 92.70 | 92.60 | 5.0, 5.1 |"
    assert "92.39 %: 5.1 s; 93.93 %: not reached" in text
