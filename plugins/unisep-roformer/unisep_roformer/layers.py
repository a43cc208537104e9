"""The layers of a RoFormer. Attribute names are those of the published checkpoints."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

_LONGEST_PERIOD = 10_000.0


class RMSNorm(nn.Module):
    """Each vector at length sqrt(dim), times a gain (Zhang and Sennrich 2019, arXiv:1910.07467).

    Computed in float32 at any precision: spectrograms leave the range of half precision.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., dim]` normalised, in the parameters' precision."""
        length = x.shape[-1] ** 0.5
        return (F.normalize(x.float(), dim=-1) * length).to(self.gamma.dtype) * self.gamma


class RotaryPosition(nn.Module):
    """Turns pairs of neighbouring values by angles that grow with position (Su et al. 2021, arXiv:2104.09864).

    The angles' frequencies are kept in float32, and part of the checkpoint.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, dim, 2) / dim
        self.freqs = nn.Parameter(_LONGEST_PERIOD**-exponents, requires_grad=False)

    def angles(self, n_positions: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine `[positions, dim/2]` of every position's angles."""
        positions = torch.arange(n_positions, device=self.freqs.device, dtype=torch.float32)
        angles = torch.outer(positions, self.freqs.float())
        return angles.cos(), angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., positions, dim]` turned, in its own precision."""
        cosine, sine = self.angles(x.shape[-2])
        first, second = rearrange(x.float(), "... (pair two) -> two ... pair", two=2)
        turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
        return rearrange(turned, "... pair two -> ... (pair two)").to(x.dtype)


class Attention(nn.Module):
    """Attention over positions with rotary positions, each head's output under a gate of its own.

    Legend: b batch, n positions, h heads, d values of a head, k one of query, key and value.
    """

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(dim)
        self.rotary_embed = RotaryPosition(dim_head)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to `x [b, n, dim]`."""
        x = self.norm(x)
        query, key, value = rearrange(self.to_qkv(x), "b n (k h d) -> k b h n d", k=3, h=self.heads)
        attended = F.scaled_dot_product_attention(self.rotary_embed(query), self.rotary_embed(key), value)
        gates = rearrange(self.to_gates(x).sigmoid(), "b n h -> b h n 1")
        return self.to_out(rearrange(attended * gates, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """A network at each position, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The dropouts hold the places that the checkpoints' numbering counts.
        self.net = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to `x [b, n, dim]`."""
        return self.net(x)


class Transformer(nn.Module):
    """Attention and feed-forward in turn along one axis; a norm behind them in Mel-Band models only."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, norm_output: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head), FeedForward(dim)]) for _ in range(depth)
        )
        self.norm = RMSNorm(dim) if norm_output else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`x [b, n, dim]`, every position informed by all others of its row."""
        for layer in self.layers:
            for step in layer:  # type: ignore[attr-defined]
                x = x + step(x)
        return self.norm(x)
