"""Batches ready for a model, step by step: mixed, and asked about, in the processes of a loader."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from unisep import Audio, QueryEncoder
from unisep.errors import OptionError
from unisep_train.data.store import Store
from unisep_train.mixing.config import MixConfig, QueryMix
from unisep_train.mixing.examples import ExampleStream

BatchT = TypeVar("BatchT", covariant=True)
EMBEDDED = "unisep_clap.mini:load"


@dataclass
class TextAudioEncoder:
    """Encodes prompts and example clips; prompts are few, so their vectors are kept. `load` is called on first use."""

    load: Callable[[], QueryEncoder]
    _texts: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def named(cls, load: str, weights: Path | None, spaces: dict[str, int]) -> TextAudioEncoder:
        """Return the encoder that `load_encoder` loads on first use."""
        return cls(partial(load_encoder, load, weights, dict(spaces)))

    @cached_property
    def encoder(self) -> QueryEncoder:
        """The encoder, loaded on first use. Raises as what loads it does."""
        return self.load()

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Return vectors `[n, dim]` of `prompts`."""
        missing = sorted(set(prompts) - self._texts.keys())
        if missing:
            self._texts.update(zip(missing, self.encoder.encode_text(missing), strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def clips(self, clips: Sequence[np.ndarray], sample_rate_hz: int) -> Tensor:
        """Return vectors `[n, dim]` of mono clips `[samples]`."""
        return self.encoder.encode_audio([Audio(clip, sample_rate_hz) for clip in clips])


def load_encoder(load: str, weights: Path | None, spaces: dict[str, int]) -> QueryEncoder:
    """Load an encoder by its "package.module:function", as in an `EncoderSpec`, on the CPU.

    Raises:
        OptionError: there is no such function, or its vectors are not of one of `spaces`.
    """
    module, _, name = load.partition(":")
    try:
        encoder: QueryEncoder = getattr(import_module(module), name)(weights=weights, device=torch.device("cpu"))
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"No encoder at {load!r} ({error}). Give package.module:function, such as {EMBEDDED}."
        ) from error
    if spaces.get(encoder.space) != encoder.dim:
        raise OptionError(
            f"{load} gives {encoder.dim} values of the space {encoder.space!r}; the recipe's model listens to "
            f"{spaces}. Set model.spaces to that space, or take its encoder."
        )
    return encoder


@dataclass
class StepStream(IterableDataset[BatchT]):
    """Batches of the steps of a run; the same for the same seed and step.

    Only the `items` of each batch are mixed, by default all: each process of a run has its own. Several workers of a
    loader take turns, so that the steps come in order.
    """

    store: str
    mix: MixConfig
    seed: int = 0
    steps: range = range(1)
    items: range | None = None

    def __iter__(self) -> Iterator[BatchT]:
        steps, worker = self.steps, get_worker_info()
        if worker is not None:
            torch.set_num_threads(1)
            steps = steps[worker.id :: worker.num_workers]
        return self.batches(Store(self.store), steps)

    @abstractmethod
    def batches(self, store: Store, steps: range) -> Iterator[BatchT]:
        """Yield the batch of each step."""


class MixtureStream(StepStream[Tensor]):
    """Yields mixtures `[items, channels, samples]` alone."""

    def batches(self, store: Store, steps: range) -> Iterator[Tensor]:
        """Yield the mixtures of each step."""
        stream = ExampleStream(store, self.mix, self.seed)
        return (torch.from_numpy(stream.batch(step, self.items).mixture) for step in steps)


@dataclass(frozen=True)
class QueryBatch:
    """One step's material: audio `[batch, channels, samples]`, queries `[batch, dim]`, present `[batch]`."""

    mixture: Tensor
    target: Tensor
    queries: Tensor
    present: Tensor
    names: list[str]

    def to(self, device: torch.device) -> QueryBatch:
        """Return the same on a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass
class QueryStream(StepStream[QueryBatch]):
    """Yields batches with queries by text, by example, and between the two.

    Before step `absent_from` every query is answered by something; from then on targets may be absent.
    """

    queries: QueryMix = field(kw_only=True)
    encoder: TextAudioEncoder = field(kw_only=True)
    absent_from: int = 0

    def batches(self, store: Store, steps: range) -> Iterator[QueryBatch]:
        """Yield the batch of each step."""
        late = ExampleStream(store, self.mix, self.seed)
        early = ExampleStream(store, replace(self.mix, absent_probability=0.0), self.seed)
        return (self._batch(late if step >= self.absent_from else early, step) for step in steps)

    def _batch(self, stream: ExampleStream, step: int) -> QueryBatch:
        batch = stream.batch(step, self.items)
        clips = batch.examples if step >= self.queries.audio_from else [None] * len(batch.prompts)
        # For the process with the first items this is the generator of (seed, step, 1).
        rng = np.random.default_rng((self.seed, step, 1, self.items.start if self.items else 0))
        queries = self._queries(batch.prompts, clips, stream.sample_rate_hz, rng)
        present = torch.from_numpy(batch.present.astype(np.float32))
        mixture, target = torch.from_numpy(batch.mixture), torch.from_numpy(batch.target)
        return QueryBatch(mixture, target, queries, present, batch.names)

    def _queries(
        self, prompts: Sequence[str], clips: Sequence[np.ndarray | None], sample_rate_hz: int, rng: np.random.Generator
    ) -> Tensor:
        """Return unit vectors `[batch, dim]`, each of the prompt, the clip, or between both."""
        vectors = self.encoder.texts(prompts).clone()
        draw = rng.random(len(prompts))
        heard = {i: clip for i, clip in enumerate(clips) if clip is not None and draw[i] >= self.queries.text_share}
        sounds = self.encoder.clips(list(heard.values()), sample_rate_hz) if heard else torch.zeros(0)
        for i, sound in zip(heard, sounds, strict=True):
            audio_only = draw[i] < self.queries.text_share + self.queries.audio_share
            share = 1.0 if audio_only else float(rng.random())
            vectors[i] = (1 - share) * vectors[i] + share * sound
        noise = torch.from_numpy(rng.standard_normal(tuple(vectors.shape), dtype=np.float32))
        size = torch.from_numpy(rng.random((len(prompts), 1), dtype=np.float32)) * self.queries.noise
        return F.normalize(F.normalize(vectors, dim=-1) + size * F.normalize(noise, dim=-1), dim=-1)
