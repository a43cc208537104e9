"""What a container's header claims about its own size, to notice files that were cut short."""

from __future__ import annotations

import struct
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
