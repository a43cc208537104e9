"""Write audio files so that no half-written file ever carries its final name, and nothing clips."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from unisep.audio import Audio
from unisep.errors import AudioFileError
from unisep.formats import (
    BYTES_PER_VALUE,
    INTEGER_BITS,
    MAX_RIFF_BYTES,
    check_rate,
    checked_subtype,
    compression,
    find_format,
)
from unisep.stamps import take_out_stamps
from unisep.tags import Tags, write_tags

_BLOCK_SAMPLES = 2**16


@dataclass(frozen=True)
class WriteReport:
    """The files written, and the gain that all of them share: 1.0 unless one would have clipped."""

    paths: tuple[Path, ...]
    gain: float


class PartialFile:
    """An audio file being written beside its final place; `commit` puts it there, or it disappears.

    Use as a context manager: what is not committed is removed. Write blocks [channels, samples].
    `n_samples`, where known, lets a wav beyond 4 GiB be written as RF64. `tags` are put in at the end.
    """

    def __init__(
        self,
        path: Path,
        sample_rate_hz: int,
        n_channels: int,
        *,
        format: str | None = None,
        subtype: str | None = None,
        bitrate_kbps: int | None = None,
        n_samples: int = 0,
        tags: Tags | None = None,
    ) -> None:
        self.path = Path(path)
        known = find_format(self.path, format)
        self._format, self._tags = known.name, tags
        self.subtype = checked_subtype(known, subtype)
        check_rate(known, sample_rate_hz)
        settings = compression(known, bitrate_kbps, sample_rate_hz, n_channels)
        n_bytes = n_samples * n_channels * BYTES_PER_VALUE.get(self.subtype, 0)
        container = "RF64" if known.name == "wav" and n_bytes > MAX_RIFF_BYTES else known.container
        with _file_errors(self.path):
            if self.path.is_dir():
                raise AudioFileError(
                    f"Cannot write '{self.path}': it is a folder. Give the name of a file in it."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self.path.parent / f".{uuid.uuid4().hex}.part"
            try:
                self._sound = soundfile.SoundFile(
                    self._partial, "w", sample_rate_hz, n_channels, self.subtype, format=container, **settings
                )
            except BaseException:
                self._partial.unlink(missing_ok=True)
                raise

    def write(self, samples: NDArray[np.float32]) -> None:
        """Nothing; appends `samples` [channels, samples]."""
        with _file_errors(self.path):
            for block in _blocks(samples):
                self._sound.write(_rounded(block, self.subtype).T)

    def finish(self) -> None:
        """Nothing; completes the file beside its final place."""
        with _file_errors(self.path):
            self._sound.close()
            take_out_stamps(self._partial)
        tags, self._tags = self._tags, None
        if tags is not None:
            write_tags(self._partial, self._format, tags)

    def commit(self) -> Path:
        """The final path, where the complete file now is; it replaces what was there, in one step."""
        self.finish()
        with _file_errors(self.path):
            os.replace(self._partial, self.path)
        return self.path

    def discard(self) -> None:
        """Nothing; removes the file unless it was committed."""
        self._sound.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


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
            for block in _blocks(audio.samples):
                partial.write(block if gain == 1.0 else block * np.float32(gain))
            partial.finish()
        return WriteReport(tuple(partial.commit() for partial in partials), gain)


def fitting_gain(peak: float, subtype: str) -> float:
    """The gain, at most 1, under which samples up to `peak` fit the subtype; 1 for float and lossy ones.

    >>> fitting_gain(0.9, "PCM_16"), fitting_gain(2.0, "FLOAT"), round(fitting_gain(2.0, "PCM_16"), 4)
    (1.0, 1.0, 0.5)
    """
    if subtype not in INTEGER_BITS or peak <= 1.0:
        return 1.0
    return (1.0 - 2.0 ** (1 - INTEGER_BITS[subtype])) / peak


def _rounded(samples: NDArray[np.float32], subtype: str) -> NDArray[np.float32]:
    """The nearest values that the subtype holds: libsndfile would cut wav and aiff off towards minus infinity."""
    if subtype not in INTEGER_BITS:
        return samples
    scale = np.float32(2.0 ** (INTEGER_BITS[subtype] - 1))
    return np.rint(samples * scale) / scale


def _peak(audio: Audio) -> float:
    return max(float(np.abs(block).max()) for block in _blocks(audio.samples))


def _blocks(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, samples.shape[1], _BLOCK_SAMPLES):
        yield samples[:, start : start + _BLOCK_SAMPLES]


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts on a full disk
        raise AudioFileError(
            f"Cannot write '{path}' ({error or 'the disk may be full'}). Check the folder's permissions and free space."
        ) from error
