"""What the student should say: the teacher's space, centred on sounds, with synonyms drawn together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unisep_train.tasks.phrases import Links


@dataclass(frozen=True)
class Projection:
    """A fixed linear map of the teacher's space: normalise((u - mean) @ components)."""

    mean: Tensor
    components: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        """Unit vectors [n, n_dims] of the teacher's vectors [n, width]."""
        return F.normalize((u - self.mean) @ self.components, dim=-1)


def fit_projection(sounds: Tensor, everything: Tensor, n_dims: int) -> Projection:
    """Principal axes of the teacher's vectors, half weight on names of sounds, half on all phrases."""
    mean = sounds.mean(0)
    covariance = torch.stack([(x - mean).T @ (x - mean) / len(x) for x in (sounds, everything)]).mean(0)
    _, axes = torch.linalg.eigh(covariance)
    return Projection(mean, axes[:, -n_dims:].flip(1))


def draw_together(
    vectors: Tensor, links: Links, *, n_steps: int = 150, keep: float = 3.0, temperature: float = 0.1
) -> Tensor:
    """The vectors of the linked names moved so that linked names are nearest, others apart.

    After the retrofitting of Faruqui et al. 2015 (arXiv:1411.4166), with a contrastive pull instead of an
    average and `keep` times the squared distance from where each vector began.
    """
    position = {name: i for i, name in enumerate(links.names)}
    wanted = torch.zeros(len(vectors), len(vectors))
    for first, second, strength in links.pairs:
        i, j = position[first], position[second]
        wanted[i, j] = max(float(wanted[i, j]), strength)
        wanted[j, i] = max(float(wanted[j, i]), strength)
    pull = wanted.sum(1, keepdim=True).clamp(max=1.0)
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-9)
    moved = vectors.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.01)
    itself = torch.eye(len(vectors), dtype=torch.bool)
    for _ in range(n_steps):
        unit = F.normalize(moved, dim=-1)
        similar = (unit @ unit.T / temperature).masked_fill(itself, -1e4)
        contrast = -(wanted * similar.log_softmax(-1)).sum(-1, keepdim=True) * pull
        loss = contrast.mean() + keep * (unit - vectors).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return F.normalize(moved.detach(), dim=-1)


@dataclass(frozen=True)
class Shift:
    """The movement of the names of sounds, handed on to phrases of like meaning and to no others."""

    names: Tensor
    movement: Tensor
    near: float = 0.75
    softness: float = 0.04

    def __call__(self, projected: Tensor) -> Tensor:
        """Target unit vectors of projected teacher vectors [n, n_dims]."""
        similar = projected @ self.names.T
        movement = (similar / self.softness).softmax(-1) @ self.movement
        gate = torch.sigmoid((similar.amax(-1, keepdim=True) - self.near) / self.softness)
        return F.normalize(projected + gate * movement, dim=-1)
