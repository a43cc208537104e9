"""What goes over the wire: requests, checked, and answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from unisep import Embedding, Query
from unisep.audio import Audio
from unisep.errors import QueryError

MAX_QUERIES = 16
State = Literal["queued", "running", "done", "failed", "cancelled"]
AudioFormat = Literal["wav", "flac", "mp3"]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Range = tuple[Seconds | None, Seconds | None]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VectorBody(_Model):
    """A query as a vector, as `POST /v1/embeddings` answers it."""

    vector: Annotated[list[Number], Field(min_length=1, max_length=65_536)]
    space: Text
    provenance: dict[str, str] = {}


class SoundBody(_Model):
    """A sound to leave out: a text, a recording, or a vector."""

    text: Text | None = None
    audio: Id | None = None
    embedding: VectorBody | None = None


class QueryBody(_Model):
    """One query, with the fields of `unisep.Query`. `audio` is the id of a recording."""

    text: Text | Annotated[list[Text], Field(max_length=100)] | None = None
    audio: Id | None = None
    embedding: VectorBody | None = None
    weights: dict[Literal["text", "audio", "embedding"], Number] | None = None
    exclude: Text | SoundBody | Annotated[list[Text | SoundBody], Field(max_length=20)] | None = None
    time_range: Range | None = None
    example_range: Range | None = None
    name: Text | None = None


class OptionsBody(_Model):
    """The options of `unisep.Separator` that a request may set."""

    backend: Name | None = None
    query_backend: Name | None = None
    encoder: Name | None = None
    licences: Annotated[list[Name], Field(max_length=100)] | None = None
    route: Literal["auto", "fixed", "conditioned"] = "auto"
    cascade: Literal["auto", "off"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    shifts: Annotated[int, Field(ge=0, le=10)] = 0
    overlap_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.25


Queries = Annotated[list[Text | QueryBody], Field(min_length=1, max_length=MAX_QUERIES)]


class SeparationBody(_Model):
    """What to take out of a recording: what the queries ask for, or fixed stems (all of them without `stems`)."""

    recording: Id
    query: Text | QueryBody | Queries | None = None
    stems: Annotated[list[Name], Field(min_length=1, max_length=32)] | None = None
    options: OptionsBody = OptionsBody()

    @model_validator(mode="after")
    def _asks_one_way(self) -> SeparationBody:
        if self.query is not None and self.stems is not None:
            raise ValueError("stems chooses among the fixed stems; leave it out with a query")
        return self


class EmbeddingBody(_Model):
    """What to turn into a vector."""

    query: Text | QueryBody
    options: OptionsBody = OptionsBody()


class TokenBody(_Model):
    """What the page sends once, to get its cookie."""

    token: Text


class Peaks(_Model):
    """The lowest and highest sample of each stretch of `samples_per_peak`, over all channels."""

    level: int
    samples_per_peak: int
    start: int
    peaks: list[tuple[float, float]]


class RecordingAnswer(_Model):
    """A recording, and what is in it; `peaks` are of the whole, at most 1,024."""

    id: Id
    name: str
    seconds: float
    sample_rate_hz: int
    n_channels: int
    n_samples: int
    format: str
    n_bytes: int
    created: float
    peaks: Peaks


class FileAnswer(_Model):
    """One result: the `kind` says whether it was asked for or is the rest."""

    name: str
    kind: Literal["target", "rest"]
    url: str
    peak: float


class ErrorAnswer(_Model):
    """What went wrong: the class of the error, and a sentence."""

    type: str
    message: str


class ErrorEnvelope(_Model):
    """How every error is answered."""

    error: ErrorAnswer


class SeparationAnswer(_Model):
    """How a separation stands. `waiting_before` counts the jobs ahead in the queue."""

    id: Id
    recording: Id
    query: Any = None
    stems: list[str] | None = None
    options: OptionsBody
    state: State
    stage: str
    progress: float
    eta_seconds: float | None
    waiting_before: int
    created: float
    error: ErrorAnswer | None = None
    plan: dict[str, dict[str, Any]] = {}
    presence: dict[str, float | None] = {}
    presence_over_time: dict[str, list[tuple[float, float, float]]] = {}
    files: list[FileAnswer] = []


class ConceptAnswer(_Model):
    """A sound by its name, with what else people call it."""

    name: str
    kind: str
    wordings: list[str]
    stem: str


class ModelAnswer(_Model):
    """A backend or an encoder that is installed; `state` is that of its weights."""

    name: str
    kind: Literal["backend", "encoder"]
    distribution: str
    summary: str
    licence: str
    state: str
    stems: list[str]
    answers_queries: bool


class StrongerAnswer(_Model):
    """A model that would answer a sound better after a download."""

    name: str
    stem: str
    licence: str


class SessionAnswer(_Model):
    """Whether this request was let in, whether a token is needed here at all, and whether pages can separate by themselves."""

    needs_token: bool
    is_in: bool
    in_tab: bool


Question = dict[str, Any]


def question_of(body: SeparationBody) -> Question:
    """Return what is asked, in one form for all ways to ask it: `query` is a list of dicts, or None."""
    values = body.model_dump(mode="json", exclude={"recording"}, exclude_none=True)
    query = values.get("query")
    if query is not None:
        queries = [{"text": item} if isinstance(item, str) else item for item in _several(query)]
        for item in queries:
            if "name" in item and item["name"] == item.get("text"):  # as it is called without a name
                del item["name"]
        values["query"] = queries
    return values


def recordings_in(question: Question) -> list[str]:
    """Return the ids of the recordings that are examples in the question."""
    return [sound["audio"] for query in question.get("query") or () for sound in _sounds(query) if "audio" in sound]


def key_of(recording_sha256: str, question: Question, sha256_by_id: dict[str, str]) -> str:
    """Return what is equal for equal requests: a hash of the content of the recordings, and of the question."""
    text = json.dumps(question, sort_keys=True)
    for id, content in sha256_by_id.items():
        text = text.replace(f'"{id}"', f'"{content}"')
    return sha256(f"{recording_sha256}\n{text}".encode()).hexdigest()


def pass_key_of(recording_sha256: str, question: Question) -> str:
    """Return what is equal for jobs that can be computed in one pass; "" for one that is computed alone.

    A vector narrows the choice of models for all queries of a call, so a job with one stays alone.
    """
    queries = question.get("query")
    if queries is None or any("embedding" in sound for query in queries for sound in _sounds(query)):
        return ""
    return sha256(f"{recording_sha256}\n{json.dumps(question['options'], sort_keys=True)}".encode()).hexdigest()


def queries_of(question: Question, clip: Callable[[str], Any]) -> list[Query] | None:
    """Return the queries of a question; `clip` gives the audio of a recording by its id. Raises QueryError."""
    queries = question.get("query")
    return None if queries is None else [_query(values, clip) for values in queries]


def check_question(question: Question) -> None:
    """Raise QueryError for what can be seen to be wrong without reading the examples."""
    from unisep.query.parsed import parse_queries

    stand_in = Audio([[0.0] * 8], 8_000)
    queries = queries_of(question, lambda id: stand_in)
    if queries is not None:
        parse_queries(queries, say=lambda message: None)


def embedding_of(values: dict[str, Any]) -> Embedding:
    """Return the vector that `VectorBody` describes."""
    return Embedding(values["vector"], values["space"], values.get("provenance"))


def _query(values: dict[str, Any], clip: Callable[[str], Any]) -> Query:
    fields = _resolved(values, clip)
    excluded = values.get("exclude")
    if excluded is not None:
        fields["exclude"] = [
            item if isinstance(item, str) else _resolved(item, clip) for item in _several(excluded) if item
        ]
    try:
        return Query(**fields)
    except (TypeError, OverflowError) as error:
        raise QueryError(f"This is no query: {error}") from error


def _resolved(values: dict[str, Any], clip: Callable[[str], Any]) -> dict[str, Any]:
    fields = dict(values)
    if "audio" in fields:
        fields["audio"] = clip(fields["audio"])
    if "embedding" in fields:
        fields["embedding"] = embedding_of(fields["embedding"])
    return fields


def _sounds(query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield query
    yield from (item for item in _several(query.get("exclude", [])) if isinstance(item, dict))


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
