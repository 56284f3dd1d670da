"""Coverage-guided fuzzing of the readers of untrusted input: YAML recipes, ONNX files and their metadata.

    python -m tests.trials.fuzz_readers yaml|metadata|onnx [--seconds 300]

Every input must be accepted, or refused with the one kind of error that the command line prints. Anything else ends the
run with exit code 77 and leaves the input in the current folder, as ``crash-*``.
"""

import argparse
import dataclasses
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lcprune", "lcprune_runtime", "ruamel"], enable_loader_override=False):
    from lcprune import recipe
    from lcprune.errors import LcpruneError
    from lcprune.exporters.metadata import attach
    from lcprune_runtime import metadata

from onnx import TensorProto, helper

KEYS = [field.name for field in dataclasses.fields(metadata.ModelInfo)]
INFO = metadata.ModelInfo(
    classes=("cat", "dog"),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    exits=(metadata.ExitInfo("sub-model 1", 0, 100, 10, 50.0, None), metadata.ExitInfo("main", 1, 900, 90)),
    input=metadata.InputInfo(size=8, channels=3),
    recipe_sha256="ab" * 32,
    main_macs=900,
    exit_macs=(110, 910),
    kind="progressive",
    thresholds=(0.5,),
    temperatures=(1.0, 1.0),
)
BEST_S = 5
"""A single input that takes longer is a failure, too."""
MEGABYTES = 2048

ENDS = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("image", "logits")]
MODEL = helper.make_model(
    helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", ENDS[:1], ENDS[1:])
)
attach(MODEL, INFO)
VALID = {entry.key: entry.value for entry in MODEL.metadata_props}


def attempt(target: str, data: bytes, path: Path) -> None:
    """A recipe, a file (at `path`), or metadata in which the key that the first byte names has another value."""
    if target == "yaml":
        recipe.parse(data.decode("utf-8", "replace"))
    elif target == "onnx":
        path.write_bytes(data)
        metadata.load_model(path)
    elif data:
        key = metadata.PREFIX + KEYS[data[0] % len(KEYS)]
        metadata.parse({**VALID, key: data[1:].decode("utf-8", "replace")}, "m.onnx")


SEEDS = {
    "yaml": [
        *(text.encode() for text in recipe.shipped().values()),
        b"name: a\ndata: &d {source: digits}\ntrain:\n  <<: *d\n",
    ],
    "metadata": [
        *(bytes([index]) + VALID[metadata.PREFIX + key].encode() for index, key in enumerate(KEYS)),
        bytes([KEYS.index("exits")]) + b'[{"name": 1}]',
    ],
    "onnx": [MODEL.SerializeToString()],
}
"""Valid inputs to start from."""


def main() -> None:
    """Read the command line and fuzz; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=SEEDS)
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(SEEDS[options.target]):
            (corpus / f"seed-{index}").write_bytes(seed)

        def one_input(data: bytes) -> None:
            try:
                attempt(options.target, data, Path(folder) / "m.onnx")
            except LcpruneError as error:
                if not error.problem or not error.fix:
                    raise RuntimeError("an error without a problem or a fix") from error

        limits = [f"-max_total_time={options.seconds}", f"-timeout={BEST_S}", f"-rss_limit_mb={MEGABYTES}"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=4096", "-print_final_stats=1", str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
