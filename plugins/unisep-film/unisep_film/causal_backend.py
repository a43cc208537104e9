"""The causal query model as a live backend of unisep; its weights come from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from unisep import Backend, BackendInfo, LiveBackend, Output
from unisep.errors import EmbeddingError, OptionError, WeightsError

from .causal import HOP_SAMPLES, LATENCY_SAMPLES, Asked, CausalFilm, CausalState
from .checkpoints import found, read_model
from .exclusion import with_excluded

CAUSAL_WEIGHTS_FILE = "unisep_film_causal.safetensors"
_STEP_HOPS = 200  # computed at once: bounds the memory


@dataclass(frozen=True)
class LiveState:
    """The queries and what is excluded, from which it is, and what the model remembers."""

    asked: Asked
    less: list[int]
    model: CausalState


class CausalBackend(LiveBackend):
    """Isolates one target for each query vector, whole or live: both are the same computation."""

    hop_samples = HOP_SAMPLES
    latency_samples = LATENCY_SAMPLES

    def __init__(self, model: CausalFilm, space: str | None = None) -> None:
        """Answer with `model` for vectors of `space`, by default the first it understands."""
        config = model.config
        self.model = model
        self.space = space or next(iter(config.spaces))
        # No segments: what it remembers goes through the whole recording, as it does live.
        self.info = BackendInfo(sources=(), sample_rate_hz=config.sample_rate_hz, channels=config.channels)

    def for_space(self, space: str) -> CausalBackend:
        """Return the same model for vectors of another space. Raise EmbeddingError for one it does not understand."""
        self.model.projectors.of(space)
        return CausalBackend(self.model, space)

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return targets `[batch, queries, channels, samples]`, in step with the mixture, and presence.

        What is to be left out, by `negatives`, is taken from the target bin by bin (`unisep_film.exclusion`).
        """
        self.check_input(mixture, queries, negatives, self.model.config.spaces[self.space])
        assert queries is not None
        conditions, less = self._conditions(queries, negatives)
        conditions = conditions.expand(len(mixture), -1, -1)
        n_samples, n_step = mixture.shape[-1], _STEP_HOPS * HOP_SAMPLES
        n_padded = -(-(n_samples + LATENCY_SAMPLES) // HOP_SAMPLES) * HOP_SAMPLES
        padded = torch.nn.functional.pad(mixture.float(), (0, n_padded - n_samples))
        asked = self.model.asked(conditions)
        state, targets, seen = self.model.initial_state(len(mixture), len(queries), len(less)), [], []
        for hops in padded.split(n_step, dim=-1):
            target, features, state = self.model.hear(hops, asked, state, less)
            targets.append(target)
            seen.append(features)
        logits = self.model.presence_of(torch.cat(seen, dim=1).mean(dim=1), conditions[:, : len(queries)])
        return Output(torch.cat(targets, dim=-1)[..., LATENCY_SAMPLES:][..., :n_samples], torch.sigmoid(logits))

    @torch.inference_mode()
    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> LiveState:
        """Return the state before the first hop. Raise EmbeddingError for vectors of another size."""
        dim = self.model.config.spaces[self.space]
        if queries is None or queries.ndim != 2 or queries.shape[1] != dim:
            raise EmbeddingError(f"The causal model answers queries only: give query vectors [queries, {dim}].")
        conditions, less = self._conditions(queries, negatives)
        return LiveState(self.model.asked(conditions), less, self.model.initial_state(1, len(queries), len(less)))

    @torch.inference_mode()
    def push(self, state: LiveState, block: Tensor) -> tuple[Tensor, LiveState]:
        """Return the targets `[queries, channels, samples]` of 46 ms before, and the next state."""
        targets, _, after = self.model.hear(block[None], state.asked, state.model, state.less)
        return targets[0], LiveState(state.asked, state.less, after)

    def exportable(self) -> tuple[nn.Module, int]:
        """Return a module of one hop, queries and a state, and the size of the queries."""
        return _Hop(self.model, self.space), self.model.config.spaces[self.space]

    def _conditions(self, queries: Tensor, negatives: Tensor | None) -> tuple[Tensor, list[int]]:
        """Return conditions `[1, n, q]` of the queries, then of what is excluded, and from which queries that is."""
        asked, less = with_excluded(queries, negatives)
        return self.model.conditions(asked.to(self.model.analysis), self.space)[None], less


class _Hop(nn.Module):
    """Maps a hop `[1, c, 1024]`, vectors `[n, d]` and a state to targets `[1, n, c, 1024]`, presence so far `[1, n]` and the next state.

    The tensors of a state: those of `CausalState`, memories as `[items or n, k, h]`; then what presence is told from, summed
    `[n, d + 1]`, and the number of hops `[1, 1]`.
    """

    def __init__(self, model: CausalFilm, space: str) -> None:
        super().__init__()
        self.model, self.space = model, space

    def initial(self, n_queries: int) -> list[Tensor]:
        """Return the tensors before the first hop."""
        model = self.model
        state, like = model.initial_state(1, n_queries), model.analysis
        seen = like.new_zeros(n_queries, model.config.features + 1)
        return [*_as_tensors(state, n_queries), seen, like.new_zeros(1, 1)]

    def forward(self, mixture: Tensor, queries: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        conditions = self.model.conditions(queries, self.space)[None]
        *kept, seen, n_hops = tensors
        state = _as_state(kept, self.model.config.n_first)
        targets, features, after = self.model.hear(mixture, self.model.asked(conditions), state)
        seen, n_hops = seen + features[:, 0], n_hops + 1
        presence = torch.sigmoid(self.model.presence_of(seen / n_hops, conditions))
        return targets, presence, *_as_tensors(after, queries.shape[0]), seen, n_hops


def _as_tensors(state: CausalState, n_queries: int) -> list[Tensor]:
    """Return what is remembered with the queries, where they count, along the first axis."""
    first = [each for memory in state.first for each in memory]
    after = [rearrange(each, "1 (n k) h -> n k h", n=n_queries) for memory in state.after for each in memory]
    return [state.heard, state.total, state.weight, *first, *after, state.tail]


def _as_state(tensors: list[Tensor], n_first: int) -> CausalState:
    heard, total, weight, *memories, tail = tensors
    flat = [rearrange(each, "n k h -> 1 (n k) h") for each in memories]
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    return CausalState(heard, total, weight, pairs[:n_first], pairs[n_first:], tail)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load a causal model from its file, or from a folder that holds `unisep_film_causal.safetensors`."""
    if dtype != torch.float32:
        raise OptionError("The causal query model computes in float32 only: use precision='float32'.")
    model = read_model(found(weights, CAUSAL_WEIGHTS_FILE), device, dtype)
    if not isinstance(model, CausalFilm):
        raise WeightsError(
            f"{weights} holds another model of this family, which is not causal: leave query_backend out."
        )
    return CausalBackend(model)
