"""Takes out of a finished file what libsndfile puts in at random or from the clock, so that equal sounds give equal files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

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
