"""HT Demucs as a backend of unisep: one model, or a bag of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output
from unisep.errors import AudioError, BackendError, WeightsError

from .bags import find_bag
from .checkpoints import build_model, read_checkpoint
from .model import HTDemucs


@dataclass(frozen=True)
class Member:
    """One model of a bag, and how much it counts for each of its sources."""

    model: HTDemucs
    weights: tuple[float, ...]


class HTDemucsBackend(Backend):
    """Separates segments with one HT Demucs model, or with the weighted mean of several.

    `separate` takes songs that the host has normalised as a whole (`info.normalisation`).
    """

    def __init__(self, members: tuple[Member, ...]) -> None:
        config = members[0].model.config
        if any(_shared(member) != _shared(members[0]) for member in members):
            raise WeightsError("The models of a bag differ in sources, sample rate, channels or segment.")
        if any(len(member.weights) != len(config.sources) for member in members):
            raise WeightsError(f"A bag needs {len(config.sources)} weights a model, one for each source.")
        self.members = members
        self._sums = [sum(weights) for weights in zip(*(member.weights for member in members), strict=True)]
        self._segment_samples = config.segment_samples
        if min(self._sums) <= 0:
            raise WeightsError(
                "A bag must count at least one model for every source; some weights are all 0."
            )
        self.info = BackendInfo(
            sources=config.sources,
            sample_rate_hz=config.samplerate,
            channels=config.audio_channels,
            segment_seconds=config.segment_samples / config.samplerate,
            normalisation="song",
        )

    def separate(
        self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None
    ) -> Output:
        """The sources of `mixture [batch, channels, samples]`, in the order of `info.sources`.

        A mixture shorter than a segment is put in the middle of one, between silence, as demucs does.
        """
        if queries is not None or negatives is not None:
            raise BackendError(
                "HT Demucs gives fixed sources and cannot answer queries; use a query backend."
            )
        self._check(mixture)
        n_samples = mixture.shape[-1]
        missing = self._segment_samples - n_samples
        before = missing // 2
        padded = F.pad(mixture, (before, missing - before))
        with torch.no_grad():
            sources = self._weighted(padded)
        return Output(sources[..., before : before + n_samples])

    def for_sources(self, names: tuple[str, ...]) -> HTDemucsBackend:
        """A backend that computes no source but `names`, by only those models that count for them."""
        columns = [index for index, name in enumerate(self.info.sources) if name in names]
        if len(columns) in (0, len(self.info.sources)) or not all(
            m.model.can_give_fewer for m in self.members
        ):
            return self
        wanted = tuple(self.info.sources[column] for column in columns)
        needed = [m for m in self.members if any(m.weights[column] > 0 for column in columns)]
        return HTDemucsBackend(
            tuple(Member(m.model.giving(wanted), tuple(m.weights[c] for c in columns)) for m in needed)
        )

    def _weighted(self, padded: Tensor) -> Tensor:
        """The mean of all members' outputs, each source by its weights."""
        if len(self.members) == 1:
            return self.members[0].model(padded)  # type: ignore[no-any-return]
        total = torch.zeros(())
        for member in self.members:
            weights = [weight / whole for weight, whole in zip(member.weights, self._sums, strict=True)]
            estimate = member.model(padded)
            total = total.to(estimate) + estimate * estimate.new_tensor(weights)[:, None, None]
        return total

    def _check(self, mixture: Tensor) -> None:
        if mixture.dim() != 3 or mixture.shape[1] != self.info.channels or not mixture.shape[-1]:
            raise AudioError(
                f"Got a mixture of shape {tuple(mixture.shape)}; HT Demucs takes [batch, {self.info.channels}, "
                "samples] with at least one sample."
            )
        if mixture.shape[-1] > self._segment_samples:
            raise AudioError(
                f"Got {mixture.shape[-1]} samples at once; this model takes at most {self._segment_samples}. "
                "Cut the recording into segments of that length."
            )


def _shared(member: Member) -> tuple[object, ...]:
    """What all models of a bag have in common."""
    config = member.model.config
    return config.sources, config.samplerate, config.audio_channels, config.segment


def load_htdemucs(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `htdemucs` backend: four sources, one model."""
    return _load("htdemucs", weights, device, dtype)


def load_htdemucs_ft(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `htdemucs_ft` backend: four specialists, one for each source."""
    return _load("htdemucs_ft", weights, device, dtype)


def load_htdemucs_6s(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `htdemucs_6s` backend: guitar and piano besides the usual four."""
    return _load("htdemucs_6s", weights, device, dtype)


def _load(name: str, weights: Path | None, device: torch.device, dtype: torch.dtype) -> HTDemucsBackend:
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    paths, bag = find_bag(name, weights)
    models = [build_model(read_checkpoint(path), device, dtype) for path in paths]
    equal = tuple(1.0 for _ in models[0].config.sources)
    rows = bag.weights or tuple(equal for _ in models)
    return HTDemucsBackend(tuple(Member(model, row) for model, row in zip(models, rows, strict=True)))
