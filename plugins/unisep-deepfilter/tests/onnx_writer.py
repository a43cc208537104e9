"""Write ONNX files: the few fields of the format that the reader looks at."""

from __future__ import annotations

from torch import Tensor


def varint(value: int) -> bytes:
    digits = []
    while True:
        value, low = value >> 7, value & 0x7F
        digits.append(low | (0x80 if value else 0))
        if not value:
            return bytes(digits)


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol buffer: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, value: Tensor) -> bytes:
    dims = b"".join(field(1, size) for size in value.shape)
    return dims + field(2, 1) + field(8, name) + field(9, value.contiguous().numpy().tobytes())


def node(kind: str, inputs: list[str], output: str, attribute: bytes = b"") -> bytes:
    names = b"".join(field(1, name) for name in inputs)
    return names + field(2, output) + field(4, kind) + (field(5, attribute) if attribute else b"")


def onnx_file(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    graph = b"".join(field(1, one) for one in nodes) + b"".join(field(5, one) for one in tensors)
    return field(1, 7) + field(2, "pytorch") + field(7, graph)
