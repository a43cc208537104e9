"""Results of one length, written side by side, a block at a time; they appear together or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from unisep.errors import DiskSpaceError
from unisep.formats import INTEGER_BITS, Encoding
from unisep.tags import Tags
from unisep.writing import PartialFile, WriteReport, fitting_gain

_SPOOL_BYTES = 4
_COPY_VALUES = 2**20
Samples = NDArray[np.float32]


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
        _check_space(next(iter(self._paths.values())).parent, self._needed_bytes())
        with ExitStack() as opening:
            self._spools: dict[str, IO[bytes]] = {}
            self._partials: dict[str, PartialFile] = {}
            for name, path in self._paths.items():
                if self._is_spooled:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._spools[name] = opening.enter_context(tempfile.TemporaryFile(dir=path.parent))
                else:
                    self._partials[name] = opening.enter_context(self._partial(path))
            self._stack = opening.pop_all()

    def write(self, blocks: Mapping[str, Samples]) -> None:
        """Nothing; appends to each file its block [channels, samples]."""
        for name in self._paths:
            if self._is_spooled:
                self._peak = max(self._peak, float(np.abs(blocks[name]).max(initial=0.0)))
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
            spool.close()
            self._partials[name] = partial
        for partial in self._partials.values():
            partial.finish()
        return WriteReport(tuple(partial.commit() for partial in self._partials.values()), gain)

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
        spool.seek(0)
        while data := spool.read(_COPY_VALUES * _SPOOL_BYTES * n_channels):
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


def _check_space(folder: Path, needed_bytes: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DiskSpaceError(
            f"Writing to '{folder}' needs {_megabytes(needed_bytes)}, and {_megabytes(free_bytes)} are free. "
            "Make room, choose another folder, or ask for fewer results."
        )


def _megabytes(n_bytes: int) -> str:
    return f"{-(-n_bytes // 10**6):,} MB"
