"""The full end of the family: HT Demucs as published, its sources mixed into one target by the query."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import BeforeLayer, Encoded, HTDemucs
from unisep_htdemucs.spectrogram import waveform
from unisep_htdemucs.transformer import CrossTransformer

from .core import Core


class StemsHTDemucs(Core):
    """HT Demucs with every parameter kept, and target = sum over its sources s of m_s y_s.

    Axes: b batch, n queries, s sources, c audio channels, r real and imaginary part, f frequencies,
    t frames, l samples.
    """

    n_decoders = 2

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__()
        self.demucs = HTDemucs(config)

    def encode(self, mixture: Tensor) -> Encoded:
        """Both encoders' outputs for `mixture [b, c, l]`, padded to the training segment when not training."""
        return self.demucs.encode(self.demucs.padded(mixture))

    @property
    def transformer(self) -> CrossTransformer:
        """HT Demucs' own; a config without one is refused."""
        assert self.demucs.crosstransformer is not None
        return self.demucs.crosstransformer

    def widened(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """See `HTDemucs.widened`."""
        return self.demucs.widened(x, xt)

    def narrowed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """See `HTDemucs.narrowed`."""
        return self.demucs.narrowed(x, xt)

    def decode(
        self, x: Tensor, xt: Tensor, encoded: Encoded, mix: Tensor, before_layer: tuple[BeforeLayer, ...]
    ) -> Tensor:
        """Targets `[(b n), c, l]`; `mix [(b n), s]` weighs the sources.

        Sources are mixed before the inverse transform, which is linear: one transform a target, not one a source.
        """
        parts, waves = self.demucs.decode_branches(x, xt, encoded, *before_layer)
        n_queries = x.shape[0] // encoded.bins.shape[0]
        std, mean, std_t, mean_t = (
            repeat(value, "b ... -> (b n) ...", n=n_queries)
            for value in (encoded.std, encoded.mean, encoded.std_t, encoded.mean_t)
        )
        mix = mix.float()
        total = rearrange(mix.sum(dim=1), "b -> b 1 1 1")
        part = einsum(parts.float(), mix, "b s cr f t, b s -> b cr f t") * std + total * mean
        wave = einsum(waves.float(), mix, "b s c l, b s -> b c l") * std_t + total[..., 0] * mean_t
        bins = torch.view_as_complex(rearrange(part, "b (c r) f t -> b c f t r", r=2).contiguous())
        return wave + waveform(bins, encoded.n_samples)
