"""Read checkpoints of TensorFlow, `NAME.index` and `NAME.data-00000-of-00001`, without TensorFlow.

The index is a table file as LevelDB has them: blocks of keys, each of which repeats the beginning of the one before, an
index of the blocks, and a footer. Its values are protocol buffers: under the empty key a BundleHeaderProto, under a
tensor's name a BundleEntryProto, which says its kind, shape, and where in the data it is. The data are bare numbers.
Blocks and tensors carry a CRC-32C, which is checked. Nothing in such a file can name code, and nothing is executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisep.errors import WeightsError

from .crc32c import crc32c, unmasked

INDEX_SUFFIX, DATA_SUFFIX = ".index", ".data-00000-of-00001"
LARGEST_INDEX_BYTES = 1 << 22
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # behind each block: how it is compressed, and its CRC
_LARGEST_VARINT_BYTES = 10
_MOST_DIMENSIONS = 8
_KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # DataType of TensorFlow, as NumPy calls it

Octets = NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """Where a tensor is among the data, and what it is."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    stored_crc: int


@dataclass(frozen=True)
class Bundle:
    """A checkpoint: its tensors by name, read when they are asked for; `label` names it in errors."""

    label: str
    entries: Mapping[str, Entry]
    data: Octets

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a tensor, a copy. Raises WeightsError where it is none of these, or its numbers are damaged."""
        entry = self.entries.get(name)
        if entry is None:
            raise WeightsError(f"{self.label} holds no tensor named {name!r:.200}.")
        octets = self.data[entry.offset : entry.offset + entry.n_bytes]
        if crc32c(octets) != unmasked(entry.stored_crc):
            raise WeightsError(f"{self.label}: the numbers of {name!r:.200} are damaged. Fetch it again.")
        return octets.view(entry.kind).reshape(entry.shape).copy()


def open_bundle(index: Path) -> Bundle:
    """Read the checkpoint whose index is at `index`, with its data beside it. Raises WeightsError as `read_bundle`."""
    data = index.with_name(index.name.removesuffix(INDEX_SUFFIX) + DATA_SUFFIX)
    try:
        with index.open("rb") as file:
            content = file.read(LARGEST_INDEX_BYTES + 1)
        octets = np.memmap(data, np.uint8, "r") if data.stat().st_size else np.empty(0, np.uint8)
    except (OSError, ValueError) as error:
        raise WeightsError(f"The checkpoint {index} cannot be read ({error}). Both its files must be there.") from error
    return read_bundle(str(index), content, octets)


def read_bundle(label: str, index: bytes, data: Octets) -> Bundle:
    """Read a checkpoint from the contents of its two files.

    Raises:
        WeightsError: The index is damaged, compressed, or asks for what the data do not have.
    """
    try:
        pairs = dict(_table(index))
        _check_header(pairs.pop(b""))
        entries = {key.decode(): _entry(value, len(data)) for key, value in pairs.items()}
    except KeyError as error:
        raise WeightsError(f"{label} is no index of a TensorFlow checkpoint: it has no header.") from error
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{label} is no index of a TensorFlow checkpoint, or is damaged ({error}).") from error
    return Bundle(label, entries, data)


# -- The table file: ValueError and IndexError mean damage ----------------------------------------------------------


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table file, in their order."""
    if len(content) > LARGEST_INDEX_BYTES:
        raise ValueError(f"it is larger than {LARGEST_INDEX_BYTES:,} bytes")
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise ValueError("its last bytes are not those of a table file")
    _, position = _handle(footer, 0)  # of the meta index, which is empty in checkpoints
    handle, _ = _handle(footer, position)
    last_key = None
    for _, value in _block(content, *handle):
        for key, stored in _block(content, *_handle(value, 0)[0]):
            if last_key is not None and key <= last_key:  # also where blocks are told to overlap
                raise ValueError("its keys are not in order")
            last_key = key
            yield key, stored


def _block(content: bytes, offset: int, n_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of one block, once its checksum holds."""
    block, trailer = content[offset : offset + n_bytes], content[offset + n_bytes : offset + n_bytes + _TRAILER_BYTES]
    if len(block) < n_bytes or len(trailer) < _TRAILER_BYTES or n_bytes < 4:
        raise ValueError("a block lies outside the file")
    if crc32c(block + trailer[:1]) != unmasked(int.from_bytes(trailer[1:], "little")):
        raise ValueError("the checksum of a block is wrong")
    if trailer[0]:
        raise ValueError(f"a block is compressed (kind {trailer[0]}), which is not read here")
    end = n_bytes - 4 * (1 + int.from_bytes(block[-4:], "little"))  # behind it, where to start a search
    position, key = 0, b""
    while position < end:
        n_shared, position = _varint(block, position)
        n_own, position = _varint(block, position)
        n_value, position = _varint(block, position)
        stop = position + n_own + n_value
        if n_shared > len(key) or stop > end:
            raise ValueError("a key or a value leaves its block")
        key = key[:n_shared] + block[position : position + n_own]
        yield key, block[position + n_own : stop]
        position = stop
    if position != end:
        raise ValueError("a block does not end where it says")


def _handle(octets: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return the offset and the size of a block, and the position behind them."""
    offset, position = _varint(octets, position)
    n_bytes, position = _varint(octets, position)
    return (offset, n_bytes), position


def _varint(octets: bytes, position: int) -> tuple[int, int]:
    """Return a whole number written in groups of seven bits, and the position behind it."""
    value = 0
    for index in range(_LARGEST_VARINT_BYTES):
        octet = octets[position + index]
        value |= (octet & 0x7F) << 7 * index
        if octet < 0x80:
            return value, position + index + 1
    raise ValueError("a number never ends")


# -- The protocol buffers in it -------------------------------------------------------------------------------------


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: whole numbers as such, everything of a length as bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type in (1, 5):
            n_bytes = 8 if wire_type == 1 else 4
        elif wire_type == 2:
            n_bytes, position = _varint(message, position)
        else:
            raise ValueError(f"a field of type {wire_type}")
        stop = position + n_bytes
        if stop > len(message):
            raise ValueError("a field leaves its message")
        octets = message[position:stop]
        yield number, octets if wire_type == 2 else int.from_bytes(octets, "little")
        position = stop


def _numbers(message: bytes) -> dict[int, int]:
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def _check_header(message: bytes) -> None:
    numbers = _numbers(message)
    if numbers.get(1, 0) != 1:
        raise ValueError(f"its data are in {numbers.get(1, 0)} files, not in one")
    if numbers.get(2, 0):
        raise ValueError("its numbers have the highest byte first")


def _entry(message: bytes, n_data_bytes: int) -> Entry:
    """Return what a BundleEntryProto says, once it fits the data."""
    numbers, parts = _numbers(message), [number for number, value in _fields(message) if isinstance(value, bytes)]
    if 7 in parts:
        raise ValueError("a tensor in slices, which is not read here")
    shape = tuple(
        size for number, value in _fields(message) if number == 2 and isinstance(value, bytes) for size in _shape(value)
    )
    kind = _KINDS.get(numbers.get(1, 0), "")
    if not kind:
        raise ValueError(f"a tensor of kind {numbers.get(1, 0)}, which is not read here")
    shard, offset, n_bytes = (numbers.get(number, 0) for number in (3, 4, 5))
    if shard or len(shape) > _MOST_DIMENSIONS or n_bytes != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(f"a tensor of shape {shape!s:.80} in {n_bytes} bytes of file {shard}")
    if offset + n_bytes > n_data_bytes:
        raise ValueError(f"a tensor ends at byte {offset + n_bytes} of {n_data_bytes}")
    return Entry(kind, shape, offset, n_bytes, numbers.get(6, 0))


def _shape(message: bytes) -> Iterator[int]:
    """Yield the sizes in a TensorShapeProto."""
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            yield _numbers(value).get(1, 0)
        elif number == 3 and value:
            raise ValueError("a tensor of unknown shape")
