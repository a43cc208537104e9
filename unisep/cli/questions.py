"""The questions of the command line, made into queries."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from unisep.errors import OptionError
from unisep.query.parsed import ParsedQuery, is_file, parse_queries
from unisep.query.query import Embedding, Query
from unisep.weights.hashes import sha256_of


def questions(arguments: Namespace) -> tuple[ParsedQuery, ...] | None:
    """Parse one query for each thing asked, examples read and checked; None when the fixed stems are wanted.

    Raises:
        OptionError, QueryError: arguments that do not go together.
        AudioFileError, EmbeddingError: an example or a vector that cannot be read.
    """
    parts = _parts(arguments)
    modifiers = {
        "exclude": [*arguments.exclude, *arguments.exclude_audio] or None,
        "time_range": arguments.time_range,
        "weights": arguments.mix,
    }
    given = {key: value for key, value in modifiers.items() if value is not None}
    if not parts:
        if given:
            flags = ", ".join(_FLAGS[key] for key in given)
            raise OptionError(f"{flags} needs something to isolate: add -q TEXT, --query-audio or --embedding.")
        return None
    if arguments.stems or arguments.two_stems:
        raise OptionError("--stems and --two-stems choose among the fixed stems; leave them out with a question.")
    return parse_queries([Query(**part, **given) for part in parts])  # once for all recordings


def asked(arguments: Namespace) -> dict[str, Any]:
    """What decides the result, as plain values: what `--resume` compares. Files count by their content."""
    ignored = {"inputs", "recursive", "out", "resume", "json", "quiet", "debug", "offline", "command", "strict_plugins"}
    return {key: _plain(value) for key, value in sorted(vars(arguments).items()) if key not in ignored}


_FLAGS = {"exclude": "--exclude", "time_range": "--time-range", "weights": "--mix"}


def _parts(arguments: Namespace) -> list[dict[str, Any]]:
    """The parts of each question: several of one kind are several questions, one of each is one."""
    for text in arguments.query:
        if is_file(text):
            warnings.warn(f"-q {text} is taken as text; for an example clip write --query-audio {text}.", stacklevel=3)
    texts: list[dict[str, Any]] = [{"text": text} for text in arguments.query]
    ranged = {} if arguments.example_range is None else {"example_range": arguments.example_range}
    clips: list[dict[str, Any]] = [{"audio": path, **ranged} for path in arguments.query_audio]
    clips = clips or ([ranged] if ranged else [])
    vectors: list[dict[str, Any]] = [{"embedding": Embedding.load(path)} for path in arguments.embedding]
    kinds = [kind for kind in (texts, clips, vectors) if kind]
    if len(kinds) > 1 and any(len(kind) > 1 for kind in kinds):
        raise OptionError(
            "Several questions in one call are all texts, all clips or all vectors; "
            "one text, one clip and one vector together are one question."
        )
    if len(kinds) <= 1:
        return kinds[0] if kinds else []
    return [{key: value for kind in kinds for key, value in kind[0].items()}]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        if value.is_file():
            return sha256_of(value)
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
