"""Other ways for a query to enter the model, to be compared with FiLM; each takes the place of one FiLM layer.

All but `AdaptiveNorm` change nothing when new, as FiLM does.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_film.film import FiLM
from unisep_film.model import FilmHTDemucs

N_TOKENS = 4  # a query is one vector, and attention over one token would not depend on what attends


class Deaf(nn.Module):
    """Does not hear the query."""

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """`x` as it is."""
        return x


class AdaptiveNorm(nn.Module):
    """Normalises each position over the channels, then scales and shifts as the query says (AdaIN, adaLN)."""

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.film = FiLM(condition_channels, channels)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """`x`, normalised, with every channel scaled and shifted; `condition [batch, condition_channels]`."""
        deviation, mean = torch.std_mean(x, channel_axis, keepdim=True, correction=0)
        out: Tensor = self.film((x - mean) / (deviation + 1e-5), condition, channel_axis)
        return out


class Concatenation(nn.Module):
    """Joins the condition to the channels of each position and maps both to as many channels as before."""

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, channels, bias=False)
        self.of_condition = nn.Linear(condition_channels, channels)
        nn.init.eye_(self.of_input.weight)
        for parameter in self.of_condition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """The map of `x` and `condition [batch, condition_channels]`, shaped as `x`."""
        last = x.movedim(channel_axis, -1)
        added = self.of_condition(condition).reshape(x.shape[0], *[1] * (x.dim() - 2), -1)
        out: Tensor = self.of_input(last) + added
        return out.movedim(-1, channel_axis)


class CrossAttention(nn.Module):
    """Each position attends to a few tokens made of the query; what it reads is added.

    Axes: b batch, t tokens, c channels, p positions.
    """

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.asks = nn.Linear(channels, channels)
        self.keys = nn.Linear(condition_channels, N_TOKENS * channels)
        self.values = nn.Linear(condition_channels, N_TOKENS * channels)
        self.reads = nn.Linear(channels, channels)
        for parameter in self.reads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """`x` with what each position read of `condition [batch, condition_channels]`."""
        last = x.movedim(channel_axis, -1)
        keys, values = (
            rearrange(layer(condition), "b (t c) -> b t c", t=N_TOKENS) for layer in (self.keys, self.values)
        )
        asked = self.asks(F.layer_norm(last, last.shape[-1:])).flatten(1, -2)
        read = self.reads(F.scaled_dot_product_attention(asked, keys, values))
        return (last + read.reshape(last.shape)).movedim(-1, channel_axis)


def with_conditioning(model: FilmHTDemucs, kind: type[nn.Module], places: tuple[str, ...]) -> FilmHTDemucs:
    """The model with layers of `kind` at `places` ("tokens", "inputs", "skips") instead of its FiLMs."""
    for place in places:
        films: nn.ModuleList = getattr(model, f"film_{place}")
        for index, film in enumerate(films):
            assert isinstance(film, FiLM)
            films[index] = Deaf() if kind is Deaf else kind(film.scale.in_features, film.scale.out_features)
    return model


def without_identity_start(model: FilmHTDemucs) -> FilmHTDemucs:
    """The model with every FiLM drawn at random, as a linear layer is by default."""
    for module in model.modules():
        if isinstance(module, FiLM):
            module.scale.reset_parameters()
            module.shift.reset_parameters()
    return model
