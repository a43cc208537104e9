"""Which files a batch takes in, and which files it writes for each of them."""

from __future__ import annotations

import glob
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unisep.errors import AudioFileError, OptionError
from unisep.names import safe_name, safe_names

FIELDS = ("track", "trackext", "folder", "stem", "ext")
AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".caf",
        ".w64",
        ".m4a",
        ".aac",
        ".wma",
        ".mp4",
        ".ape",
        ".wv",
        ".au",
        ".webm",
    ]
)


def expand(
    asked: Sequence[str], *, recursive: bool, skip: Callable[[Path], bool]
) -> list[Path | AudioFileError]:
    """The audio files that `asked` (files, folders, patterns) stands for, each once, in order.

    A folder gives its audio files, without those that `skip` knows as results of an earlier run. What
    stands for nothing becomes an AudioFileError in its place, so that the others are still done.
    """
    found: dict[Path | AudioFileError, None] = {}
    for text in asked:
        try:
            found |= dict.fromkeys(_standing_for(text, recursive, skip))
        except OSError as error:
            found[AudioFileError(f"'{text}' cannot be looked at ({error.strerror or error}).")] = None
    return list(found)


def _standing_for(
    text: str, recursive: bool, skip: Callable[[Path], bool]
) -> Sequence[Path | AudioFileError]:
    path = Path(text)
    if path.is_dir():
        return [file for file in _audio_files(path, recursive) if not skip(file)] or [
            _nothing_in(path, recursive)
        ]
    if glob.has_magic(text) and not path.exists():
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=recursive))]
        return [match for match in matches if match.is_file()] or [_no_match(text)]
    return [path]


def _audio_files(folder: Path, recursive: bool) -> Iterable[Path]:
    files = sorted(folder.rglob("*") if recursive else folder.glob("*"))
    return (
        file
        for file in files
        if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _nothing_in(folder: Path, recursive: bool) -> AudioFileError:
    advice = "" if recursive else " With --recursive, folders inside it are searched too."
    return AudioFileError(f"There is no audio file in the folder '{folder}'.{advice}")


def _no_match(pattern: str) -> AudioFileError:
    return AudioFileError(f"No file matches the pattern '{pattern}'.")


@dataclass(frozen=True)
class Template:
    """Where results go in the output folder: a pattern with {track}, {trackext}, {folder}, {stem}, {ext}.

    track: the input's name without suffix; trackext: its suffix without dot; folder: the name of the
    folder it is in; stem: the name of the result; ext: the suffix of the format that is written.

    >>> Template("{stem}/{track}.{ext}").place(Path("in/song.mp3"), ["lead vocal"], "flac")
    {'lead vocal': PosixPath('lead vocal/song.flac')}

    Raises:
        OptionError: an unknown field, no {stem}, or a pattern that leaves the output folder.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            used = {name for _, name, spec, how in string.Formatter().parse(self.pattern) if name is not None}
            plain = not re.search(r"[!:\[]", "".join(re.findall(r"{([^{}]*)}", self.pattern)))
        except ValueError as error:
            raise OptionError(f"--filename {self.pattern!r} is no template: {error}.") from error
        unknown = sorted(used - set(FIELDS))
        if unknown or not plain:
            what = f"has no field {unknown[0]!r}" if unknown else "has a field with a format"
            raise OptionError(f"--filename {self.pattern!r} {what}. Fields: {', '.join(FIELDS)}.")
        if "stem" not in used:
            raise OptionError(
                f"--filename {self.pattern!r} would give every result one name. Put {{stem}} in it."
            )
        path = PurePosixPath(self.pattern.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise OptionError(
                f"--filename {self.pattern!r} leaves the output folder. Choose that with --out."
            )

    def place(self, source: Path, stems: Sequence[str], ext: str) -> dict[str, Path]:
        """The path of each result, in the output folder."""
        fields = {
            "track": safe_name(source.stem),
            "trackext": safe_name(source.suffix.removeprefix(".")),
            "folder": safe_name(source.resolve().parent.name),
            "ext": ext,
        }
        files = safe_names(stems)
        return {
            stem: Path(self.pattern.format(**fields, stem=file))
            for stem, file in zip(stems, files, strict=True)
        }


def check_distinct(sources: Iterable[Path], template: Template) -> None:
    """Nothing. Raises OptionError when two inputs would be written to the same files."""
    taken: dict[str, Path] = {}
    for source in sources:
        place = str(template.place(source, ["stem"], "ext")["stem"]).casefold()
        if place in taken:
            raise OptionError(
                f"The results of '{taken[place]}' and '{source}' would have the same names. Tell them apart with "
                "--filename '{folder}/{track}/{stem}.{ext}' or '{track}.{trackext}/{stem}.{ext}'."
            )
        taken[place] = source
