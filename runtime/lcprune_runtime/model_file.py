"""Whether the bytes of a model file may be trusted with a runtime, and the metadata in them.

ONNX is a protobuf message; what must be known of it before onnxruntime loads it is read here from its encoding
(https://protobuf.dev/programming-guides/encoding/), so that a device needs no package but onnxruntime. The field
numbers are those of ``onnx.proto``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from lcprune_runtime.errors import OnnxModelError

MAX_BYTES = 2**30
"""Of a model file."""
DOMAINS = {"", "ai.onnx", "com.microsoft"}
FILE_READERS = {"EPContext"}
"""Operators that name a file which onnxruntime opens."""
FIX = "give an .onnx file that `lcprune export` wrote"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_EXTERNAL = 1  # of TensorProto.DataLocation
_DEEPEST = 100  # of messages inside each other, as protobuf has it


def read_content(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a model file, of whatever format, at `most` so many.

    Raises:
        OnnxModelError: If it cannot be read, is no file, or is too large.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise OnnxModelError(f"{path} cannot be read: it is no file", FIX)
        with path.open("rb") as file:
            content = file.read(most + 1) if path.stat().st_size <= most else None
    except OSError as error:
        raise OnnxModelError(f"{path} cannot be read: {error.strerror}", FIX) from None
    if content is None or len(content) > most:
        raise OnnxModelError(f"{path} is too large: it has more than {most:,} bytes", FIX)
    return content


def read_onnx(path: Path) -> tuple[bytes, Mapping[str, str]]:
    """The bytes of an ONNX file that is fit to run, ours or not, and its metadata.

    A file of ours needs no other file and no operators from elsewhere; one that does may be an attack.

    Raises:
        OnnxModelError: If the file cannot be read or is damaged, or asks for other files or operators.
    """
    content = read_content(path)
    try:
        problem, properties = _inspect(memoryview(content))
    except (ValueError, IndexError, RecursionError):
        raise OnnxModelError(f"{path} is no ONNX model, or it is damaged", FIX) from None
    if problem:
        raise OnnxModelError(f"{path} {problem}, which is refused", FIX)
    try:
        texts = {bytes(key).decode(): bytes(value).decode() for key, value in properties}
    except UnicodeDecodeError:
        raise OnnxModelError(f"the metadata of {path} is damaged: it is no text", "export the model again") from None
    return content, MappingProxyType(texts)


def _inspect(model: memoryview) -> tuple[str, list[tuple[memoryview, memoryview]]]:
    """What forbids to run a ModelProto, or nothing; and its metadata."""
    domains: set[bytes] = set()
    problems: list[str] = []
    properties, nodes = [], 0
    for number, value in _fields(model):
        if number == 7:  # graph
            nodes += sum(inner == 1 for inner, _ in _fields(_message(value)))
            problems += _graph_problems(_message(value), domains)
        elif number == 14:  # metadata_props
            entry = dict(_fields(_message(value)))
            properties.append((_message(entry.get(1, _EMPTY)), _message(entry.get(2, _EMPTY))))
        elif number in (20, 25):  # training_info, functions
            problems.append("brings functions or training of its own")
    if not nodes:
        raise ValueError("no graph")
    if foreign := sorted(domain.decode(errors="replace") for domain in domains - {name.encode() for name in DOMAINS}):
        problems.append(f"needs operators of {', '.join(name[:100] for name in foreign)}")
    return next(iter(problems), ""), properties


def _graph_problems(graph: memoryview, domains: set[bytes], depth: int = 0) -> Iterator[str]:
    """What forbids to run a GraphProto; adds the domains of its operators to `domains`."""
    if depth > _DEEPEST:
        raise ValueError("too deep")
    for number, value in _fields(graph):
        if number == 1:  # node
            for inner, part in _fields(_message(value)):
                if inner == 4 and (name := bytes(_message(part)).decode(errors="replace")) in FILE_READERS:
                    yield f"has the operator {name}, which opens files"
                elif inner == 7:
                    domains.add(bytes(_message(part)))
                elif inner == 5:  # attribute
                    yield from _attribute_problems(_message(part), domains, depth)
        elif number == 5:  # initializer
            yield from _tensor_problems(_message(value))
        elif number == 15:  # sparse_initializer
            yield from _sparse_problems(_message(value))


def _attribute_problems(attribute: memoryview, domains: set[bytes], depth: int) -> Iterator[str]:
    for number, value in _fields(attribute):
        if number in (5, 10):  # t, tensors
            yield from _tensor_problems(_message(value))
        elif number in (6, 11):  # g, graphs
            yield from _graph_problems(_message(value), domains, depth + 1)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            yield from _sparse_problems(_message(value))


def _sparse_problems(sparse: memoryview) -> Iterator[str]:
    for number, value in _fields(sparse):
        if number in (1, 2):  # values, indices
            yield from _tensor_problems(_message(value))


def _tensor_problems(tensor: memoryview) -> Iterator[str]:
    if any(number == 14 and value == _EXTERNAL for number, value in _fields(tensor)):
        yield "keeps its weights in other files"


_EMPTY = memoryview(b"")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a protobuf message, in their order; what has a length is not copied.

    Raises:
        ValueError: If the message is not well-formed.
        IndexError: If it is cut short.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("field 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        length = _FIXED.get(kind)
        if kind == _BYTES:
            length, at = _varint(message, at)
        if length is None or length > len(message) - at:
            raise ValueError(f"a field of kind {kind}, or one cut short")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an integer of more than 64 bits")
