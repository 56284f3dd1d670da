"""Classifies images with a progressive model for ExecuTorch or LiteRT: the loop of an app, in Python.

lcprune export runs/latest --format executorch --progressive
python examples/other_runtimes/host.py runs/latest/export/progressive-executorch IMAGE ...
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def load(path: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A stage as a function from its input to its outputs."""
    if path.suffix == ".pte":
        import torch
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        return lambda image: [output.numpy() for output in method.execute([torch.from_numpy(image)])]
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(path)).get_signature_runner()
    (name,) = run.get_input_details()
    return lambda image: [output for _, output in sorted(run(**{name: image}).items())]


def main(folder: Path, images: list[str]) -> None:
    """Prints the class and the exit of every image."""
    manifest = json.loads((folder / "manifest.json").read_text())
    segments, expected = manifest["segments"], manifest["metadata"]["input"]
    stages = [load(folder / segment["file"]) for segment in segments]  # once, when the app starts
    for path in images:
        image = Image.open(path).convert("L" if expected["channels"] == 1 else "RGB")
        pixels = np.asarray(image.resize((expected["size"], expected["size"])), np.float32) / 255
        tensors = {"image": np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)[None])}
        for segment, stage in zip(segments, stages, strict=True):
            *passed_on, logits = stage(tensors[segment["input"]])
            exponents = np.exp((logits[0] - logits[0].max()) / segment["temperature"])
            confidence = exponents.max() / exponents.sum()
            if segment["threshold"] is None or confidence >= segment["threshold"]:
                break
            if passed_on:
                tensors["hidden"] = passed_on[0]
        print(Path(path).name, manifest["metadata"]["classes"][logits[0].argmax()], segment["exit"], sep="\t")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
