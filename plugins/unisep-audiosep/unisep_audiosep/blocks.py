"""The parts of the U-Net, and the vectors with which a query steers them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shifts = Mapping[str, Tensor]
_SLOPE = 0.01


def shifted_activation(norm: nn.BatchNorm2d, features: Tensor, shift: Tensor) -> Tensor:
    """Leaky ReLU of the normalised features, each map moved by what the query says of it.

    FiLM without a scale (Perez et al. 2018, arXiv:1709.07871): the batch norm in front has one already.
    features: `[n, maps, frames, bins]`; shift: `[maps]`.
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
        """Where the query steers, and how many numbers it gives there."""
        yield f"{self.place}->beta1", self.bn1.num_features
        yield f"{self.place}->beta2", self.bn2.num_features

    def forward(self, features: Tensor, shifts: Shifts) -> Tensor:
        """`[n, n_in, frames, bins]` to `[n, n_out, frames, bins]`."""
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
        """As `ResidualBlock.places`."""
        return self.conv_block1.places()

    def forward(self, features: Tensor, shifts: Shifts) -> tuple[Tensor, Tensor]:
        """What goes down, and what goes across to the decoder of the same grid."""
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
        """As `ResidualBlock.places`."""
        yield f"{self.place}->beta1", self.bn1.num_features
        yield from self.conv_block2.places()

    def forward(self, features: Tensor, across: Tensor, shifts: Shifts) -> Tensor:
        """`[n, n_in, frames, bins]` and `[n, n_out, finer frames, finer bins]` to the shape of the latter."""
        finer = self.conv1(shifted_activation(self.bn1, features, shifts[f"{self.place}->beta1"]))
        joined: Tensor = self.conv_block2(torch.cat([finer, across], dim=1), shifts)
        return joined


class Film(nn.Module):
    """What a query says at every place of the U-Net: one linear layer for each."""

    def __init__(self, places: Mapping[str, int], query_dim: int) -> None:
        super().__init__()
        for place, n_maps in places.items():
            self.add_module(place, nn.Linear(query_dim, n_maps))

    def forward(self, query: Tensor) -> dict[str, Tensor]:
        """The shift `[maps]` of each place, for one query `[dim]`."""
        return {place: layer(query) for place, layer in self.named_children()}
