"""int8 of `lcprune export` beside onnxruntime's `quantize_static`, network by network, on enlarged CIFAR-10.

    python -m benchmarks.int8 --out FOLDER [--data-root data] [--networks resnet18 ...]

Each network is trained briefly at 64 pixels, and main is exported in float32. That file is quantised with
`quantize_static` (QDQ, weights of 7 bits per channel), with the same calibration images as ours; ours is also exported
with weights of 8 bits, which some processors do not take. Accuracy is that of 5,000 test images; latency is CPU time of
one thread at batch 1, the files in turn. What is in FOLDER already is not made again.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from benchmarks import commands
from benchmarks.commands import children_cpu_s, lcprune, once
from benchmarks.markdown import ratio, table
from benchmarks.phone.folds import Images, Labels
from benchmarks.phone.measure import File, in_turn, opened
from benchmarks.phone.plain_files import quantize
from benchmarks.provenance import RESULTS, Row, command_line, provenance, save
from benchmarks.timing import spread
from lcprune import runs
from lcprune.data.cifar import read_cifar
from lcprune.exporters.graphs import subgraphs
from lcprune.pipeline.export.exported_cascade import SAMPLES
from lcprune.pipeline.stored import load_dataset
from lcprune_runtime.session import ProgressiveSession

SEED = 0
RESULT = RESULTS / "int8.json"
RECIPE = Path(__file__).parent / "int8.yaml"
TRAIN_IMAGES, TEST_IMAGES = 10_500, 5_000
TIMED_IMAGES, ROUNDS = 200, 9
CHUNK = 100
NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "mnasnet1_0"),
    *("shufflenet_v2_x1_0", "regnet_y_400mf", "resnet18", "resnet50", "squeezenet1_1", "efficientnet_lite0"),
)
TRUNKS = {"efficientnet_lite0": "benchmarks.phone.network:lite0"}
"""Of networks that are not torchvision's."""
FILES = ("fp32", "plain", "ours")
FULL = "ours of 8 bits"
HEADER = (
    *("network", "test % fp32", "plain int8", "ours int8", "ours of 8 bits", "ms fp32", "plain int8", "ours int8"),
    *("ours to plain, time", "ours to fp32, time", "CPU of the export to `quantize_static`"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, exports and measures what is missing, and writes the result file."""
    parser = command_line("benchmarks.int8", __doc__, trains=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of commands
    images = options.out / "cifar10"
    write_images(options.data_root, images)
    rows = []
    for name in options.networks:
        print(name, flush=True)
        rows.append(once(options.out / f"{name}.json", partial(of_network, options, images, name)))
    result = {**provenance("benchmarks.int8", SEED), "test_images": TEST_IMAGES, "rounds": ROUNDS, "rows": rows}
    save(RESULT, result, {str(options.out): "FOLDER"})
    print(page(result))


def write_images(data_root: Path, folder: Path) -> None:
    """CIFAR-10's first training and test images as files, once: ``train/CLASS/image`` and ``test/CLASS/image``."""
    if folder.exists():
        return
    splits, classes = read_cifar("cifar10", data_root, 3, download=False)
    part = folder.with_name(f"{folder.name}.part")
    for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        pixels, labels = (each[:count] for each in splits[split])
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            path = part / split / classes[label] / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    part.rename(folder)


def of_network(options: argparse.Namespace, images: Path, name: str) -> Row:
    """All figures of one network."""
    run = options.out / "runs" / name
    trunk = TRUNKS.get(name, f"torchvision/{name}")
    keys = [f"model.trunk={trunk}", f"train.seed={SEED}", *(["train.lr=0.03"] if name in TRUNKS else [])]
    commands.train(str(RECIPE), run, images, keys)
    files, cpu_s = exported(run)
    test = load_dataset(*runs.open_run(run))[0].test
    correct = {kind: classes_of(files[kind], test.images) == test.labels for kind in FILES}
    correct[FULL] = ProgressiveSession(files[FULL])(test.images).labels == test.labels  # which avoids overflow
    models = {kind: File(files[kind], test.images.shape[-1]) for kind in FILES}
    found = in_turn(models, {test.images.shape[-1]: test.images[:TIMED_IMAGES]}, ROUNDS)
    rounds_ms = {kind: times_ms.mean(axis=1) for kind, (_, _, times_ms) in found.items()}
    return {
        "network": name,
        "accuracy_pct": {kind: 100 * float(of_kind.mean()) for kind, of_kind in correct.items()},
        "ms": {kind: float(np.median(of_kind)) for kind, of_kind in rounds_ms.items()},
        "over_plain": spread((rounds_ms["ours"] / rounds_ms["plain"]).tolist()),
        "over_fp32": spread((rounds_ms["ours"] / rounds_ms["fp32"]).tolist()),
        "size_bytes": {kind: path.stat().st_size for kind, path in files.items()},
        "cpu_s": cpu_s,
        "nodes": {kind: nodes_of(path) for kind, path in files.items()},
    }


def exported(run: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """The files of a run; CPU seconds of our commands, with their start, and of `quantize_static` alone."""
    files = {kind: run / "export" / f"{kind.replace(' ', '-')}.onnx" for kind in (*FILES, FULL)}
    words = ("export", str(run), "--exit", "main", "--output")
    before = children_cpu_s()
    lcprune(*words, str(files["fp32"]))
    written = children_cpu_s()
    lcprune(*words, str(files["ours"]), "--precision", "int8")
    cpu_s = {"fp32": written - before, "ours": children_cpu_s() - written}
    lcprune(*words, str(files[FULL]), "--precision", "int8", "--int8-range", "full")
    folder, recipe = runs.open_run(run)
    train = load_dataset(folder, recipe)[0].train
    some = np.random.default_rng(recipe.train.seed).permutation(len(train))[:SAMPLES]  # those of the export
    started = time.process_time()
    quantize(files["fp32"], train.images[some], files["plain"])
    return files, {**cpu_s, "plain": time.process_time() - started}


def classes_of(path: Path, images: Images) -> Labels:
    """The class of every image, ``(N,)``."""
    session, found = opened(path), []
    for start in range(0, len(images), CHUNK):
        pixels = images[start : start + CHUNK].astype(np.float32) / np.float32(255)
        found.append(session.run(None, {"image": pixels})[0].argmax(axis=1))
    return np.concatenate(found)


def nodes_of(path: Path) -> dict[str, int]:
    """How many nodes of each kind onnxruntime runs, once it has optimised a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath)
    kinds = Counter(node.op_type for graph in subgraphs(model.graph) for node in graph.node)
    return dict(sorted(kinds.items()))


def page(result: Row) -> str:
    """The table, from the result file alone."""
    rows = []
    for row in result["rows"]:
        share = row["cpu_s"]["ours"] / row["cpu_s"]["plain"]
        rows.append(
            [row["network"], *(f"{row['accuracy_pct'][kind]:.2f}" for kind in (*FILES, FULL))]
            + [f"{row['ms'][kind]:.2f}" for kind in FILES]
            + [ratio(row["over_plain"]), ratio(row["over_fp32"]), f"{share:.1f}"]
        )
    about = (
        "Main in int8 by `quantize_static` and by `lcprune export`, beside float32: networks trained for two epochs "
        f"only, on enlarged CIFAR-10 at 64 pixels; {result['test_images']:,} test images, so that one standard error "
        "of an accuracy is 0.5 to 0.7 points; CPU time of one thread at batch 1, in turn, with the quartiles of "
        f"{result['rounds']} rounds. The last column is the whole command, which evaluates the file as well."
    )
    return f"{about}\n\n{table(HEADER, rows, rule='---')}"


if __name__ == "__main__":
    main()
