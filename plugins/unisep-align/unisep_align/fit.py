"""From pairs of vectors to a map: means by modality, one ridge matrix, and agreement on what was held out.

Captions are split by the sound they speak of, a fifth each to choose the ridge strength and to measure with.
Clips are few, so each fifth of them is measured with a map that was fitted on the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep.query.space_maps import Agreement, SpaceMap
from unisep_align.captions import Caption
from unisep_align.ridge import STRENGTHS, Matrix, Pairs, RidgePath, agreement, predicted, together

N_FOLDS = 5
_TESTED, _CHOOSING = 0, 1


@dataclass(frozen=True, eq=False)
class Clips:
    """Pairs of vectors of the same clips. own: the user's recordings, so that the matrix is fitted on them too."""

    pairs: Pairs
    own: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted map and what was measured of it."""

    found: SpaceMap
    ridge_strength: float
    text: Agreement
    audio: Agreement | None


def fold_of(name: str) -> int:
    """0 to 4, always the same for the same name, so that a measurement can be repeated.

    >>> fold_of("drums") == fold_of("drums")
    True
    """
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % N_FOLDS


def fit(captions: Sequence[Caption], texts: Pairs, clips: Clips | None) -> Fit:
    """The map of the captions' and the clips' vectors, in the same order."""
    folds = np.array([fold_of(caption.sound) for caption in captions])
    strength = _chosen_strength(texts, folds)
    seen, held_out = texts.where(folds != _TESTED), texts.where(folds == _TESTED)
    matrix = _matrix(seen, clips.pairs if clips is not None and clips.own else None, strength)
    means = seen.means()
    text = agreement(predicted(held_out.source, matrix, means), held_out.target, means[1])
    found_means = {"text": means} | ({} if clips is None else {"audio": clips.pairs.means()})
    audio = None if clips is None else _audio_agreement(seen, clips, strength)
    return Fit(_as_map(matrix, found_means), strength, text, audio)


def _chosen_strength(texts: Pairs, folds: NDArray[np.int_]) -> float:
    """The strength that does best on captions which are neither fitted nor measured on."""
    fitted, choosing = texts.where(folds > _CHOOSING), texts.where(folds == _CHOOSING)
    path, means = RidgePath(fitted.centred()), fitted.means()

    def score(strength: float) -> float:
        found = predicted(choosing.source, path.matrix(strength), means)
        return agreement(found, choosing.target, means[1]).centred_cosine

    return max(STRENGTHS, key=score)


def _matrix(texts: Pairs, clips: Pairs | None, strength: float) -> Matrix:
    """One matrix for all pairs, each modality without its own means."""
    centred = texts.centred()
    return RidgePath(centred if clips is None else together(centred, clips.centred())).matrix(strength)


def _audio_agreement(texts: Pairs, clips: Clips, strength: float) -> Agreement:
    """Over all clips, each measured with a map from the captions and the other folds of clips."""
    folds = np.arange(len(clips.pairs)) % N_FOLDS
    found = np.empty_like(clips.pairs.target)
    centres = np.empty_like(found)
    matrix = None if clips.own else _matrix(texts, None, strength)
    for fold in range(N_FOLDS):
        others = clips.pairs.where(folds != fold)
        fitted = _matrix(texts, others, strength) if matrix is None else matrix
        found[folds == fold] = predicted(clips.pairs.source[folds == fold], fitted, others.means())
        centres[folds == fold] = others.means()[1]
    return agreement(found, clips.pairs.target, centres)


def _as_map(matrix: Matrix, means: dict) -> SpaceMap:
    single = {kind: (m.astype(np.float32), n.astype(np.float32)) for kind, (m, n) in means.items()}
    return SpaceMap(matrix.astype(np.float32), single)
