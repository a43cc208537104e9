"""Read audio from files, bytes and file objects, whole or in blocks."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast, runtime_checkable

import numpy as np
import soundfile
from numpy.typing import NDArray

from unisep.audio import MAX_CHANNELS, Audio, as_samples, checked_rate
from unisep.errors import AudioError, AudioFileError
from unisep.files import ffmpeg
from unisep.files.containers import claimed_end_bytes
from unisep.files.formats import AudioFileInfo
from unisep.files.writing import name_for_libsndfile

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


MAX_VALUES_IN_MEMORY = 2**31


_BLOCK_SAMPLES = 2**18


_PLAUSIBLE_VALUES_PER_BYTE = 64


_EXACT_FORMATS = {"wav", "flac", "aiff", "caf", "w64", "au"}


FFMPEG = "FFMPEG"  # the subtype of what libsndfile cannot read


_NAMES = {"WAVEX": "wav", "RF64": "wav"}


@dataclass(frozen=True)
class OpenFile:
    """A file whose header was read and found good.

    label: what messages call it. path: what libsndfile reads, the file itself or what ffmpeg made of it.
    stamp: size and time of change of `path` when it was opened.
    """

    label: str
    path: Path
    info: AudioFileInfo
    n_bytes: int
    stamp: tuple[int, int]

    def changed(self) -> AudioFileError:
        """The error for a file that no longer is what it was when it was opened."""
        return AudioFileError(f"{self.label} changed while it was read. Try again once no program writes to it.")

    def blocks(self, block_samples: int, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """The samples from `start` on, in blocks [channels, block_samples], the last one shorter.

        Raises AudioFileError where the file is damaged, once that is reached, or was changed since it was opened.
        """
        try:
            sound = soundfile.SoundFile(name_for_libsndfile(self.path))
            is_same = _stamp(self.path) == self.stamp
        except (soundfile.SoundFileError, RuntimeError, TypeError, OSError) as error:
            raise self.changed() from error
        with sound:
            if not is_same:
                raise self.changed()
            n_read = _skip(sound, start, self)
            yield from _blocks(self, sound, block_samples, n_read)


def read(source: Source) -> Audio:
    """The whole recording, at its own rate and channels.

    source: a path, the bytes of a file, or a file object opened in binary mode.

    Raises:
        AudioFileError: missing, a folder, empty, damaged, no audio, three or more channels, NaN, or
            too long to hold in memory.
    """
    return read_with_info(source)[0]


def read_with_info(source: Source) -> tuple[Audio, AudioFileInfo]:
    """The whole recording, and what its header says. Raises as `read` does."""
    with opened(source) as file:
        info = file.info
        n_claimed = info.n_samples or 0
        plausible = n_claimed * info.n_channels <= _PLAUSIBLE_VALUES_PER_BYTE * file.n_bytes
        n_expected = n_claimed if plausible else 0
        samples = _gather(file.blocks(_BLOCK_SAMPLES), info.n_channels, n_expected, file)
        return Audio(samples, info.sample_rate_hz), info


def read_blocks(source: Source, block_samples: int) -> Iterator[Audio]:
    """The recording in blocks of `block_samples`, the last one shorter; memory stays constant.

    The file is opened at the first block. Raises as `read` does, and for damage when it is reached.
    """
    with opened(source) as file:
        for block in file.blocks(max(1, block_samples)):
            yield Audio(block, file.info.sample_rate_hz)


def probe(source: Source) -> AudioFileInfo:
    """What the file's header says, without reading the audio. Raises AudioFileError as `read` does."""
    with opened(source) as file:
        return file.info


def _gather(
    blocks: Iterator[NDArray[np.float32]], n_channels: int, n_expected: int, file: OpenFile
) -> NDArray[np.float32]:
    buffer = np.empty((n_channels, max(1, n_expected)), dtype=np.float32)
    n_read = 0
    for block in blocks:
        n_needed = n_read + block.shape[1]
        if n_needed * n_channels > MAX_VALUES_IN_MEMORY:
            raise AudioFileError(
                f"{file.label} is too long to read at once. Separate it disk to disk, or cut it first."
            )
        if n_needed > buffer.shape[1]:
            longer = np.empty((n_channels, max(n_needed, 2 * n_read)), dtype=np.float32)
            longer[:, :n_read] = buffer[:, :n_read]
            buffer = longer
        buffer[:, n_read:n_needed] = block
        n_read = n_needed
    return buffer[:, :n_read]


def _skip(sound: soundfile.SoundFile, n_samples: int, file: OpenFile) -> int:
    """How many samples were passed over. Where a decoder must have heard what comes before, they are read.

    So are they where libsndfile cannot seek at all, not even to the start: in GSM 6.10 and G.72x, of telephones.
    """
    is_exact = file.info.format in _EXACT_FORMATS or file.info.subtype == FFMPEG
    try:
        if n_samples and is_exact and sound.seekable():
            return int(sound.seek(n_samples))
        n_skipped = 0
        while n_skipped < n_samples and (n := len(sound.read(min(_BLOCK_SAMPLES, n_samples - n_skipped)))):
            n_skipped += n
        return n_skipped
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _damaged(file, 0.0) from error


def _blocks(
    file: OpenFile, sound: soundfile.SoundFile, block_samples: int, n_read: int
) -> Iterator[NDArray[np.float32]]:
    rate_hz = file.info.sample_rate_hz
    while True:
        try:
            frames = sound.read(block_samples, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise _damaged(file, n_read / rate_hz) from error
        if len(frames) == 0:
            break
        if not np.isfinite(frames).all():
            at_seconds = (n_read + int(np.argwhere(~np.isfinite(frames))[0][0])) / rate_hz
            raise AudioFileError(
                f"{file.label} holds NaN or infinity, first at {at_seconds:.3f} s. Repair or cut the recording there."
            )
        n_read += len(frames)
        yield np.ascontiguousarray(frames.T)
    if n_read == 0:
        raise AudioFileError(f"{file.label} holds no audio samples. Check that it was recorded or copied in full.")
    if file.info.format in _EXACT_FORMATS and n_read < (file.info.n_samples or 0):
        raise _damaged(file, n_read / rate_hz)


def _damaged(file: OpenFile, at_seconds: float) -> AudioFileError:
    return AudioFileError(
        f"{file.label} is damaged or cut short: it can be read up to {at_seconds:.3f} s. Fetch it again, or save "
        f"what can be read first, for example with: ffmpeg -i INPUT -c:a pcm_f32le repaired.wav"
    )


@contextmanager
def opened(source: Source) -> Iterator[OpenFile]:
    """The file with its header read; what ffmpeg had to decode is kept until the end of the block.

    Raises AudioFileError as `read` does, but for damage beyond the header.
    """
    with as_path(source) as (path, label), tempfile.TemporaryDirectory(prefix="unisep-") as folder:
        _check_complete(path, label)
        readable = path
        try:
            sound = soundfile.SoundFile(name_for_libsndfile(path))
            format, subtype = _NAMES.get(sound.format, sound.format.lower()), sound.subtype
            format = "opus" if subtype == "OPUS" else format
        except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
            readable = Path(folder) / "decoded.wav"
            sound = _through_ffmpeg(path, label, readable, error)
            format, subtype = path.suffix.lower().removeprefix(".") or "unknown", FFMPEG
        with sound:
            info = _checked_info(sound, label, format, subtype)
            stamp = _stamp(readable)
        yield OpenFile(label, readable, info, path.stat().st_size, stamp)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _through_ffmpeg(path: Path, label: str, target: Path, first: Exception) -> soundfile.SoundFile:
    try:
        ffmpeg.decode(path, target)
        return soundfile.SoundFile(name_for_libsndfile(target))
    except (AudioFileError, soundfile.SoundFileError, RuntimeError) as second:
        reason = str(first).split(": ")[-1].strip().rstrip(".")
        raise AudioFileError(
            f"{label} cannot be read as audio: libsndfile says {reason!r}, and {second}. "
            "Check that it is an audio file; convert it to wav or flac, or install ffmpeg for more formats."
        ) from second


def _checked_info(sound: soundfile.SoundFile, label: str, format: str, subtype: str) -> AudioFileInfo:
    if sound.channels > MAX_CHANNELS:
        raise AudioFileError(
            f"{label} has {sound.channels} channels; only mono and stereo are supported. "
            "Write a stereo downmix, or each pair of channels to a file of its own."
        )
    try:
        rate_hz = checked_rate(sound.samplerate)
    except AudioError as error:
        raise AudioFileError(f"{label}: {error}") from error
    n_samples = sound.frames if 0 < sound.frames < 2**62 else None
    if sound.frames == 0:
        raise AudioFileError(f"{label} holds no audio samples. Check that it was recorded or copied in full.")
    return AudioFileInfo(rate_hz, sound.channels, n_samples, format, subtype)


def _check_complete(path: Path, label: str) -> None:
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise AudioFileError(f"{label} is empty (0 bytes). Check that it was copied in full.")
    end = claimed_end_bytes(path)
    if end is not None and end > n_bytes:
        raise AudioFileError(
            f"{label} is cut short: its header announces {end:,} bytes, and it has {n_bytes:,}. Fetch it again, or "
            "save what can be read first, for example with: ffmpeg -i INPUT -c:a pcm_f32le repaired.wav"
        )


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
        (audio, info), path = read_with_info(source), Path(source)
        return Opened(audio, path.stem, info, path)
    if isinstance(source, bytes | bytearray | memoryview):
        audio, info = read_with_info(bytes(source))
        return Opened(audio, info=info)
    if isinstance(source, Readable):
        return Opened(read(cast(Any, source)))
    samples = as_samples(source)
    return Opened(samples if sample_rate_hz is None else Audio(samples, sample_rate_hz))
