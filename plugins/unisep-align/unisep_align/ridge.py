"""Closed-form ridge regression, and how well what it predicts agrees with what it should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep.query.space_maps import Agreement

Matrix = NDArray[np.float64]
# Ridge strengths that are tried, relative to the mean variance of the source's axes.
STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.arange(-6, 3.5, 0.5))


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same things in two spaces: `source` [n, dim] and `target` [n, other dim]."""

    source: Matrix
    target: Matrix

    def __len__(self) -> int:
        return len(self.source)

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.source[chosen], self.target[chosen])

    def means(self) -> tuple[Matrix, Matrix]:
        """The mean vector of each side."""
        return self.source.mean(0), self.target.mean(0)

    def centred(self) -> Pairs:
        """The pairs without their means."""
        source_mean, target_mean = self.means()
        return Pairs(self.source - source_mean, self.target - target_mean)


def together(*several: Pairs) -> Pairs:
    """All pairs of several."""
    return Pairs(
        np.concatenate([pairs.source for pairs in several]), np.concatenate([pairs.target for pairs in several])
    )


class RidgePath:
    """The ridge maps of centred pairs for any strength, from one decomposition.

    W = (X'X + s t I)^-1 X'Y with X'X = V E V', t the mean of E: Hoerl and Kennard 1970, "Ridge
    regression: biased estimation for nonorthogonal problems".
    """

    def __init__(self, pairs: Pairs) -> None:
        values, self._axes = np.linalg.eigh(pairs.source.T @ pairs.source)
        self._values = np.maximum(values, 0)
        self._projected = self._axes.T @ (pairs.source.T @ pairs.target)

    def matrix(self, strength: float) -> Matrix:
        """W [dim, other dim]."""
        floor = max(strength * float(self._values.mean()), 1e-12)
        result: Matrix = self._axes @ (self._projected / (self._values + floor)[:, None])
        return result


def predicted(source: Matrix, matrix: Matrix, means: tuple[Matrix, Matrix]) -> Matrix:
    """Unit vectors [n, other dim] where the map puts `source` [n, dim]."""
    return unit((source - means[0]) @ matrix + means[1])


def agreement(found: Matrix, wanted: Matrix, centre: Matrix) -> Agreement:
    """How near the vectors `found` are to those `wanted`, both unit rows [n, dim].

    centre: mean of the target space; what all vectors share says nothing, so the centred cosine leaves
    it out. Top-1 and top-5: how often the right one is the nearest, or among the five nearest, of all n.
    """
    scores = found @ wanted.T
    rank = (scores > np.diag(scores)[:, None]).sum(1)
    cosine = np.diag(scores).mean()
    centred = (unit(found - centre) * unit(wanted - centre)).sum(1).mean()
    return Agreement(
        n=len(found),
        top_1=float((rank < 1).mean()),
        top_5=float((rank < 5).mean()),
        cosine=float(cosine),
        centred_cosine=float(centred),
    )


def unit(vectors: Matrix) -> Matrix:
    """Rows of length 1; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Matrix = vectors / np.maximum(norms, 1e-12)
    return result
