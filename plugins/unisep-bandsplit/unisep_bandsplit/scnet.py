"""SCNet: the spectrogram's low, middle and high frequencies, thinned out more the higher they are, and a dual-path RNN.

Tong, Zhu, Chen, Kang, Jiang, Li, Wu, Meng 2024, arXiv:2401.13276. Parameters have the names of the community's checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import BandSizes, SCNetConfig


class SCNet(nn.Module):
    """A network that maps a mixture's spectrogram to those of its sources.

    Legend: b batch, c audio channels, n sources, f bins, t frames, i real and imaginary part, d features.
    """

    window: Tensor

    def __init__(self, config: SCNetConfig) -> None:
        super().__init__()
        self.config = config
        n_out = config.dims[0] * len(config.sources)
        widths = list(pairwise(config.dims))
        levels = config.levels()
        self.encoder = nn.ModuleList(SparseDown(config, *ends, size) for ends, size in zip(widths, levels, strict=True))
        self.separation_net = DualPath(config)
        # From the deepest level up; the outermost gives all sources.
        ups = [(inner, outer if index else n_out) for index, (outer, inner) in enumerate(widths)]
        self.decoder = nn.ModuleList(
            nn.Sequential(Fusion(ends[0]), SparseUp(config, *ends, size))
            for ends, size in zip(reversed(ups), reversed(levels), strict=True)
        )
        # All ones: the published models were trained without a window.
        self.register_buffer("window", torch.ones(config.win_size, device="cpu"), persistent=False)

    def forward(self, mixture: Tensor, stems: Sequence[int] | None = None) -> Tensor:
        """Return the sources `[b, n, c, samples]` of `mixture [b, c, samples]`, of any length.

        `stems` says which of the sources to give; without, all.
        """
        chosen = list(range(len(self.config.sources)) if stems is None else stems)
        x = self.spectrum(mixture).to(next(self.parameters()).dtype)
        skips = []
        for down in self.encoder:
            x, skip = down(x)
            skips.append(skip)
        x = self.separation_net(x)
        for up in self.decoder:
            fusion, sparse_up = cast(nn.Sequential, up)
            x = sparse_up(fusion(x + skips.pop()))
        spectra = rearrange(x.float(), "b (n d) f t -> b n d f t", d=self.config.dims[0])[:, chosen]
        return self.waveforms(spectra, mixture.shape[-1])

    def spectrum(self, mixture: Tensor) -> Tensor:
        """Compute the spectrogram `[b, (c i), f, t]`, always in float32, of an even number of frames."""
        hop, n_samples = self.config.hop_size, mixture.shape[-1]
        # Behind the end at least one sample and an odd number of hops in all; more than half a window for the mirrored ends.
        n_hops = max(n_samples // hop + 1, self.config.nfft // (2 * hop) + 1) | 1
        signal = F.pad(mixture.float(), (0, n_hops * hop - n_samples))
        bins = torch.stft(rearrange(signal, "b c samples -> (b c) samples"), **self._stft(), return_complex=True)
        return rearrange(torch.view_as_real(bins), "(b c) f t i -> b (c i) f t", c=self.config.audio_channels)

    def waveforms(self, spectra: Tensor, n_samples: int) -> Tensor:
        """Return signals `[b, n, c, samples]` of the sources' spectrograms `[b, n, (c i), f, t]`."""
        n_batch, n_channels = len(spectra), self.config.audio_channels
        parts = rearrange(spectra, "b n (c i) f t -> (b n c) f t i", c=n_channels)
        signal = torch.istft(torch.view_as_complex(parts.contiguous()), **self._stft())
        return rearrange(signal, "(b n c) samples -> b n c samples", b=n_batch, c=n_channels)[..., :n_samples]

    def _stft(self) -> dict[str, Any]:
        config = self.config
        return {
            "n_fft": config.nfft,
            "hop_length": config.hop_size,
            "win_length": config.win_size,
            "window": self.window,
            "normalized": config.normalized,
        }


class BandConvolutions(nn.Module):
    """The convolutions that thin out each band along its bins."""

    def __init__(self, config: SCNetConfig, n_in: int, n_out: int, sizes: BandSizes) -> None:
        super().__init__()
        rows = list(zip(sizes.wide, config.band_stride, config.band_kernel, strict=True))
        self.sizes = sizes.wide
        self.paddings = [config.padding(*row) for row in rows]
        self.convs = nn.ModuleList(nn.Conv2d(n_in, n_out, (kernel, 1), (stride, 1)) for _, stride, kernel in rows)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the sparse bands of `x [b, d, f, t]`."""
        parts = zip(x.split(self.sizes, dim=2), self.paddings, self.convs, strict=True)
        return [conv(F.pad(band, (0, 0, extra // 2, extra - extra // 2))) for band, extra, conv in parts]


class SparseDown(nn.Module):
    """One level of the encoder: sparse bands, convolutions over time in each, one over all of them."""

    def __init__(self, config: SCNetConfig, n_in: int, n_out: int, sizes: BandSizes) -> None:
        super().__init__()
        self.SDlayer = BandConvolutions(config, n_in, n_out, sizes)
        self.conv_modules = nn.ModuleList(TimeConvolutions(config, n_out, depth) for depth in config.conv_depths)
        self.globalconv = nn.Conv2d(n_out, n_out, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the level's output, and what the decoder adds at this level."""
        bands = [F.gelu(network(band)) for band, network in zip(self.SDlayer(x), self.conv_modules, strict=True)]
        skip = torch.cat(bands, dim=2)
        return self.globalconv(skip), skip


class TimeConvolutions(nn.Module):
    """Residual convolutions over the frames of each bin by itself."""

    def __init__(self, config: SCNetConfig, n_channels: int, depth: int) -> None:
        super().__init__()
        hidden, kernel = n_channels // config.compress, config.conv_kernel
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, n_channels),
                nn.Conv1d(n_channels, 2 * hidden, kernel, padding=kernel // 2),
                nn.GLU(dim=1),
                nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden),
                nn.GroupNorm(1, hidden),
                nn.SiLU(),
                nn.Conv1d(hidden, n_channels, 1),
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a band `[b, d, f, t]` with what each layer adds."""
        n_batch = len(x)
        x = rearrange(x, "b d f t -> (b f) d t")
        for layer in self.layers:
            x = x + layer(x)
        return rearrange(x, "(b f) d t -> b d f t", b=n_batch)


class Fusion(nn.Module):
    """A gated convolution of what comes from below together with what comes from the encoder."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * n_channels, 2 * n_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x [b, d, f, t]`, the sum of both, convolved."""
        return F.glu(self.conv(torch.cat([x, x], dim=1)), dim=1)


class SparseUp(nn.Module):
    """The transposed convolutions that give each band its bins back."""

    def __init__(self, config: SCNetConfig, n_in: int, n_out: int, sizes: BandSizes) -> None:
        super().__init__()
        self.sizes = sizes
        rows = zip(config.band_kernel, config.band_stride, strict=True)
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(n_in, n_out, (kernel, 1), (stride, 1)) for kernel, stride in rows
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return all bins of the sparse bands in `x [b, d, f, t]`."""
        parts = zip(x.split(self.sizes.sparse, dim=2), self.convtrs, self.sizes.wide, strict=True)
        return torch.cat([_middle(network(band), n_bins) for band, network, n_bins in parts], dim=2)


def _middle(x: Tensor, n_bins: int) -> Tensor:
    start = (x.shape[2] - n_bins) // 2
    return x[:, :, start : start + n_bins]


class DualPath(nn.Module):
    """Recurrent layers that take turns on the frames and on their frequencies, those of the frames' Fourier transform."""

    def __init__(self, config: SCNetConfig) -> None:
        super().__init__()
        n_channels = config.dims[-1]
        self.dp_modules = nn.ModuleList(
            DualPathRNN(n_channels * (1 + index % 2), config.expand) for index in range(config.num_dplayer)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x [b, d, f, t]` after all layers; the number of frames is even."""
        for index, layer in enumerate(self.dp_modules):
            x = layer(x)
            # There is no Fourier transform in half precision.
            if index % 2:
                real, imaginary = x.float().chunk(2, dim=1)
                x = torch.fft.irfft(torch.complex(real, imaginary), dim=3, norm="ortho").to(x.dtype)
            else:
                spectrum = torch.fft.rfft(x.float(), dim=3, norm="ortho")
                x = torch.cat([spectrum.real, spectrum.imag], dim=1).to(x.dtype)
        return x


class DualPathRNN(nn.Module):
    """A bidirectional LSTM over the bins of each frame, then one over the frames of each bin."""

    def __init__(self, n_channels: int, expand: int) -> None:
        super().__init__()
        hidden = n_channels * expand
        both = range(2)
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(n_channels, hidden, batch_first=True, bidirectional=True) for _ in both
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * hidden, n_channels) for _ in both)
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, n_channels) for _ in both)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x [b, d, f, t]` with what each LSTM adds."""
        n_batch = len(x)
        steps = zip(self.norm_layers, self.lstm_layers, self.linear_layers, strict=True)
        for (norm, lstm, linear), rows in zip(steps, ("(b t) f d", "(b f) t d"), strict=True):
            added = linear(lstm(rearrange(norm(x), f"b d f t -> {rows}"))[0])
            x = x + rearrange(added, f"{rows} -> b d f t", b=n_batch)
        return x
