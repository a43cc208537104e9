"""Parse whatever the caller passes as `query` into named queries with their examples read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisep.audio import Audio, span_samples
from unisep.errors import QueryError
from unisep.files.paths import safe_name
from unisep.files.reading import Opened, open_audio
from unisep.plugins.specs import is_reserved
from unisep.query.query import Embedding, Query, Range


@dataclass(frozen=True, eq=False)
class ParsedQuery:
    """One thing to isolate: the query, its final name, and its examples opened.

    excluded_texts, excluded_clips, excluded_embeddings: `query.exclude`, by kind.
    """

    name: str
    query: Query
    clip: Opened | None = None
    excluded_texts: tuple[str, ...] = ()
    excluded_clips: tuple[Opened, ...] = ()
    excluded_embeddings: tuple[Embedding, ...] = ()

    @property
    def modalities(self) -> frozenset[str]:
        """What an encoder must be able to encode for this: of "text" and "audio"."""
        kinds = set(self.query.parts) - {"embedding"}
        kinds |= {"text"} if self.excluded_texts else set()
        kinds |= {"audio"} if self.excluded_clips else set()
        return frozenset(kinds)

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """Vectors given with the query, the excluded ones too."""
        own = () if self.query.embedding is None else (self.query.embedding,)
        return own + self.excluded_embeddings

    @property
    def plain_text(self) -> str | None:
        """The one text, when the query is that and nothing more (but for a time range); else None."""
        texts = self.query.texts
        plain = self.query.parts == {"text"} and len(texts) == 1 and not self.query.exclude
        return texts[0] if plain else None

    @property
    def time_range(self) -> Range | None:
        """Where in the mixture the target is wanted, in seconds."""
        return self.query.time_range


def parse_queries(query: Any, sample_rate_hz: int | None = None) -> tuple[ParsedQuery, ...]:
    """The asks in `query`: a str, audio-like, `Embedding`, `Query`, dict, or a list of any of these.

    A str is always text, a Path is audio. A bare example array has `sample_rate_hz`.

    Raises:
        QueryError: not a query, an empty list, a reserved name or the same name twice.
        AudioError: an example that cannot be read.
    """
    items = list(query) if isinstance(query, list | tuple) else [query]
    if not items:
        raise QueryError("The list of queries is empty. Give at least one, or query=None for the fixed stems.")
    queries = [_as_query(item) for item in items]
    names = _names(queries)
    return tuple(_opened(name, query, sample_rate_hz) for name, query in zip(names, queries, strict=True))


def doubtful_texts(query: Any) -> list[str]:
    """What to warn of: bare texts, asked for or excluded, that are also the names of files."""
    return [
        f"The query {text!r} is taken as text, though a file of that name exists. "
        f"For an example clip pass Path({text!r})."
        for item in (query if isinstance(query, list | tuple) else [query])
        for text in ([item] if isinstance(item, str) else _excluded(item))
        if isinstance(text, str) and is_file(text)
    ]


def _excluded(item: Any) -> Sequence[Any]:
    """What a query, or a dict of its fields, leaves out, as it was given."""
    given = item.get("exclude") if isinstance(item, Mapping) else getattr(item, "exclude", None)
    return given if isinstance(given, list | tuple) else [given]


def is_file(text: str) -> bool:
    """Whether there is a file of this name; no text is too long or too strange to ask."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _as_query(item: Any) -> Query:
    if isinstance(item, Query):
        return item
    if isinstance(item, str):
        return Query(text=item)
    if isinstance(item, Embedding):
        return Query(embedding=item)
    if isinstance(item, Mapping):
        return Query(**{str(key): value for key, value in item.items()})
    if item is None or isinstance(item, bool | int | float | complex):
        raise QueryError(
            f"{item!r} is no query. Give a text, an example (Path, Audio or array), an Embedding, a Query "
            "or a dict of its fields. An example held as a list of numbers goes through numpy.asarray first."
        )
    return Query(audio=item)


def _names(queries: list[Query]) -> list[str]:
    names: list[str] = []
    counts = {"example": 0, "embedding": 0}
    for query in queries:
        name = query.name or next(iter(query.texts), None)
        if name is None:
            kind = "example" if "audio" in query.parts else "embedding"
            counts[kind] += 1
            name = f"{kind}-{counts[kind]}"
        _check_name(name, names)
        names.append(name)
    return names


def _check_name(name: str, taken: list[str]) -> None:
    advice = "Name it yourself: Query(text=..., name='lead')."
    if is_reserved(name) or is_reserved(safe_name(name)):
        raise QueryError(f"The name {name!r} is reserved for what unisep returns by itself. {advice}")
    if name in taken:
        raise QueryError(f"Two queries are named {name!r}; results are told apart by name. {advice}")


def _opened(name: str, query: Query, sample_rate_hz: int | None) -> ParsedQuery:
    def opened(source: Any) -> Opened:
        return source if isinstance(source, Opened) else open_audio(source, sample_rate_hz)

    texts = tuple(item.strip() for item in query.exclude if isinstance(item, str))
    vectors = tuple(item for item in query.exclude if isinstance(item, Embedding))
    clips = tuple(opened(item) for item in query.exclude if not isinstance(item, str | Embedding))
    clip = None if query.audio is None else opened(query.audio)
    return ParsedQuery(name, query, clip, texts, clips, vectors)


def example_of(parsed: ParsedQuery, excerpt: Callable[[Range], Audio], default_rate_hz: int) -> Audio:
    """The example clip of an ask that has one: its own audio cut to `example_range`, or that part of the mixture.

    Raises:
        QueryError: the range starts after the end of the audio it is cut from.
    """
    seconds = parsed.query.example_range
    if parsed.clip is None:
        assert seconds is not None, "an ask without a clip that is an example has a range of the mixture"
        return excerpt(seconds)
    clip = parsed.clip.at(default_rate_hz)
    if seconds is None:
        return clip
    first, last = span_samples(seconds, clip.sample_rate_hz, clip.n_samples, "example_range")
    return Audio(clip.samples[:, first:last], clip.sample_rate_hz)
