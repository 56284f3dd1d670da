"""onnxruntime's own file format, which builds of it that are reduced for phones read. Needs no torch."""

import errno
import tempfile
import warnings
from pathlib import Path

import onnxruntime

from lcprune.errors import ExportError, fix_of

_DISABLED = [
    "NchwcTransformer",  # a layout for this machine's vectors; onnxruntime's own converter leaves it out
    "ConstantFolding",  # it would unpack the 8-bit weights of w8
]


def convert(content: bytes) -> bytes:
    """An ONNX model, optimised for CPUs of any kind, in onnxruntime's format; its metadata stays.

    Args:
        content: Of a model that loads.

    Raises:
        ExportError: If the temporary folder is full.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/model.ort"
        try:
            onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
            )
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            if "Failed to save" not in str(error):
                raise
            raise ExportError(
                f"onnxruntime cannot write to the temporary folder {folder}",
                fix_of(OSError(errno.ENOSPC, "full"), f"{folder}/model.ort"),
            ) from None
        return Path(options.optimized_model_filepath).read_bytes()


def required_operators(*paths: Path) -> str:
    """What ``build.py --include_ops_by_config`` of onnxruntime reads: the operators of these files, and no others.

    Args:
        paths: Of files of this format.
    """
    from onnxruntime.tools.ort_format_model.ort_model_processor import OrtFormatModelProcessor

    operators: dict[str, dict[int, set[str]]] = {}  # by domain and opset
    for path in paths:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it leaves the file open
            processor = OrtFormatModelProcessor(str(path), operators, None)
        processor.process()
    return "".join(
        f"{domain};{opset};{','.join(sorted(names))}\n"
        for domain, of_domain in sorted(operators.items())
        for opset, names in sorted(of_domain.items())
        if names
    )
