"""From pairs of vectors to a map: means by modality, one ridge matrix, and agreement on what was held out.

Captions are split by the sound they speak of, a fifth each to choose the ridge strength and to measure with. Clips are
few, so each fifth of them is measured with a map that was fitted on the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep.query.space_maps import Agreement, Modality, SpaceMap
from unisep_align.captions import Caption

Matrix = NDArray[np.float64]
# Ridge strengths that are tried, relative to the mean variance of the source's axes.
STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.arange(-6, 3.5, 0.5))
N_FOLDS = 5
_TESTED, _CHOOSING = 0, 1


@dataclass(frozen=True, eq=False)
class Pairs:
    """Vectors of the same things in two spaces: `source [n, dim]` and `target [n, other dim]`."""

    source: Matrix
    target: Matrix

    def __len__(self) -> int:
        return len(self.source)

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.source[chosen], self.target[chosen])

    def means(self) -> tuple[Matrix, Matrix]:
        """Return the mean vector of each side."""
        return self.source.mean(0), self.target.mean(0)

    def centred(self) -> Pairs:
        """Return the pairs without their means."""
        source_mean, target_mean = self.means()
        return Pairs(self.source - source_mean, self.target - target_mean)


@dataclass(frozen=True, eq=False)
class Clips:
    """Vectors of the same clips in two spaces. `own`: of the user's recordings, on which the matrix is fitted, too."""

    pairs: Pairs
    own: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted map and what was measured of it."""

    space_map: SpaceMap
    ridge_strength: float
    text: Agreement
    audio: Agreement | None


class RidgePath:
    """The ridge maps of centred pairs for any strength, from one decomposition.

    W = (X'X + s t I)^-1 X'Y with X'X = V E V', t the mean of E: Hoerl and Kennard 1970, "Ridge regression: biased
    estimation for nonorthogonal problems".
    """

    def __init__(self, pairs: Pairs) -> None:
        values, self._axes = np.linalg.eigh(pairs.source.T @ pairs.source)
        self._values = np.maximum(values, 0)
        self._projected = self._axes.T @ (pairs.source.T @ pairs.target)

    def matrix(self, strength: float) -> Matrix:
        """Return W `[dim, other dim]`."""
        floor = max(strength * float(self._values.mean()), 1e-12)
        matrix: Matrix = self._axes @ (self._projected / (self._values + floor)[:, None])
        return matrix


def fit(captions: Sequence[Caption], texts: Pairs, clips: Clips | None) -> Fit:
    """Fit the map from the vectors of captions, in the same order, and of clips, and measure it."""
    folds = np.array([fold_of(caption.sound) for caption in captions])
    strength = _best_strength(texts, folds)
    seen, held_out = texts.where(folds != _TESTED), texts.where(folds == _TESTED)
    matrix = _matrix(seen, clips.pairs if clips is not None and clips.own else None, strength)
    text = agreement(predicted(held_out.source, matrix, seen.means()), held_out.target, seen.means()[1])
    audio = None if clips is None else _audio_agreement(seen, clips, strength)
    by_kind: dict[Modality, Pairs] = {"text": seen}
    if clips is not None:
        by_kind["audio"] = clips.pairs
    means = {kind: pairs.means() for kind, pairs in by_kind.items()}
    single = {kind: (source.astype(np.float32), target.astype(np.float32)) for kind, (source, target) in means.items()}
    return Fit(SpaceMap(matrix.astype(np.float32), single), strength, text, audio)


def fold_of(name: str) -> int:
    """Return 0 to 4, always the same for the same name, so that a measurement can be repeated."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % N_FOLDS


def _best_strength(texts: Pairs, folds: NDArray[np.int_]) -> float:
    """Return the strength that does best on captions which are neither fitted nor measured on."""
    fitted, choosing = texts.where(folds > _CHOOSING), texts.where(folds == _CHOOSING)
    path, means = RidgePath(fitted.centred()), fitted.means()

    def score(strength: float) -> float:
        vectors = predicted(choosing.source, path.matrix(strength), means)
        return agreement(vectors, choosing.target, means[1]).centred_cosine

    return max(STRENGTHS, key=score)


def _matrix(texts: Pairs, clips: Pairs | None, strength: float) -> Matrix:
    """Return one matrix for all pairs, each modality without its own means."""
    parts = [pairs.centred() for pairs in (texts, clips) if pairs is not None]
    together = Pairs(np.concatenate([part.source for part in parts]), np.concatenate([part.target for part in parts]))
    return RidgePath(together).matrix(strength)


def _audio_agreement(texts: Pairs, clips: Clips, strength: float) -> Agreement:
    """Measure over all clips, each with a map from the captions and the other folds of clips."""
    folds = np.arange(len(clips.pairs)) % N_FOLDS
    vectors = np.empty_like(clips.pairs.target)
    centres = np.empty_like(vectors)
    matrix = None if clips.own else _matrix(texts, None, strength)
    for fold in range(N_FOLDS):
        others = clips.pairs.where(folds != fold)
        fitted = _matrix(texts, others, strength) if matrix is None else matrix
        vectors[folds == fold] = predicted(clips.pairs.source[folds == fold], fitted, others.means())
        centres[folds == fold] = others.means()[1]
    return agreement(vectors, clips.pairs.target, centres)


def predicted(source: Matrix, matrix: Matrix, means: tuple[Matrix, Matrix]) -> Matrix:
    """Return unit vectors `[n, other dim]` where the map puts `source [n, dim]`."""
    return unit((source - means[0]) @ matrix + means[1])


def agreement(vectors: Matrix, wanted: Matrix, centre: Matrix) -> Agreement:
    """Measure how near `vectors` are to those `wanted`, both unit rows `[n, dim]`.

    `centre` is the mean of the target space: what all vectors share says nothing, so the centred cosine leaves it out.
    Top-1 and top-5 say how often the right one is the nearest, or among the five nearest, of all n.
    """
    scores = vectors @ wanted.T
    rank = (scores > np.diag(scores)[:, None]).sum(1)
    centred = (unit(vectors - centre) * unit(wanted - centre)).sum(1).mean()
    return Agreement(
        n=len(vectors),
        top_1=float((rank < 1).mean()),
        top_5=float((rank < 5).mean()),
        cosine=float(np.diag(scores).mean()),
        centred_cosine=float(centred),
    )


def unit(vectors: Matrix) -> Matrix:
    """Return rows of length 1; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: Matrix = vectors / np.maximum(norms, 1e-12)
    return rows
