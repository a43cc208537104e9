"""The reader of TensorFlow's checkpoints: what is whole is read, whatever is broken or means harm is a WeightsError."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unisep_spleeter.crc32c import crc32c, unmasked
from unisep_spleeter.tensor_bundle import open_bundle, read_bundle

from unisep.errors import WeightsError

TENSORS: dict[str, NDArray[Any]] = {
    "conv2d/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv2d/bias": np.array([-1.5, 2.5], np.float32),
    "conv2d_1/bias": np.array([0.25], np.float16),
    "global_step": np.array(12345, np.int64),
    "nothing": np.zeros((0, 3), np.float32),
    **{f"batch_normalization_{index}/gamma": np.full(3, index, np.float64) for index in range(12)},
}


def octets(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def test_every_tensor_comes_back(tools: Any) -> None:
    index, data = tools.make_bundle(TENSORS)
    bundle = read_bundle("it", index, octets(data))
    assert set(bundle.entries) == set(TENSORS)
    for name, value in TENSORS.items():
        read = bundle.tensor(name)
        assert read.dtype == value.dtype and np.array_equal(read, value)
    with pytest.raises(WeightsError, match="no tensor named 'more'"):
        bundle.tensor("more")


def test_a_checkpoint_on_the_disk_is_read(tools: Any, tmp_path: Path) -> None:
    index, data = tools.make_bundle(TENSORS)
    (tmp_path / "m.index").write_bytes(index)
    with pytest.raises(WeightsError, match="Both its files"):
        open_bundle(tmp_path / "m.index")
    (tmp_path / "m.data-00000-of-00001").write_bytes(data)
    assert np.array_equal(open_bundle(tmp_path / "m.index").tensor("conv2d/bias"), TENSORS["conv2d/bias"])
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(WeightsError, match="ends at byte"):
        open_bundle(tmp_path / "m.index")


def test_the_checksum_is_the_one_of_its_definition(tools: Any) -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"") == 0  # the check value of CRC-32/ISCSI
    assert unmasked(tools.masked(0xE3069283)) == 0xE3069283
    noise = np.random.default_rng(0).bytes(20_001)
    for n_bytes in (1, 2047, 8191, 8192, 8193, 16_384, 20_001):  # by lanes from 8192 on
        assert crc32c(noise[:n_bytes]) == tools.crc_bit_by_bit(noise[:n_bytes])


def test_a_file_cut_anywhere_is_refused(tools: Any) -> None:
    index, data = tools.make_bundle(TENSORS)
    for length in range(len(index)):
        with pytest.raises(WeightsError):
            read_bundle("it", index[:length], octets(data))
    with pytest.raises(WeightsError, match="ends at byte"):
        read_bundle("it", index, octets(data[:-1]))


def test_no_changed_byte_changes_a_tensor_unseen(tools: Any) -> None:
    index, data = tools.make_bundle(TENSORS)
    for position in range(len(index)):
        for change in (1, 0x80, 0xFF):
            changed = bytearray(index)
            changed[position] ^= change
            _refused_or_the_same(bytes(changed), data)
    for position in range(0, len(data), 5):
        changed = bytearray(data)
        changed[position] ^= 0x10
        bundle = read_bundle("it", index, octets(bytes(changed)))
        with pytest.raises(WeightsError, match="damaged"):
            [bundle.tensor(name) for name in TENSORS]


def _refused_or_the_same(index: bytes, data: bytes) -> None:
    try:
        bundle = read_bundle("it", index, octets(data))
    except WeightsError:
        return
    assert all(np.array_equal(bundle.tensor(name), TENSORS[name]) for name in bundle.entries)


def _table(change: Callable[[Any], list[tuple[bytes, bytes]]]) -> Callable[[Any], bytes]:
    return lambda tools: tools.Writer().table(change(tools))


def _with(**fields: Any) -> Callable[[Any], bytes]:
    """An index whose checksums hold, with one entry "a" that says what is given."""

    def make(tools: Any) -> bytes:
        said = {"kind": 1, "shape": (2,), "offset": 0, "n_bytes": 8, "crc": 0, "more": b""} | fields
        return tools.Writer().table([(b"", tools.HEADER), (b"a", tools.entry(**said))])

    return make


def _compressed(tools: Any) -> bytes:
    return tools.Writer(compression=1).table([(b"", tools.HEADER)])


def _twice_the_same_block(tools: Any) -> bytes:
    writer = tools.Writer()
    writer.handles = [(b"x", writer.block([(b"", tools.HEADER)]))] * 2
    return writer.table([])


def _handle_outside(tools: Any) -> bytes:
    writer = tools.Writer()
    writer.handles = [(b"x", tools.varint(1 << 62) + tools.varint(1 << 62))]
    return writer.table([])


def _a_block_that_tells_other_sizes(tools: Any) -> bytes:
    """A key that shares more with the one before than that has."""
    writer = tools.Writer()
    content = tools.varint(200) + tools.varint(1) + tools.varint(1) + b"ab" + struct.pack("<II", 0, 1)
    handle = tools.varint(0) + tools.varint(len(content))
    writer.file = content + b"\0" + struct.pack("<I", tools.masked(tools.crc_bit_by_bit(content + b"\0")))
    writer.handles = [(b"x", handle)]
    return writer.table([])


HOSTILE: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "nothing": (lambda tools: b"", "last bytes"),
    "another file": (lambda tools: b"PK\3\4" + bytes(1000), "last bytes"),
    "too large": (lambda tools: bytes(1 << 23), "larger than"),
    "a footer alone": (lambda tools: b"\xff" * 40 + bytes.fromhex("57fb808b247547db"), "never ends"),
    "no header": (_table(lambda tools: [(b"a", tools.entry(1, (2,), 0, 8, 0))]), "no header"),
    "compressed": (_compressed, "compressed"),
    "one block twice": (_twice_the_same_block, "not in order"),
    "a block outside": (_handle_outside, "outside the file"),
    "keys out of order": (_table(lambda tools: [(b"", tools.HEADER), (b"b", b""), (b"a", b"")]), "not in order"),
    "a key that shares too much": (_a_block_that_tells_other_sizes, "leaves its block"),
    "two data files": (_table(lambda tools: [(b"", tools.number(1, 2))]), "in 2 files"),
    "a header of noise": (_table(lambda tools: [(b"", b"\xff" * 30)]), "never ends"),
    "highest byte first": (_table(lambda tools: [(b"", tools.number(1, 1) + tools.number(2, 1))]), "highest byte"),
    "a name that is no text": (_table(lambda tools: [(b"", tools.HEADER), (b"\xff\xfe", b"")]), "damaged"),
    "an unknown kind": (_with(kind=77), "kind 77"),
    "texts": (_with(kind=7), "kind 7"),
    "no kind": (_with(kind=0), "kind 0"),
    "an offset outside": (_with(offset=1 << 40), "ends at byte"),
    "a negative offset": (_with(offset=-8), "ends at byte"),
    "a giant size": (_with(n_bytes=1 << 62), "in 4611686018427387904 bytes"),
    "a negative size": (_with(n_bytes=-8), "bytes of file 0"),
    "sizes that overflow": (_with(shape=(1 << 32, 1 << 32), n_bytes=0), "in 0 bytes"),
    "a negative shape": (_with(shape=(-1, -2), n_bytes=8), "in 8 bytes"),
    "a giant shape": (_with(shape=(1 << 40,)), "in 8 bytes"),
    "too many dimensions": (_with(shape=(1,) * 100, n_bytes=4), "in 4 bytes"),
    "another data file": (_with(more=b"\x18\1"), "of file 1"),
    "slices": (_with(more=b"\x3a\0"), "slices"),
    "an unknown shape": (_with(more=b"\x12\2\x18\1"), "unknown shape"),
    "a group": (_with(more=b"\x3b"), "type 3"),
    "a field that leaves": (_with(more=b"\x0a\x7f"), "leaves its message"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_that_cannot_be_right_is_refused(name: str, tools: Any) -> None:
    make, reason = HOSTILE[name]
    with pytest.raises(WeightsError, match=reason):
        read_bundle("it", make(tools), octets(bytes(64)))
