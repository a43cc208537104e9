"""FiLM HT Demucs as a query backend of unisep."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unisep import Backend, BackendInfo, Output
from unisep.errors import WeightsError

from .checkpoints import load_model
from .exclusion import without
from .model import FilmHTDemucs

WEIGHTS_FILE = "unisep_film.safetensors"


class FilmBackend(Backend):
    """Isolates one target for each query vector; all queries of a call share one run of the encoders."""

    def __init__(self, model: FilmHTDemucs, space: str | None = None) -> None:
        """Answer with `model` for vectors of `space`, by default the first it understands."""
        shape = model.config.separator
        self.model = model
        self.space = space or next(iter(model.config.spaces))
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

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Targets `[batch, queries, channels, samples]` and presence `[batch, queries]`.

        mixture: `[batch, channels, samples]`; queries and negatives: `[queries, dim]` unit vectors, a row of
        zeros in `negatives` leaves nothing out. What is to be left out is isolated in the same call, as a
        query of its own, and taken from the target bin by bin (`unisep_film.exclusion`).
        """
        self.check_input(mixture, queries, negatives, self.model.config.spaces[self.space])
        assert queries is not None
        dtype = self.model.mix.weight.dtype
        conditions, rows = self._conditions(queries.to(mixture.device, dtype), negatives)
        targets, logits = self.model(mixture, conditions.expand(mixture.shape[0], *conditions.shape))
        n_queries = queries.shape[0]
        targets, excluded = targets[:, :n_queries], targets[:, n_queries:]
        if len(rows):
            targets[:, rows] = without(targets[:, rows], excluded)
        return Output(targets, torch.sigmoid(logits[:, :n_queries].float()))

    def exportable(self) -> tuple[nn.Module, int]:
        """Return a module of mixture and queries, which leaves nothing out, and the size of the queries."""
        return _Targets(self.model, self.space), self.model.config.spaces[self.space]

    def _conditions(self, queries: Tensor, negatives: Tensor | None) -> tuple[Tensor, Tensor]:
        """Conditions of the queries and of those negatives that are not zero, and the rows these belong to."""
        if negatives is None:
            return self.model.conditions(queries, self.space), torch.empty(0, dtype=torch.long)
        unwanted = negatives.to(queries)
        rows = unwanted.any(dim=1).nonzero()[:, 0]
        wanted = self.model.conditions(queries, self.space, unwanted)
        return torch.cat([wanted, self.model.conditions(unwanted[rows], self.space)]), rows


class _Targets(nn.Module):
    """Maps a mixture `[b, c, l]` and vectors `[n, d]` of one space to targets `[b, n, c, l]` and presence `[b, n]`."""

    def __init__(self, model: FilmHTDemucs, space: str) -> None:
        super().__init__()
        self.model, self.space = model, space

    def forward(self, mixture: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        conditions = self.model.conditions(queries, self.space)
        targets, logits = self.model(mixture, conditions.expand(mixture.shape[0], *conditions.shape))
        return targets, torch.sigmoid(logits)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend with the weights in a file, or in a folder that holds `unisep_film.safetensors`."""
    if weights is None:
        raise WeightsError("FiLM HT Demucs needs weights: a file, or the folder of the embedded ones.")
    file = weights / WEIGHTS_FILE if weights.is_dir() else weights
    if not file.is_file():
        raise WeightsError(f"{file} does not exist. Leave the weights out to use the embedded ones.")
    return FilmBackend(load_model(file, device, dtype))
