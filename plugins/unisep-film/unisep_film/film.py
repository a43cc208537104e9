"""How a query enters the separator: projectors, one for each embedding space, and FiLM layers.

FiLM is a scale and a shift of every channel, computed from the query (Perez et al. 2018,
arXiv:1709.07871). Here both start at zero, so that an untrained layer changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unisep.errors import EmbeddingError


class Projector(nn.Module):
    """Maps unit vectors of one embedding space to conditions `[..., condition_channels]`."""

    def __init__(self, n_dims: int, condition_channels: int) -> None:
        super().__init__()
        self.wanted = nn.Sequential(
            nn.Linear(n_dims, condition_channels),
            nn.GELU(),
            nn.Linear(condition_channels, condition_channels),
            nn.LayerNorm(condition_channels),
        )
        self.n_dims = n_dims

    def forward(self, queries: Tensor) -> Tensor:
        """Conditions `[..., condition_channels]` of queries `[..., n_dims]`."""
        condition: Tensor = self.wanted(queries * self.n_dims**0.5)  # unit vectors have entries far below 1
        return condition


class FiLM(nn.Module):
    """Scales and shifts the channels of a feature map as a condition says; the identity when new."""

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Linear(condition_channels, channels)
        self.shift = nn.Linear(condition_channels, channels)
        self.reset()

    def reset(self) -> None:
        """Make it the identity again."""
        for layer in (self.scale, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """`x` with every channel scaled and shifted; `condition [batch, condition_channels]`."""
        shape = [x.shape[0]] + [1] * (x.dim() - 1)
        shape[channel_axis] = -1
        scale, shift = self.scale(condition).reshape(shape), self.shift(condition).reshape(shape)
        return torch.addcmul(x + shift, x, scale)


class Projectors(nn.Module):
    """One projector for each embedding space the model understands."""

    def __init__(self, spaces: dict[str, int], condition_channels: int) -> None:
        super().__init__()
        # Space names hold dots and slashes, which parameter names may not; hence by place.
        self.spaces = tuple(spaces)
        self.each = nn.ModuleList(Projector(n_dims, condition_channels) for n_dims in spaces.values())

    def of(self, space: str) -> Projector:
        """Return the projector of `space`. Raise EmbeddingError when the model does not understand it."""
        if space not in self.spaces:
            raise EmbeddingError(
                f"These weights do not understand vectors of the space {space!r}, only {', '.join(self.spaces)}. "
                "Encode the query with an encoder of such a space."
            )
        projector = self.each[self.spaces.index(space)]
        assert isinstance(projector, Projector)
        return projector
