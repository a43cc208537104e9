"""Write audio files: each whole or not at all, several all or none."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from unisep.audio import Audio
from unisep.errors import AudioFileError, DiskSpaceError
from unisep.files.containers import take_out_stamps
from unisep.files.formats import (
    BYTES_PER_VALUE,
    INTEGER_BITS,
    MAX_RIFF_BYTES,
    Encoding,
    Format,
    check_rate,
    checked_subtype,
    compression,
    find_format,
)
from unisep.files.tags import Tags, write_tags

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
                raise AudioFileError(f"Cannot write '{self.path}': it is a folder. Give the name of a file in it.")
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
