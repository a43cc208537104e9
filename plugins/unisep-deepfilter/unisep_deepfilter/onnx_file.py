"""Read the layers of an ONNX file: which operations there are, in order, and the tensors each of them holds.

An ONNX file is a message of protocol buffers (https://onnx.ai/onnx/repo-docs/IR.html). Only what is needed of the format
is read: float32 tensors that are stored inside the file. Nothing is executed, and no other file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from unisep.errors import WeightsError

# Numbers of fields, from the format's published definition.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_TENSOR = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_KIND, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_TENSOR = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT32 = 1
_MAX_AXES = 8

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class Layer:
    """An operation that holds numbers: its kind ("Conv"), and its tensors in the order of its inputs."""

    kind: str
    tensors: tuple[Tensor, ...]


def read_layers(content: bytes, label: str) -> list[Layer]:
    """Return the operations of an ONNX file that hold float32 tensors, in the order of the file.

    Raises:
        WeightsError: It is damaged, no ONNX file, or stores its numbers elsewhere. `label` names it.
    """
    try:
        graphs = _messages(memoryview(content), _MODEL_GRAPH)
        if len(graphs) != 1:
            raise ValueError("it holds no graph")
        return _layers(graphs[0])
    except (ValueError, IndexError, OverflowError, RuntimeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise WeightsError(f"{label} is damaged or no ONNX file of this model ({reason}). Fetch it again.") from error


def _layers(graph: memoryview) -> list[Layer]:
    tensors = dict(_named_tensor(message) for message in _messages(graph, _GRAPH_TENSOR))
    layers = []
    for node in _messages(graph, _GRAPH_NODE):
        kind, inputs = _text(_messages(node, _NODE_KIND)), [str(name, "utf-8") for name in _messages(node, _NODE_INPUT)]
        if kind == "Constant":
            for attribute in _messages(node, _NODE_ATTRIBUTE):
                for message in _messages(attribute, _ATTRIBUTE_TENSOR):
                    tensors[_text(_messages(node, _NODE_OUTPUT))] = _named_tensor(message)[1]
            continue
        held = tuple(value for name in inputs if (value := tensors.get(name)) is not None)
        if held:
            layers.append(Layer(kind, held))
    return layers


def _named_tensor(message: memoryview) -> tuple[str, Tensor | None]:
    """Return a tensor and its name; None for one that holds no float32."""
    numbers: dict[int, list[int]] = {_TENSOR_DIMS: [], _TENSOR_TYPE: []}
    texts: dict[int, list[memoryview]] = {_TENSOR_NAME: [], _TENSOR_RAW: []}
    for number, value in _fields(message):
        if number in numbers:
            numbers[number] += [value] if isinstance(value, int) else _packed(value)
        elif number in texts and not isinstance(value, int):
            texts[number].append(value)
    name, shape = (_text(texts[_TENSOR_NAME]) if texts[_TENSOR_NAME] else ""), numbers[_TENSOR_DIMS]
    if numbers[_TENSOR_TYPE] != [_FLOAT32]:
        return name, None
    raw = b"".join(texts[_TENSOR_RAW])
    if len(shape) > _MAX_AXES or not raw or len(raw) != 4 * prod(shape):
        raise ValueError(f"the tensor {name[:80]!r} of shape {shape[:_MAX_AXES]} stores {len(raw)} bytes in the file")
    return name, torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape)


def _text(values: list[memoryview]) -> str:
    if len(values) != 1:
        raise ValueError("a name is missing, or there are two")
    return str(values[0], "utf-8")


def _messages(message: memoryview, wanted: int) -> list[memoryview]:
    """Return the texts, bytes or messages in the fields of number `wanted`."""
    return [value for number, value in _fields(message) if number == wanted and not isinstance(value, int)]


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield number and value of each field of a message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind, value = key & 7, None
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == 2:
            n_bytes, position = _varint(message, position)
        elif kind in (1, 5):
            n_bytes = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown kind of field {kind}")
        if n_bytes > len(message) - position:
            raise ValueError("it is cut short")
        yield key >> 3, message[position : position + n_bytes]
        position += n_bytes


def _packed(message: memoryview) -> list[int]:
    """Return the numbers of a field that packs several."""
    numbers: list[int] = []
    position = 0
    while position < len(message) and len(numbers) <= _MAX_AXES:
        value, position = _varint(message, position)
        numbers.append(value)
    return numbers


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at `position`, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has too many digits")
