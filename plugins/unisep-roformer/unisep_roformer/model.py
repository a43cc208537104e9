"""RoFormers: a complex mask on the mixture's spectrogram from attention over time and over bands in turn.

Band-Split RoFormer: Lu, Wang, Kong, Hung 2023, arXiv:2309.02612. Mel-Band RoFormer: Wang, Lu, Won 2023,
arXiv:2310.01809. Parameters have the names of the community's checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import Bands, BandSplit, MaskEstimator
from .config import RoformerConfig
from .layers import RMSNorm, Transformer


class Roformer(nn.Module):
    """Separates a mixture into the sources of its config.

    Legend: b batch, c channels, n sources, f bins, r rows (a bin of a channel), t frames, k bands, d features.
    """

    window: Tensor

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        self.config = config
        is_mel = config.kind == "mel-band"
        sizes = (config.dim, config.heads, config.dim_head, is_mel)
        self.layers = nn.ModuleList(
            nn.ModuleList(_transformer(depth, *sizes) for depth in _depths(config)) for _ in range(config.depth)
        )
        self.final_norm = nn.Identity() if is_mel else RMSNorm(config.dim)
        self.bands = Bands(config)
        self.band_split = BandSplit(config.dim, self.bands.sizes)
        self.mask_estimators = nn.ModuleList(MaskEstimator(config, self.bands.sizes) for _ in range(config.num_stems))
        window = torch.hann_window(config.stft_win_length, device="cpu")
        self.register_buffer("window", window, persistent=False)

    def forward(self, mixture: Tensor, stems: Sequence[int] | None = None) -> Tensor:
        """The sources `[b, n, c, samples]` of `mixture [b, c, samples]`, of any length.

        stems: which of the sources to compute, all without.
        """
        spectrum = self.spectrum(mixture)
        features = self.features(self.bands.split(spectrum))
        chosen = range(self.config.num_stems) if stems is None else stems
        masks = torch.stack([self.mask_estimators[index](features) for index in chosen], dim=1)
        return self.waveforms(spectrum[:, None] * self.bands.join(masks), mixture.shape[-1])

    def spectrum(self, mixture: Tensor) -> Tensor:
        """The complex spectrogram `[b, r, t]`, always in float32."""
        config, n_samples = self.config, mixture.shape[-1]
        # Both ends are mirrored by half a window, which needs one sample more than that.
        missing = max(0, config.stft_n_fft // 2 + 1 - n_samples)
        signal = rearrange(F.pad(mixture.float(), (0, missing)), "b c samples -> (b c) samples")
        bins = torch.stft(signal, **self._stft(), return_complex=True)
        return rearrange(bins, "(b c) f t -> b (f c) t", c=config.n_channels)

    def features(self, values: Tensor) -> Tensor:
        """What the attention makes of the bands: `[b, t, k, d]`."""
        x = self.band_split(values)
        n_batch, n_frames = x.shape[:2]
        earlier: list[Tensor] = []
        for block in self.layers:
            over_time, over_bands = cast(nn.ModuleList, block)
            if self.config.skip_connection:
                x = sum(earlier, x)
            x = over_time(rearrange(x, "b t k d -> (b k) t d"))
            x = over_bands(rearrange(x, "(b k) t d -> (b t) k d", b=n_batch))
            x = rearrange(x, "(b t) k d -> b t k d", t=n_frames)
            earlier.append(x)
        return self.final_norm(x)

    def waveforms(self, spectra: Tensor, n_samples: int) -> Tensor:
        """Signals `[b, n, c, samples]` of the sources' spectrograms `[b, n, r, t]`."""
        n_batch, n_channels = len(spectra), self.config.n_channels
        bins = rearrange(spectra, "b n (f c) t -> (b n c) f t", c=n_channels)
        if self.config.zero_dc:
            bins = F.pad(torch.view_as_real(bins[:, 1:]), (0, 0, 0, 0, 1, 0))
            bins = torch.view_as_complex(bins)
        shortest = self.config.stft_n_fft // 2 + 1
        signal = torch.istft(bins, **self._stft(), length=max(n_samples, shortest))
        signal = rearrange(signal, "(b n c) samples -> b n c samples", b=n_batch, c=n_channels)
        return signal[..., :n_samples]

    def _stft(self) -> dict[str, Any]:
        config = self.config
        return {
            "n_fft": config.stft_n_fft,
            "hop_length": config.stft_hop_length,
            "win_length": config.stft_win_length,
            "window": self.window,
            "normalized": config.stft_normalized,
        }


def _depths(config: RoformerConfig) -> tuple[int, int]:
    return config.time_transformer_depth, config.freq_transformer_depth


def _transformer(depth: int, dim: int, heads: int, dim_head: int, norm_output: bool) -> Transformer:
    return Transformer(dim, depth, heads, dim_head, norm_output)
