"""The network of Open-Unmix: Stoeter, Uhlich, Liutkus, Mitsufuji 2019, doi:10.21105/joss.01667.

Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """The sizes of one network.

    Attributes:
        n_bins: Frequencies of the spectrogram.
        n_input_bins: How many of them, from the lowest, are looked at.
        n_channels: Channels of the mixture.
        hidden: Width of the layers.
        n_layers: Recurrent layers.
        bidirectional: Whether they also run backwards.
    """

    n_bins: int
    n_input_bins: int
    n_channels: int
    hidden: int
    n_layers: int
    bidirectional: bool

    @property
    def n_fft(self) -> int:
        """The window of the spectrogram in samples."""
        return 2 * (self.n_bins - 1)


class OpenUnmix(nn.Module):
    """A network that estimates one source's magnitudes from the mixture's.

    Legend: b batch, c channels, f bins, t frames, h hidden.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        hidden, n_out = shape.hidden, shape.n_bins * shape.n_channels
        self.fc1 = nn.Linear(shape.n_input_bins * shape.n_channels, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        each_way = hidden // 2 if shape.bidirectional else hidden
        self.lstm = nn.LSTM(hidden, each_way, shape.n_layers, bidirectional=shape.bidirectional)
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, n_out, bias=False)
        self.bn3 = nn.BatchNorm1d(n_out)
        self.input_mean = nn.Parameter(torch.zeros(shape.n_input_bins))
        self.input_scale = nn.Parameter(torch.ones(shape.n_input_bins))
        self.output_mean = nn.Parameter(torch.ones(shape.n_bins))
        self.output_scale = nn.Parameter(torch.ones(shape.n_bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the source's magnitudes `[b, c, f, t]`, in float32, for the mixture's `[b, c, f, t]`."""
        n_batch, _, _, n_frames = mixture.shape
        seen = rearrange(mixture[:, :, : self.shape.n_input_bins], "b c f t -> t b c f")
        scaled = (seen + self.input_mean) * self.input_scale
        x = self.fc1(rearrange(scaled, "t b c f -> (t b) (c f)").to(self.fc1.weight.dtype))
        x = torch.tanh(rearrange(self.bn1(x), "(t b) h -> t b h", t=n_frames))
        x = torch.cat([x, self.lstm(x)[0]], dim=-1)
        x = F.relu(self.bn2(self.fc2(rearrange(x, "t b h -> (t b) h"))))
        x = self.bn3(self.fc3(x)).float()
        mask = rearrange(x, "(t b) (c f) -> b c t f", b=n_batch, f=self.shape.n_bins)
        mask = F.relu(mask * self.output_scale + self.output_mean)
        return rearrange(mask, "b c t f -> b c f t") * mixture
