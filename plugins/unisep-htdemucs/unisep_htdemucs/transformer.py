"""The cross-transformer: self-attention in each branch, cross-attention between them, in turn.

Parameter names are those of the published checkpoints.
Axes: b batch, c channels, f frequencies, t frames of the spectrogram, s steps of the time branch, h heads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import LayerScale
from .config import HTDemucsConfig
from .kernels import linear
from .sparse import sparse_attention

Reads = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""What the attention and the feed-forward part of a layer make of the normalised tokens that they read."""


def _as_it_is(x: Tensor) -> Tensor:
    return x


AS_THEY_ARE: Reads = _as_it_is, _as_it_is


class Attention(nn.Module):
    """Multi-head attention with the parameter layout of `nn.MultiheadAttention`, dense or sparse.

    The parameters are the same for both: a dense model's also fill a sparse one.
    """

    def __init__(self, channels: int, n_heads: int, dropout: float, sparsity: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.seed = seed
        self.n_heads = n_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend with `queries [b, queries, c]` to `context [b, keys, c]`, or to themselves without one."""
        if context is None:
            q, k, v = linear(queries, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            n = queries.shape[-1]
            q = linear(queries, self.in_proj_weight[:n], self.in_proj_bias[:n])
            k, v = linear(context, self.in_proj_weight[n:], self.in_proj_bias[n:]).chunk(2, dim=-1)
        q, k, v = (rearrange(x, "b s (h c) -> b h s c", h=self.n_heads) for x in (q, k, v))
        attended = sparse_attention(q, k, v, self.sparsity, self.seed, self.dropout if self.training else 0.0)
        return linear(rearrange(attended, "b h s c -> b s (h c)"), self.out_proj.weight, self.out_proj.bias)


def _attention(config: HTDemucsConfig, sparsity: float) -> Attention:
    seed = config.t_mask_random_seed
    return Attention(config.transformer_channels, config.t_heads, config.t_dropout, sparsity, seed)


class TokenGroupNorm(nn.GroupNorm):
    """Group normalisation of tokens `[b, s, c]` over all their steps and channels together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`; the layout stays, unlike on a way through `[b, c, s]`."""
        y = F.layer_norm(x, x.shape[1:], eps=self.eps)
        return torch.addcmul(self.bias, y, self.weight)


class TransformerLayer(nn.Module, ABC):
    """Attention and a feed-forward part, each added to the stream through a LayerScale; pre-norm."""

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__()
        channels = config.transformer_channels
        hidden = int(channels * config.t_hidden_scale)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm_out = TokenGroupNorm(1, channels)
        self.gamma_1 = self._scale(config, channels)
        self.gamma_2 = self._scale(config, channels)
        self.dropout = nn.Dropout(config.t_dropout)

    @abstractmethod
    def forward(self, x: Tensor, other: Tensor, reads: Reads = AS_THEY_ARE) -> Tensor:
        """Apply the layer to `x [b, s, c]`; `other` holds the tokens of the other branch."""

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(linear(x, self.linear1.weight, self.linear1.bias)))
        out: Tensor = self.dropout(linear(hidden, self.linear2.weight, self.linear2.bias))
        return out

    @staticmethod
    def _scale(config: HTDemucsConfig, channels: int) -> nn.Module:
        if not config.t_layer_scale:
            return nn.Identity()
        return LayerScale(channels, config.t_layer_scale_init, channels_last=True)


class SelfLayer(TransformerLayer):
    """A layer whose tokens attend to their own branch."""

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__(config)
        self.self_attn = _attention(config, config.self_sparsity)

    def forward(self, x: Tensor, other: Tensor, reads: Reads = AS_THEY_ARE) -> Tensor:
        """Apply the layer to `x [b, s, c]`; `other` is not looked at."""
        attends, feeds = reads
        x = x + self.gamma_1(self.dropout(self.self_attn(attends(self.norm1(x)))))
        x = x + self.gamma_2(self._feed_forward(feeds(self.norm2(x))))
        out: Tensor = self.norm_out(x)
        return out


class CrossLayer(TransformerLayer):
    """A layer whose tokens attend to the other branch."""

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__(config)
        self.cross_attn = _attention(config, config.cross_sparsity)
        self.norm3 = nn.LayerNorm(config.transformer_channels)

    def forward(self, x: Tensor, other: Tensor, reads: Reads = AS_THEY_ARE) -> Tensor:
        """Apply the layer to `x [b, s, c]`, which looks at `other [b, s', c]`."""
        attends, feeds = reads
        x = x + self.gamma_1(self.dropout(self.cross_attn(attends(self.norm1(x)), self.norm2(other))))
        x = x + self.gamma_2(self._feed_forward(feeds(self.norm3(x))))
        out: Tensor = self.norm_out(x)
        return out


class CrossTransformer(nn.Module):
    """Layers in pairs, one for each branch: `layers` for frequency tokens, `layers_t` for time tokens.

    The steps are separate so that other models can work between them: `begin`, `layer` (one pair at a time), `end`.
    """

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__()
        self.max_period = config.t_max_period
        self.position_weight = config.t_weight_pos_embed
        self.norm_in = nn.LayerNorm(config.transformer_channels)
        self.norm_in_t = nn.LayerNorm(config.transformer_channels)
        # Layers of self-attention stand at even places, or at odd ones when cross-attention comes first.
        kinds = [CrossLayer if (i % 2 == 0) == config.t_cross_first else SelfLayer for i in range(config.t_layers)]
        self.layers = nn.ModuleList(kind(config) for kind in kinds)
        self.layers_t = nn.ModuleList(kind(config) for kind in kinds)

    def begin(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Make tokens `[b, (t f), c]` and `[b, s, c]`, with positions, of `x [b, c, f, t]` and `xt [b, c, s]`."""
        _, channels, n_freqs, n_frames = x.shape
        plane = plane_positions(channels, n_freqs, n_frames, self.max_period, x)
        line = line_positions(channels, xt.shape[-1], self.max_period, xt)
        tokens = self.norm_in(rearrange(x, "b c f t -> b (t f) c"))
        tokens_t = self.norm_in_t(rearrange(xt, "b c s -> b s c"))
        return tokens + self.position_weight * plane, tokens_t + self.position_weight * line

    def layer(
        self, index: int, x: Tensor, xt: Tensor, reads: Reads = AS_THEY_ARE, reads_t: Reads = AS_THEY_ARE
    ) -> tuple[Tensor, Tensor]:
        """Apply the pair of layers `index` to both streams; each sees the other as it was before."""
        return self.layers[index](x, xt, reads), self.layers_t[index](xt, x, reads_t)

    def end(self, x: Tensor, xt: Tensor, n_freqs: int) -> tuple[Tensor, Tensor]:
        """Return `[b, c, f, t]` and `[b, c, s]` of the tokens."""
        return rearrange(x, "b (t f) c -> b c f t", f=n_freqs), rearrange(xt, "b s c -> b c s")

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Apply all layers to both branches `[b, c, f, t]`, `[b, c, s]`."""
        n_freqs = x.shape[2]
        x, xt = self.begin(x, xt)
        for index in range(len(self.layers)):
            x, xt = self.layer(index, x, xt)
        return self.end(x, xt, n_freqs)


def line_positions(channels: int, n_steps: int, max_period: float, like: Tensor) -> Tensor:
    """Return positions `[s, c]` on a line: cosines, then sines, of geometrically spaced frequencies."""
    half = channels // 2
    steps = torch.arange(n_steps, device=like.device, dtype=torch.float32)
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) / (half - 1)
    phases = steps[:, None] / max_period**exponents
    return torch.cat([phases.cos(), phases.sin()], dim=-1).to(like.dtype)


def plane_positions(channels: int, n_freqs: int, n_frames: int, max_period: float, like: Tensor) -> Tensor:
    """Return positions `[(t f), c]` on a plane: half of the channels say when, the rest at what frequency."""
    half = channels // 2
    rates = torch.exp(torch.arange(0, half, 2, device=like.device) * (-math.log(max_period) / half))

    def interleaved(n_places: int) -> Tensor:
        phases = torch.arange(n_places, device=like.device, dtype=torch.float32)[:, None] * rates
        return rearrange([phases.sin(), phases.cos()], "pair place c -> place (c pair)")

    when = repeat(interleaved(n_frames), "t c -> (t f) c", f=n_freqs)
    where = repeat(interleaved(n_freqs), "f c -> (t f) c", t=n_frames)
    return torch.cat([when, where], dim=-1).to(like.dtype)
