"""What changes with the steps of a run: the learning rate, and which parameters are trained."""

from __future__ import annotations

from unisep_film.model import FilmHTDemucs

from .pace import Pace
from .recipe import Recipe


def learning_rate(pace: Pace, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero; what precedes the fall is the same for any `n_steps`."""
    rise = (step + 1) / pace.warmup_steps
    fall = (pace.n_steps - step) / max(1.0, pace.decay_share * pace.n_steps)
    return pace.learning_rate * min(1.0, rise, fall)


def trains_separator(recipe: Recipe, step: int) -> bool:
    """Whether the separator under the query is trained in this step, or only what hears the query."""
    return step >= recipe.conditioning_steps


def set_stage(model: FilmHTDemucs, with_separator: bool) -> None:
    """Let the separator's parameters be trained, or hold them; all others always are."""
    model.core.requires_grad_(with_separator)
