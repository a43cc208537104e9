"""Names and places of results: safe file names, templates, what must not be replaced, small files written whole."""

from __future__ import annotations

import os
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from unisep.errors import OptionError, OverwriteError, arg

MAX_NAME_BYTES = 150
FIELDS = ("track", "trackext", "folder", "stem", "ext")
DEFAULT_TEMPLATE = "{track}/{stem}.{ext}"
Protect = Callable[[Iterable[Path]], None]
_FileId = tuple[int, ...]  # device and number of a file; empty where there is none
_FORBIDDEN = set('<>:"/\\|?*')
_PORTS = {port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"}
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | _PORTS
_protected: ContextVar[Mapping[_FileId, str]] = ContextVar("protected", default=MappingProxyType({}))


def safe_name(name: str) -> str:
    """Return a file name, without suffix, for `name`: one part of a path that cannot leave its folder.

    Letters of all scripts stay. Separators and characters that Windows forbids become `_`; control
    and formatting characters, dots and spaces at the ends go; names of devices get a `_` in front.

    >>> safe_name("../../etc/passwd"), safe_name("Gitarre: laut"), safe_name("nul.wav"), safe_name("")
    ('_.._etc_passwd', 'Gitarre_ laut', '_nul.wav', 'unnamed')
    """
    kept = "".join(
        "_" if letter in _FORBIDDEN or unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in unicodedata.normalize("NFC", name)
        if unicodedata.category(letter) not in ("Cf", "Cs", "Co", "Cn")
    )
    short = kept.strip(". ").encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(". ")
    if short.split(".")[0].strip().upper() in _RESERVED:
        return f"_{short}"
    return short or "unnamed"


def safe_names(names: Iterable[str]) -> list[str]:
    """Return a safe file name for each name, all different even where case does not count.

    >>> safe_names(["Lead", "lead", "a/b", "a:b"])
    ['Lead', 'lead-2', 'a_b', 'a_b-2']
    """
    taken: dict[str, str] = {}  # by what counts where case does not
    for name in names:
        plain = candidate = safe_name(name)
        n_tries = 1
        while candidate.casefold() in taken:
            n_tries += 1
            candidate = f"{plain}-{n_tries}"
        taken[candidate.casefold()] = candidate
    return list(taken.values())


def is_there(path: Path) -> bool:
    """Tell whether there is a file or folder; a path that is too long or too strange to exist is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, or to where it links to, and return `path`. The old file stays until all is on the disk.

    Raises OSError, also where `path` is something that is no file, and ValueError where it is no name of a file.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise OSError(f"{path} is there, and no file")
    partial = place.with_name(f".{os.urandom(16).hex()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
    finally:
        with suppress(OSError):
            partial.unlink()  # what failed left it; otherwise it is gone
    return path


@dataclass(frozen=True)
class Template:
    """Where results go in the output folder.

    The pattern is a path with {track} (the input's name without suffix), {trackext} (its suffix without dot), {folder}
    (the name of its folder), {stem} (the name of the result, needed) and {ext} (the suffix of the format written).

    >>> Template("{stem}/{track}.{ext}").place(Path("in/song.mp3"), ["lead vocal"], "flac")
    {'lead vocal': PosixPath('lead vocal/song.flac')}
    """

    pattern: str

    def __post_init__(self) -> None:
        written = arg("filename", self.pattern)
        if not isinstance(self.pattern, str) or "\0" in self.pattern:
            raise OptionError(f"{written} is no template such as {DEFAULT_TEMPLATE!r}.")
        try:
            fields = [field for field in string.Formatter().parse(self.pattern) if field[1] is not None]
        except ValueError as error:
            raise OptionError(f"{written} is no template: {error}.") from error
        for _, name, format_spec, conversion in fields:
            if name not in FIELDS or format_spec or conversion:
                raise OptionError(f"{written}: {name!r} is no field, or has a format. Use {', '.join(FIELDS)}.")
        if "stem" not in (name for _, name, _, _ in fields):
            raise OptionError(f"{written} would give every result one name. Put {{stem}} in it.")
        path = PurePosixPath(self.pattern.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise OptionError(f"{written} leaves the output folder, which is chosen with {arg('folder')}.")

    def place(self, source: Path, stems: Sequence[str], ext: str) -> dict[str, Path]:
        """Return the path of each result, in the output folder."""
        fields = {
            "track": safe_name(source.stem),
            "trackext": safe_name(source.suffix.removeprefix(".")),
            "folder": safe_name(Path(os.path.realpath(source)).parent.name),
            "ext": ext,
        }
        names = zip(stems, safe_names(stems), strict=True)
        return {stem: Path(self.pattern.format(**fields, stem=name)) for stem, name in names}

    def paths(self, folder: Path, source: Path, stems: Sequence[str], ext: str) -> dict[str, Path]:
        """Return the whole path of each result. Raises OverwriteError as `check_recordings_stay` does."""
        if "\0" in str(folder):
            raise OptionError(f"{str(folder)!r:.200} is the name of no folder.")
        paths = {stem: folder / place for stem, place in self.place(source, stems, ext).items()}
        check_recordings_stay(paths, source)
        return paths


def file_on_the_way(folder: Path) -> Path | None:
    """Return the file that stands where `folder` or one of those above it is to be, or None."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return None if there is None or there.is_dir() else there


def check_recordings_stay(paths: Mapping[str, Path], source: Path) -> None:
    """Raise OverwriteError where a result would replace `source`, or a file that is protected.

    Files count, not names: one file may have several, and "Vocals.wav" may also be "vocals.wav".
    """
    kept = {**_protected.get(), **_labels([source], "the recording '{}' itself")}
    for stem, path in paths.items():
        if (label := kept.get(_file_id(path))) is not None:
            raise OverwriteError(f"'{stem}' would replace {label}. Choose another folder, or another filename.")


@contextmanager
def protected(recordings: Iterable[Path]) -> Iterator[Protect]:
    """Keep results, in this thread, from replacing any of `recordings`: all the inputs of a batch.

    Yields a function that protects results as well, those of the inputs before.
    """
    kept = {**_protected.get(), **_labels(recordings, "the recording '{}'")}
    token = _protected.set(kept)
    try:
        yield lambda results: kept.update(_labels(results, "'{}', the result of another input"))
    finally:
        _protected.reset(token)


def _labels(paths: Iterable[Path], label: str) -> dict[_FileId, str]:
    return {file_id: label.format(path) for path in paths if (file_id := _file_id(path))}


def _file_id(path: Path) -> _FileId:
    """Return what tells the file at `path` from all others, as `os.path.samefile` does."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino
