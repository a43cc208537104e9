"""An encoder that speaks the language of another space, through a fitted map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from unisep.audio import Audio
from unisep.encoder import QueryEncoder
from unisep.errors import EncoderError, WeightsError
from unisep.maps import Modality, SpaceMap


@final
class AlignedEncoder(QueryEncoder):
    """The encoder `inner`, whose vectors a map takes into `space`. Closing it leaves `inner` open."""

    def __init__(self, inner: QueryEncoder, into: SpaceMap, space: str) -> None:
        if inner.dim != into.dims[0]:
            raise WeightsError(
                f"The map from '{inner.space}' to '{space}' is for vectors of {into.dims[0]} numbers, the encoder "
                f"gives {inner.dim}. Fit it again with: unisep align ENCODER"
            )
        self.space = space
        self._inner = inner
        self._map = into

    @property
    def dim(self) -> int:
        """Length of the vectors in the space that is mapped into."""
        return self._map.dims[1]

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit vectors [n, dim] of the texts."""
        return self._mapped(self._inner.encode_text(texts), "text")

    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Unit vectors [n, dim] of the clips. Raises EncoderError where the map is not fit for audio."""
        return self._mapped(self._inner.encode_audio(clips), "audio")

    def _mapped(self, vectors: Tensor, modality: Modality) -> Tensor:
        if modality not in self._map.means:
            raise EncoderError(
                f"The map from '{self._inner.space}' to '{self.space}' is not fit for {modality}. "
                "Fit it on sounds of your own with: unisep align ENCODER --clips FOLDER"
            )
        return torch.from_numpy(self._map(vectors.detach().float().cpu().numpy(), modality))
