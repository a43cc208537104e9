"""Write audio files: each whole or not at all, several all or none."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from unisep.audio import Audio, Samples
from unisep.errors import AudioFileError, DiskSpaceError
from unisep.files import ffmpeg
from unisep.files.containers import take_out_stamps
from unisep.files.formats import FORMATS, INTEGER_BITS, MAX_RIFF_BYTES, Encoding, checked_subtype, find_format, lossy
from unisep.files.tags import Tags, write_tags

log = logging.getLogger(__name__)
_BLOCK_SAMPLES = 2**16
_TAIL_SAMPLES = 2**12
_SPOOL_BYTES = 4
_COPY_VALUES = 2**20


@dataclass(frozen=True)
class WriteReport:
    """The files written, and the gain that all of them share: 1.0 unless one would have clipped."""

    paths: tuple[Path, ...]
    gain: float


class PartialFile(AbstractContextManager["PartialFile"]):
    """An audio file being written beside its final place; `commit` puts it there.

    Use as a context manager: what is not committed is removed. `n_samples`, where known, lets a wav beyond 4 GiB
    be written as RF64. `tags` are put in at the end.
    Raises AudioFileError where the format cannot hold the audio, or the place cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        sample_rate_hz: int,
        n_channels: int,
        encoding: Encoding,
        n_samples: int = 0,
        tags: Tags | None = None,
    ) -> None:
        self.path, self.encoding, self._tags = Path(path), encoding, tags
        self._n_written, self._is_finished = 0, False
        settings = encoding.settings(sample_rate_hz, n_channels)
        container, subtype = FORMATS[encoding.format].container, encoding.subtype
        if encoding.is_by_ffmpeg:
            container, subtype = "WAV", "FLOAT"
        if container == "WAV" and encoding.n_bytes(sample_rate_hz, n_channels, n_samples) > MAX_RIFF_BYTES:
            container = "RF64"
        with file_errors(self.path):
            if self.path.is_dir():
                raise AudioFileError(f"Cannot write '{self.path}': it is a folder. Give the name of a file in it.")
            self._remove_folders = make_folder(self.path.parent)
            self._partial = self.path.parent / f".{uuid.uuid4().hex}.part"
            name = name_for_libsndfile(self._partial)
            try:
                self._sound = soundfile.SoundFile(
                    name, "w", sample_rate_hz, n_channels, subtype, format=container, **settings
                )
            except BaseException:
                self._partial.unlink(missing_ok=True)
                self._remove_folders()
                raise

    def write(self, samples: Samples, gain: float | None = None) -> None:
        """Append `samples` `[channels, samples]`, multiplied by `gain`, by default that of the encoding."""
        gain, bits = self.encoding.gain(0.0) if gain is None else gain, INTEGER_BITS.get(self.encoding.subtype)
        with file_errors(self.path):
            for start in range(0, samples.shape[1], _BLOCK_SAMPLES):
                block = samples[:, start : start + _BLOCK_SAMPLES] * np.float32(gain)
                if bits is not None:  # libsndfile would cut wav and aiff off towards minus infinity
                    scale = np.float32(2.0 ** (bits - 1))
                    block = np.rint(block * scale) / scale
                self._sound.write(block.T)
                self._n_written += block.shape[1]

    def finish(self) -> None:
        """Complete the file beside its final place. Raises AudioFileError where a part of it is missing."""
        if self._is_finished:
            return
        with file_errors(self.path):
            self._sound.close()
            take_out_stamps(self._partial)
            format = "wav" if self.encoding.is_by_ffmpeg else self.encoding.format
            if self._tags is not None and format == self.encoding.format:
                write_tags(self._partial, format, self._tags)
            if self._n_written and not _is_whole(self._partial, format, self._n_written):
                raise OSError("the file is not complete, the disk may be full")
            if self.encoding.is_by_ffmpeg:
                ffmpeg.encode_aac(self._partial, self.encoding.bitrate_kbps)
                write_tags(self._partial, self.encoding.format, self._tags or Tags())
        self._is_finished = True

    def commit(self) -> Path:
        """Put the complete file in its final place, in one step, and return that. It replaces what was there."""
        self.finish()
        with file_errors(self.path):
            os.replace(self._partial, self.path)
        return self.path

    def undo_commit(self, former: Path) -> None:
        """Take back `commit`, if that was done. `former`, if there, is the file that was there before."""
        try:
            if os.path.lexists(former):
                os.replace(former, self.path)
                former.unlink(missing_ok=True)  # two names of one file both survive a replace
            elif not self._partial.exists():
                self.path.unlink(missing_ok=True)
        except OSError as error:
            kept = f"; what was there before is now '{former}'" if os.path.lexists(former) else ""
            raise AudioFileError(f"'{self.path}' cannot be taken back ({error}){kept}.") from error

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, soundfile.SoundFileError):  # a full disk; what failed before is what matters
            self._sound.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)
        self._remove_folders()


def write(
    path: str | os.PathLike[str],
    audio: Audio,
    *,
    format: str | None = None,
    subtype: str | None = None,
    bitrate_kbps: int | None = None,
) -> Path:
    """Write one file, by default in the format of its suffix, and return its path; folders are made as needed.

    Logs a warning when an integer format would clip and the audio is scaled to fit; `write_all` reports the gain.
    Raises AudioFileError where format, subtype, bitrate or rate do not go together, or the disk is full.
    """
    report = write_all({Path(path): audio}, format=format, subtype=subtype, bitrate_kbps=bitrate_kbps)
    if report.gain != 1.0:
        log.warning("%s: scaled by %.4f so that nothing clips.", path, report.gain)
    return report.paths[0]


def write_all(
    files: Mapping[Path, Audio],
    *,
    format: str | None = None,
    subtype: str | None = None,
    bitrate_kbps: int | None = None,
    headroom_db: float = 0.0,
    tags: Tags | None = None,
) -> WriteReport:
    """Write all files or none, with the one gain that the headroom asks for, or that keeps integer files from clipping.

    All files are complete before the first takes its final name. Float and lossy formats hold values
    beyond full scale, so their gain is 1. `tags` go into each of the files. Raises AudioFileError as `write` does.
    """
    with ExitStack() as stack:
        pairs: list[tuple[PartialFile, Audio]] = []
        for path, audio in files.items():
            known = find_format(path, format)
            encoding = Encoding(known.name, checked_subtype(known, subtype), bitrate_kbps, headroom_db)
            partial = PartialFile(path, audio.sample_rate_hz, audio.n_channels, encoding, audio.n_samples, tags)
            pairs.append((stack.enter_context(partial), audio))
        gain = min(partial.encoding.gain(peak_of(audio.samples)) for partial, audio in pairs)
        for partial, audio in pairs:
            partial.write(audio.samples, gain)
        return WriteReport(commit_all([partial for partial, _ in pairs]), gain)


def commit_all(partials: Sequence[PartialFile]) -> tuple[Path, ...]:
    """Put all files in their final places and return those; where one of them fails, all is as it was before.

    What they replace keeps a second, hidden name until the last one is in its place. So, where the file
    system knows links, no name is ever without a file, however the process ends.
    """
    for partial in partials:
        partial.finish()
    if len(partials) == 1:  # one step by itself
        return (partials[0].commit(),)
    formers = [partial.path.with_name(f".{uuid.uuid4().hex}.old") for partial in partials]
    with ExitStack() as undoing:
        for partial, former in zip(partials, formers, strict=True):
            undoing.callback(partial.undo_commit, former)
            with file_errors(partial.path):
                _keep(partial.path, former)
            partial.commit()
        undoing.pop_all()
    for former in formers:
        with suppress(OSError):  # the results are in place; a hidden file that stays does no harm
            former.unlink(missing_ok=True)
    return tuple(partial.path for partial in partials)


class FileSet(AbstractContextManager["FileSet"]):
    """The files of one separation, of `n_samples` each. Use as a context manager: what is not committed disappears.

    One gain keeps all of them from clipping, and it is known only at the end. So integer formats are spooled
    as float, beside the targets, in files without a name, which the system removes however the process ends.
    Raises DiskSpaceError, before anything is written, where there is not enough room.
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
        self._shape = (sample_rate_hz, n_channels, n_samples)
        self._encoding, self._tags = encoding, tags
        self._partials: dict[str, PartialFile] = {}
        self._spools: dict[str, _Spool] = {}
        self.peaks = dict.fromkeys(paths, 0.0)  # of what was written so far
        is_spooled = encoding.subtype in INTEGER_BITS
        # The most that lies on the disk at a time: a spool goes once its file is complete.
        n_file_bytes = encoding.n_bytes(*self._shape)
        n_spool_bytes = len(paths) * n_samples * n_channels * _SPOOL_BYTES
        folder = next(iter(paths.values())).parent
        with file_errors(folder):
            _check_space(folder, n_spool_bytes + n_file_bytes if is_spooled else len(paths) * n_file_bytes)
        with ExitStack() as opening:
            for name, path in paths.items():
                if is_spooled:
                    self._spools[name] = _Spool(path, n_channels)
                    opening.callback(self._spools[name].close)
                else:
                    self._partials[name] = opening.enter_context(self._partial(path))
            self._stack = opening.pop_all()

    def write(self, blocks: Mapping[str, Samples]) -> None:
        """Append to each file its block `[channels, samples]`."""
        for name, file in (self._spools or self._partials).items():
            file.write(blocks[name])
            self.peaks[name] = max(self.peaks[name], peak_of(blocks[name]))

    def leave_out(self, name: str) -> None:
        """Drop one of the files."""
        del self.peaks[name]
        if (spool := self._spools.pop(name, None)) is not None:
            spool.close()
        self._partials.pop(name, None)

    def commit(self, between_blocks: Callable[[], None] = lambda: None) -> WriteReport:
        """Complete all files and put them in their places, unless `between_blocks`, called while copying, raises."""
        gain = self._encoding.gain(max(self.peaks.values()))
        for name, spool in self._spools.items():
            partial = self._stack.enter_context(self._partial(spool.path))
            for samples in spool.blocks():
                between_blocks()
                partial.write(samples, gain)
            spool.close()
            self._partials[name] = partial
        return WriteReport(commit_all(list(self._partials.values())), gain)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _partial(self, path: Path) -> PartialFile:
        rate_hz, n_channels, n_samples = self._shape
        return PartialFile(path, rate_hz, n_channels, self._encoding, n_samples, self._tags)


class _Spool:
    """The samples of a future file as float, in a file without a name on the disk of `path`."""

    def __init__(self, path: Path, n_channels: int) -> None:
        self.path, self._n_channels = path, n_channels
        with file_errors(path):
            self._remove_folders = make_folder(path.parent)
            self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def write(self, samples: Samples) -> None:
        with file_errors(self.path):
            self._file.write(np.ascontiguousarray(samples.T).tobytes())

    def blocks(self) -> Iterator[Samples]:
        """Yield what was written, from the start."""
        with file_errors(self.path):
            self._file.seek(0)
            while data := self._file.read(_COPY_VALUES * _SPOOL_BYTES * self._n_channels):
                yield np.frombuffer(data, dtype=np.float32).reshape(-1, self._n_channels).T

    def close(self) -> None:
        with suppress(OSError):  # what is left to be flushed is of no use any more
            self._file.close()
        self._remove_folders()


def make_folder(folder: Path) -> Callable[[], None]:
    """Make a folder, and those above it; return what removes those that were not there, as far as they are empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)

    def remove() -> None:
        with suppress(OSError):  # the first that holds a file is where it ends
            for path in new:
                path.rmdir()

    return remove


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the system or libsndfile refuses about `path` into an AudioFileError, for a block of code."""
    try:
        yield
    except AudioFileError:
        raise
    except (OSError, soundfile.SoundFileError, AssertionError, ValueError) as error:
        # soundfile asserts on a full disk, and a NUL in a name is a ValueError
        raise AudioFileError(
            f"Cannot write '{path}' ({error or 'the disk may be full'}). Check the folder's permissions and free space."
        ) from error


def name_for_libsndfile(path: Path) -> str | bytes:
    """Return the name under which soundfile opens `path`: bytes where names of files need not be UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def peak_of(samples: Samples) -> float:
    """Return the largest magnitude of the samples."""
    return max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))


def _is_whole(path: Path, format: str, n_samples: int) -> bool:
    """Tell whether a file of `n_samples` is all there: libsndfile is silent about what fails while it closes a file.

    Lossy files may end with up to a second of padding. Only the end is decoded, but not of an mp3 that says
    how many bytes it has: mpg123 complains on stderr when it starts in the middle.
    """
    n_bytes = _claimed_mp3_bytes(path) if format == "mp3" else None
    if n_bytes is not None and path.stat().st_size < n_bytes:
        return False
    try:
        with soundfile.SoundFile(name_for_libsndfile(path)) as sound:
            n_padding = sound.frames - n_samples
            if not 0 <= n_padding <= (sound.samplerate if lossy(format) else 0):
                return False
            n_tail = min(sound.frames, _TAIL_SAMPLES)
            return n_bytes is not None or (
                sound.seek(-n_tail, soundfile.SEEK_END) >= 0 and len(sound.read(n_tail)) == n_tail
            )
    except soundfile.SoundFileError:
        return False


def _claimed_mp3_bytes(path: Path) -> int | None:
    """Return the bytes that an mp3 and the ID3 tag before it say they have; None where the encoder left that out.

    The first frame is silent, and holds their number in a "Xing" or "Info" header.
    """
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3":  # seven bits a byte
            start = 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
        file.seek(start)
        frame = file.read(64)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        return None
    return start + int.from_bytes(frame[at + 12 : at + 16], "big")


def _keep(path: Path, former: Path) -> None:
    """Give the file at `path`, if there is one, the name `former` too, or instead where links are not known."""
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
        return
    try:
        os.link(path, former, follow_symlinks=not path.is_symlink())
    except (OSError, NotImplementedError):
        os.replace(path, former)


def _check_space(folder: Path, needed_bytes: int) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        needed, free = (f"{-(-n_bytes // 10**6):,} MB" for n_bytes in (needed_bytes, free_bytes))
        raise DiskSpaceError(
            f"Writing to '{folder}' needs {needed}, and {free} are free. "
            "Make room, choose another folder, or ask for fewer results."
        )
