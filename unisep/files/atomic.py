"""Small files, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """The path written; where it is a link, what it leads to is written. What was there stays until all of it is on the disk.

    Raises:
        OSError: there is something that is no file (a folder, a device), or it cannot be written.
        ValueError: no name for a file.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise OSError(f"{path} is there, and no file")
    partial = place.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    return path
