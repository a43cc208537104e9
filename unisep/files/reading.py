"""Read audio from files, bytes and file objects, whole or in blocks."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile

from unisep.audio import MAX_CHANNELS, Audio, Samples, as_samples, checked_rate
from unisep.errors import AudioError, AudioFileError
from unisep.files import ffmpeg
from unisep.files.containers import claimed_end_bytes, lacks_mpeg_frames
from unisep.files.formats import AudioFileInfo
from unisep.files.writing import name_for_libsndfile

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
MAX_STREAM_BYTES = 16 * 2**30
MAX_VALUES_IN_MEMORY = 2**31
FFMPEG = "FFMPEG"  # the subtype of what libsndfile cannot read
_BLOCK_SAMPLES = 2**16
_EXACT_FORMATS = {"wav", "flac", "aiff", "caf", "w64", "au"}
_NAMES = {"WAVEX": "wav", "RF64": "wav"}
_REFUSALS = (soundfile.SoundFileError, RuntimeError, TypeError)  # of soundfile and libsndfile
_REPAIR = "save what can be read first, for example with: ffmpeg -i INPUT -c:a pcm_f32le repaired.wav"


@dataclass(frozen=True)
class OpenFile:
    """A file whose header was read and found good; messages call it `label`.

    libsndfile reads `path`, the file itself or what ffmpeg made of it; `stamp` is its size and time when opened. `folder`
    takes what ffmpeg makes of it later.
    """

    label: str
    path: Path
    info: AudioFileInfo
    stamp: tuple[int, int]
    folder: Path

    def changed(self) -> AudioFileError:
        """Return the error for a file that no longer is what it was when it was opened."""
        return AudioFileError(f"{self.label} changed while it was read. Try again once no program writes to it.")

    def blocks(self, block_samples: int, start: int = 0) -> Iterator[Samples]:
        """Yield the samples from `start` on, in blocks `[channels, block_samples]`, the last one shorter.

        Raises AudioFileError where the file changed since it was opened, or is damaged, once that is reached.
        """
        held: list[Samples] = []
        n_held = 0
        for piece in self._pieces(start):
            held, n_held = [*held, piece], n_held + piece.shape[1]
            if n_held >= block_samples:
                joined, n_left = np.concatenate(held, axis=1), n_held % block_samples
                for first in range(0, n_held - n_left, block_samples):
                    yield np.ascontiguousarray(joined[:, first : first + block_samples])
                held, n_held = [joined[:, n_held - n_left :]], n_left
        if n_held:
            yield np.concatenate(held, axis=1)

    def whole(self) -> Audio:
        """Return the recording. Raises AudioFileError as `blocks` does, and where it does not fit into memory."""
        pieces, n_values = [], 0
        for piece in self._pieces(0):
            pieces.append(piece)
            n_values += piece.size
            if n_values > MAX_VALUES_IN_MEMORY:
                raise AudioFileError(
                    f"{self.label} is too long to read at once. Separate it disk to disk, or cut it first."
                )
        return Audio(np.concatenate(pieces, axis=1), self.info.sample_rate_hz)

    def _pieces(self, start: int) -> Iterator[Samples]:
        """Yield the samples from `start` on. Where libsndfile gives up, ffmpeg goes on if it finds no fault.

        Pieces are counted from the beginning of the file, so that this happens at the same sample in every pass.
        """
        path, n_read, is_whole = self.path, start, False
        while not is_whole:
            try:
                for first, piece in self._decoded(path, n_read):
                    if first + piece.shape[1] > n_read:
                        yield piece[:, n_read - first if n_read > first else 0 :]
                        n_read = first + piece.shape[1]
                is_whole = self.info.format not in _EXACT_FORMATS or n_read >= (self.info.n_samples or 0)
            except _REFUSALS:
                pass
            path = path if is_whole else self._rescued(path, n_read)
        if n_read == 0:
            raise _no_samples(self.label)

    def _decoded(self, path: Path, start: int) -> Iterator[tuple[int, Samples]]:
        """Yield pieces and where they begin: at `start` where it can be sought, else at 0, as a decoder must hear them."""
        try:
            sound = soundfile.SoundFile(name_for_libsndfile(path))
            if path == self.path and _stamp(path) != self.stamp:
                sound.close()
                raise self.changed()
        except (*_REFUSALS, OSError) as error:
            raise self.changed() from error
        with sound:
            is_exact = self.info.format in _EXACT_FORMATS or self.info.subtype == FFMPEG or path != self.path
            n_read = int(sound.seek(start)) if start and is_exact and sound.seekable() else 0
            while (piece := self._next_piece(sound, n_read)).size:
                yield n_read, piece
                n_read += piece.shape[1]

    def _rescued(self, path: Path, n_read: int) -> Path:
        """Return what ffmpeg makes of the file. Raise the error for a damaged one unless ffmpeg reads it all, without fault."""
        rescued, facts = self.folder / "rescued.wav", (self.info.sample_rate_hz, self.info.n_channels)
        try:
            if path == rescued or self.info.subtype == FFMPEG:
                raise self._damaged(n_read)
            if not rescued.exists():
                ffmpeg.decode(self.path, rescued, strict=True)
            sound = soundfile.info(str(rescued))
        except (AudioFileError, *_REFUSALS) as error:
            rescued.unlink(missing_ok=True)
            raise self._damaged(n_read) from error
        if (sound.samplerate, sound.channels) != facts or sound.frames < max(n_read, self.info.n_samples or 0):
            raise self._damaged(n_read)
        return rescued

    def _next_piece(self, sound: soundfile.SoundFile, n_read: int) -> Samples:
        frames = sound.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)
        if not np.isfinite(frames).all():
            first = n_read + int(np.argwhere(~np.isfinite(frames))[0][0])
            beyond = " (in 64 bits, maybe a level that is much too high)" if self.info.subtype == "DOUBLE" else ""
            raise AudioFileError(
                f"{self.label} holds NaN or infinity{beyond}, first at {first / self.info.sample_rate_hz:.3f} s. "
                "Repair or cut the recording there."
            )
        return np.ascontiguousarray(frames.T)

    def _damaged(self, n_read: int) -> AudioFileError:
        return AudioFileError(
            f"{self.label} is damaged or cut short: it can be read up to {n_read / self.info.sample_rate_hz:.3f} s. "
            f"Fetch it again, or {_REPAIR}"
        )


@contextmanager
def opened(source: Source) -> Iterator[OpenFile]:
    """Open a file and read its header; what ffmpeg had to decode is kept until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="unisep-") as folder:
        path, label = _as_path(source, Path(folder))
        n_bytes, claimed_bytes = path.stat().st_size, claimed_end_bytes(path) or 0
        if n_bytes == 0:
            raise AudioFileError(f"{label} is empty (0 bytes). Check that it was copied in full.")
        if claimed_bytes > n_bytes:
            raise AudioFileError(
                f"{label} is cut short: its header announces {claimed_bytes:,} bytes, and it has {n_bytes:,}. "
                f"Fetch it again, or {_REPAIR}"
            )
        readable = path
        try:
            if lacks_mpeg_frames(path):  # else libmpg123 looks for them, and tells all about it on stderr
                raise soundfile.SoundFileRuntimeError("no MPEG audio is at its beginning")
            sound = soundfile.SoundFile(name_for_libsndfile(path))
            format, subtype = _NAMES.get(sound.format, sound.format.lower()), sound.subtype
            format = "opus" if subtype == "OPUS" else format
        except _REFUSALS as error:
            readable = Path(folder) / "decoded.wav"
            sound = _through_ffmpeg(path, label, readable, error)
            format, subtype = path.suffix.lower().removeprefix(".") or "unknown", FFMPEG
        with sound:
            info = _checked_info(sound, label, format, subtype)
        yield OpenFile(label, readable, info, _stamp(readable), Path(folder))


def read(source: Source) -> Audio:
    """Read a whole recording, at its own rate and channels, from a path, bytes or a file object in binary mode.

    Raises AudioFileError for what is missing, empty, damaged, no audio, of three or more channels, NaN, or too long.
    """
    return read_with_info(source)[0]


def read_with_info(source: Source) -> tuple[Audio, AudioFileInfo]:
    """Read a whole recording, and what its header says."""
    with opened(source) as file:
        return file.whole(), file.info


def read_blocks(source: Source, block_samples: int) -> Iterator[Audio]:
    """Read a recording in blocks of `block_samples`, the last one shorter; damage is an error when it is reached."""
    with opened(source) as file:
        for block in file.blocks(max(1, block_samples)):
            yield Audio(block, file.info.sample_rate_hz)


def probe(source: Source) -> AudioFileInfo:
    """Read what a file's header says, without the audio."""
    with opened(source) as file:
        return file.info


def _as_path(source: Source, folder: Path) -> tuple[Path, str]:
    """Return a path that holds the source's bytes, a copy in `folder` if need be, and what to call it in messages."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        _check_path(path)
        return path, f"'{path}'"
    label, stream = "The audio in this file object", cast(BinaryIO, source)
    if isinstance(source, bytes | bytearray | memoryview):
        label, stream = "The audio in these bytes", io.BytesIO(source)
    path, n_copied = folder / "input", 0
    try:
        with path.open("wb") as copy:
            while n_copied <= MAX_STREAM_BYTES and (piece := stream.read(2**20)):
                n_copied += copy.write(piece)
    except Exception as error:  # of another mode, closed, or failing in ways of its own
        raise AudioFileError(
            f"Cannot read audio from {type(stream).__name__} ({error}): give a path, bytes, or a file opened in binary "
            "mode (open(path, 'rb'))."
        ) from error
    if n_copied > MAX_STREAM_BYTES:
        raise AudioFileError(f"The file object holds more than {MAX_STREAM_BYTES // 2**30} GiB. Pass a path.")
    return path, label


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
    if path.is_symlink() and not exists:
        raise AudioFileError(f"'{path}' is a link that leads to no file. Give the path of the file itself.")
    if exists:
        raise AudioFileError(f"'{path}' is no regular file. Open it yourself and pass the file object.")
    raise AudioFileError(f"There is no file '{path}'. Relative paths start at '{Path.cwd()}'.")


def _through_ffmpeg(path: Path, label: str, target: Path, first: Exception) -> soundfile.SoundFile:
    try:
        ffmpeg.decode(path, target)
        return soundfile.SoundFile(name_for_libsndfile(target))
    except (AudioFileError, *_REFUSALS) as second:
        reason = str(first).split(": ")[-1].strip().rstrip(".")
        more = "" if ffmpeg.program() else ", or install ffmpeg for more formats"
        raise AudioFileError(
            f"{label} cannot be decoded: libsndfile says {reason!r}, and {second}. "
            f"Check that it is an audio file; convert it to wav or flac{more}."
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
    if sound.frames == 0:
        raise _no_samples(label)
    n_samples = sound.frames if 0 < sound.frames < 2**62 else None
    return AudioFileInfo(rate_hz, sound.channels, n_samples, format, subtype)


def _no_samples(label: str) -> AudioFileError:
    return AudioFileError(f"{label} holds no audio samples. Check that it was recorded or copied in full.")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Opened:
    """Checked audio, and what is known of its file.

    `name` is that of the file without its suffix; `info` is None for audio that came as an array or a file object.
    """

    audio: Audio
    name: str = "audio"
    info: AudioFileInfo | None = None
    path: Path | None = None

    def check_rate(self, sample_rate_hz: float | None) -> None:
        """Raise AudioError for another rate than that which the audio states itself."""
        if sample_rate_hz not in (None, self.audio.sample_rate_hz):
            raise AudioError(
                f"sample_rate_hz={sample_rate_hz}, but this recording has {self.audio.sample_rate_hz} Hz. Leave it out: it "
                f"is for arrays. An example that is an array of another rate goes in as Audio(array, {sample_rate_hz})."
            )


def open_audio(source: Any, sample_rate_hz: float | None = None) -> Opened:
    """Read and check the audio that `source` holds. Raises AudioError and AudioFileError as `Audio` and `read` do.

    Args:
        source: A path (str or Path), bytes, a binary file object, `Audio`, or an array `[channels, samples]` or
            `[samples]` (NumPy, torch or nested sequences).
        sample_rate_hz: Rate of a bare array, which is refused without one; files and `Audio` state their own.
    """
    if sample_rate_hz is not None:
        sample_rate_hz = checked_rate(sample_rate_hz)
    if isinstance(source, Audio):
        return Opened(source)
    if isinstance(source, str | os.PathLike):
        (audio, info), path = read_with_info(source), Path(source)
        return Opened(audio, path.stem, info, path)
    if isinstance(source, bytes | bytearray | memoryview):
        audio, info = read_with_info(source)
        return Opened(audio, info=info)
    if callable(getattr(source, "read", None)):
        return Opened(read(cast(BinaryIO, source)))
    if sample_rate_hz is None:
        as_samples(source)  # what is no audio at all is refused as that
        raise AudioError(
            "An array does not say its sample rate. Pass sample_rate_hz=44100, or Audio(array, 44100), with the rate that "
            "it was recorded at."
        )
    return Opened(Audio(source, sample_rate_hz))
