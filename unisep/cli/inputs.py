"""Which files a batch takes in, and which files it writes for each of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisep.errors import AudioFileError, OptionError
from unisep.formats import READ_SUFFIXES
from unisep.naming import Template


@dataclass(frozen=True)
class Nothing:
    """An input that stands for no file: what was asked, and why there is nothing."""

    asked: str
    error: AudioFileError


def expand(asked: Sequence[str], *, recursive: bool, skip: Callable[[Path], bool]) -> list[Path | Nothing]:
    """The audio files that `asked` (files, folders, patterns) stands for, each once, in order.

    A folder gives its audio files, without those that `skip` knows as results of an earlier run. What
    stands for nothing keeps its place as a `Nothing`, so that the others are still done.
    """
    found: dict[str, Path | Nothing] = {}
    for text in asked:
        try:
            for path in _standing_for(text, recursive, skip):
                found.setdefault(os.path.abspath(path), path)
        except OSError as error:
            found[text] = Nothing(
                text, AudioFileError(f"'{text}' cannot be looked at ({error.strerror or error}).")
            )
        except AudioFileError as error:
            found[text] = Nothing(text, error)
    return list(found.values())


def _standing_for(text: str, recursive: bool, skip: Callable[[Path], bool]) -> Sequence[Path]:
    """Raises AudioFileError where that is no file."""
    path = Path(text)
    if path.is_dir():
        every = list(_audio_files(path, recursive))
        found = [file for file in every if not skip(file)]
        if every and not found:
            raise AudioFileError(f"All {len(every)} audio files in '{path}' are results of an earlier run.")
        if not found:
            raise _nothing_in(path, recursive)
        return found
    if glob.has_magic(text) and not path.exists():
        found = [Path(match) for match in sorted(glob.glob(text, recursive=recursive))]
        found = [match for match in found if match.is_file()]
        if not found:
            raise AudioFileError(f"No file matches the pattern '{text}'.")
        return found
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
