"""sha256 of files and folders, computed once in a process as long as they stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

_known: dict[tuple[str, int, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a whole file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """Return the sha256 of a file, from memory if its size, time and inode are those of the last look."""
    return _known.get(_state(path)) or remember(path, sha256_of(path))


def remember(path: Path, sha256: str) -> str:
    """Keep `sha256` as that of the file in its present state, and return it."""
    _known[_state(path)] = sha256
    return sha256


def content_sha256(place: Path) -> str:
    """Return the sha256 of a file, or over all files in a folder; hidden ones, as caches leave, do not count."""
    if place.is_file():
        return known_sha256(place)
    files = {path.relative_to(place): path for path in place.rglob("*") if path.is_file()}
    return joint_sha256({name.as_posix(): path for name, path in files.items() if "/." not in f"/{name.as_posix()}"})


def joint_sha256(files: Mapping[str, Path]) -> str:
    """Compute one sha256 over the names and contents of files; "" where one is missing, or for none."""
    if not files or not all(path.is_file() for path in files.values()):
        return ""
    lines = [f"{name}\0{known_sha256(path)}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _state(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino
