"""A plugin to start from, written as a whole distribution: hooks, a model that works, tests that pass."""

from __future__ import annotations

import keyword
import re
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from string import Template

from unisep.errors import OptionError

VARIANTS = ("backend", "encoder")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Written:
    """The folder of the new distribution, and the files in it, in order."""

    folder: Path
    files: tuple[Path, ...]


def write_plugin(name: str, folder: Path, variant: str = "backend") -> Written:
    """The new distribution `folder`/unisep-`name`, complete or not there at all.

    name: with or without "unisep-" before it. variant: "backend" or "encoder".

    Raises:
        OptionError: a name that cannot be one, an unknown variant, or a folder that is there already.
    """
    short = name.removeprefix("unisep-")
    if not _NAME.fullmatch(short) or len(short) > 50:
        raise OptionError(
            f"{name!r} cannot be the name of a plugin: lower-case letters, digits and single '-' between them, "
            "beginning with a letter, such as 'my-model'."
        )
    if variant not in VARIANTS:
        raise OptionError(f"kind={variant!r} is unknown. Possible: {', '.join(VARIANTS)}.")
    place = folder / f"unisep-{short}"
    if place.exists() or place.is_symlink():
        raise OptionError(f"{place} is there already, and is left as it is. Choose another name or --folder.")
    texts = rendered(short, variant)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unisep-") as scratch:
            whole = Path(scratch) / place.name
            for path, text in texts.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8", newline="\n")
            whole.rename(place)
    except OSError as error:
        raise OptionError(f"{place} cannot be written ({error}). Choose another --folder.") from error
    return Written(place, tuple(place / path for path in texts))


def rendered(short: str, variant: str) -> dict[PurePosixPath, str]:
    """The files of the distribution unisep-`short`, by their place in it."""
    templates = sorted(_templates(files(__name__) / variant, PurePosixPath()))
    texts = {place: template.read_text(encoding="utf-8") for place, template in templates}
    words = "".join(part.capitalize() for part in short.split("-"))
    is_taken = keyword.iskeyword(words) or any(re.search(rf"\b{words}\b", text) for text in texts.values())
    words += "Model" if is_taken else ""  # what the templates import keeps its name
    names = {"name": short, "package": f"unisep_{short.replace('-', '_')}", "Class": words}
    found = {}
    for place, text in texts.items():
        path = (
            str(place)
            .removesuffix(".txt")
            .replace("package/", f"{names['package']}/")
            .replace("test_name", f"test_{short.replace('-', '_')}")
        )
        found[PurePosixPath(path)] = Template(text).substitute(names)
    return found


def _templates(folder: Traversable, inside: PurePosixPath) -> list[tuple[PurePosixPath, Traversable]]:
    found: list[tuple[PurePosixPath, Traversable]] = []
    for entry in folder.iterdir():
        place = inside / entry.name
        found += (
            _templates(entry, place)
            if entry.is_dir()
            else [(place, entry)]
            if entry.name.endswith(".txt")
            else []
        )
    return found
