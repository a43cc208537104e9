"""AudioSep's separator: a spectrogram, the U-Net that masks it, and the way back.

Source: Liu et al. 2023, Separate Anything You Describe (arXiv:2308.05037); the U-Net is the one of Kong et al. 2021,
Decoupling magnitude and phase estimation with deep ResUNet (arXiv:2109.05418), six grids instead of more.
Parameters have the names of the published checkpoint, so that it loads as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

Shifts = Mapping[str, Tensor]
N_ENCODERS = 7
# How many times finer time and frequency are above each of the seven encoders than below it.
DOWNSAMPLING = ((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))
FRAMES_MULTIPLE = 32
BINS_MULTIPLE = 64
_SLOPE = 0.01
_LEAST_MAGNITUDE = 1e-5
_LEAST_LENGTH = 1e-10
_N_MASK_MAPS = 3


@dataclass(frozen=True)
class AudioSepConfig:
    """The sizes of a model; the defaults are those of the published checkpoint.

    Attributes:
        widths: Feature maps after each of the seven encoders.
        query_dim: Length of a query vector.
        n_fft: Window of the spectrogram, a multiple of 128; always 64 ms long, every 10 ms.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 384, 384, 384)
    query_dim: int = 512
    n_fft: int = 2048

    @property
    def n_bins(self) -> int:
        """Bins of the spectrogram, the highest included."""
        return self.n_fft // 2 + 1

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.n_fft * 5 // 32

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which `n_fft` samples last 64 ms."""
        return self.n_fft * 1000 // 64


class AudioSep(nn.Module):
    """A separator of one channel at 32 kHz: `spectrum`, then a `mask` for each query, then `waveform`."""

    _window: Tensor

    def __init__(self, config: AudioSepConfig = AudioSepConfig()) -> None:
        super().__init__()
        self.config = config
        self.base = UNet(config)
        self.film = Film(self.base.places(), config.query_dim)
        self.register_buffer("_window", torch.hann_window(config.n_fft, device="cpu"), persistent=False)

    def spectrum(self, mono: Tensor) -> Tensor:
        """Compute the complex spectrogram `[n, frames, bins]`, complex64, of `[n, samples]`.

        Silence is added to what is too short to be mirrored at its ends.
        """
        config = self.config
        filled = F.pad(mono.float(), (0, max(0, config.n_fft - mono.shape[-1])))
        bins = torch.stft(
            filled, config.n_fft, config.hop_samples, window=self._window, return_complex=True, pad_mode="reflect"
        )
        return rearrange(bins, "n bins frames -> n frames bins")

    def mask(self, spectrum: Tensor, query: Tensor) -> Tensor:
        """Return the complex mask `[n, frames, bins]` of what `query [dim]` names: at most 1 long, any turn."""
        dtype = self.base.pre_conv.weight.dtype
        magnitudes = spectrum.abs().clamp_min(_LEAST_MAGNITUDE).to(dtype)
        gain, real, imaginary = self.base(magnitudes, self.film(query.to(dtype))).float().unbind(1)
        turn = torch.complex(real.tanh(), imaginary.tanh())
        return gain.sigmoid() * turn / turn.abs().clamp_min(_LEAST_LENGTH)

    def waveform(self, spectrum: Tensor, n_samples: int) -> Tensor:
        """Return `[n, n_samples]` of a spectrogram `[n, frames, bins]`."""
        config = self.config
        bins = rearrange(spectrum, "n frames bins -> n bins frames")
        n_covered = max(n_samples, config.n_fft)
        return torch.istft(bins, config.n_fft, config.hop_samples, window=self._window, length=n_covered)[:, :n_samples]


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
        """The encoders from the finest grid to the coarsest."""
        return [block for block in self.children() if isinstance(block, Encoder)]

    @property
    def decoders(self) -> list[Decoder]:
        """The decoders from the coarsest grid to the finest."""
        return [block for block in self.children() if isinstance(block, Decoder)]

    def places(self) -> dict[str, int]:
        """List where the query steers, and how many numbers it gives there."""
        blocks: list[Encoder | Decoder] = [*self.encoders, *self.decoders]
        return dict(place for block in blocks for place in block.places())

    def forward(self, magnitudes: Tensor, shifts: Shifts) -> Tensor:
        """Make three maps `[n, 3, frames, bins]` of magnitudes `[n, frames, bins]`; the highest bin is left at zero."""
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
        """Make `[n, 1, frames, bins]`: each bin normalised, frames filled up, the highest bin dropped."""
        normalised = self.bn0(rearrange(magnitudes, "n frames bins -> n bins frames 1"))
        one_map = rearrange(normalised, "n bins frames 1 -> n 1 frames bins")
        return F.pad(one_map, (0, 0, 0, -one_map.shape[2] % FRAMES_MULTIPLE))[..., :-1]


def encoder_name(index: int) -> str:
    """Return what the checkpoint calls an encoder; 0 has the finest grid, the last sits at the bottom."""
    return f"encoder_block{index + 1}" if index < N_ENCODERS - 1 else f"conv_block{N_ENCODERS}a"


def decoder_name(index: int) -> str:
    """Return what the checkpoint calls the decoder on the grid of encoder `index`."""
    return f"decoder_block{N_ENCODERS - 1 - index}"


def shifted_activation(norm: nn.BatchNorm2d, features: Tensor, shift: Tensor) -> Tensor:
    """Apply leaky ReLU to the normalised features, each map moved by what the query says of it.

    FiLM without a scale (Perez et al. 2018, arXiv:1709.07871): the batch norm in front has one already.
    Features are `[n, maps, frames, bins]`, shifts `[maps]`.
    """
    return F.leaky_relu_(norm(features) + shift[:, None, None], _SLOPE)


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm, shift and activation, beside a way around them."""

    def __init__(self, n_in: int, n_out: int, place: str) -> None:
        super().__init__()
        self.place = place
        self.bn1 = nn.BatchNorm2d(n_in)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def places(self) -> Iterator[tuple[str, int]]:
        """List where the query steers, and how many numbers it gives there."""
        yield f"{self.place}->beta1", self.bn1.num_features
        yield f"{self.place}->beta2", self.bn2.num_features

    def forward(self, features: Tensor, shifts: Shifts) -> Tensor:
        """Map `[n, n_in, frames, bins]` to `[n, n_out, frames, bins]`."""
        inner = self.conv1(shifted_activation(self.bn1, features, shifts[f"{self.place}->beta1"]))
        inner = self.conv2(shifted_activation(self.bn2, inner, shifts[f"{self.place}->beta2"]))
        around: Tensor = self.shortcut(features)
        return around + inner


class Encoder(nn.Module):
    """A residual block, and its output on a coarser grid."""

    def __init__(self, n_in: int, n_out: int, downsampling: tuple[int, int], place: str) -> None:
        super().__init__()
        self.conv_block1 = ResidualBlock(n_in, n_out, f"{place}->conv_block1")
        self._downsampling = downsampling

    def places(self) -> Iterator[tuple[str, int]]:
        """List the places as `ResidualBlock.places` does."""
        return self.conv_block1.places()

    def forward(self, features: Tensor, shifts: Shifts) -> tuple[Tensor, Tensor]:
        """Return what goes down, and what goes across to the decoder of the same grid."""
        across = self.conv_block1(features, shifts)
        return F.avg_pool2d(across, self._downsampling), across


class Decoder(nn.Module):
    """Features on a finer grid, joined with those of the encoder there."""

    def __init__(self, n_in: int, n_out: int, upsampling: tuple[int, int], place: str) -> None:
        super().__init__()
        self.place = place
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.ConvTranspose2d(n_in, n_out, upsampling, stride=upsampling, bias=False)
        self.conv_block2 = ResidualBlock(2 * n_out, n_out, f"{place}->conv_block2")

    def places(self) -> Iterator[tuple[str, int]]:
        """List the places as `ResidualBlock.places` does."""
        yield f"{self.place}->beta1", self.bn1.num_features
        yield from self.conv_block2.places()

    def forward(self, features: Tensor, across: Tensor, shifts: Shifts) -> Tensor:
        """Join `[n, n_in, frames, bins]` with `[n, n_out, finer frames, finer bins]`, in the shape of the latter."""
        finer = self.conv1(shifted_activation(self.bn1, features, shifts[f"{self.place}->beta1"]))
        joined: Tensor = self.conv_block2(torch.cat([finer, across], dim=1), shifts)
        return joined


class Film(nn.Module):
    """Linear layers that say what a query means at every place of the U-Net."""

    def __init__(self, places: Mapping[str, int], query_dim: int) -> None:
        super().__init__()
        for place, n_maps in places.items():
            self.add_module(place, nn.Linear(query_dim, n_maps))

    def forward(self, query: Tensor) -> dict[str, Tensor]:
        """Return the shift `[maps]` of each place, for one query `[dim]`."""
        return {place: layer(query) for place, layer in self.named_children()}
