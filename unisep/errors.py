"""Every exception that unisep raises on purpose.

All of them are `UnisepError`, so one `except` catches what unisep refuses, and nothing else.
Messages say what was asked, what is possible, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class UnisepError(Exception):
    """Base of every error that unisep raises on purpose."""


class AudioError(UnisepError, ValueError):
    """Audio that cannot be used: empty, not finite, wrong shape, unsupported channels or rate."""


class AudioFileError(AudioError):
    """A file that is missing, is not audio, is damaged, or cannot be written in the asked format."""


class DiskSpaceError(AudioFileError):
    """Not enough room for the files that are to be written; the message says how much is needed."""


class DatasetError(UnisepError, ValueError):
    """Recordings to measure with that are missing, empty, or not laid out as they should be."""


class QueryError(UnisepError, ValueError):
    """A query that cannot be understood: unknown field, empty text, clashing names, a bad range."""


class EmbeddingError(QueryError):
    """A vector of the wrong size, of a space the backend does not know, or not finite."""


class PluginError(UnisepError, RuntimeError):
    """A plugin that is missing, broken, ambiguous, or made for another plugin API."""


class BackendError(UnisepError, RuntimeError):
    """A backend that failed or returned something other than its contract promises."""


class EncoderError(UnisepError, RuntimeError):
    """A query encoder that failed or returned something other than its contract promises."""


class WeightsError(UnisepError, RuntimeError):
    """Weights that are missing, damaged, refused as unsafe, or do not fit the model."""


class DownloadError(WeightsError):
    """Weights that could not be fetched: offline, not found, or the connection failed."""


class OptionError(UnisepError, ValueError):
    """An option whose value is out of range, or that the chosen backend cannot honour."""


class OverwriteError(OptionError):
    """A result that would take the place of a recording or of an example."""


class EnsembleError(OptionError):
    """An ensemble that cannot be read, or whose members are missing or do not fit together."""


class TargetError(UnisepError, KeyError):
    """A result that was asked for by a name that none has; a KeyError too, as mappings raise."""

    __str__ = Exception.__str__  # that of KeyError would put the sentence in quotes


class Cancelled(UnisepError):
    """The caller cancelled the work; no half-written file is left behind."""


# What code of plugins may end with: a plugin that exits must not end the host.
FAILURES = (Exception, SystemExit)


_flags: Mapping[str, str] | None = None  # how the command line calls arguments, while it is in use


@contextmanager
def arguments_named_by(flags: Mapping[str, str] | None) -> Iterator[None]:
    """Open a `with` block in which messages speak of options of the command line; with None, of Python again."""
    global _flags
    before, _flags = _flags, flags
    try:
        yield
    finally:
        _flags = before


def wording(in_python: str, by_flag: str) -> str:
    """Return what fits how the caller asks: in Python or on the command line."""
    return in_python if _flags is None else by_flag


def arg(name: str, *value: Any) -> str:
    """Write an argument, perhaps with its value, as the caller does.

    >>> arg("seed", 3), arg("seed")
    ('seed=3', 'seed=')
    """
    if _flags is None:
        return f"{name}={''.join(map(repr, value)):.300}"
    flag = _flags.get(name, f"--{name.replace('_', '-')}")
    parts = [item if isinstance(item, list | tuple) else [item] for item in value]  # names, or start and end
    return " ".join([flag, *(("-" if isinstance(part, tuple) else ",").join(map(str, part)) for part in parts)])


def reasons(error: ValidationError, whole: str = "it") -> str:
    """Tell on one line what pydantic refused: each field, or `whole`, and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or whole}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )


def suggest(name: object, known: Iterable[str]) -> str:
    """Write a sentence for an error message: the nearest known name, if any, and the list of all.

    >>> suggest("htdemuc", ["htdemucs", "htdemucs-film"])
    "Did you mean 'htdemucs'? Known: htdemucs, htdemucs-film."
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
