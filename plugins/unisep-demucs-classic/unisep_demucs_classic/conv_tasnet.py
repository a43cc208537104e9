"""Conv-TasNet (Luo and Mesgarani 2019, arXiv:1809.07454) for music: several channels and four stems (arXiv:1911.13254)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from .demucs_v2 import STEMS

_EPSILON = 1e-8


@dataclass(frozen=True)
class ConvTasNetShape:
    """The options of a network, with the paper's letters; the defaults are those of the released `tasnet`.

    Attributes:
        audio_channels: 1 or 2.
        n_filters: Filters of the encoder (N).
        filter_samples: Their length (L); they step by half of it.
        bottleneck: Channels between the blocks (B).
        hidden: Channels inside a block (H).
        kernel_size: Of the dilated convolutions (P), an odd number.
        n_blocks: Blocks of doubling dilation in a repeat (X).
        n_repeats: Repeats (R).
        sample_rate_hz: The rate of the audio.
    """

    audio_channels: int = 2
    n_filters: int = 256
    filter_samples: int = 20
    bottleneck: int = 256
    hidden: int = 512
    kernel_size: int = 3
    n_blocks: int = 10
    n_repeats: int = 4
    sample_rate_hz: int = 44_100


class FrameNorm(nn.LayerNorm):
    """The paper's cLN: each frame is normalised over its channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, channels, time]` of the same shape."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """A residual block: in, a dilated convolution for each channel, out (figure 1C). Norms over channels and time: gLN."""

    def __init__(self, shape: ConvTasNetShape, dilation: int) -> None:
        super().__init__()
        width, hidden, kernel = shape.bottleneck, shape.hidden, shape.kernel_size
        padding = (kernel - 1) * dilation // 2
        self.into = nn.Conv1d(width, hidden, 1, bias=False)
        self.into_slope = nn.PReLU()
        self.into_norm = nn.GroupNorm(1, hidden, eps=_EPSILON)
        self.depthwise = nn.Conv1d(hidden, hidden, kernel, 1, padding, dilation, groups=hidden, bias=False)
        self.depthwise_slope = nn.PReLU()
        self.depthwise_norm = nn.GroupNorm(1, hidden, eps=_EPSILON)
        self.out = nn.Conv1d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, bottleneck, time]` of the same shape."""
        hidden = self.into_norm(self.into_slope(self.into(x)))
        return x + self.out(self.depthwise_norm(self.depthwise_slope(self.depthwise(hidden))))


class ConvTasNet(nn.Module):
    """The network: learnt filters, a non-negative mask of them for each source, and learnt filters back."""

    def __init__(self, shape: ConvTasNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.sources, self.audio_channels, self.samplerate = STEMS, shape.audio_channels, shape.sample_rate_hz
        length, step = shape.filter_samples, shape.filter_samples // 2
        self.encoder = nn.Conv1d(shape.audio_channels, shape.n_filters, length, step, bias=False)
        self.norm = FrameNorm(shape.n_filters, eps=_EPSILON)
        self.bottleneck = nn.Conv1d(shape.n_filters, shape.bottleneck, 1, bias=False)
        dilations = [2**index for index in range(shape.n_blocks)]
        self.blocks = nn.Sequential(
            *(nn.Sequential(*(Block(shape, dilation) for dilation in dilations)) for _ in range(shape.n_repeats))
        )
        self.masks = nn.Conv1d(shape.bottleneck, len(STEMS) * shape.n_filters, 1, bias=False)
        self.decoder = nn.ConvTranspose1d(shape.n_filters, shape.audio_channels, length, step, bias=False)

    def valid_length(self, n_samples: int) -> int:
        """Return the length that the network takes: any from one filter on."""
        return max(n_samples, self.shape.filter_samples)

    def forward(self, mixture: Tensor) -> Tensor:
        """Return `[batch, sources, channels, time]` of `mixture [batch, channels, time]`; ends beyond the frames are silent."""
        frames = torch.relu(self.encoder(mixture))
        scores = self.masks(self.blocks(self.bottleneck(self.norm(frames))))
        masks = rearrange(torch.relu(scores), "b (sources filters) t -> b sources filters t", sources=len(STEMS))
        masked = rearrange(frames[:, None] * masks, "b sources filters t -> (b sources) filters t")
        sources = rearrange(self.decoder(masked), "(b sources) c t -> b sources c t", sources=len(STEMS))
        return functional.pad(sources, (0, mixture.shape[-1] - sources.shape[-1]))
