"""The query seam: what a loaded query encoder must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from unisep.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from unisep.audio import Audio


class QueryEncoder(ABC):
    """A loaded encoder of text, audio or both into one `space`, whose name tells revisions of the weights apart."""

    space: str

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return embeddings `[n, dim]` of `n` texts, each row of unit length."""
        raise EncoderError(f"{type(self).__name__} does not encode text. Ask with an audio example instead.")

    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Return embeddings `[n, dim]` of `n` clips of any rate and length, each row of unit length."""
        raise EncoderError(f"{type(self).__name__} does not encode audio. Ask with a text instead.")

    def close(self) -> None:
        """Free what the encoder holds. Called once, when its Separator closes."""
        return None
