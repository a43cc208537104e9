"""Muon (Jordan et al. 2024): updates of matrices are made orthogonal, so that they move all directions alike.

Scaled as in Moonlight (arXiv:2502.16982), to the size of AdamW's updates, so that a learning rate means the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from unisep_htdemucs.kernels import computes_bfloat16

_COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the published Newton-Schulz step
_SMALLEST_SIDE = 8  # of what counts as a matrix
_BANDS = "per_band"  # in the name of a parameter that holds a matrix for each band


class Muon(torch.optim.AdamW):
    """Muon for weights of layers, flattened from their second axis on; AdamW for all else.

    All else is FiLMs, embeddings, vectors, the last layers of a mask, and matrices with a side below 8. The three projections
    in an attention's `in_proj_weight`, the four gates of a recurrent layer, and the matrix of each band are orthogonalised apart.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__(model.parameters(), **adamw)
        self.momentum = momentum
        named = model.named_parameters()
        self.n_stacked = {each: _n_stacked(name, each) for name, each in named if _is_matrix(name, each)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient; those of matrices are gone afterwards."""
        (group,) = self.param_groups
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for matrix, n in self.n_stacked.items():
            if matrix.grad is None:
                continue
            # AdamW expects a step wherever it finds a state.
            state = self.state[matrix] or {"step": torch.zeros(()), "momentum": torch.zeros_like(matrix)}
            self.state[matrix] = state
            average = state["momentum"].lerp_(matrix.grad, 1 - self.momentum)
            update = matrix.grad.lerp(average, self.momentum)
            update = update if n == len(matrix) else update.flatten(1).unflatten(0, (n, -1))
            alike[update.shape[1:]].append((matrix, update))
            matrix.grad = None
        for shape, pile in alike.items():
            updates = orthogonal(torch.cat([update for _, update in pile])) * (0.2 * max(shape) ** 0.5)
            for (moved, _), part in zip(pile, updates.split([len(u) for _, u in pile]), strict=True):
                moved.mul_(1 - group["lr"] * group["weight_decay"]).sub_(part.reshape(moved.shape), alpha=group["lr"])
        return super().step(closure)


def orthogonal(updates: Tensor, n_steps: int = 5) -> Tensor:
    """Bring the singular values of `updates [n, rows, columns]` near 1, between 0.7 and 1.2, by Newton-Schulz steps."""
    a, b, c = _COEFFICIENTS
    is_tall = updates.shape[-2] > updates.shape[-1]
    is_fast = not updates.is_cpu or computes_bfloat16()  # a CPU that imitates it takes ten times as long
    x = (updates.mT if is_tall else updates).to(torch.bfloat16 if is_fast else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(n_steps):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if is_tall else x).to(updates.dtype)


def _is_matrix(name: str, value: Tensor) -> bool:
    sides = value.shape[-2:] if _BANDS in name else value.flatten(1).shape if value.dim() > 1 else ()
    return min(sides, default=0) >= _SMALLEST_SIDE and not any(word in name for word in ("film", "embedding", "last."))


def _n_stacked(name: str, value: Tensor) -> int:
    """Return how many matrices a parameter holds, one after the other."""
    if _BANDS in name:
        return len(value)
    return 4 if ".lstm_" in name else 1 + 2 * name.endswith("in_proj_weight")
