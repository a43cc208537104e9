"""Containers byte by byte: where the data of a file should end, and stamps that would differ between runs."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_MAX_CHUNKS = 1000


_UNKNOWN_FROM_BYTES = 0x7FFF_0000  # writers to a pipe put a huge size where they cannot know it


def claimed_end_bytes(path: Path) -> int | None:
    """Where the audio data ends by the header of a wav, RF64 or aiff file, in bytes from the start.

    None for other formats, and where the header leaves it open (as recorders that write to a pipe do).
    """
    with path.open("rb") as file:
        head = file.read(12)
        kind, form = head[:4], head[8:12]
        if kind in (b"RIFF", b"RF64") and form == b"WAVE":
            return _data_end(file, "<", b"data")
        if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
            return _data_end(file, ">", b"SSND")
    return None


def _data_end(file: BinaryIO, byte_order: str, wanted: bytes) -> int | None:
    long_size: int | None = None
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return None
        name, size = struct.unpack(f"{byte_order}4sI", head)
        if name == b"ds64" and size >= 16:
            sizes = file.read(16)
            long_size = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else None
            file.seek(size - len(sizes), 1)
        elif name == wanted:
            return _end(file.tell(), size, long_size)
        else:
            file.seek(size + size % 2, 1)
    return None


def _end(start: int, size: int, long_size: int | None) -> int | None:
    if long_size is not None and size == 0xFFFF_FFFF:
        return start + long_size
    return None if size == 0 or size >= _UNKNOWN_FROM_BYTES else start + size


_SERIAL = 1


_PAGE_HEAD_BYTES = 27


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def take_out_stamps(path: Path) -> None:
    """Nothing; a float wav or aiff loses the time in its PEAK chunk, an Ogg stream gets the serial number 1."""
    with path.open("r+b") as file:
        head = file.read(12)
        if head[:4] == b"OggS":
            _renumber(file)
        elif head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
            _clear_peak_time(file, "<")
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            _clear_peak_time(file, ">")


def _clear_peak_time(file: BinaryIO, byte_order: str) -> None:
    """A PEAK chunk holds a version, the time of writing in seconds, and the peak of each channel."""
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack(f"{byte_order}4sI", head)
        if name == b"PEAK":
            file.seek(4, 1)
            file.write(bytes(4))
            return
        file.seek(size + size % 2, 1)


def _renumber(file: BinaryIO) -> None:
    """Every page of an Ogg stream says which stream it belongs to, and has a checksum (RFC 3533, section 6)."""
    start = 0
    file.seek(start)
    while len(head := file.read(_PAGE_HEAD_BYTES)) == _PAGE_HEAD_BYTES and head[:4] == b"OggS":
        lengths = file.read(head[26])
        body = file.read(sum(lengths))
        page = bytearray(head + lengths + body)
        struct.pack_into("<I", page, 14, _SERIAL)
        struct.pack_into("<I", page, 22, 0)
        struct.pack_into("<I", page, 22, ogg_checksum(page))
        file.seek(start)
        file.write(page[:_PAGE_HEAD_BYTES])
        start += len(page)
        file.seek(start)


def ogg_checksum(page: bytes | bytearray) -> int:
    """The CRC-32 of a page whose own checksum is zero.

    Ogg takes bits from the other end than zlib does, begins with 0 and inverts nothing.

    >>> hex(ogg_checksum(b"OggS"))
    '0x5fb0a94f'
    """
    found = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{found:032b}"[::-1], 2)
