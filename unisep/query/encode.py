"""Encode parsed queries to the vectors that a backend is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from unisep.audio import Audio
from unisep.errors import FAILURES, EmbeddingError, EncoderError, QueryError, UnisepError, WeightsError
from unisep.plugins.encoder import QueryEncoder
from unisep.query.concepts import Meaning, concepts
from unisep.query.parsed import ParsedQuery
from unisep.query.query import Range
from unisep.query.space_maps import Modality, SpaceMap

Excerpt = Callable[[Range], Audio]
N_NEAREST = 3  # concepts that are named where a text comes near none
_MIN_NORM = 1e-6


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a backend is conditioned on: `queries` `[n, dim]`, and `negatives` `[n, dim]` or None."""

    queries: Tensor
    negatives: Tensor | None = None

    def rows(self, indices: list[int]) -> Conditions:
        """Return the conditions of some of the queries."""
        negatives = None if self.negatives is None else self.negatives[indices]
        return Conditions(self.queries[indices], negatives)

    def to(self, device: torch.device) -> Conditions:
        """Return the same on another device."""
        negatives = None if self.negatives is None else self.negatives.to(device)
        return Conditions(self.queries.to(device), negatives)


def encode_queries(
    parsed_queries: Sequence[ParsedQuery], encoders: Sequence[QueryEncoder | None], excerpt: Excerpt
) -> Conditions:
    """Encode each query with the encoder in the same place; every text only once.

    A query becomes the weighted sum of the unit vectors of its text (several are averaged), its example and
    its embedding, made a unit vector again. A negative is the mean of what is excluded, likewise.

    Args:
        parsed_queries: what to encode.
        encoders: one for each query; None where a query is all vectors.
        excerpt: gives a part of the mixture, by start and end in seconds, where that is the example.

    Raises:
        EncoderError: an encoder failed or broke its contract.
        EmbeddingError: vectors of different sizes.
        QueryError: parts that cancel each other out, or an example range outside the audio.
    """
    distinct = {id(encoder): encoder for encoder in encoders if encoder is not None}
    words = {key: _encode_texts(encoder, parsed_queries, encoders) for key, encoder in distinct.items()}
    queries, negatives = [], []
    for parsed, encoder in zip(parsed_queries, encoders, strict=True):
        known = words.get(id(encoder), {})
        queries.append(_query_vector(parsed, encoder, known, excerpt))
        negatives.append(_negative_vector(parsed, encoder, known, len(queries[-1])))
    _check_sizes(parsed_queries, [*queries, *negatives])
    is_excluding = any(bool(negative.any()) for negative in negatives)
    return Conditions(torch.stack(queries), torch.stack(negatives) if is_excluding else None)


def call_encoder(encoder: QueryEncoder, method: str, call: Callable[[list], Tensor], items: list) -> Tensor:
    """Return what `call` gives of `n` items as unit vectors `[n, dim]`, float32 on the CPU; `method` is for messages.

    Raises:
        EncoderError: it failed, or returned anything else.
    """
    name = f"{type(encoder).__name__}.{method}"
    try:
        vectors = call(items)
    except UnisepError:
        raise
    except FAILURES as error:
        raise EncoderError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[0] != len(items):
        shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise EncoderError(f"{name} was given {len(items)} items and returned {shape}; [n, dim] is expected.")
    vectors = vectors.detach().float().cpu()
    if not torch.isfinite(vectors).all():
        raise EncoderError(f"{name} returned NaN or infinity. Check the example clip, and the encoder's weights.")
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(1e-12)


@final
class AlignedEncoder(QueryEncoder):
    """The encoder `inner`, whose vectors a fitted map takes into `space`. Closing it leaves `inner` open."""

    def __init__(self, inner: QueryEncoder, into: SpaceMap, space: str) -> None:
        """Raise WeightsError for a map that takes vectors of another size."""
        if inner.dim != into.dims[0]:
            raise WeightsError(
                f"The map from '{inner.space}' to '{space}' is for vectors of {into.dims[0]} numbers, the encoder "
                f"gives {inner.dim}. Fit it again with: unisep align ENCODER"
            )
        self.space = space
        self._inner = inner
        self._map = into

    @property
    def dim(self) -> int:
        """Length of the vectors in the space that is mapped into."""
        return self._map.dims[1]

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return unit vectors `[n, dim]` of the texts."""
        return self._mapped(self._inner.encode_text(texts), "text")

    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Return unit vectors `[n, dim]` of the clips. Raise EncoderError where the map is not fit for audio."""
        return self._mapped(self._inner.encode_audio(clips), "audio")

    def _mapped(self, vectors: Tensor, modality: Modality) -> Tensor:
        if modality not in self._map.means:
            raise EncoderError(
                f"The map from '{self._inner.space}' to '{self.space}' is not fit for {modality}. "
                "Fit it on sounds of your own with: unisep align ENCODER --clips FOLDER"
            )
        return torch.from_numpy(self._map(vectors.detach().float().cpu().numpy(), modality))


@final
class Words:
    """Finds the concept that a text comes near: that whose name has the nearest vector.

    Args:
        encoder: of text.
        same_meaning: the cosine from which on two texts mean the same.
    """

    def __init__(self, encoder: QueryEncoder, same_meaning: float) -> None:
        self._encoder, self._same_meaning = encoder, same_meaning
        self._names = list(concepts())
        self._vectors = call_encoder(encoder, "encode_text", encoder.encode_text, self._names)
        self._meanings: dict[str, Meaning] = {}

    def meaning(self, text: str) -> Meaning | None:
        """Return what the text means; None where the encoder refuses it."""
        if text not in self._meanings:
            try:
                vector = call_encoder(self._encoder, "encode_text", self._encoder.encode_text, [text])[0]
            except UnisepError:  # whoever answers the query says why
                return None
            cosines = self._vectors @ vector
            order = cosines.argsort(descending=True).tolist()
            nearest = tuple(self._names[at] for at in order[:N_NEAREST])
            is_near = bool(cosines[order[0]] >= self._same_meaning)
            self._meanings[text] = Meaning(nearest[0] if is_near else None, nearest)
        return self._meanings[text]


def _encode_texts(
    encoder: QueryEncoder, parsed_queries: Sequence[ParsedQuery], encoders: Sequence[QueryEncoder | None]
) -> Mapping[str, Tensor]:
    its_queries = [parsed for parsed, other in zip(parsed_queries, encoders, strict=True) if other is encoder]
    texts = [text for parsed in its_queries for text in (*parsed.query.texts, *parsed.excluded_texts)]
    texts = list(dict.fromkeys(texts))
    return (
        dict(zip(texts, call_encoder(encoder, "encode_text", encoder.encode_text, texts), strict=True)) if texts else {}
    )


def _encode_clips(parsed: ParsedQuery, encoder: QueryEncoder | None, clips: list[Audio]) -> list[Tensor]:
    if not clips or encoder is None:
        return []
    if not all(clip.samples.any() for clip in clips):
        raise QueryError(
            f"An example clip of the query '{parsed.name}' is silent. Give one in which the sound is heard."
        )
    return list(call_encoder(encoder, "encode_audio", encoder.encode_audio, clips))


def _query_vector(
    parsed: ParsedQuery, encoder: QueryEncoder | None, words: Mapping[str, Tensor], excerpt: Excerpt
) -> Tensor:
    parts: dict[str, Tensor] = {}
    if parsed.query.texts:
        parts["text"] = torch.stack([words[text] for text in parsed.query.texts]).mean(0)
    if "audio" in parsed.query.parts:
        parts["audio"] = _encode_clips(parsed, encoder, [parsed.example(excerpt)])[0]
    if parsed.query.embedding is not None:
        parts["embedding"] = torch.from_numpy(parsed.query.embedding.vector.copy())
    _check_sizes([parsed], list(parts.values()))
    weights: Mapping[Any, float] = parsed.query.weights or dict.fromkeys(parts, 1.0)
    weighted = [weights[kind] * _unit(vector, parsed) for kind, vector in parts.items()]
    return _unit(torch.stack(weighted).sum(0), parsed)


def _negative_vector(
    parsed: ParsedQuery, encoder: QueryEncoder | None, words: Mapping[str, Tensor], dim: int
) -> Tensor:
    """Return the mean direction of what is excluded, or zeros `[dim]`."""
    vectors = [words[text] for text in parsed.excluded_texts]
    vectors += _encode_clips(parsed, encoder, [clip.audio for clip in parsed.excluded_clips])
    vectors += [torch.from_numpy(embedding.vector.copy()) for embedding in parsed.excluded_embeddings]
    if not vectors:
        return torch.zeros(dim)
    _check_sizes([parsed], vectors)
    return _unit(torch.stack([_unit(vector, parsed) for vector in vectors]).mean(0), parsed)


def _unit(vector: Tensor, parsed: ParsedQuery) -> Tensor:
    norm = torch.linalg.vector_norm(vector)
    if not norm > _MIN_NORM:
        raise QueryError(
            f"The query '{parsed.name}' points nowhere: its example is silent, or its parts cancel each other out. "
            "Give another example, or change the weights."
        )
    return vector / norm


def _check_sizes(parsed_queries: Sequence[ParsedQuery], vectors: Sequence[Tensor]) -> None:
    sizes = sorted({vector.shape[0] for vector in vectors})
    if len(sizes) > 1:
        names = ", ".join(f"'{parsed.name}'" for parsed in parsed_queries)
        raise EmbeddingError(
            f"The vectors for {names} have different sizes ({', '.join(map(str, sizes))}), so one of them is not "
            "of the space that it names. Make it again: unisep embed 'a text' -o query.safetensors"
        )
