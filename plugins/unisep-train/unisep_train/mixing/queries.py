"""Batches ready for the model: audio from an `ExampleStream`, query vectors from an encoder.

Runs inside the loader's worker, so that the training process only trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from unisep import Audio, QueryEncoder
from unisep_train.data.store import Store
from unisep_train.mixing.examples import ExampleStream, MixConfig


@dataclass(frozen=True)
class QueryMix:
    """How an item is asked for: shares of text and audio alone (the rest interpolates), and noise.

    audio_from: the step before which all queries are text.
    noise: largest length of the random vector added to the unit query before it is brought back to length 1.
    """

    text_share: float = 0.5
    audio_share: float = 0.25
    audio_from: int = 0
    noise: float = 0.35


@dataclass(frozen=True)
class TrainingBatch:
    """One step's material: audio `[batch, channels, samples]`, queries and negatives `[batch, dim]`, present `[batch]`.

    negatives: vectors of what is to be left out; rows of zeros leave nothing out.
    """

    mixture: Tensor
    target: Tensor
    queries: Tensor
    present: Tensor
    names: list[str]
    negatives: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on a device."""
        mixture, target, queries, present, negatives = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.mixture, self.target, self.queries, self.present, self.negatives)
        )
        return TrainingBatch(mixture, target, queries, present, self.names, negatives)


class TextAudioEncoder:
    """Encodes prompts and example clips; prompts are few, so their vectors are kept."""

    def __init__(self, load: Callable[[], QueryEncoder]) -> None:
        self._load = load
        self._encoder: QueryEncoder | None = None
        self._texts: dict[str, Tensor] = {}

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Vectors `[n, dim]` of `prompts`."""
        missing = sorted({p for p in prompts if p not in self._texts})
        if missing:
            vectors = self.encoder.encode_text(missing)
            self._texts.update(zip(missing, vectors, strict=True))
        return torch.stack([self._texts[p] for p in prompts])

    def clips(self, clips: Sequence[np.ndarray], sample_rate_hz: int) -> Tensor:
        """Vectors `[n, dim]` of mono clips `[samples]`."""
        return self.encoder.encode_audio([Audio(clip, sample_rate_hz) for clip in clips])

    @property
    def encoder(self) -> QueryEncoder:
        """The encoder, loaded on first use."""
        return self.load()

    def load(self) -> QueryEncoder:
        """The encoder, loaded unless it is. Raises as what loads it does."""
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder


def turns() -> tuple[int, int]:
    """Which turn is this loader process's, of how many; a worker computes with one thread."""
    worker = get_worker_info()
    if worker is None:
        return 0, 1
    torch.set_num_threads(1)
    return worker.id, worker.num_workers


class QueryStream(IterableDataset[TrainingBatch]):
    """Yields `TrainingBatch`es from `first_step` to `last_step`; the same for the same seed and step.

    items: the places of the batch to yield, all without; each process of a run has its own. Several workers of a
        loader take turns, so that the steps come in order.
    absent_from: the step from which targets may be absent; before it every query is answered by something.
    """

    def __init__(
        self,
        store_folder: str,
        mix: MixConfig,
        queries: QueryMix,
        encoder: TextAudioEncoder,
        *,
        seed: int,
        first_step: int,
        last_step: int,
        absent_from: int,
        items: range | None = None,
    ) -> None:
        self.store_folder, self.mix, self.queries, self.encoder = store_folder, mix, queries, encoder
        self.seed, self.first_step, self.last_step, self.absent_from = (seed, first_step, last_step, absent_from)
        self.items = items if items is not None else range(mix.batch)

    def __iter__(self) -> Iterator[TrainingBatch]:
        turn, n_turns = turns()
        store = Store(self.store_folder)
        late = ExampleStream(store, self.mix, self.seed)
        early = ExampleStream(store, replace(self.mix, absent_probability=0.0), self.seed)
        for step in range(self.first_step + turn, self.last_step, n_turns):
            yield self._batch(late if step >= self.absent_from else early, step)

    def _batch(self, stream: ExampleStream, step: int) -> TrainingBatch:
        batch = stream.batch(step, self.items)
        clips = batch.examples if step >= self.queries.audio_from else [None] * len(batch.prompts)
        # For the process with the first items this is the generator of (seed, step, 1).
        rng = np.random.default_rng((self.seed, step, 1, self.items.start))
        vectors = self._vectors(batch.prompts, clips, stream.sample_rate_hz, rng)
        present = torch.from_numpy(np.asarray(batch.present, dtype=np.float32))
        return TrainingBatch(
            torch.from_numpy(batch.mixture),
            torch.from_numpy(batch.target),
            vectors,
            present,
            list(batch.names),
            self._negatives(batch.negatives, vectors),
        )

    def _negatives(self, prompts: Sequence[str | None], like: Tensor) -> Tensor:
        """Unit vectors `[batch, dim]` of what is left out; zeros where nothing is."""
        vectors = torch.zeros_like(like)
        for row, prompt in enumerate(prompts):
            if prompt is not None:
                vectors[row] = F.normalize(self.encoder.texts([prompt])[0], dim=-1)
        return vectors

    def _vectors(
        self, prompts: Sequence[str], clips: Sequence[np.ndarray | None], sample_rate_hz: int, rng: np.random.Generator
    ) -> Tensor:
        vectors = self.encoder.texts(prompts).clone()
        draw = rng.random(len(prompts))
        heard = [i for i, clip in enumerate(clips) if clip is not None and draw[i] >= self.queries.text_share]
        if heard:
            sound = self.encoder.clips([c for i, c in enumerate(clips) if i in heard and c is not None], sample_rate_hz)
            for row, i in enumerate(heard):
                audio_only = draw[i] < self.queries.text_share + self.queries.audio_share
                share = 1.0 if audio_only else float(rng.random())
                vectors[i] = (1 - share) * vectors[i] + share * sound[row]
        noise = torch.from_numpy(rng.standard_normal(tuple(vectors.shape), dtype=np.float32))
        size = torch.from_numpy(rng.random((len(prompts), 1), dtype=np.float32)) * self.queries.noise
        return F.normalize(F.normalize(vectors, dim=-1) + size * F.normalize(noise, dim=-1), dim=-1)
