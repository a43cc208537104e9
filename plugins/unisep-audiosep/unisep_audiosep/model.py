"""AudioSep's separator: a spectrogram, the U-Net that masks it, and the way back.

Source: Liu et al. 2023, Separate Anything You Describe (arXiv:2308.05037); the U-Net is the one of Kong et al. 2021,
Decoupling magnitude and phase estimation with deep ResUNet (arXiv:2109.05418), six grids instead of more.
Parameters have the names of the published checkpoint, so that it loads as it is.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Decoder, Encoder, Film, Shifts
from .config import DOWNSAMPLING, FRAMES_MULTIPLE, N_ENCODERS, AudioSepConfig

_LEAST_MAGNITUDE = 1e-5
_LEAST_LENGTH = 1e-10
_N_MASK_MAPS = 3


class UNet(nn.Module):
    """Seven encoders, six decoders: from magnitudes to the three maps of a mask."""

    def __init__(self, config: AudioSepConfig) -> None:
        super().__init__()
        widths = config.widths
        self.bn0 = nn.BatchNorm2d(config.n_bins)
        self.pre_conv = nn.Conv2d(1, widths[0], 1)
        for index in range(N_ENCODERS):
            name = encoder_name(index)
            block = Encoder(widths[max(0, index - 1)], widths[index], DOWNSAMPLING[index], name)
            self.add_module(name, block)
        for index in reversed(range(N_ENCODERS - 1)):
            name = decoder_name(index)
            self.add_module(name, Decoder(widths[index + 1], widths[index], DOWNSAMPLING[index], name))
        self.after_conv = nn.Conv2d(widths[0], _N_MASK_MAPS, 1)

    @property
    def encoders(self) -> list[Encoder]:
        """From the finest grid to the coarsest."""
        return [block for block in self.children() if isinstance(block, Encoder)]

    @property
    def decoders(self) -> list[Decoder]:
        """From the coarsest grid to the finest."""
        return [block for block in self.children() if isinstance(block, Decoder)]

    def places(self) -> dict[str, int]:
        """Where the query steers, and how many numbers it gives there."""
        blocks: list[Encoder | Decoder] = [*self.encoders, *self.decoders]
        return dict(place for block in blocks for place in block.places())

    def forward(self, magnitudes: Tensor, shifts: Shifts) -> Tensor:
        """Three maps `[n, 3, frames, bins]` for magnitudes `[n, frames, bins]`; the highest bin is left at zero."""
        n_frames = magnitudes.shape[1]
        features = self.pre_conv(self._prepared(magnitudes))
        crossings = []
        for encoder in self.encoders:
            features, across = encoder(features, shifts)
            crossings.append(across)
        for decoder, across in zip(self.decoders, reversed(crossings[:-1]), strict=True):
            features = decoder(features, across, shifts)
        return F.pad(self.after_conv(features), (0, 1))[:, :, :n_frames]

    def _prepared(self, magnitudes: Tensor) -> Tensor:
        """`[n, 1, frames, bins]`: each bin normalised, frames filled up, the highest bin dropped."""
        normalised = self.bn0(rearrange(magnitudes, "n frames bins -> n bins frames 1"))
        one_map = rearrange(normalised, "n bins frames 1 -> n 1 frames bins")
        return F.pad(one_map, (0, 0, 0, -one_map.shape[2] % FRAMES_MULTIPLE))[..., :-1]


class AudioSep(nn.Module):
    """The separator of one channel at 32 kHz: `spectrum`, then a `mask` for each query, then `waveform`."""

    _window: Tensor

    def __init__(self, config: AudioSepConfig = AudioSepConfig()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        self.base = UNet(config)
        self.film = Film(self.base.places(), config.query_dim)
        self.register_buffer("_window", torch.hann_window(config.n_fft, device="cpu"), persistent=False)

    def spectrum(self, mono: Tensor) -> Tensor:
        """The complex spectrogram `[n, frames, bins]`, complex64, of `[n, samples]`.

        Silence is added to what is too short to be mirrored at its ends.
        """
        config = self.config
        filled = F.pad(mono.float(), (0, max(0, config.n_fft - mono.shape[-1])))
        bins = torch.stft(
            filled, config.n_fft, config.hop_samples, window=self._window, return_complex=True, pad_mode="reflect"
        )
        return rearrange(bins, "n bins frames -> n frames bins")

    def mask(self, spectrum: Tensor, query: Tensor) -> Tensor:
        """The complex mask `[n, frames, bins]` of what `query [dim]` names: at most 1 long, any turn."""
        dtype = self.base.pre_conv.weight.dtype
        magnitudes = spectrum.abs().clamp_min(_LEAST_MAGNITUDE).to(dtype)
        gain, real, imaginary = self.base(magnitudes, self.film(query.to(dtype))).float().unbind(1)
        turn = torch.complex(real.tanh(), imaginary.tanh())
        return gain.sigmoid() * turn / turn.abs().clamp_min(_LEAST_LENGTH)

    def waveform(self, spectrum: Tensor, n_samples: int) -> Tensor:
        """`[n, n_samples]` of a spectrogram `[n, frames, bins]`."""
        config = self.config
        bins = rearrange(spectrum, "n frames bins -> n bins frames")
        n_covered = max(n_samples, config.n_fft)
        return torch.istft(bins, config.n_fft, config.hop_samples, window=self._window, length=n_covered)[:, :n_samples]


def encoder_name(index: int) -> str:
    """What the checkpoint calls an encoder; 0 has the finest grid, the last sits at the bottom."""
    return f"encoder_block{index + 1}" if index < N_ENCODERS - 1 else f"conv_block{N_ENCODERS}a"


def decoder_name(index: int) -> str:
    """What the checkpoint calls the decoder on the grid of encoder `index`."""
    return f"decoder_block{N_ENCODERS - 1 - index}"
