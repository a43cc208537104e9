"""What the two separators under the query share: the steps between which the query enters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from unisep_htdemucs.model import BeforeLayer
from unisep_htdemucs.transformer import CrossTransformer


class Core(nn.Module, ABC):
    """A U-Net with a cross-transformer that can be heard and changed step by step.

    The transformer's tokens are `[b, (t f), c]` of the frequency branch and `[b, s, c]` of the time branch. After any
    of its layers a batch may grow to n items for each encoded one, laid out "(b n)".

    n_decoders: 2 where the time branch has a decoder of its own, else 1.
    """

    n_decoders: int

    @property
    @abstractmethod
    def transformer(self) -> CrossTransformer:
        """The cross-transformer."""

    @abstractmethod
    def encode(self, mixture: Tensor) -> Any:
        """Return what the encoders make of `mixture [b, c, l]`: a frozen value with `x` and `xt`, the two bottoms."""

    @abstractmethod
    def widened(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both bottoms with as many channels as the transformer has."""

    @abstractmethod
    def narrowed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both bottoms with as many channels as the decoders take."""

    @abstractmethod
    def decode(self, x: Tensor, xt: Tensor, encoded: Any, mix: Tensor, before_layer: tuple[BeforeLayer, ...]) -> Tensor:
        """Targets `[(b n), c, l]`; `mix [(b n), s]` weighs the sources; one `before_layer` a decoder."""
