"""ONNX: export, check, run."""
