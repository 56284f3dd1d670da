"""Names in a run folder."""

from pathlib import Path

RUNS = Path("runs")
LATEST = RUNS / "latest"

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.npz"
SAMPLE_LOSSES = "sample_losses.npz"
BAD_IMAGES = "bad_images.json"
DATASET = "dataset.json"
PARALLEL = "parallel.json"
PROFILE = "profile.json"
SELECTION = "selection.json"
THRESHOLDS = "thresholds.json"
REPORT = "report.html"
EXPORT = "export"
MANIFEST = "manifest.json"
MADE_FROM = "made_from"
"""Key of the manifest: of each result, the SHA-256 of the files that it was made from."""
