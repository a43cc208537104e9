"""Band-Split RNN: one vector for each band and frame, recurrent layers over frames and bands in turn, a complex mask.

Luo and Yu 2022, arXiv:2209.15174; with overlapping bands and one encoder for all sources as in BandIt (Watcharasupat et al.
2023, arXiv:2309.02539), whose checkpoints name the parameters. Norms are layer norms over features, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from .config import BSRNNConfig


class BandSplitRNN(nn.Module):
    """A network that separates each channel of a mixture by itself into the stems of its config.

    Legend: b batch times channels, n sources, f bins, t frames, k bands, d features, i real and imaginary part.
    """

    window: Tensor
    shares: Tensor

    def __init__(self, config: BSRNNConfig) -> None:
        super().__init__()
        self.config = config
        self.bands = config.bands()
        sizes = [end - start for start, end in self.bands]
        self.band_split = BandSplit(config, sizes)
        self.tf_model = SequenceAndBand(config)
        self.mask_estim = nn.ModuleDict({stem: MaskEstimator(config, sizes) for stem in config.stems})
        # On the CPU by name, so that they exist while a model is laid out without memory.
        self.register_buffer("window", torch.hann_window(config.win_length, device="cpu"), persistent=False)
        shares = torch.tensor(band_shares(config), dtype=torch.float32, device="cpu")
        self.register_buffer("shares", shares[:, None], persistent=False)

    def forward(self, mixture: Tensor, stems: Sequence[int] | None = None) -> Tensor:
        """Return the sources `[batch, n, channels, samples]` of `mixture [batch, channels, samples]`, of any length.

        `stems` says which of the sources to compute; without, all.
        """
        n_channels, n_samples = mixture.shape[1:]
        spectrum = self.spectrum(rearrange(mixture, "batch c samples -> (batch c) samples"))
        features = self.tf_model(self.band_split(spectrum, self.bands))
        chosen = range(len(self.config.stems)) if stems is None else stems
        names = [self.config.stems[index] for index in chosen]
        masks = torch.stack([self.joined(self.mask_estim[name](features)) for name in names], dim=1)
        signal = self.waveforms(rearrange(spectrum[:, None] * masks, "b n f t -> (b n) f t"), n_samples)
        return rearrange(signal, "(batch c n) samples -> batch n c samples", c=n_channels, n=len(names))

    def joined(self, masks: list[Tensor]) -> Tensor:
        """Join the masks of all bands `[b, f of the band, t]` to `[b, f, t]`, averaged where bands overlap."""
        n_batch, _, n_frames = masks[0].shape
        total = masks[0].new_zeros(n_batch, self.config.n_bins, n_frames)
        for (start, end), mask in zip(self.bands, masks, strict=True):
            total[:, start:end] += mask * self.shares[start:end]
        return total

    def spectrum(self, signal: Tensor) -> Tensor:
        """Compute the complex spectrogram `[b, f, t]` of `signal [b, samples]`, always in float32, silence at both ends."""
        bins = torch.stft(signal.float(), **self._stft(), pad_mode="constant", return_complex=True)
        return bins / self._scale()

    def waveforms(self, spectra: Tensor, n_samples: int) -> Tensor:
        """Return signals `[b, samples]` of spectrograms `[b, f, t]`."""
        return torch.istft(spectra * self._scale(), **self._stft(), length=n_samples)

    def _scale(self) -> Tensor | float:
        return self.window.square().sum().sqrt() if self.config.normalized else 1.0

    def _stft(self) -> dict[str, Any]:
        config = self.config
        return {
            "n_fft": config.n_fft,
            "hop_length": config.hop_length,
            "win_length": config.win_length,
            "window": self.window,
        }


class NormLinear(nn.Module):
    """A layer norm and a linear layer: the features of one band."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_in)
        self.fc = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[b, t, d]` of `x [b, t, values]`."""
        return self.fc(self.norm(x))


class BandSplit(nn.Module):
    """A network that makes one vector for each band and frame."""

    def __init__(self, config: BSRNNConfig, sizes: Sequence[int]) -> None:
        super().__init__()
        self.norm_fc_modules = nn.ModuleList(NormLinear(2 * size, config.emb_dim) for size in sizes)

    def forward(self, spectrum: Tensor, bands: Sequence[tuple[int, int]]) -> Tensor:
        """Return features `[b, k, t, d]` of the spectrogram `[b, f, t]`: all real parts of a band, then the imaginary."""
        parts = torch.view_as_real(spectrum).to(next(self.parameters()).dtype)
        values = [rearrange(parts[:, start:end], "b f t i -> b t (i f)") for start, end in bands]
        return torch.stack([layer(x) for layer, x in zip(self.norm_fc_modules, values, strict=True)], dim=1)


class ResidualRNN(nn.Module):
    """A recurrent layer in both directions, and what it adds to its input."""

    def __init__(self, config: BSRNNConfig) -> None:
        super().__init__()
        kind = {"LSTM": nn.LSTM, "GRU": nn.GRU}[config.rnn_type]
        self.norm = nn.LayerNorm(config.emb_dim)
        self.rnn = kind(config.emb_dim, config.rnn_dim, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * config.rnn_dim, config.emb_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Inform every step of `x [rows, steps, d]` by all others of its row."""
        return x + self.fc(self.rnn(self.norm(x))[0])


class SequenceAndBand(nn.Module):
    """Recurrent layers over the frames of each band, and over the bands of each frame, in turn."""

    def __init__(self, config: BSRNNConfig) -> None:
        super().__init__()
        self.seqband = nn.ModuleList(ResidualRNN(config) for _ in range(2 * config.n_sqm_modules))

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[b, k, t, d]` after all layers."""
        n_batch = len(x)
        for index, layer in enumerate(self.seqband):
            rows = "(b t) k d" if index % 2 else "(b k) t d"
            x = rearrange(layer(rearrange(x, f"b k t d -> {rows}")), f"{rows} -> b k t d", b=n_batch)
        return x


class BandMask(nn.Module):
    """The network of one band's mask: one hidden layer, ending in a gated linear unit."""

    def __init__(self, config: BSRNNConfig, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.emb_dim)
        self.hidden = nn.Sequential(nn.Linear(config.emb_dim, config.mlp_dim), nn.Tanh())
        self.output = nn.Sequential(nn.Linear(config.mlp_dim, 4 * size), nn.GLU(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the complex mask `[b, f of the band, t]` of features `[b, t, d]`."""
        values = self.output(self.hidden(self.norm(x))).float()
        return torch.view_as_complex(rearrange(values, "b t (f i) -> b f t i", i=2).contiguous())


class MaskEstimator(nn.Module):
    """The masks of one source, a network for each band."""

    def __init__(self, config: BSRNNConfig, sizes: Sequence[int]) -> None:
        super().__init__()
        self.norm_mlp = nn.ModuleList(BandMask(config, size) for size in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the mask of each band of features `[b, k, t, d]`."""
        return [network(band) for network, band in zip(self.norm_mlp, x.unbind(dim=1), strict=True)]


def band_shares(config: BSRNNConfig) -> np.ndarray:
    """Return for each bin what each band's mask counts there: one over the number of bands that hold it."""
    counts = np.zeros(config.n_bins)
    for start, end in config.bands():
        counts[start:end] += 1
    return 1 / counts
