"""The text tower: phrases in, unit vectors out. A small BERT with factorised embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of a text tower; `n_factors = 0` keeps the word embeddings whole, `n_dims = 0` adds no head."""

    n_pieces: int
    n_factors: int = 112
    n_positions: int = 64
    width: int = 384
    n_layers: int = 3
    n_heads: int = 12
    hidden_width: int = 512
    n_dims: int = 256


@final
class SelfAttention(nn.Module):
    """Attention of every token to every token that is not padding."""

    # b batch, t tokens, h heads, d dims of a head, three = query, key, value
    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self._n_heads = config.n_heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """Mixed tokens [batch, tokens, width]; `attend` [batch, 1, 1, tokens] is False at padding."""
        query, key, value = rearrange(
            self.query_key_value(x), "b t (three h d) -> three b h t d", three=3, h=self._n_heads
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        return self.output(rearrange(mixed, "b h t d -> b t (h d)"))


@final
class Layer(nn.Module):
    """One encoder layer with normalisation after each sum (Devlin et al. 2018, arXiv:1810.04805)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.expand = nn.Linear(config.width, config.hidden_width)
        self.contract = nn.Linear(config.hidden_width, config.width)
        self.output_norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """Tokens after the layer, [batch, tokens, width]."""
        x = self.attention_norm(x + self.attention(x, attend))
        return self.output_norm(x + self.contract(F.gelu(self.expand(x))))


@final
class TextTower(nn.Module):
    """Token ids [batch, tokens] to unit vectors [batch, n_dims] (or [batch, width] without a head)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.n_pieces, config.n_factors or config.width)
        self.widen = nn.Linear(config.n_factors, config.width, bias=False) if config.n_factors else nn.Identity()
        self.positions = nn.Embedding(config.n_positions, config.width)
        self.input_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.head = nn.Linear(config.width, config.n_dims) if config.n_dims else nn.Identity()

    def forward(self, ids: Tensor, present: Tensor) -> Tensor:
        """Return unit vectors; `present` `[batch, tokens]` is False at padding."""
        x = self.widen(self.words(ids)) + self.positions.weight[: ids.shape[1]]
        x = self.input_norm(x)
        attend = rearrange(present, "b t -> b 1 1 t")
        for layer in self.layers:
            x = layer(x, attend)
        weights = rearrange(present.to(x.dtype), "b t -> b t 1")
        mean = (x * weights).sum(1) / weights.sum(1)
        return F.normalize(self.head(mean), dim=-1)


def pad(batch: list[list[int]], padding_id: int) -> tuple[Tensor, Tensor]:
    """Ids [batch, tokens] padded to the longest phrase, and where they are real."""
    n_tokens = max(len(ids) for ids in batch)
    padded = torch.tensor([ids + [padding_id] * (n_tokens - len(ids)) for ids in batch])
    lengths = torch.tensor([len(ids) for ids in batch])
    return padded, torch.arange(n_tokens) < rearrange(lengths, "b -> b 1")
