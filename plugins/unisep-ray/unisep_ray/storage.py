"""Folders and files wherever fsspec finds them, asked again while a server is away, and written whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.spec import AbstractFileSystem

from unisep.errors import AudioFileError, DiskSpaceError, OptionError

T = TypeVar("T")
DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
_FINAL = (
    FileExistsError, FileNotFoundError, ImportError, IsADirectoryError, NotADirectoryError, PermissionError, TypeError,
    ValueError,
)  # fmt: skip
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"}
_FULL = re.compile(r"\b507\b|Insufficient\s?Storage|QuotaExceeded|XMinioStorageFull|No space left", re.IGNORECASE)


def is_full(error: Exception) -> bool:
    """Tell whether a place takes no more."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or bool(_FULL.search(str(error)))


def storage_error(error: Exception, what: str) -> AudioFileError:
    """Return what unisep raises for an error of a file system."""
    if is_full(error):
        return DiskSpaceError(f"{what}: there is no room left ({error}).")
    return AudioFileError(f"{what}: {type(error).__name__}: {error}")


class Folder:
    """A folder of some file system. Paths in it are relative and have `/` between their parts.

    Whatever may pass, such as a server that is busy, starts anew or cannot be reached, is tried again for half a minute.
    """

    def __init__(self, url: str) -> None:
        try:
            self.fs, self.root = fsspec.url_to_fs(str(url))
        except (ImportError, ValueError, OSError) as error:
            raise OptionError(f"{str(url)!r:.300} cannot be opened: {error}") from error
        self.root = self.root.rstrip("/")
        self.is_local = "file" in _protocols(self.fs)

    def __str__(self) -> str:
        return self.root if self.is_local else str(self.fs.unstrip_protocol(self.root))

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Folder, (str(self),)

    def path(self, place: str) -> str:
        """Return the path that the file system knows `place` by."""
        return f"{self.root}/{place}" if place else self.root

    def info(self, place: str = "") -> dict[str, Any] | None:
        """Return what is known of a file or folder now, or None where there is none."""
        path = self.path(place)
        try:
            self.fs.invalidate_cache()
            return dict(self._again(lambda: self.fs.info(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, place: str, file: Path) -> None:
        """Copy a file to this machine."""
        self._again(lambda: self.fs.get_file(self.path(place), str(file)))

    def put(self, file: Path, place: str) -> None:
        """Copy a file from this machine."""
        self.make_parent(place)
        self._again(lambda: self.fs.put_file(str(file), self.path(place)))

    def move(self, source: str, target: str) -> None:
        """Give a file its final name, in one step; what was there before is replaced."""
        self.make_parent(target)
        self._again(partial(self._move, self.path(source), self.path(target)))

    def _move(self, source: str, target: str) -> None:
        if type(self.fs).mv is not AbstractFileSystem.mv:  # it renames
            return self.fs.mv(source, target)
        with suppress(FileNotFoundError):  # an earlier try got so far
            self.fs.cp_file(source, target)  # on an object store a copy appears whole, too
            self.fs.rm_file(source)

    def read(self, place: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError where there is none."""
        return bytes(self._again(lambda: self.fs.cat_file(self.path(place))))

    def write(self, place: str, content: bytes, *, through: str) -> None:
        """Write a file, by way of the temporary file `through`."""
        self.make_parent(through)
        self._again(lambda: self.fs.pipe_file(self.path(through), content))
        self.move(through, place)

    def create(self, place: str, content: bytes) -> bool:
        """Write a file unless it is there. Tell whether it was written."""
        self.make_parent(place)
        try:
            with self.fs.open(self.path(place), "xb") as file:
                file.write(content)
        except Exception as error:  # stores tell of what is there in many ways
            if self.info(place) is None:
                raise storage_error(error, f"{self.path(place)} cannot be written") from error
            return False
        return True

    def make_parent(self, place: str) -> None:
        """Make the folder of a file, where the file system has folders."""
        if not _OBJECT_STORES & set(_protocols(self.fs)):
            self.fs.makedirs(self.path(place).rpartition("/")[0], exist_ok=True)

    def remove(self, place: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        if self.is_local:
            shutil.rmtree(self.path(place), ignore_errors=True)
        self.fs.invalidate_cache()
        for path in self._again(
            lambda: self.fs.find(self.path(place))
        ):  # `rm` would take "[1]" in a name for a pattern
            with suppress(FileNotFoundError):
                self._again(partial(self.fs.rm_file, path))

    def abort_uploads(self, place: str) -> None:
        """End the uploads in parts that somebody left behind in a folder of an S3 store."""
        if "s3" not in _protocols(self.fs):
            return
        bucket, prefix, _ = self.fs.split_path(self.path(place))
        for upload in self._again(lambda: self.fs.list_multipart_uploads(bucket)):
            if upload["Key"].startswith(prefix):
                self.fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])

    def walk(self, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each file below a folder that is not hidden, in order; one folder at a time is held in memory."""
        self.fs.invalidate_cache()
        listed = self._again(lambda: self.fs.ls(self.path(place), detail=True))
        for entry in sorted(listed, key=lambda entry: str(entry["name"])):
            path = str(entry["name"]).rstrip("/")
            name = path.rpartition("/")[2]
            if path == self.path(place) or name.startswith("."):  # a mark of the folder itself, or hidden
                continue
            below = f"{place}/{name}" if place else name
            if entry["type"] == "directory":
                yield from self.walk(below)
            else:
                yield below, entry

    def _again(self, call: Callable[[], T]) -> T:
        for delay_seconds in DELAYS_SECONDS:
            try:
                return call()
            except _FINAL:
                raise
            except Exception as error:  # of whatever library speaks to the server
                if is_full(error):
                    raise
            time.sleep(delay_seconds)
        return call()


def etag(info: dict[str, Any]) -> str:
    """Return what changes with a file: the store's own tag of its content, else the time of its last change."""
    names = ("ETag", "etag", "md5Hash", "checksum", "mtime", "modified", "created")
    return str(next((info[name] for name in names if info.get(name)), "")).strip('"')


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
