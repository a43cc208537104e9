"""Whatever the caller holds as audio, opened: a path, bytes, a file object, Audio or an array."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unisep import files
from unisep.audio import Audio, as_samples, checked_rate
from unisep.formats import AudioFileInfo


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to `offset`."""


@dataclass(frozen=True, eq=False)
class Opened:
    """Checked audio, and what is known of the file it came from.

    content: `Audio`, or samples [channels, samples] where the caller gave a bare array and no rate.
    name: the file's name without its suffix, or "audio".
    info: what the file's header says; None for audio that came as an array or a file object.
    path: of the file, if it came from one.
    """

    content: Audio | NDArray[np.float32]
    name: str = "audio"
    info: AudioFileInfo | None = None
    path: Path | None = None

    def at(self, default_rate_hz: int) -> Audio:
        """The audio; a bare array is taken to have `default_rate_hz`."""
        if isinstance(self.content, Audio):
            return self.content
        return Audio(self.content, default_rate_hz)


def open_audio(source: Any, sample_rate_hz: int | None = None) -> Opened:
    """The audio that `source` holds, read and checked.

    source: path (str or Path), bytes, binary file object, `Audio`, or an array [channels, samples] or
        [samples] (NumPy, torch or nested sequences).
    sample_rate_hz: rate of a bare array; files and `Audio` state their own.

    Raises:
        AudioError, AudioFileError: as `Audio` and `files.read` say.
    """
    if sample_rate_hz is not None:
        sample_rate_hz = checked_rate(sample_rate_hz)
    if isinstance(source, Audio):
        return Opened(source)
    if isinstance(source, str | os.PathLike):
        (audio, info), path = files.read_with_info(source), Path(source)
        return Opened(audio, path.stem, info, path)
    if isinstance(source, bytes | bytearray | memoryview):
        audio, info = files.read_with_info(bytes(source))
        return Opened(audio, info=info)
    if isinstance(source, Readable):
        return Opened(files.read(cast(Any, source)))
    samples = as_samples(source)
    return Opened(samples if sample_rate_hz is None else Audio(samples, sample_rate_hz))
