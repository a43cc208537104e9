"""Small files, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, or to where it links to, and return `path`. The old file stays until all is on the disk.

    Raises:
        OSError: It cannot be written, or `path` is something that is no file, such as a folder or a device.
        ValueError: `path` is no name of a file.
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
