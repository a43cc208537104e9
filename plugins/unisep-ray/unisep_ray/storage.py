"""Folders and files wherever fsspec finds them, asked again while a server is away, and written whole or not at all."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
from fsspec.spec import AbstractFileSystem

from unisep.errors import AudioFileError, DiskSpaceError, OptionError, UnisepError

T = TypeVar("T")
HOME = ".unisep"  # the folder in a destination that is not for results
PARTIAL = f"{HOME}/partial"
DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
_FINAL = (
    FileExistsError, FileNotFoundError, ImportError, IsADirectoryError, NotADirectoryError, PermissionError, TypeError,
    ValueError,
)  # fmt: skip
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"}
_FULL = re.compile(r"\b507\b|Insufficient\s?Storage|QuotaExceeded|XMinioStorageFull|No space left", re.IGNORECASE)


@contextmanager
def storing(what: str, error_type: type[UnisepError] = AudioFileError) -> Iterator[None]:
    """Open a `with` block whose errors of file systems become those of unisep, which begin with `what`."""
    try:
        yield
    except UnisepError:
        raise
    except Exception as error:
        if _is_full(error):
            raise DiskSpaceError(f"{what}: there is no room left ({error}).") from error
        raise error_type(f"{what}: {type(error).__name__}: {error}") from error


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
        self._protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self.is_local = "file" in self._protocols

    def __str__(self) -> str:
        return self.root if self.is_local else str(self.fs.unstrip_protocol(self.root))

    def path(self, place: str) -> str:
        """Return the path that the file system knows `place` by."""
        return f"{self.root}/{place}" if place else self.root

    def info(self, place: str = "") -> dict[str, Any] | None:
        """Return what is known of a file or folder now, or None where there is none."""
        self.fs.invalidate_cache()
        try:
            return dict(_again(lambda: self.fs.info(self.path(place))))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fetch(self, place: str, file: Path) -> None:
        """Copy a file to this machine."""
        _again(lambda: self.fs.get_file(self.path(place), str(file)))

    def read(self, place: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError where there is none."""
        return bytes(_again(lambda: self.fs.cat_file(self.path(place))))

    def put(self, file: Path, place: str) -> None:
        """Copy a file from this machine."""
        self._make_parent(place)
        _again(lambda: self.fs.put_file(str(file), self.path(place)))

    def move(self, source: str, target: str) -> None:
        """Give a file its final name, in one step; what was there before is replaced."""
        self._make_parent(target)
        _again(lambda: self._move(self.path(source), self.path(target)))

    def write(self, place: str, content: bytes, *, waits_for_room: bool = False) -> None:
        """Write a file, in one step; where there is no room, that is an error at once, or tried again as well."""
        temporary = f"{PARTIAL}/{uuid4().hex}"
        self._make_parent(temporary)
        _again(lambda: self.fs.pipe_file(self.path(temporary), content), waits_for_room=waits_for_room)
        self.move(temporary, place)

    def create(self, place: str, content: bytes) -> bool:
        """Write a file unless it is there. Tell whether it was written."""
        self._make_parent(place)
        try:
            with self.fs.open(self.path(place), "xb") as file:
                file.write(content)
        except Exception:  # stores tell of what is there in many ways
            if self.info(place) is None:
                raise
            return False
        return True

    def remove(self, place: str) -> None:
        """Remove a file, or all files of a folder, if there are any."""
        self.fs.invalidate_cache()
        for path in _again(lambda: self.fs.find(self.path(place))):  # `rm` would take "[1]" in a name for a pattern
            with suppress(FileNotFoundError):
                _again(partial(self.fs.rm_file, path))

    def abort_uploads(self, place: str) -> None:
        """End the uploads in parts that somebody left behind in a folder of an S3 store."""
        if "s3" not in self._protocols:
            return
        bucket, prefix, _ = self.fs.split_path(self.path(place))
        for upload in _again(lambda: self.fs.list_multipart_uploads(bucket)):
            if upload["Key"].startswith(prefix):
                self.fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])

    def walk(self, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each file below a folder that is not hidden, in order; one folder at a time is held in memory."""
        self.fs.invalidate_cache()
        listed = _again(lambda: self.fs.ls(self.path(place), detail=True))
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

    def _make_parent(self, place: str) -> None:
        if not _OBJECT_STORES & self._protocols:  # which have no folders
            self.fs.makedirs(self.path(place).rpartition("/")[0], exist_ok=True)

    def _move(self, source: str, target: str) -> None:
        if type(self.fs).mv is not AbstractFileSystem.mv:  # it renames
            return self.fs.mv(source, target)
        with suppress(FileNotFoundError):  # an earlier try got so far
            self.fs.cp_file(source, target)  # on an object store a copy appears whole, too
            self.fs.rm_file(source)


def etag(info: dict[str, Any]) -> str:
    """Return what changes with a file: the store's own tag of its content, else the time of its last change."""
    names = ("ETag", "etag", "md5Hash", "checksum", "mtime", "modified", "created")
    return str(next((info[name] for name in names if info.get(name)), "")).strip('"')


def _again(call: Callable[[], T], *, waits_for_room: bool = False) -> T:
    for delay_seconds in DELAYS_SECONDS:
        try:
            return call()
        except _FINAL:
            raise
        except Exception as error:  # of whatever library speaks to the server
            if _is_full(error) and not waits_for_room:
                raise
        time.sleep(delay_seconds)
    return call()


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or bool(_FULL.search(str(error)))
