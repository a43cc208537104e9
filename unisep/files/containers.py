"""Containers byte by byte: where the data of a file should end, and stamps that would differ between runs."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAX_CHUNKS = 1000
_UNKNOWN_FROM_BYTES = 0x7FFF_0000  # writers to a pipe put a huge size where they cannot know it
_SERIAL = 1
_PAGE_HEAD_BYTES = 27
# Two headers of frames with the same version and layer, as far apart as frames may be (ISO/IEC 11172-3, 2.4.1.3).
_MPEG_FRAMES = re.compile(rb"\xff([\xe2-\xe7\xf2-\xf7\xfa-\xff])[\x00-\xef].{20,4000}?\xff\1[\x00-\xef]", re.DOTALL)
_MPEG_HEAD_BYTES = 2**10  # of junk before them, which libmpg123 passes over
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def claimed_end_bytes(path: Path) -> int | None:
    """Return where the audio data ends by the header of a wav, RF64 or aiff file, in bytes from the start.

    None for other formats, and where the header leaves it open (as recorders that write to a pipe do).
    """
    long_size: int | None = None
    with path.open("rb") as file:
        for name, size, start in _chunks(file):
            if name == b"ds64" and size >= 16 and len(sizes := file.read(16)) == 16:
                long_size = struct.unpack("<QQ", sizes)[1]
            elif name in (b"data", b"SSND"):
                if size == 0xFFFF_FFFF and long_size is not None:
                    return start + long_size
                return None if size == 0 or size >= _UNKNOWN_FROM_BYTES else start + size
    return None


def lacks_mpeg_frames(path: Path) -> bool:
    """Tell whether libsndfile would take the file for MPEG audio, by its name or its tag, and no frames follow."""
    with path.open("rb") as file:
        head = file.read(10)
        has_tag = head[:3] == b"ID3" and len(head) == 10
        if not has_tag and path.suffix.lower() != ".mp3":
            return False
        file.seek(10 + sum(byte << 7 * n for n, byte in enumerate(reversed(head[6:]))) if has_tag else 0)
        frames = _MPEG_FRAMES.search(file.read(_MPEG_HEAD_BYTES + 8000))
        return frames is None or frames.start() > _MPEG_HEAD_BYTES


def take_out_stamps(path: Path) -> None:
    """Clear the time in the PEAK chunk of a float wav or aiff; give an Ogg stream the serial number 1."""
    with path.open("r+b") as file:
        for name, _, start in _chunks(file):
            if name == b"PEAK":  # a version, the time of writing in seconds, the peak of each channel
                file.seek(start + 4)
                file.write(bytes(4))
                break
        _renumber(file)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size and start of each chunk of a wav, RF64 or aiff file, which then is at that start."""
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        chunk_head = struct.Struct("<4sI")
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        chunk_head = struct.Struct(">4sI")
    else:
        return
    start = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(start)
        if len(head := file.read(8)) < 8:
            return
        name, size = chunk_head.unpack(head)
        yield name, size, start + 8
        start += 8 + size + size % 2


def _renumber(file: BinaryIO) -> None:
    """Put `_SERIAL` and a new checksum into every page, where the file is an Ogg stream (RFC 3533, section 6)."""
    start = 0
    file.seek(start)
    while len(head := file.read(_PAGE_HEAD_BYTES)) == _PAGE_HEAD_BYTES and head[:4] == b"OggS":
        lengths = file.read(head[26])
        page = bytearray(head + lengths + file.read(sum(lengths)))
        struct.pack_into("<I", page, 14, _SERIAL)
        struct.pack_into("<I", page, 22, 0)
        struct.pack_into("<I", page, 22, ogg_checksum(page))
        file.seek(start)
        file.write(page[:_PAGE_HEAD_BYTES])
        start += len(page)
        file.seek(start)


def ogg_checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of a page whose own checksum is zero.

    Ogg takes bits from the other end than zlib does, begins with 0 and inverts nothing.

    >>> hex(ogg_checksum(b"OggS"))
    '0x5fb0a94f'
    """
    reversed_crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)
