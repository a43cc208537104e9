"""`unisep embed`: a question as a portable vector."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from unisep.cli.console import Console
from unisep.errors import EmbeddingError, OptionError
from unisep.query import Query


def embed(arguments: Namespace, console: Console) -> int:
    """0; writes the vector, its space and where it came from, and prints the path."""
    query, out = _query(arguments), Path(arguments.out)
    if arguments.audio is not None and out.exists() and out.samefile(arguments.audio):
        raise OptionError(f"-o {out} would replace the clip itself. Choose another place.")
    from unisep.separator import Separator

    separator = Separator(
        query_backend=arguments.query_backend,
        encoder=arguments.encoder,
        device=arguments.device,
        offline=arguments.offline,
    )
    embedding = separator.embed(query)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"Cannot write {out} ({error}). Choose another place with -o.") from error
    embedding.save(out)
    console.data(
        {"path": str(out), "space": embedding.space, "dim": embedding.dim, "provenance": embedding.provenance}
    )
    console.lines([str(out)])
    console.note(f"unisep: {embedding.dim} numbers in the space {embedding.space}")
    return 0


def _query(arguments: Namespace) -> Query:
    if not arguments.text and arguments.audio is None:
        raise OptionError("Nothing to embed. Give a text, --audio FILE, or both.")
    return Query(
        text=tuple(arguments.text) or None,
        audio=arguments.audio,
        weights=arguments.mix,
        example_range=arguments.example_range,
    )
