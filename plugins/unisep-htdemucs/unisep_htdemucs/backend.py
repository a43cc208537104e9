"""HT Demucs as a backend of unisep: one model, or the weighted mean of several."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output
from unisep.errors import WeightsError, arg

from .bags import find_bag, mean_of
from .checkpoints import build_model, read_checkpoint
from .model import HTDemucs


class HTDemucsBackend(Backend):
    """A backend that separates segments with one HT Demucs model.

    `separate` takes songs that the host has normalised as a whole, where the checkpoint says so (`info.normalisation`).
    """

    def __init__(self, model: HTDemucs, normalisation: Literal["none", "song"] = "song") -> None:
        self.model, config = model, model.config
        self.info = BackendInfo(
            sources=config.sources,
            sample_rate_hz=config.samplerate,
            channels=config.audio_channels,
            segment_seconds=config.segment_samples / config.samplerate,
            normalisation=normalisation,
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`, in the order of `info.sources`.

        A mixture shorter than a segment is put in the middle of one, between silence, as demucs does.
        """
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        missing = self.model.config.segment_samples - n_samples
        before = missing // 2
        with torch.no_grad():
            sources = self.model(F.pad(mixture, (before, missing - before)))
        return Output(sources[..., before : before + n_samples])

    def exportable(self) -> tuple[HTDemucs, None]:
        """Return the model: of a whole segment it makes what `separate` does."""
        return self.model, None

    def for_sources(self, names: tuple[str, ...]) -> HTDemucsBackend:
        """Return a backend that computes no source but `names`."""
        wanted = tuple(name for name in self.info.sources if name in names)
        if len(wanted) in (0, len(self.info.sources)) or not self.model.can_give_fewer:
            return self
        return HTDemucsBackend(self.model.giving(wanted), self.info.normalisation)


def load_htdemucs(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `htdemucs`: four sources, one model."""
    return _load("htdemucs", weights, device, dtype)


def load_htdemucs_ft(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `htdemucs_ft`: four specialists, one for each source."""
    return _load("htdemucs_ft", weights, device, dtype)


def load_htdemucs_6s(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `htdemucs_6s`: guitar and piano besides the usual four."""
    return _load("htdemucs_6s", weights, device, dtype)


def _load(name: str, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    paths, bag = find_bag(name, weights)
    backends = []
    for checkpoint in map(read_checkpoint, paths):
        backends.append(HTDemucsBackend(build_model(checkpoint, device, dtype), checkpoint.normalisation))
    longest = backends[0].info.segment_seconds
    if bag.segment_seconds is not None and longest is not None and bag.segment_seconds < longest:
        raise WeightsError(
            f"{name}.yaml asks for segments of {bag.segment_seconds} s, and the model was trained on {longest} s. Leave "
            f"that line out; {arg('segment_seconds')} asks for shorter ones."
        )
    return mean_of(backends, bag)
