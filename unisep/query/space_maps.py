"""Maps from one embedding space to another: the map itself, what was measured of it, and where it is kept.

A map is a folder in the weights folder: `map.json`, which says everything in words and numbers, beside the
tensors that it names by their sha256. The json is replaced at once, so nobody ever sees half a map.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisep.errors import WeightsError
from unisep.files.paths import safe_name
from unisep.weights.store import default_folder

Modality = Literal["text", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "audio")
# Measured (docs/alignment.md): 0.7 costs 0.2 dB against the own encoder, below 0.6 single targets are lost.
LEAST_CENTRED_COSINE = 0.65
LEAST_TOP_5 = 0.8
RECORD = "map.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Agreement(_Record):
    """Agreement of mapped vectors with the target encoder's own, on `n` things that the map was not fitted on.

    Attributes:
        n: how many.
        top_1: how often the right one of all n is the nearest.
        top_5: how often it is among the five nearest.
        cosine: mean over all n.
        centred_cosine: the same without the mean of the target space, which all vectors share.
    """

    n: int
    top_1: float
    top_5: float
    cosine: float
    centred_cosine: float


class MapCard(_Record):
    """The card of a map: between which spaces, fitted on what, and how well it agrees.

    Attributes:
        format: version of this record.
        source: the space of the vectors that are mapped.
        target: the space they are mapped to.
        text: agreement measured on captions.
        audio: agreement measured on clips; None where an encoder takes none, or nothing was there to measure it on.
        clips: "own" (the user's, also fitted on), "synthetic" (made by rule, for the means only) or "none".
        n_captions: how many there were in all.
        n_clips: likewise.
        captions_sha256: of the shipped list.
        ridge_strength: as chosen.
        unisep_version: that fitted it.
        tensors: file beside the card; "" for a map that is unfit for text, which is not kept.
        tensors_sha256: of that file.
    """

    format: Literal[1] = 1
    source: str
    target: str
    text: Agreement
    audio: Agreement | None = None
    clips: Literal["own", "synthetic", "none"] = "none"
    n_captions: int
    n_clips: int = 0
    captions_sha256: str
    ridge_strength: float
    unisep_version: str
    tensors: str = Field(default="", pattern=r"^([0-9a-f]{16}\.safetensors)?$")
    tensors_sha256: str = ""

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities it may be used for; none where it is unfit for text.

        Fit for text: a centred cosine of 0.65 and a top-5 of 0.8 at least. Fit for audio: the cosine.
        """
        if not (self.text.centred_cosine >= LEAST_CENTRED_COSINE and self.text.top_5 >= LEAST_TOP_5):
            return frozenset()
        hears = self.audio is not None and self.audio.centred_cosine >= LEAST_CENTRED_COSINE
        return frozenset(MODALITIES if hears else ("text",))

    @property
    def is_fit(self) -> bool:
        """Whether the map may be used at all."""
        return bool(self.modalities)


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """x becomes the unit vector along (x - m) W + n, with means m, n of the modality of x.

    matrix: W [dim, other dim]. means: for each modality m [dim] and n [other dim].
    """

    matrix: NDArray[np.float32]
    means: dict[Modality, tuple[NDArray[np.float32], NDArray[np.float32]]]

    def __call__(self, vectors: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
        """Map `vectors` `[n, dim]` to unit vectors `[n, other dim]`."""
        source_mean, target_mean = self.means[modality]
        mapped = (vectors - source_mean) @ self.matrix + target_mean
        unit: NDArray[np.float32] = mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
        return unit

    @property
    def dims(self) -> tuple[int, int]:
        """Length of the vectors on either side."""
        return self.matrix.shape[0], self.matrix.shape[1]


class MapStore:
    """The maps on this machine, one for each pair of spaces; so a new revision of an encoder has none yet."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() / "maps" if folder is None else folder

    def place(self, source: str, target: str) -> Path:
        """Return the folder of a map: named for people, and told apart by a hash of the two spaces."""
        digest = hashlib.sha256(json.dumps([source, target]).encode()).hexdigest()[:12]
        return self.folder / f"{safe_name(source)[:48]}-to-{safe_name(target)[:24]}-{digest}"

    def card(self, source: str, target: str) -> MapCard | None:
        """Read the card of a map; None where none was fitted. Raise WeightsError for a damaged one."""
        path = self.place(source, target) / RECORD
        if not path.is_file():
            return None
        try:
            card = MapCard.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise _damaged(path, type(error).__name__) from error
        if (card.source, card.target) != (source, target):
            raise _damaged(path, f"it maps {card.source} to {card.target}")
        return card

    def load(self, card: MapCard) -> SpaceMap:
        """Read the map of a card, verified. Raise WeightsError when it is missing or not the one described."""
        path = self.place(card.source, card.target) / card.tensors
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _damaged(path, type(error).__name__) from error
        if hashlib.sha256(content).hexdigest() != card.tensors_sha256:
            raise _damaged(path, "its sha256 differs")
        return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> SpaceMap:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        means = {
            modality: (tensors[f"{modality}.source_mean"], tensors[f"{modality}.target_mean"])
            for modality in MODALITIES
            if f"{modality}.source_mean" in tensors
        }
        space_map = SpaceMap(tensors["matrix"], means)
        sound = all((len(m), len(n)) == space_map.dims for m, n in means.values()) and "text" in means
    except (SafetensorError, KeyError, IndexError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not sound or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise _damaged(path, "its values cannot be right")
    return space_map


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"The map between spaces at {path} is damaged ({why}). Fit it again with: unisep align ENCODER")
