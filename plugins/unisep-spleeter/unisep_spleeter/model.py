"""The U-Net of Spleeter: Hennequin, Khlif, Voituret, Moussallam 2020, doi:10.21105/joss.02154.

After Jansson et al. 2017, "Singing voice separation with deep U-Net convolutional networks". The published networks were
trained in TensorFlow, whose convolutions "same" pad 1 before and 2 behind where the kernel is 5 and the stride 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["relu", "elu"]
N_LEVELS = 6
SMALLEST_BLOCK = 2**N_LEVELS  # frames and bins are multiples of it
_EPSILON = 1e-3  # of TensorFlow's batch normalisation


@dataclass(frozen=True)
class Shape:
    """The sizes of one network.

    Attributes:
        filters: Channels after each of the six convolutions.
        activation: "relu" is leaky (0.2) on the way down and plain on the way up; "elu" is ELU on both.
        n_channels: Channels of the mixture.
    """

    filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    activation: Activation = "relu"
    n_channels: int = 2


class UNet(nn.Module):
    """A network that tells from a mixture's magnitudes how much of each bin is one source, as a logit.

    Legend: b batch, c channels, t frames, f bins.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        filters = shape.filters
        downs = list(pairwise((shape.n_channels, *filters)))
        # From the second on, each is given the convolution of its level too, which doubles its channels.
        outs = (*filters[-2::-1], 1)
        ups = list(zip((filters[-1], *(2 * width for width in outs[:-1])), outs, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(before, after, 5, stride=2) for before, after in downs)
        # The deepest one is used as it is: Spleeter has a normalisation there that leads nowhere.
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(after, eps=_EPSILON) for _, after in downs[:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(before, after, 5, stride=2, padding=1) for before, after in ups)
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(after, eps=_EPSILON) for _, after in ups)
        self.out = nn.Conv2d(1, shape.n_channels, 4, dilation=2, padding=3)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Return logits `[b, c, t, f]` in float32 for magnitudes of that shape, t and f being multiples of 64."""
        x = magnitudes.to(self.out.weight.dtype)
        skips: list[Tensor] = []
        for convolve, normalise in zip(self.down, [*self.down_norm, None], strict=True):
            x = convolve(F.pad(x, (1, 2, 1, 2)))
            if normalise is not None:
                skips.append(x)
                x = self._activate_down(normalise(x))
        for index, (convolve, normalise) in enumerate(zip(self.up, self.up_norm, strict=True)):
            x = torch.cat([skips.pop(), x], dim=1) if index else x
            x = normalise(self._activate_up(convolve(x)[..., :-1, :-1]))
        logits: Tensor = self.out(x)
        return logits.float()

    def _activate_down(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2) if self.shape.activation == "relu" else F.elu(x)

    def _activate_up(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.shape.activation == "relu" else F.elu(x)
