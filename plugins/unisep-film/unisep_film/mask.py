"""The light end of the family: an HT Demucs whose output is one complex mask on the mixture.

It has both encoders and the cross-transformer of HT Demucs and the decoder of the frequency branch;
the time branch has no decoder, since a mask is all that is put out. It reads compressed magnitudes
and phases, and sees neighbouring high bins as one, which makes it light enough to train on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from unisep_htdemucs.blocks import DecoderLayer, EncoderLayer, ScaledEmbedding, rescale_convolutions
from unisep_htdemucs.model import BeforeLayer
from unisep_htdemucs.spectrogram import spectrogram, waveform
from unisep_htdemucs.transformer import CrossTransformer

from .config import FilmConfig
from .core import Core

COMPRESSION = 0.3  # exponent on magnitudes: about the loudness a listener hears
_FEATURES = 3  # compressed magnitude, and its cosine and sine parts, for each audio channel


@dataclass(frozen=True)
class MaskEncoded:
    """What the encoders make of a mixture. Axes: b batch, c channels, f frequencies, t frames, s steps."""

    x: Tensor  # bottom of the frequency branch [b, c, f, t]
    xt: Tensor  # bottom of the time branch [b, c, s]
    skips: tuple[Tensor, ...]  # [b, c, f, t] each, outermost first
    n_freqs: tuple[int, ...]  # frequencies that enter each encoder layer
    bins: Tensor  # the mixture's complex spectrogram [b, channels, f, t]
    fade: Tensor  # what is left of a constant after analysis and synthesis [l]


class MaskHTDemucs(Core):
    """Both encoders and the cross-transformer of HT Demucs, and a decoder that puts out a mask.

    Axes: b batch, n queries, c audio channels, p mask parts (log-odds of the magnitude, angle),
    f frequencies, t frames, l samples.
    """

    n_decoders = 1

    def __init__(self, config: FilmConfig) -> None:
        super().__init__()
        self.bands = config.bands or ((config.separator.nfft // 2, 1),)
        self.nfft = config.separator.nfft
        self.config = core = config.core_config()
        heard, widths = core.audio_channels, core.encoder_channels
        self.encoder, self.tencoder, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, width in enumerate(widths):
            above = widths[index - 1] if index else 0
            self.encoder.append(EncoderLayer(core, index, above or _FEATURES * heard, width, True))
            self.tencoder.append(EncoderLayer(core, index, above or heard, width, False))
            self.decoder.insert(0, DecoderLayer(core, index, width, above or 2 * heard, True))
        rescale_convolutions(self, core.rescale or 1.0)
        self.freq_emb = ScaledEmbedding(config.n_bands // core.stride, widths[0], core.emb_scale, core.emb_smooth)
        inner = core.bottom_channels
        self.widen = nn.Conv1d(widths[-1], inner, 1) if inner else nn.Identity()
        self.widen_t = nn.Conv1d(widths[-1], inner, 1) if inner else nn.Identity()
        self.narrow = nn.Conv1d(inner, widths[-1], 1) if inner else nn.Identity()
        self.crosstransformer = CrossTransformer(core)

    def encode(self, mixture: Tensor) -> MaskEncoded:
        """Both encoders' outputs for `mixture [b, c, l]`."""
        # The transform's own layout is frame by frame; products with a mask laid out otherwise are slow.
        bins = spectrogram(mixture.float(), self.nfft).contiguous()
        x = standardised(merge_bins(features(bins), self.bands))
        xt = standardised(mixture.float())
        dtype = self.freq_emb.embedding.weight.dtype
        x, xt = x.to(dtype), xt.to(dtype)
        skips, n_freqs = [], []
        for index, (layer, layer_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            n_freqs.append(x.shape[2])
            x, xt = layer(x), layer_t(xt)
            if index == 0:
                x = x + self.config.freq_emb * self.freq_emb()[:, :, None]
            skips.append(x)
        fade = analysis_fade(bins, mixture.shape[-1])
        return MaskEncoded(x, xt, tuple(skips), tuple(n_freqs), bins, fade)

    @property
    def transformer(self) -> CrossTransformer:
        """The one between the encoders and the decoder."""
        return self.crosstransformer

    def widened(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both bottoms with as many channels as the transformer has."""
        flat = self.widen(rearrange(x, "b c f t -> b c (f t)"))
        return rearrange(flat, "b c (f t) -> b c f t", f=x.shape[2]), self.widen_t(xt)

    def narrowed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """`x` with as many channels as the decoder takes; the time branch has none, and stays as it is."""
        flat = self.narrow(rearrange(x, "b c f t -> b c (f t)"))
        return rearrange(flat, "b c (f t) -> b c f t", f=x.shape[2]), xt

    def decode(
        self, x: Tensor, xt: Tensor, encoded: MaskEncoded, mix: Tensor, before_layer: tuple[BeforeLayer, ...]
    ) -> Tensor:
        """Targets `[(b n), c, l]` from the bottom of the frequency branch; `mix [(b n), 1]` is their gain.

        The time branch `xt` has been heard through the cross-transformer and has no decoder.
        """
        n_queries = x.shape[0] // encoded.bins.shape[0]
        for index, layer in enumerate(self.decoder):
            level = len(self.decoder) - 1 - index
            skip = repeat(encoded.skips[level], "b ... -> (b n) ...", n=n_queries)
            x = layer(*before_layer[0](index, x, skip), encoded.n_freqs[level])
        parts = rearrange(split_bins(x.float(), self.bands), "b (c p) f t -> p b c f t", p=2)
        bins = repeat(encoded.bins, "b ... -> (b n) ...", n=n_queries)
        return mix.float()[..., None] * resynthesised(bins * polar_mask(*parts), encoded.fade)


def analysis_fade(bins: Tensor, n_samples: int) -> Tensor:
    """Return what is left of a constant `[n_samples]` after `spectrogram`, as it made `bins`, and `waveform`.

    `spectrogram` leaves out the frames that lie mostly beyond the ends, so that `waveform` fades there (HT Demucs
    fills in from its time branch).
    """
    ones = torch.ones(n_samples, device=bins.device)
    return waveform(spectrogram(ones, 2 * bins.shape[-2]), n_samples)


def resynthesised(bins: Tensor, fade: Tensor) -> Tensor:
    """Return the waveform `[..., samples]` of masked `bins`; unmasked ones give the recording back, ends included.

    fade: `[samples]`, see `analysis_fade`.
    """
    return waveform(bins, fade.shape[-1]) / fade.clamp_min(0.1)


def features(bins: Tensor) -> Tensor:
    """`[b, 3 c, f, t]` of complex `bins [b, c, f, t]`: compressed magnitude, and it times cosine and sine."""
    magnitude = bins.abs().clamp_min(1e-9)
    level = magnitude.mean(dim=(1, 2, 3), keepdim=True)
    loudness = (magnitude / level).pow(COMPRESSION)
    parts = torch.view_as_real(bins) * (loudness / magnitude)[..., None]
    stacked = torch.cat([loudness[..., None], parts], dim=-1)
    return rearrange(stacked, "b c f t k -> b (c k) f t")


def standardised(x: Tensor) -> Tensor:
    """`x [b, ...]` with the mean of each item removed and its deviation brought to 1."""
    axes = tuple(range(1, x.dim()))
    std, mean = torch.std_mean(x, dim=axes, keepdim=True)
    return (x - mean) / (1e-7 + std)


def merge_bins(x: Tensor, bands: Sequence[tuple[int, int]]) -> Tensor:
    """`x [b, c, f, t]` with each band's groups of neighbouring bins averaged."""
    parts = x.split([n for n, _ in bands], dim=2)
    merged = [
        part if size == 1 else reduce(part, "b c (f g) t -> b c f t", "mean", g=size)
        for part, (_, size) in zip(parts, bands, strict=True)
    ]
    return torch.cat(merged, dim=2)


def split_bins(x: Tensor, bands: Sequence[tuple[int, int]]) -> Tensor:
    """Reverse `merge_bins`: every bin takes the value of its group."""
    parts = x.split([n // size for n, size in bands], dim=2)
    split = [
        part if size == 1 else repeat(part, "b c f t -> b c (f g) t", g=size)
        for part, (_, size) in zip(parts, bands, strict=True)
    ]
    return torch.cat(split, dim=2)


def polar_mask(odds: Tensor, angle: Tensor) -> Tensor:
    """Return a complex mask of magnitude 2 sigmoid(odds), turned by `angle`; zeros give the identity."""
    return torch.polar(2 * torch.sigmoid(odds), angle)
