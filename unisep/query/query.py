"""Queries, and embeddings: vectors with the name of their space."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeGuard, Unpack

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from unisep.audio import Array, Audio, Clip
from unisep.errors import EmbeddingError, QueryError, UnisepError, arg, wording
from unisep.files.paths import write_whole

Modality = Literal["text", "audio", "embedding"]
Range = tuple[float, float]
_Start = Annotated[float, BeforeValidator(lambda value: 0.0 if value is None else value)]
_End = Annotated[float, BeforeValidator(lambda value: math.inf if value is None else value)]


@dataclass(frozen=True, eq=False, init=False)
class Embedding:
    """A query as a vector, portable: `save` writes one safetensors file. A backend of another space refuses it.

    Attributes:
        vector: `[dim]`, float32.
        space: the embedding space it lives in.
        provenance: where it came from, texts by name.

    Raises:
        EmbeddingError: not one-dimensional, empty, all zeros, not finite, without a space, or with a provenance
            that is no dict of texts.
    """

    vector: NDArray[np.float32]
    space: str
    provenance: dict[str, str]

    def __init__(self, vector: Array | Sequence[float], space: str, provenance: dict[str, str] | None = None) -> None:
        values: Any = vector
        provenance = {} if provenance is None else provenance
        detach = getattr(values, "detach", None)
        values = detach().cpu() if callable(detach) else values
        try:
            # what float32 cannot hold becomes infinite, and is refused below
            with np.errstate(over="ignore"):
                row = np.asarray(values, dtype=np.float32).copy()
        except (TypeError, ValueError) as error:
            raise EmbeddingError(f"An embedding is a vector of numbers; this is not: {error}") from error
        if row.ndim == 2 and row.shape[0] == 1:
            row = row[0]
        if row.ndim != 1 or row.size == 0:
            raise EmbeddingError(f"An embedding is one vector [dim]; got shape {row.shape}.")
        if not np.isfinite(row).all() or not row.any():
            raise EmbeddingError("An embedding must be finite and not all zeros.")
        if not isinstance(space, str) or not space:
            raise EmbeddingError("An embedding needs the name of its space, such as 'clap-mini-1'.")
        if not _is_texts(provenance):
            raise EmbeddingError("The provenance of an embedding is a dict of texts by names.")
        for name, value in (("vector", row), ("space", space), ("provenance", dict(provenance))):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        origin = "".join(f", {key}={text!r:.60}" for key, text in self.provenance.items())
        return f"Embedding({self.dim} numbers, space={self.space!r:.60}{origin})"

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return int(self.vector.shape[0])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with the vector, its space and its provenance; return its path.

        Raises:
            EmbeddingError: it cannot be written there, and nothing is.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save

        metadata = {"space": self.space, "provenance": json.dumps(self.provenance)}
        try:
            content = save({"embedding": np.ascontiguousarray(self.vector)}, metadata=metadata)
            return write_whole(Path(path), content)
        except (OSError, SafetensorError, ValueError) as error:
            raise EmbeddingError(f"Cannot write {str(path)!r:.300} ({error}). Choose another place.") from error

    @classmethod
    def load(cls, path: str | Path) -> Embedding:
        """Read the embedding saved at `path`. Raise EmbeddingError when the file is missing or no embedding."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="numpy") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                vector = file.get_tensor("embedding")
            return cls(vector, metadata.get("space", ""), _provenance(metadata.get("provenance", "{}")))
        except EmbeddingError:
            raise
        except (OSError, SafetensorError, AttributeError, ValueError, TypeError, RecursionError) as error:
            raise EmbeddingError(
                f"{path} is no unisep embedding ({error}). Make one with: unisep embed 'a text' -o query.safetensors"
            ) from error


def _provenance(text: str) -> dict[str, str]:
    """Parse the provenance. Raise ValueError or RecursionError where it is no table of texts in JSON."""
    provenance = json.loads(text)
    if not _is_texts(provenance):
        raise ValueError("its provenance is no table of texts")
    return dict(provenance)


def _is_texts(table: object) -> TypeGuard[dict[str, str]]:
    return isinstance(table, dict) and all(isinstance(text, str) for item in table.items() for text in item)


class QueryDict(TypedDict, total=False):
    """A query as a dict, for type checkers: what `Query` takes by name, and means the same."""

    text: str | Sequence[str] | None
    audio: str | Clip | None
    embedding: Embedding | None
    weights: Mapping[Modality, float] | None
    exclude: str | Clip | Embedding | Sequence[str | Clip | Embedding] | None
    time_range: tuple[float | None, float | None] | None
    example_range: tuple[float | None, float | None] | None
    name: str | None


class Query(BaseModel):
    """A sound to isolate, by text, by example, by vector, or by all of them together.

    Attributes:
        text: a str, or several that are averaged ("hi-hat", "cymbals").
        audio: an example: path, `Audio`, array, bytes or file object; a str here is a path.
        embedding: a vector with its space.
        weights: how much each of "text", "audio" and "embedding" counts, where more than one is given; equal without.
        exclude: what the target must leave out: text (str), audio (Path, `Audio`, array), `Embedding`, a dict of
            "text", "audio" or "embedding", or a list of these.
        time_range: (start, end) in seconds, where in the mixture the target is wanted, with None for its start or its
            end; outside it the target is silent and nothing is computed. Inside, it fades in and out within 10 ms.
        example_range: the same for the part of `audio` that is the example; without `audio`, that part of the mixture
            itself is.
        name: of the result; otherwise the text, or "example-1".

    Raises:
        QueryError: an unknown field, nothing asked, empty text, a range that is none.

    >>> Query(text="electric guitar", time_range=(30, 60)).time_range
    (30.0, 60.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    text: str | tuple[str, ...] | None = None
    audio: Any = None
    embedding: Embedding | None = None
    weights: dict[Modality, float] | None = None
    exclude: tuple[Any, ...] = ()
    time_range: tuple[_Start, _End] | None = None
    example_range: tuple[_Start, _End] | None = None
    name: str | None = None

    def __init__(self, **fields: Unpack[QueryDict]) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _as_query_error(error) from error

    def __eq__(self, other: object) -> bool:
        """Compare what both ask for; arrays, clips and vectors count by what they hold."""
        if not isinstance(other, Query):
            return NotImplemented
        return all(_is_same(getattr(self, name), getattr(other, name)) for name in type(self).model_fields)

    def __hash__(self) -> int:
        return hash((self.text, self.time_range, self.example_range, self.name))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, stripped; empty when none was given."""
        texts = () if self.text is None else (self.text,) if isinstance(self.text, str) else self.text
        return tuple(text.strip() for text in texts)

    @property
    def parts(self) -> frozenset[Modality]:
        """Which of "text", "audio" and "embedding" the query is made of."""
        parts: set[Modality] = set()
        if self.text is not None:
            parts.add("text")
        if self.audio is not None or self.example_range is not None:
            parts.add("audio")
        if self.embedding is not None:
            parts.add("embedding")
        return frozenset(parts)

    @field_validator("exclude", mode="before")
    @classmethod
    def _several(cls, value: Any) -> tuple[Any, ...]:
        if value is None:
            return ()
        items: tuple[Any, ...] = ()
        for item in value if isinstance(value, list | tuple) else (value,):
            sound = Query(**item) if isinstance(item, dict) else None
            parts = (item,) if sound is None else (*sound.texts, sound.audio, sound.embedding)
            items += tuple(part for part in parts if part is not None)
        if any(isinstance(item, str) and not item.strip() for item in items):
            raise QueryError(f"An excluded text is empty. Say what to leave out, or drop {arg('exclude')}.")
        return items

    @field_validator("time_range", "example_range")
    @classmethod
    def _is_a_range(cls, value: Range | None) -> Range | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise QueryError(
                f"{value} is no range: give (start, end) in seconds with 0 <= start < end, such as (30, 60); "
                "None for the start or the end of the recording."
            )
        return value

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise QueryError("The name of a query is empty. Give one, or leave it out.")
        return value.strip() if value is not None else None

    @model_validator(mode="after")
    def _asks_something(self) -> Query:
        if self.text is not None and not (self.texts and all(self.texts)):
            raise QueryError("The text of the query is empty. Say what to isolate, such as 'electric guitar'.")
        if not self.parts:
            raise QueryError(
                "The query asks for nothing. Give text, audio, embedding, or example_range for a part of the mixture."
            )
        _check_weights(self.weights, self.parts)
        return self


OneQuery = str | Clip | Embedding | Query | QueryDict
QueryLike = OneQuery | Sequence[OneQuery]
"""What may be asked: a text, an example (as `AudioLike`, where a str is text), an `Embedding`, a `Query`, a dict, or several."""


def _is_same(one: Any, other: Any) -> bool:
    """Compare two values of a field; arrays by all of their numbers."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Embedding):
        return (one.space, one.provenance) == (other.space, other.provenance) and _is_same(one.vector, other.vector)
    if isinstance(one, Audio):
        return one.sample_rate_hz == other.sample_rate_hz and _is_same(one.samples, other.samples)
    if hasattr(one, "shape") and hasattr(one, "dtype"):
        return bool(one.shape == other.shape and one.dtype == other.dtype and (one == other).all())
    return bool(one == other)


def _check_weights(weights: dict[Modality, float] | None, parts: frozenset[Modality]) -> None:
    if weights is None:
        return
    if set(weights) != parts:
        raise QueryError(
            f"{wording('weights', '--mix')} names {', '.join(sorted(weights)) or 'nothing'}, the query is made of "
            f"{', '.join(sorted(parts))}. Give one weight for each part of the query."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise QueryError(
            f"{wording('weights', '--mix')}={weights} cannot be used: give numbers of 0 or more, at least one above 0."
            f" To leave a sound out, use {arg('exclude')}."
        )


def _as_query_error(error: ValidationError) -> UnisepError:
    """Return the typed error behind pydantic's, or one that names the field and what is allowed."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnisepError):
        return cause
    field_name = str(first["loc"][0]) if first["loc"] else "query"
    if first["type"] == "extra_forbidden":
        return QueryError(f"A query has no field {field_name!r}. Allowed: {', '.join(Query.model_fields)}.")
    return QueryError(f"The query's {field_name!r} cannot be used: {first['msg']} (got {first['input']!r}).")
