"""Which files a batch takes in, and which files it writes for each of them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from unisep.errors import AudioFileError, OptionError
from unisep.formats import READ_SUFFIXES
from unisep.naming import Template


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
        if file.suffix.lower() in READ_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _nothing_in(folder: Path, recursive: bool) -> AudioFileError:
    advice = "" if recursive else " With --recursive, folders inside it are searched too."
    return AudioFileError(f"There is no audio file in the folder '{folder}'.{advice}")


def _no_match(pattern: str) -> AudioFileError:
    return AudioFileError(f"No file matches the pattern '{pattern}'.")


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
