"""Demucs v1 and v2: a U-Net of convolutions on the waveform, with a bidirectional LSTM in the middle (arXiv:1911.13254)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

STEMS = ("drums", "bass", "other", "vocals")
_ZERO_CROSSINGS = 24
_ROLLOFF = 0.945
_DIVISOR = 1 + 1e-5  # what demucs divides by where it does not normalise


@dataclass(frozen=True)
class DemucsV2Shape:
    """The options of a network; the defaults are those of the released `demucs`.

    Attributes:
        audio_channels: 1 or 2.
        widths: Channels after each layer of the encoder.
        kernel_size: Of the strided convolutions, at least `stride`.
        stride: Of each layer.
        context: Frames that the decoder's first convolutions see; they are not padded.
        n_lstm_layers: 0 for none.
        resampled: Whether the network runs at twice the rate (v2) or at the rate of the audio (v1).
        sample_rate_hz: The rate of the audio.
    """

    audio_channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    kernel_size: int = 8
    stride: int = 4
    context: int = 3
    n_lstm_layers: int = 2
    resampled: bool = True
    sample_rate_hz: int = 44_100


class BiLSTM(nn.Module):
    """A bidirectional LSTM over time and a linear layer back to its input's width."""

    def __init__(self, width: int, n_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, n_layers, bidirectional=True)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, width, time]` of the same shape."""
        hidden = self.lstm(rearrange(x, "batch width time -> time batch width"))[0]
        return rearrange(self.linear(hidden), "time batch width -> batch width time")


class DemucsV2(nn.Module):
    """The network. Parameters have the names that the demucs package gives them, and its initial values."""

    def __init__(self, shape: DemucsV2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.sources, self.audio_channels, self.samplerate = STEMS, shape.audio_channels, shape.sample_rate_hz
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        kernel, stride = shape.kernel_size, shape.stride
        for outer, width in zip((shape.audio_channels, *shape.widths), shape.widths, strict=False):
            is_first = not self.encoder
            down, gate = nn.Conv1d(outer, width, kernel, stride), nn.Conv1d(width, 2 * width, 1)
            self.encoder.append(nn.Sequential(down, nn.ReLU(), gate, nn.GLU(dim=1)))
            mix = nn.Conv1d(width, 2 * width, shape.context)
            up = nn.ConvTranspose1d(width, len(STEMS) * outer if is_first else outer, kernel, stride)
            self.decoder.insert(0, nn.Sequential(mix, nn.GLU(dim=1), up, *([] if is_first else [nn.ReLU()])))
        self.lstm = BiLSTM(shape.widths[-1], shape.n_lstm_layers) if shape.n_lstm_layers else nn.Identity()
        rescale(self)

    def valid_length(self, n_samples: int) -> int:
        """Return how many samples go in so that at least `n_samples` come out, in the middle.

        The decoder's convolutions are not padded, so that what comes out is shorter than what goes in.
        """
        shape = self.shape
        length = 2 * n_samples if shape.resampled else n_samples
        for _ in shape.widths:
            length = max(1, math.ceil((length - shape.kernel_size) / shape.stride) + 1) + shape.context - 1
        for _ in shape.widths:
            length = (length - 1) * shape.stride + shape.kernel_size
        return math.ceil(length / 2) if shape.resampled else length

    def forward(self, mixture: Tensor) -> Tensor:
        """Return `[batch, sources, channels, shorter]` of `mixture [batch, channels, valid length]`."""
        x = (resample(mixture, 1, 2) if self.shape.resampled else mixture) / _DIVISOR
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm(x)
        for decode in self.decoder:
            x = decode(x + centred(skips.pop(), x.shape[-1]))
        x = resample(x, 2, 1) if self.shape.resampled else x
        return rearrange(x, "b (sources channels) time -> b sources channels time", channels=self.audio_channels)


def centred(x: Tensor, n_samples: int) -> Tensor:
    """Return the `n_samples` in the middle of the last axis."""
    start = (x.shape[-1] - n_samples) // 2
    return x[..., start : start + n_samples]


def rescale(model: nn.Module, reference: float = 0.1) -> None:
    """Divide each convolution by the root of its weights' deviation over `reference` (section 4.3 of the paper)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                scale = (module.weight.std() / reference) ** 0.5
                for parameter in module.parameters():
                    parameter.div_(scale)


def resample(x: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """Resample the last axis by `new_rate / old_rate` with a windowed sinc (Smith), as julius does; edges are repeated."""
    kernels, reach = _sinc_kernels(old_rate, new_rate)
    flat = functional.pad(x.reshape(-1, 1, x.shape[-1]), (reach, reach + old_rate), mode="replicate")
    phases = functional.conv1d(flat, kernels.to(x), stride=old_rate)
    resampled = rearrange(phases, "signals phase time -> signals (time phase)")
    return resampled[:, : new_rate * x.shape[-1] // old_rate].reshape(*x.shape[:-1], -1)


def _sinc_kernels(old_rate: int, new_rate: int) -> tuple[Tensor, int]:
    """Return one filter for each phase, `[new_rate, 1, taps]`, and how far they reach to the left."""
    cutoff = min(old_rate, new_rate) * _ROLLOFF
    reach = math.ceil(_ZERO_CROSSINGS * old_rate / cutoff)
    times = torch.arange(-reach, reach + old_rate, dtype=torch.float64, device="cpu") / old_rate
    phases = torch.arange(new_rate, dtype=torch.float64, device="cpu")[:, None] / new_rate
    crossings = ((times - phases) * cutoff).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    kernels = torch.sinc(crossings) * torch.cos(crossings * math.pi / _ZERO_CROSSINGS / 2) ** 2
    return (kernels / kernels.sum(-1, keepdim=True)).float()[:, None], reach
