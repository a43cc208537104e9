"""The query seam: what an encoder plugin declares, and what it must do.

Importing this module loads neither torch nor numpy, so that a plugin's hook module stays light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unisep.backend import PLUGIN_API
from unisep.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from unisep.audio import Audio


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What can be known of a query encoder without importing it.

    name: what the user asks for ("clap-mini").
    load: "package.module:function", imported only on use. The function is called as
        `load(weights=Path | None, device=torch.device)` and returns a `QueryEncoder`.
    space: the embedding space of its vectors; backends list the spaces they understand.
    modalities: what it encodes, of "text" and "audio".
    summary, licence, plugin_api, card: as in `BackendSpec`.
    """

    name: str
    load: str
    space: str
    modalities: frozenset[str] = frozenset({"text", "audio"})
    summary: str = ""
    licence: str = ""
    plugin_api: int = PLUGIN_API
    card: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.modalities, tuple | list | set):
            object.__setattr__(self, "modalities", frozenset(self.modalities))


class QueryEncoder(ABC):
    """A loaded encoder of text, audio or both into one embedding space.

    space: the name of that space, with the revision of the weights where there are several.
    """

    space: str

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings `[n, dim]` of `n` texts, each row of unit length."""
        raise EncoderError(f"{type(self).__name__} does not encode text. Ask with an audio example instead.")

    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Embeddings `[n, dim]` of `n` clips of any rate and length, each row of unit length."""
        raise EncoderError(f"{type(self).__name__} does not encode audio. Ask with a text instead.")

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    def close(self) -> None:
        """Free what the encoder holds. Called once, when its Separator closes."""
        return None
