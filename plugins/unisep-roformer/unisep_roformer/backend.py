"""The community's checkpoints as backends of unisep."""

from __future__ import annotations

from pathlib import Path
from typing import Generic

import torch
from torch import Tensor, nn

from unisep import Backend, BackendInfo, Output
from unisep.errors import WeightsError

from .checkpoints import build_model, read_checkpoint
from .described import ConfigT, Description


class CheckpointBackend(Backend, Generic[ConfigT]):
    """A backend that separates segments with one described model, into all sources of its description or some of them.

    `model(mixture, stems)` gives the sources with the numbers `stems`. A model of one target out of two gives the other as
    well: the mixture less the target.
    """

    def __init__(
        self, model: nn.Module, description: Description[ConfigT], sources: tuple[str, ...] | None = None
    ) -> None:
        self.model = model
        self.description = description
        kept = description.sources if sources is None else sources
        self._stems = [index for index, name in enumerate(description.computed) if name in kept]
        self.info = BackendInfo(
            sources=kept,
            sample_rate_hz=description.sample_rate_hz,
            channels=description.n_channels,
            segment_seconds=description.segment_samples / description.sample_rate_hz,
            normalisation="song" if description.inference.normalize else "none",
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`, in the order of `info.sources`."""
        self.check_input(mixture, queries, negatives)
        with torch.no_grad():
            return Output(self.sources(mixture))

    def sources(self, mixture: Tensor) -> Tensor:
        """Return the sources `[batch, sources, channels, samples]` alone."""
        remainder, computed = self.description.remainder, self.model(mixture, self._stems)
        if remainder is None:
            return computed  # type: ignore[no-any-return]
        target = computed[:, 0]
        sources = [mixture - target if name == remainder else target for name in self.info.sources]
        return torch.stack(sources, dim=1)

    def exportable(self) -> tuple[nn.Module, None]:
        """Return what computes `sources` as a module."""
        return _Sources(self), None

    def for_sources(self, names: tuple[str, ...]) -> CheckpointBackend[ConfigT]:
        """Return a backend that gives `names` only; the network before their masks is shared by all."""
        wanted = tuple(name for name in self.info.sources if name in names)
        if self.description.remainder is not None or len(wanted) in (0, len(self.info.sources)):
            return self
        return CheckpointBackend(self.model, self.description, wanted)


class _Sources(nn.Module):
    """The sources of a backend, as a module."""

    def __init__(self, backend: CheckpointBackend[ConfigT]) -> None:
        super().__init__()
        self.model, self._sources = backend.model, backend.sources

    def forward(self, mixture: Tensor) -> Tensor:
        return self._sources(mixture)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load any RoFormer checkpoint: the folder with its .yaml and .ckpt, or one of the two."""
    if weights is None:
        raise WeightsError(
            "A RoFormer has no weights here. Run `unisep models pull NAME`, or give a folder with .yaml and .ckpt."
        )
    checkpoint = read_checkpoint(weights)
    return CheckpointBackend(build_model(checkpoint, device, dtype), checkpoint.description)
