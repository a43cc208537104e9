"""What is asked on the command line, made into queries; `unisep embed` keeps one as a vector."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from unisep.cli.console import Console
from unisep.errors import EmbeddingError, OptionError
from unisep.query.parsed import ParsedQuery, is_file, parse_queries
from unisep.query.query import Embedding, Query
from unisep.weights.hashes import sha256_of

_FLAGS = {"exclude": "--exclude", "time_range": "--time-range", "weights": "--mix"}
_UNDECIDING = {  # arguments that change nothing in a result
    "command", "debug", "inputs", "json", "offline", "out", "quiet", "recursive", "resume", "strict_plugins",
}  # fmt: skip


def questions(arguments: Namespace) -> tuple[ParsedQuery, ...] | None:
    """Parse one query for each thing asked, examples read and checked; None when the fixed stems are wanted."""
    parts = _parts(arguments)
    exclude = [*arguments.exclude, *arguments.exclude_audio] or None
    values = {"exclude": exclude, "time_range": arguments.time_range, "weights": arguments.mix}
    modifiers = {key: value for key, value in values.items() if value is not None}
    if parts and arguments.stems:
        raise OptionError("--stems and --two-stems choose among the fixed stems; leave them out with a question.")
    if modifiers and not parts:
        flags = ", ".join(_FLAGS[key] for key in modifiers)
        raise OptionError(f"{flags} needs something to isolate: add -q TEXT, --query-audio or --embedding.")
    if not parts:
        return None
    return parse_queries([Query(**part, **modifiers) for part in parts])  # once for all recordings


def deciding_options(arguments: Namespace) -> dict[str, Any]:
    """Return what decides the result, as plain values: what `--resume` compares. Files count by their content."""
    return {key: _plain(value) for key, value in sorted(vars(arguments).items()) if key not in _UNDECIDING}


def embed(arguments: Namespace, console: Console) -> int:
    """Write the vector of a question with its space and where it came from, print the path, and return 0."""
    if not arguments.text and arguments.audio is None:
        raise OptionError("Nothing to embed. Give a text, --audio FILE, or both.")
    out: Path = arguments.out
    if arguments.audio is not None and out.exists() and out.samefile(arguments.audio):
        raise OptionError(f"-o {out} would replace the clip itself. Choose another place.")
    text = tuple(arguments.text) or None
    query = Query(text=text, audio=arguments.audio, weights=arguments.mix, example_range=arguments.example_range)
    from unisep.separator import Separator

    options = {name: getattr(arguments, name) for name in ("query_backend", "encoder", "device", "offline")}
    embedding = Separator(**options).embed(query)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"Cannot write {out} ({error}). Choose another place with -o.") from error
    embedding.save(out)
    console.data({"path": str(out), "space": embedding.space, "dim": embedding.dim, "provenance": embedding.provenance})
    console.lines([str(out)])
    console.note(f"unisep: {embedding.dim} numbers in the space {embedding.space}")
    return 0


def _parts(arguments: Namespace) -> list[dict[str, Any]]:
    """Return the parts of each question: several of one kind are several questions, one of each is one."""
    for text in arguments.query:
        if is_file(text):
            warnings.warn(f"-q {text} is taken as text; for an example clip write --query-audio {text}.", stacklevel=3)
    example = {} if arguments.example_range is None else {"example_range": arguments.example_range}
    texts: list[dict[str, Any]] = [{"text": text} for text in arguments.query]
    clips: list[dict[str, Any]] = [{"audio": path, **example} for path in arguments.query_audio]
    vectors: list[dict[str, Any]] = [{"embedding": Embedding.load(path)} for path in arguments.embedding]
    if example and not clips:
        clips = [example]  # a part of the recording itself
    kinds = [kind for kind in (texts, clips, vectors) if kind]
    if len(kinds) < 2:
        return kinds[0] if kinds else []
    if any(len(kind) > 1 for kind in kinds):
        raise OptionError(
            "Several questions in one call are all texts, all clips or all vectors; "
            "one text, one clip and one vector together are one question."
        )
    return [{key: value for (part,) in kinds for key, value in part.items()}]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return sha256_of(value) if value.is_file() else str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
