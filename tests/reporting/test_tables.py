"""Tables: nothing known is a dash, and names are text, not markup."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lcprune.analysis.select import Candidate
from lcprune.reporting import tables
from lcprune_runtime import tables as plain

RED = "[red]x"
"""A name that would be taken for markup, and vanish."""


def printed(shown: plain.Shown | str) -> list[str]:
    stream = io.StringIO()
    plain.print_table(shown, stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def candidate(name: str = "sub-model 1", **known: Any) -> Candidate:
    values: dict[str, Any] = {
        "name": name,
        "exit_index": 0,
        "macs": 1_420_000,
        "params": 2_260_000,
        "size_bytes": None,
        "latency_ms": None,
        "val_accuracy_pct": None,
        "test_accuracy_pct": None,
        "drop_pct": 3.1,
        "expected_drop_pct": 3.1,
        "expected_drop_se_pct": 0.4,
        "drop_upper_pct": None,
        "macs_ratio": 0.36,
    }
    return Candidate(**values | known)


@dataclass(frozen=True)
class Chosen:
    candidates: tuple[Candidate, ...]
    selected: Candidate
    verdicts: dict[str, str]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    run: str = RED
    exit_names: tuple[str, ...] = ("sub-model 1", "main")
    iterations: int = 100
    kept_step: int | None = None
    val_accuracy_pct: tuple[float, ...] = ()
    test_accuracy_pct: tuple[float, ...] = ()
    val_balanced_accuracy_pct: tuple[float, ...] = ()
    test_balanced_accuracy_pct: tuple[float, ...] = ()


def test_a_selection_says_what_was_chosen_and_why_the_smaller_was_not() -> None:
    small = candidate()
    main = candidate("main", drop_pct=0.0, val_accuracy_pct=92.394, latency_ms=1.254, macs_ratio=1.0)
    verdicts = {"sub-model 1": "drop 3.10 points is over 2.00", "main": "selected"}
    lines = printed(tables.selection_table(Chosen((small, main), main, verdicts, [f"selected in {RED}"])))
    shown = [" ".join(line.split()) for line in lines]
    assert shown[0] == "sub-model MACs of main parameters latency val % test % drop verdict"
    assert shown[1] == "sub-model 1 1.42M 36.0 % 2.26M - - - 3.10 drop 3.10 points is over 2.00"
    assert shown[2] == "> main 1.42M 100.0 % 2.26M 1.25 ms 92.39 - 0.00 selected"
    assert lines[3] == f"selected in {RED}"


def test_a_selection_with_confidence_has_a_column_more() -> None:
    bounded = candidate(drop_upper_pct=4.567)
    lines = printed(
        tables.selection_table(Chosen((bounded, candidate("main")), bounded, {"sub-model 1": "a", "main": "b"}))
    )
    assert "at most" in lines[0]
    assert lines[1].split()[-2:] == ["4.57", "a"]
    assert lines[2].split()[-2:] == ["-", "b"]


def test_a_trained_run_without_images_to_be_held_against() -> None:
    assert printed(tables.trained_table(Trained()))[0] == "exit"
    lines = printed(tables.trained_table(Trained(test_accuracy_pct=(50.0, 62.345))))
    assert [line.split() for line in lines[:3]] == [
        ["exit", "test", "accuracy", "%"],
        ["sub-model", "1", "50.00"],
        ["main", "62.34"],
    ]
    assert lines[3] == f"run: {RED}"
    lines = printed(tables.trained_table(Trained(iterations=1200, kept_step=900)))
    assert "steps: 1,200; the weights are those of step 900, the best evaluation" in lines


@pytest.mark.parametrize("known", [True, False])
def test_an_export_of_a_run_without_images_to_be_held_against(known: bool) -> None:
    result = {
        "path": RED,
        "kind": "progressive",
        "precision": "fp32",
        "size_bytes": 140_787,
        "parity": {"max_abs_diff": 1e-6, "exits_agree": True, "samples": 256},
        "exits": [RED, "main"],
        "thresholds": [0.5],
        "criterion": "margin",
        "test_accuracy_pct": 90.126 if known else None,
        "main_test_accuracy_pct": 91.0 if known else None,
        "mean_macs": 1e6 if known else None,
        "macs_ratio": 0.5 if known else None,
        "exit_fractions": [0.75, 0.25] if known else None,
    }
    lines = printed(tables.export_table(result))
    assert lines[:2] == [
        f"wrote {RED} (progressive, fp32, 141 kB)",
        "agrees with torch on 256 images: logits within 1.0e-06, the same exits",
    ]
    if known:
        assert (
            lines[2]
            == "test accuracy 90.13 % (float32's main 91.00 %) for 1.00M MACs per image on average, 50.0 % of main"
        )
        assert [line.split() for line in lines[-2:]] == [[RED, "0.5000", "75.0", "%"], ["main", "-", "25.0", "%"]]
    else:
        assert [line.split() for line in lines[-2:]] == [[RED, "0.5000", "-"], ["main", "-", "-"]]


def test_an_evaluation_escapes_names_and_shows_thresholds_of_both_kinds() -> None:
    row = {"accuracy_pct": 90.0, "mean_macs": 1e6, "macs_ratio": 0.5, "exit_fractions": [0.75, 0.25]}
    result = {
        "split": RED,
        "samples": 3,
        "exits": [{"name": RED, "accuracy_pct": None}],
        "ensembles": {"1+main": 91.5},
        "progressive": [row | {"threshold": [0.5, 0.25]}, row | {"threshold": 0.9}],
    }
    lines = printed(plain.evaluation_table(result))
    assert [line.split() for line in lines[1:3]] == [[RED, "-"], ["ensemble", "1+main", "91.50"]]
    assert lines[4].startswith("0.5000, 0.2500")
    assert lines[5].split() == ["0.90", "90.00", "1.00M", "50.0", "%", "75.0", "%", "25.0", "%"]
    assert lines[6] == f"{RED}: 3 images"
    kinds = [
        {"members": "1+main", "kind": "logits", "accuracy_pct": 91.5, "weights": (0.5, 0.5)},
        {"members": "1+main", "kind": "probabilities", "accuracy_pct": 92.0, "weights": (0.5, 0.5)},
        {"members": "1+main", "kind": "weighted", "accuracy_pct": 92.25, "weights": (0.125, 0.875)},
    ]
    lines = printed(plain.evaluation_table(result | {"ensemble_kinds": kinds}))
    assert [line.split() for line in lines[3:5]] == [
        ["sum", "of", "probabilities", "92.00"],
        ["weighted", "0.12", "0.88", "92.25"],
    ]
    nothing: Mapping[str, Any] = {"split": "test", "samples": 0, "exits": [], "ensembles": {}, "progressive": []}
    assert printed(plain.evaluation_table(nothing)) == ["test: 0 images"]


def test_other_tables_escape_what_a_user_named() -> None:
    bench = {
        "model": RED,
        "kind": "submodel",
        "size_bytes": None,
        "latency_ms": None,
        "latency_p95_ms": None,
        "ratio": 1.0,
    }
    assert printed(plain.bench_table([bench]))[1].split() == [RED, "submodel", "-", "-", "-", "1.00"]
    assert printed(tables.recipe_table({"mine": RED}))[1].split() == ["mine", RED]
    doctor = printed(tables.doctor_table({"found": {"torch": RED}, "problems": [RED]}))
    assert (doctor[1].split(), doctor[2]) == (["torch", RED], f"problem: {RED}")


def test_costs_that_were_not_measured() -> None:
    row = {"name": "main", "macs": 1e6, "macs_ratio": 1.0, "params": 2e6, "size_bytes": None, "latency_ms": None}
    lines = printed(tables.profile_table({"exits": [row], "cascade_macs": 1.5e6}))
    assert lines[1].split() == ["main", "1.00M", "100.0", "%", "2.00M", "-", "-"]
    assert lines[2] == "all exits in cascade: 1.50M MACs, 150.0 % of main"


def test_names_are_neither_markup_nor_orders_to_a_terminal() -> None:
    image = {"image": "a\x1b[31m.png", "class": "[red]\x07b[/red] :cat:", "confidence": 1.0}
    image |= {"exit": RED, "macs_ratio": 0.5}
    said = [r"a\x1b[31m.png", r"[red]\x07b[/red]", ":cat:"]
    for kind, rest in (("submodel", ["1.0000"]), ("progressive", ["1.0000", RED, "50.0", "%"])):
        assert printed(plain.prediction_table({"kind": kind, "images": [image]}))[1].split() == said + rest
    unknown = plain.prediction_table({"kind": "submodel", "images": [image | {"confidence": float("nan")}]})
    assert printed(unknown)[1].split() == [*said, "nan"]


def test_off_a_terminal_long_names_come_out_whole() -> None:
    path = "/a folder/" * 40
    image = {"image": path, "class": "a", "confidence": 1.0}
    assert printed(plain.prediction_table({"kind": "submodel", "images": [image]}))[1].startswith(path)
    assert printed(tables.trained_table(Trained(run=path)))[3] == f"run: {path}"
    assert printed(f"wrote {RED}") == [f"wrote {RED}"]


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        (plain.millions, 1_424_999, "1.42M"),
        (plain.share, 0.36049, "36.0 %"),
        (plain.percent, 92.385, "92.39"),
        (plain.kilobytes, 1_532_400, "1,532 kB"),
        (plain.milliseconds, 1.25, "1.25 ms"),
        (plain.milliseconds, None, "-"),
    ],
)
def test_figures(format_: Callable[[Any], str], value: float | None, text: str) -> None:
    assert format_(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (90 * 60 - 1, "90 min"),
        (90 * 60, "1.5 h"),
        (48 * 3600 - 1, "48.0 h"),
        (48 * 3600, "2.0 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert plain.duration(seconds) == text


def test_a_survey_names_the_first_few_and_counts_the_rest() -> None:
    result = {
        "recipe": "lcprune.yaml",
        "classes": [RED, "dog"],
        "counts": {"train": {RED: 1200, "dog": 300}, "test": {"dog": 2}},
        "imbalance": 4.0,
        "sampled": 1502,
        "decoded": 700,
        "width_px": [10.0, 20.0, 30.0, 40.0, 50.0],
        "height_px": [1.0, 2.0, 3.0, 4.0, 5.0],
        "kinds": {"RGB": 1490, "grey": 5},
        "rotated": 3,
        "damaged": [{"path": f"{n}.png", "problem": f"{n}.png is empty"} for n in range(7)],
        "copies": [["a.png", "\udcff.png"]],
        "leaks": [],
        "contradictions": [],
        "same_size": 1400,
        "compared": 900,
        "other_files": {".txt": 2},
        "other_examples": ["notes.txt"],
        "remarks": ["valid is not read"],
        "steps": 1200,
        "training_s": 700.0,
    }
    assert printed(tables.survey_table(result)) == [
        "class   train  test",
        f"{RED}  1,200     0",
        "dog       300     2",
        "all     1,500     2",
        "size: 30 x 3 pixels (median; 10 x 1 to 50 x 5)",
        "kinds: RGB 1,490, grey 5, 3 turned by EXIF",
        "looked at 1,502 files, and at the pixels of 700",
        "the largest class has 4.0 times the training images of the smallest",
        "of 1,400 files that share their size with another, 900 were compared: there may be more copies",
        "damaged files: 7",
        *(f"  {n}.png is empty" for n in range(5)),
        "  and 2 more (--json names them)",
        "images with copies: 1",
        r"  a.png = \udcff.png",
        "files that are not images, skipped: 2 .txt (such as notes.txt)",
        "valid is not read",
        "wrote lcprune.yaml",
        "training takes 1,200 steps, about 12 min on this machine",
        "next: lcprune train --dry-run, to see what the network costs",
        "then: lcprune train",
    ]
    nearly_equal = "\n".join(printed(tables.survey_table({**result, "imbalance": 1.04})))
    assert "the largest class" not in nearly_equal
