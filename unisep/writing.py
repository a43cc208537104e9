"""Write audio files so that no half-written file ever carries its final name, and nothing clips."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from unisep.errors import AudioFileError
from unisep.formats import (
    BYTES_PER_VALUE,
    INTEGER_BITS,
    MAX_RIFF_BYTES,
    Format,
    check_rate,
    checked_subtype,
    compression,
    find_format,
)
from unisep.stamps import take_out_stamps
from unisep.tags import Tags, write_tags

_BLOCK_SAMPLES = 2**16
_TAIL_SAMPLES = 2**12
_FRAME_HEAD_BYTES = 64


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
        self._format, self._tags = known, tags
        self._n_written, self._is_finished = 0, False
        self.subtype = checked_subtype(known, subtype)
        check_rate(known, sample_rate_hz)
        settings = compression(known, bitrate_kbps, sample_rate_hz, n_channels)
        n_bytes = n_samples * n_channels * BYTES_PER_VALUE.get(self.subtype, 0)
        container = "RF64" if known.name == "wav" and n_bytes > MAX_RIFF_BYTES else known.container
        with file_errors(self.path):
            if self.path.is_dir():
                raise AudioFileError(
                    f"Cannot write '{self.path}': it is a folder. Give the name of a file in it."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self.path.parent / f".{uuid.uuid4().hex}.part"
            try:
                self._sound = soundfile.SoundFile(
                    name_for_libsndfile(self._partial),
                    "w",
                    sample_rate_hz,
                    n_channels,
                    self.subtype,
                    format=container,
                    **settings,
                )
            except BaseException:
                self._partial.unlink(missing_ok=True)
                raise

    def write(self, samples: NDArray[np.float32]) -> None:
        """Nothing; appends `samples` [channels, samples]."""
        with file_errors(self.path):
            for block in blocks_of(samples):
                self._sound.write(_rounded(block, self.subtype).T)
                self._n_written += block.shape[1]

    def finish(self) -> None:
        """Nothing; completes the file beside its final place. Raises AudioFileError where a part of it is missing."""
        if self._is_finished:
            return
        with file_errors(self.path):
            self._sound.close()
            take_out_stamps(self._partial)
        if self._tags is not None:
            write_tags(self._partial, self._format.name, self._tags)
        with file_errors(self.path):
            if self._n_written and not _is_whole(self._partial, self._format, self._n_written):
                raise OSError("the file is not complete, the disk may be full")
        self._is_finished = True

    def commit(self) -> Path:
        """The final path, where the complete file now is; it replaces what was there, in one step."""
        self.finish()
        self.take_place()
        return self.path

    def take_place(self) -> None:
        """Nothing; moves the finished file to its final place."""
        with file_errors(self.path):
            os.replace(self._partial, self.path)

    def give_back_place(self, former: Path) -> None:
        """Nothing; undoes `take_place`, if that was done. `former`, if there, is the file that was there before."""
        try:
            if os.path.lexists(former):
                os.replace(former, self.path)
                former.unlink(missing_ok=True)  # two names of one file both survive a replace
            elif not self._partial.exists():
                self.path.unlink(missing_ok=True)
        except OSError as error:
            kept = f"; what was there before is now '{former}'" if os.path.lexists(former) else ""
            raise AudioFileError(f"'{self.path}' cannot be taken back ({error}){kept}.") from error

    def discard(self) -> None:
        """Nothing; removes the file unless it was committed."""
        with suppress(OSError, soundfile.SoundFileError):  # a full disk; what failed before is what matters
            self._sound.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def name_for_libsndfile(path: Path) -> str | bytes:
    """The name under which soundfile opens `path`: bytes where names of files need not be UTF-8.

    >>> name_for_libsndfile(Path("song.wav")) in ("song.wav", b"song.wav")
    True
    """
    return str(path) if os.name == "nt" else os.fsencode(path)


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


def blocks_of(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views of `samples` [channels, samples], one after the other, each short enough to be worked on at once."""
    for start in range(0, samples.shape[1], _BLOCK_SAMPLES):
        yield samples[:, start : start + _BLOCK_SAMPLES]


def _is_whole(path: Path, known: Format, n_samples: int) -> bool:
    """Whether a file of `n_samples` is all there: libsndfile says nothing of what fails while it closes a file.

    Lossy files may end with up to a second of padding. Only the end is decoded, but not of an mp3 that says
    how many bytes it has: mpg123 complains on stderr when it starts in the middle.
    """
    n_bytes = _claimed_mp3_bytes(path) if known.name == "mp3" else None
    if n_bytes is not None and path.stat().st_size < n_bytes:
        return False
    try:
        with soundfile.SoundFile(name_for_libsndfile(path)) as sound:
            n_padding = sound.frames - n_samples
            if not 0 <= n_padding <= (sound.samplerate if known.kbps else 0):
                return False
            n_tail = min(sound.frames, _TAIL_SAMPLES)
            return n_bytes is not None or (
                sound.seek(-n_tail, soundfile.SEEK_END) >= 0 and len(sound.read(n_tail)) == n_tail
            )
    except soundfile.SoundFileError:
        return False


def _claimed_mp3_bytes(path: Path) -> int | None:
    """The bytes that an mp3 and the ID3 tag before it say they have; None where the encoder left that out.

    The first frame is silent, and holds their number in a "Xing" or "Info" header.
    """
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3":  # seven bits a byte
            start = 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
        file.seek(start)
        frame = file.read(_FRAME_HEAD_BYTES)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        return None
    return start + int.from_bytes(frame[at + 12 : at + 16], "big")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """A block in which what the system or libsndfile refuses about `path` becomes an AudioFileError."""
    try:
        yield
    except AudioFileError:
        raise
    except (OSError, soundfile.SoundFileError, AssertionError, ValueError) as error:
        # soundfile asserts on a full disk, and a NUL in a name is a ValueError
        raise AudioFileError(
            f"Cannot write '{path}' ({error or 'the disk may be full'}). Check the folder's permissions and free space."
        ) from error
