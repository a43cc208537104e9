"""FiLM HT Demucs as a query backend of unisep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from unisep import Backend, BackendInfo, Output

from .checkpoints import found, load_model
from .exclusion import answered
from .model import FilmHTDemucs

WEIGHTS_FILE = "unisep_film.safetensors"


class FilmBackend(Backend):
    """Isolates one target for each query vector; all queries of a call share one run of the encoders."""

    def __init__(self, model: FilmHTDemucs, space: str | None = None) -> None:
        """Answer with `model` for vectors of `space`, by default the first it understands."""
        shape = model.config.separator
        self.model = model
        self.space = space or next(iter(model.config.spaces))
        self._calibration = model.config.calibration.get(self.space, ())
        self.info = BackendInfo(
            sources=(),
            sample_rate_hz=shape.samplerate,
            channels=shape.audio_channels,
            segment_seconds=shape.segment_samples / shape.samplerate,
            # The mask reads each segment at its own level; whole HT Demucs was trained on normalised songs.
            normalisation="song" if model.config.output == "spectrogram" else "none",
        )

    def for_space(self, space: str) -> FilmBackend:
        """Return the same model for vectors of another space. Raise EmbeddingError for one it does not understand."""
        self.model.projectors.of(space)
        return FilmBackend(self.model, space)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Targets `[batch, queries, channels, samples]` and presence `[batch, queries]`, calibrated where that is known.

        mixture: `[batch, channels, samples]`; queries and negatives: `[queries, dim]` unit vectors, a row of
        zeros in `negatives` leaves nothing out. What is to be left out is isolated in the same call, as a
        query of its own, and taken from the target bin by bin (`unisep_film.exclusion`). Gradients are recorded
        where a query asks for them.
        """
        self.check_input(mixture, queries, negatives, self.model.config.spaces[self.space])
        assert queries is not None
        with torch.inference_mode(not (torch.is_grad_enabled() and queries.requires_grad)):
            return answered(partial(self._answer, mixture), queries, negatives)

    def _answer(self, mixture: Tensor, queries: Tensor) -> Output:
        queries = queries.to(mixture.device, self.model.mix.weight.dtype)
        conditions = self.model.conditions(queries, self.space)
        targets, logits = self.model(mixture, conditions.expand(mixture.shape[0], *conditions.shape))
        return Output(targets, presence(logits.float(), queries, self._calibration))

    def exportable(self) -> tuple[nn.Module, int]:
        """Return a module of mixture and queries, which leaves nothing out, and the size of the queries."""
        return _Targets(self.model, self.space, self._calibration), self.model.config.spaces[self.space]


def presence(odds: Tensor, queries: Tensor, calibration: Sequence[float]) -> Tensor:
    """Return presence `[b, n]` of log-odds and their query vectors `[n, d]`: scale, bias and a direction of the vectors set it right."""
    if calibration:
        scale, bias, *direction = calibration
        odds = odds * scale + bias + queries.float() @ odds.new_tensor(direction)
    return torch.sigmoid(odds)


class _Targets(nn.Module):
    """Maps a mixture `[b, c, l]` and vectors `[n, d]` of one space to targets `[b, n, c, l]` and presence `[b, n]`."""

    def __init__(self, model: FilmHTDemucs, space: str, calibration: Sequence[float]) -> None:
        super().__init__()
        self.model, self.space, self.calibration = model, space, calibration

    def forward(self, mixture: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        conditions = self.model.conditions(queries, self.space)
        targets, logits = self.model(mixture, conditions.expand(mixture.shape[0], *conditions.shape))
        return targets, presence(logits.float(), queries, self.calibration)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend with the weights in a file, or in a folder that holds `unisep_film.safetensors`."""
    return FilmBackend(load_model(found(weights, WEIGHTS_FILE), device, dtype).requires_grad_(False))
