"""Parse whatever the caller passes as `query` into named queries with their examples read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from unisep.audio import Audio, span_samples
from unisep.errors import QueryError, wording
from unisep.files.paths import safe_name
from unisep.files.reading import Opened, open_audio
from unisep.plugins.specs import is_reserved
from unisep.query.query import Embedding, Query, QueryLike, Range

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ParsedQuery:
    """One thing to isolate: the query, the name of its result, and its examples opened; `query.exclude` by kind."""

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
        vectors = () if self.query.embedding is None else (self.query.embedding,)
        return vectors + self.excluded_embeddings

    @property
    def plain_text(self) -> str | None:
        """The one text, when the query is that and nothing more (but for a time range); else None."""
        texts = self.query.texts
        is_plain = self.query.parts == {"text"} and len(texts) == 1 and not self.query.exclude
        return texts[0] if is_plain else None

    @property
    def time_range(self) -> Range | None:
        """Where in the mixture the target is wanted, in seconds."""
        return self.query.time_range

    def example(self, excerpt: Callable[[Range], Audio]) -> Audio:
        """Return the example clip: the query's own audio cut to `example_range`, or that part of the mixture.

        Args:
            excerpt: gives a part of the mixture, by start and end in seconds.

        Raises:
            QueryError: the range starts after the end of the audio it is cut from.
        """
        seconds = self.query.example_range
        if self.clip is None:
            assert seconds is not None, "an example without a clip is a range of the mixture"
            return excerpt(seconds)
        clip = self.clip.audio
        if seconds is None:
            return clip
        first, last = span_samples(seconds, clip.sample_rate_hz, clip.n_samples, "example_range")
        return Audio(clip.samples[:, first:last], clip.sample_rate_hz)


def parse_queries(
    query: QueryLike | ParsedQuery | Sequence[ParsedQuery],
    sample_rate_hz: float | None = None,
    say: Callable[[str], None] = log.warning,
) -> tuple[ParsedQuery, ...]:
    """Parse a query, or a list of them, once: names are made, and example clips are decoded.

    A query is named by its text, else by the file of its example; what has neither, or a name that another has, is
    numbered.

    Args:
        query: a str, audio-like, `Embedding`, `Query`, dict of its fields, or a list of any of these. A str is always
            text, a Path is audio. What was parsed before is taken as it is.
        sample_rate_hz: of bare example arrays.
        say: is told of texts that are also the names of files.

    Raises:
        QueryError: not a query, an empty list, a reserved name or the same name or text twice.
        AudioError: an example that cannot be read, or a bare array without a rate.
    """
    items = list(query) if isinstance(query, list | tuple) else [query]
    if not items:
        raise QueryError("The list of queries is empty. Give at least one, or query=None for the fixed stems.")
    for item in items:
        for text in [item] if isinstance(item, str) else () if isinstance(item, ParsedQuery) else _excluded(item):
            if isinstance(text, str) and is_file(text):
                advice = wording(f"pass Path({text!r})", "use --query-audio or --exclude-audio")
                say(
                    f"The query {text!r} is taken as text, though a file of that name exists. For an example clip {advice}."
                )
    parsed_queries = [
        item if isinstance(item, ParsedQuery) else _parse(_as_query(item), sample_rate_hz) for item in items
    ]
    names = {parsed.name for parsed in parsed_queries if parsed.name}
    for name in sorted(names):
        if [parsed.name for parsed in parsed_queries].count(name) > 1:
            raise QueryError(f"Two queries are named {name!r}; results are told apart by name. {_name_it()}")
        if is_reserved(name) or is_reserved(safe_name(name)):
            raise QueryError(f"The name {name!r} is reserved for what unisep returns by itself. {_name_it()}")
    return tuple(parsed if parsed.name else replace(parsed, name=_new_name(parsed, names)) for parsed in parsed_queries)


def _new_name(parsed: ParsedQuery, names: set[str]) -> str:
    """Return a name for a query without text, after the file of its example, and add it to `names`."""
    path = parsed.clip.path if parsed.clip else None
    kind = path.stem if path else "example" if "audio" in parsed.query.parts else "embedding"
    candidates = chain([kind] if path else [], (f"{kind}-{number}" for number in count(2 if path else 1)))
    names.add(name := next(name for name in candidates if name not in names and not is_reserved(safe_name(name))))
    return name


def _name_it() -> str:
    return "Name it yourself: " + wording("Query(text=..., name='lead').", "-q lead=TEXT.")


def is_file(text: str) -> bool:
    """Tell whether there is a file of this name; no text is too long or too strange to ask."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _excluded(item: Any) -> list[Any]:
    """Return what a query, or a dict of its fields, leaves out, as it was given."""
    exclude = item.get("exclude") if isinstance(item, Mapping) else getattr(item, "exclude", None)
    return list(exclude) if isinstance(exclude, list | tuple) else [exclude]


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


def _parse(query: Query, sample_rate_hz: float | None) -> ParsedQuery:
    """Open the clips of the query; its name is "" where neither a name nor a text is given."""
    return ParsedQuery(
        query.name or next(iter(query.texts), ""),
        query,
        None if query.audio is None else open_audio(query.audio, sample_rate_hz),
        tuple(item.strip() for item in query.exclude if isinstance(item, str)),
        tuple(open_audio(item, sample_rate_hz) for item in query.exclude if not isinstance(item, str | Embedding)),
        tuple(item for item in query.exclude if isinstance(item, Embedding)),
    )
