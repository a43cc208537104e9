"""What the two separators under the query share: the steps between which the query enters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from unisep_htdemucs.model import BeforeLayer
from unisep_htdemucs.transformer import AfterLayer


class Core(nn.Module, ABC):
    """A U-Net with a cross-transformer that can be heard and changed step by step.

    n_decoders: 2 where the time branch has a decoder of its own, else 1.
    """

    n_decoders: int

    @abstractmethod
    def encode(self, mixture: Tensor) -> Any:
        """What the encoders make of `mixture [b, c, l]`: a frozen value with `x` and `xt`, the two bottoms."""

    @abstractmethod
    def bottleneck(self, x: Tensor, xt: Tensor, after_layer: AfterLayer) -> tuple[Tensor, Tensor]:
        """Both branches after the cross-transformer; `after_layer` may make the batch n times larger."""

    @abstractmethod
    def decode(
        self, x: Tensor, xt: Tensor, encoded: Any, mix: Tensor, before_layer: tuple[BeforeLayer, ...]
    ) -> Tensor:
        """Targets `[(b n), c, l]`; `mix [(b n), s]` weighs the sources; one `before_layer` a decoder."""
