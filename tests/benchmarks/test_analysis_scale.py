"""The benchmark of the analysis runs and says what it promises; how long it takes is no matter of a test."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import analysis_scale
from lcprune.analysis.evaluate import accuracies_pct
from lcprune_runtime.criterion import scores

ROOT = Path(__file__).parents[2]
SMALL = "import json; from benchmarks.analysis_scale import measure; print(json.dumps(measure(300, 20, 3)))"


def test_json_holds_the_three_times_and_the_peak() -> None:
    report = json.loads(subprocess.check_output([sys.executable, "-c", SMALL], cwd=ROOT, text=True))
    assert (report["samples"], report["classes"], report["exits"]) == (300, 20, 3)
    assert report["total_s"] == report["evaluate_s"] + report["calibrate_s"] + report["select_s"] > 0
    assert report["logits_bytes"] == 300 * 20 * 3 * 4
    assert 10 << 20 < report["peak_bytes"] < 1 << 30  # numpy and scipy alone
    assert report["met"] is True


def test_the_logits_look_like_those_of_a_trained_network() -> None:
    logits, labels = analysis_scale.made_up_predictions(3_000, 1_000, 6, 0)
    accuracies = accuracies_pct(logits, labels)
    assert list(accuracies) == sorted(accuracies)
    assert 45 < accuracies[0] < 57
    assert 71 < accuracies[-1] < 81
    confidences, _ = scores(logits[-1:])
    assert 0.2 < np.mean(confidences < 0.9) < 0.8
