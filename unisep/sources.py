"""Where the bytes of audio are: a path, bytes or a file object, each as a path."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from unisep.errors import AudioFileError

Source = str | os.PathLike[str] | bytes | BinaryIO
MAX_STREAM_BYTES = 16 * 2**30


@contextmanager
def as_path(source: Source) -> Iterator[tuple[Path, str]]:
    """A path that holds the source's bytes until the end of the block, and what to call it in messages.

    Raises AudioFileError for what is missing, a folder, or cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        _check_path(path)
        yield path, f"'{path}'"
        return
    label, stream = "The audio in this file object", cast(Any, source)
    if isinstance(source, bytes | bytearray | memoryview):
        label, stream = "The audio in these bytes", io.BytesIO(source)
    with tempfile.TemporaryDirectory(prefix="unisep-") as folder:
        path = Path(folder) / "input"
        with path.open("wb") as copy:
            _copy(stream, copy)
        yield path, label


def _copy(stream: Any, copy: IO[bytes]) -> None:
    n_copied = 0
    try:
        while piece := stream.read(2**20):
            n_copied += copy.write(piece)
            if n_copied > MAX_STREAM_BYTES:
                break
    except Exception as error:  # of another mode, closed, or failing in ways of its own
        raise AudioFileError(
            f"Cannot read audio from {type(stream).__name__} ({error}): give a path, bytes, or a file opened in binary "
            "mode (open(path, 'rb'))."
        ) from error
    if n_copied > MAX_STREAM_BYTES:
        raise AudioFileError(f"The file object holds more than {MAX_STREAM_BYTES // 2**30} GiB. Pass a path.")


def _check_path(path: Path) -> None:
    try:
        if path.is_file():
            path.open("rb").close()
            return
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise AudioFileError(f"'{path}' cannot be opened ({error}).") from error
    if is_folder:
        raise AudioFileError(f"'{path}' is a folder. Give the path of an audio file in it.")
    if exists:
        raise AudioFileError(f"'{path}' is no regular file. Open it yourself and pass the file object.")
    raise AudioFileError(f"There is no file '{path}'. Relative paths start at '{Path.cwd()}'.")
