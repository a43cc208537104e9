"""Files that appear together or not at all: written at once, or side by side, a block at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from unisep.audio import Audio
from unisep.errors import DiskSpaceError
from unisep.formats import INTEGER_BITS, Encoding
from unisep.tags import Tags
from unisep.writing import PartialFile, WriteReport, blocks_of, file_errors, fitting_gain

_SPOOL_BYTES = 4
_COPY_VALUES = 2**20
Samples = NDArray[np.float32]


def write(
    path: str | os.PathLike[str],
    audio: Audio,
    *,
    format: str | None = None,
    subtype: str | None = None,
    bitrate_kbps: int | None = None,
) -> Path:
    """The path written. The format is that of the suffix unless given; folders are made as needed.

    Warns when an integer format would clip and the audio is scaled to fit; `write_all` reports the gain.

    Raises:
        AudioFileError: a format, subtype, bitrate or rate that does not go together, or a full disk.
    """
    report = write_all({Path(path): audio}, format=format, subtype=subtype, bitrate_kbps=bitrate_kbps)
    if report.gain != 1.0:
        warnings.warn(f"{path}: scaled by {report.gain:.4f} so that nothing clips.", stacklevel=2)
    return report.paths[0]


def write_all(
    files: Mapping[Path, Audio],
    *,
    format: str | None = None,
    subtype: str | None = None,
    bitrate_kbps: int | None = None,
    tags: Tags | None = None,
) -> WriteReport:
    """The paths written, all or none, and the one gain that keeps every integer file from clipping.

    All files are complete before the first takes its final name. Float and lossy formats hold values
    beyond full scale, so their gain is 1. `tags` go into each of them. Raises AudioFileError as `write` does.
    """
    with ExitStack() as stack:
        partials = [
            stack.enter_context(
                PartialFile(
                    path,
                    audio.sample_rate_hz,
                    audio.n_channels,
                    format=format,
                    subtype=subtype,
                    bitrate_kbps=bitrate_kbps,
                    n_samples=audio.n_samples,
                    tags=tags,
                )
            )
            for path, audio in files.items()
        ]
        subtypes = [partial.subtype for partial in partials]
        gain = min([1.0, *map(fitting_gain, map(_peak, files.values()), subtypes)])
        for partial, audio in zip(partials, files.values(), strict=True):
            for block in blocks_of(audio.samples):
                partial.write(block if gain == 1.0 else block * np.float32(gain))
            partial.finish()
        return WriteReport(commit_all(partials), gain)


def commit_all(partials: Sequence[PartialFile]) -> tuple[Path, ...]:
    """The final paths, where all files now are, complete; where one of them fails, all is as it was before.

    What they replace keeps a second, hidden name until the last one is in its place. So, where the file
    system knows links, no name is ever without a file, however the process ends.

    Raises:
        AudioFileError: as `write` does.
    """
    for partial in partials:
        partial.finish()
    if len(partials) == 1:  # one step by itself
        return (partials[0].commit(),)
    formers = [partial.path.with_name(f".{uuid.uuid4().hex}.old") for partial in partials]
    with ExitStack() as undoing:
        for partial, former in zip(partials, formers, strict=True):
            undoing.callback(partial.give_back_place, former)
            with file_errors(partial.path):
                _keep(partial.path, former)
            partial.take_place()
        undoing.pop_all()
    with ExitStack() as removing:
        for former in formers:
            removing.callback(_remove, former)
    return tuple(partial.path for partial in partials)


def _keep(path: Path, former: Path) -> None:
    """Nothing; gives the file at `path`, if there is one, the name `former` too, or instead where links are not known."""
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
        return
    try:
        os.link(path, former, follow_symlinks=not path.is_symlink())
    except (OSError, NotImplementedError):
        os.replace(path, former)


def _remove(path: Path) -> None:
    with suppress(OSError):  # the results are in place; a hidden file that stays does no harm
        path.unlink(missing_ok=True)


def _peak(audio: Audio) -> float:
    return max(float(np.abs(block).max()) for block in blocks_of(audio.samples))


class FileSet:
    """The files of one separation, of `n_samples` each. Use as a context manager; what is not committed disappears.

    One gain keeps all of them from clipping, and it is known only at the end. So integer formats are spooled
    as float, beside the targets, in files without a name, which the system removes however the process ends.

    Raises:
        DiskSpaceError: there is not enough room; nothing was written.
        AudioFileError: a folder that cannot be written to.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        sample_rate_hz: int,
        n_channels: int,
        n_samples: int,
        encoding: Encoding,
        tags: Tags | None = None,
    ) -> None:
        self._paths = dict(paths)
        self._shape = (sample_rate_hz, n_channels, n_samples)
        self._encoding = encoding
        self._tags = tags
        self._peak = 0.0
        self._stack = ExitStack()
        self._is_spooled = encoding.subtype in INTEGER_BITS
        folder = next(iter(self._paths.values())).parent
        with file_errors(folder):
            _check_space(folder, self._needed_bytes())
        with ExitStack() as opening:
            self._spools: dict[str, IO[bytes]] = {}
            self._partials: dict[str, PartialFile] = {}
            for name, path in self._paths.items():
                if self._is_spooled:
                    self._spools[name] = _spool(path)
                    opening.callback(_close, self._spools[name])
                else:
                    self._partials[name] = opening.enter_context(self._partial(path))
            self._stack = opening.pop_all()

    def write(self, blocks: Mapping[str, Samples]) -> None:
        """Nothing; appends to each file its block [channels, samples]."""
        for name in self._paths:
            if self._is_spooled:
                self._peak = max(self._peak, float(np.abs(blocks[name]).max(initial=0.0)))
                with file_errors(self._paths[name]):
                    self._spools[name].write(np.ascontiguousarray(blocks[name].T).tobytes())
            else:
                self._partials[name].write(blocks[name])

    def commit(self, between_blocks: Callable[[], None] = lambda: None) -> WriteReport:
        """The files, now complete and in their places, and the gain that they share.

        between_blocks: called while spools are copied; what it raises ends the work, and no file appears.
        """
        gain = fitting_gain(self._peak, self._encoding.subtype)
        for name, spool in self._spools.items():
            partial = self._stack.enter_context(self._partial(self._paths[name]))
            self._copy(spool, partial, np.float32(gain), between_blocks)
            _close(spool)
            self._partials[name] = partial
        return WriteReport(commit_all(list(self._partials.values())), gain)

    def __enter__(self) -> FileSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _partial(self, path: Path) -> PartialFile:
        rate_hz, n_channels, n_samples = self._shape
        return PartialFile(
            path,
            rate_hz,
            n_channels,
            format=self._encoding.format,
            subtype=self._encoding.subtype,
            bitrate_kbps=self._encoding.bitrate_kbps,
            n_samples=n_samples,
            tags=self._tags,
        )

    def _copy(
        self, spool: IO[bytes], partial: PartialFile, gain: np.float32, between_blocks: Callable[[], None]
    ) -> None:
        n_channels = self._shape[1]
        with file_errors(partial.path):
            spool.seek(0)
        while True:
            with file_errors(partial.path):
                data = spool.read(_COPY_VALUES * _SPOOL_BYTES * n_channels)
            if not data:
                break
            between_blocks()
            samples = np.frombuffer(data, dtype=np.float32).reshape(-1, n_channels).T
            partial.write(samples if gain == 1.0 else samples * gain)

    def _needed_bytes(self) -> int:
        """The most that lies on the disk at a time. A spool goes once its file is complete."""
        rate_hz, n_channels, n_samples = self._shape
        each = self._encoding.n_bytes(rate_hz, n_channels, n_samples)
        if not self._is_spooled:
            return len(self._paths) * each
        return len(self._paths) * n_samples * n_channels * _SPOOL_BYTES + each


def _spool(path: Path) -> IO[bytes]:
    """A file without a name, on the disk that `path` will be on. Raises AudioFileError."""
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return cast(IO[bytes], tempfile.TemporaryFile(dir=path.parent))


def _close(spool: IO[bytes]) -> None:
    with suppress(OSError):  # what is left to be flushed is of no use any more
        spool.close()


def _check_space(folder: Path, needed_bytes: int) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DiskSpaceError(
            f"Writing to '{folder}' needs {_megabytes(needed_bytes)}, and {_megabytes(free_bytes)} are free. "
            "Make room, choose another folder, or ask for fewer results."
        )


def _megabytes(n_bytes: int) -> str:
    return f"{-(-n_bytes // 10**6):,} MB"
