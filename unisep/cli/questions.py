"""What is asked on the command line, made into queries; `unisep embed` keeps one as a vector."""

from __future__ import annotations

import tomllib
import warnings
from argparse import Namespace
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from unisep.cli.console import Console
from unisep.errors import EmbeddingError, OptionError, QueryError, arguments_named_by
from unisep.query.parsed import ParsedQuery, is_file, parse_queries
from unisep.query.query import Embedding, Query
from unisep.weights.hashes import sha256_of

_FLAGS = {"exclude": "--exclude", "time_range": "--time-range", "weights": "--mix"}
_UNDECIDING = {  # arguments that change nothing in a result
    "command", "debug", "inputs", "json", "offline", "out", "quiet", "recursive", "resume", "strict_plugins",
    "query", "query_audio", "embedding", "mix", "exclude", "exclude_audio", "time_range", "example_range",  # as queries
}  # fmt: skip


def questions(arguments: Namespace) -> tuple[ParsedQuery, ...] | None:
    """Parse one query for each thing asked, examples read and checked; None when the fixed stems are wanted."""
    parts, exclude = _parts(arguments), [*arguments.exclude, *arguments.exclude_audio]
    values = {"exclude": exclude and [exclude], "time_range": arguments.time_range, "weights": arguments.mix}
    modifiers = ", ".join(_FLAGS[key] for key, value in values.items() if value)
    if arguments.queries is not None:
        if parts or modifiers:
            raise OptionError("--queries FILE says all that is asked; leave out the other questions and their options.")
        queries = _from_tables(arguments.queries)
    elif modifiers and not parts:
        raise OptionError(f"{modifiers} needs something to isolate: add -q TEXT, --query-audio or --embedding.")
    else:
        columns = [_one_for_each(values[key], len(parts), flag) for key, flag in _FLAGS.items()]
        rows = zip(parts, *columns, strict=True)
        queries = [Query(**part, **dict(zip(_FLAGS, row, strict=True))) for part, *row in rows]
    if queries and arguments.stems:
        raise OptionError("--stems and --two-stems choose among the fixed stems; leave them out with a question.")
    return parse_queries(queries) if queries else None  # once for all recordings


def deciding_options(arguments: Namespace, parsed_queries: Sequence[ParsedQuery] | None) -> dict[str, Any]:
    """Return what decides the result, as plain values: what `--resume` compares. Files count by their content."""
    options = {key: value for key, value in sorted(vars(arguments).items()) if key not in _UNDECIDING}
    return _plain({**options, "queries": [(parsed.name, vars(parsed.query)) for parsed in parsed_queries or ()]})  # type: ignore[no-any-return]


def embed(arguments: Namespace, console: Console) -> int:
    """Write the vector of a question with its space and where it came from, print the path, and return 0."""
    if not arguments.text and arguments.audio is None:
        raise OptionError("Nothing to embed. Give a text, --audio FILE, or both.")
    _check_out(arguments.out, [] if arguments.audio is None else [arguments.audio])
    text = tuple(arguments.text) or None
    query = Query(text=text, audio=arguments.audio, weights=arguments.mix, example_range=arguments.example_range)
    from unisep.separator import Separator

    return _save(Separator(**_options(arguments)).embed(query), arguments.out, console)


def learn(arguments: Namespace, console: Console) -> int:
    """Write the vector that was learnt from clips, say how much it gains, print the path, and return 0."""
    _check_out(arguments.out, [*arguments.clips, *arguments.others])
    from unisep.separator import Separator

    separator, progress = Separator(**_options(arguments), seed=arguments.seed), console.progress(arguments.out.name)
    learnt = separator.learn(arguments.clips, arguments.others, name=arguments.out.stem, on_progress=progress)
    console.note(f"unisep: {learnt.provenance['learnt']}")
    return _save(learnt, arguments.out, console)


def _options(arguments: Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("query_backend", "encoder", "licences", "device", "offline")}


def _check_out(out: Path, clips: Sequence[Path]) -> None:
    """Raise OptionError where the file to write is one of the clips."""
    if out.exists() and any(clip.exists() and out.samefile(clip) for clip in clips):
        raise OptionError(f"-o {out} would replace the clip itself. Choose another place.")


def _save(embedding: Embedding, out: Path, console: Console) -> int:
    """Write the vector with its space and where it came from, print the path, and return 0."""
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
    for _, text in arguments.query:
        if is_file(text):
            warnings.warn(f"-q {text} is taken as text; for an example clip write --query-audio {text}.", stacklevel=3)
    texts: list[dict[str, Any]] = [{"name": name, "text": text} for name, text in arguments.query]
    clips: list[dict[str, Any]] = [{"name": name, "audio": path} for name, path in arguments.query_audio]
    vectors = [{"name": name, "embedding": Embedding.load(path)} for name, path in arguments.embedding]
    clips = clips or [{} for _ in arguments.example_range]  # parts of the recording itself
    ranges = _one_for_each(arguments.example_range, len(clips), "--example-range")
    clips = [{**clip, "example_range": span} for clip, span in zip(clips, ranges, strict=True)]
    kinds = [kind for kind in (texts, clips, vectors) if kind]
    if len(kinds) < 2:
        return kinds[0] if kinds else []
    if any(len(kind) > 1 for kind in kinds):
        raise OptionError(
            "Several questions in one call are all texts, all clips or all vectors; "
            "one text, one clip and one vector together are one question."
        )
    return [{key: value for (part,) in kinds for key, value in part.items() if value is not None}]


def _one_for_each(values: Sequence[Any], n_questions: int, flag: str) -> Sequence[Any]:
    """Return a value for each question: the one for all, None without any, or as they are."""
    if len(values) > 1 and len(values) != n_questions:
        raise OptionError(
            f"{flag} is there {len(values)} times, for {n_questions} questions: give it once, or for each."
        )
    return values if len(values) > 1 else [*values, None][:1] * n_questions


def _from_tables(path: Path) -> list[Query]:
    """Return the question of each table of a TOML file; paths in it start at its folder."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"--queries {path} cannot be read as TOML: {error}") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise OptionError(f'--queries {path} is not made of tables; write [lead] and, below, text = "guitar"')
    queries = []
    for name, table in tables.items():
        try:
            with arguments_named_by(None):  # its keys are those of Python
                queries.append(Query(**{"name": name, **_opened(table, path.parent)}))
        except QueryError as error:
            raise type(error)(f"{path}, [{name}]: {error}") from error
    return queries


def _opened(value: Any, folder: Path, key: str = "") -> Any:
    """Return a value of a table with a path, or a vector, in place of the name of its file."""
    if isinstance(value, dict):
        return {key: _opened(item, folder, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_opened(item, folder) for item in value]
    if not isinstance(value, str) or key not in ("audio", "embedding"):
        return value
    return folder / value if key == "audio" else Embedding.load(folder / value)


def _plain(value: Any) -> Any:
    if isinstance(value, Embedding):
        return [value.space, sha256(value.vector.tobytes()).hexdigest()]
    if isinstance(value, Path):
        return sha256_of(value) if value.is_file() else str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
