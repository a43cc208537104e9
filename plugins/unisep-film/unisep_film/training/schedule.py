"""What changes with the steps of a run: the learning rate, and which parameters are trained."""

from __future__ import annotations

from unisep_film.model import FilmHTDemucs

from .recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero; what precedes the fall is the same for any `n_steps`."""
    rise = (step + 1) / recipe.warmup_steps
    fall = (recipe.n_steps - step) / max(1.0, recipe.decay_share * recipe.n_steps)
    return recipe.learning_rate * min(1.0, rise, fall)


def trains_separator(recipe: Recipe, step: int) -> bool:
    """Whether the separator under the query is trained in this step, or only what hears the query."""
    return step >= recipe.conditioning_steps


def set_stage(model: FilmHTDemucs, with_separator: bool) -> None:
    """Let the separator's parameters be trained, or hold them; all others always are."""
    model.core.requires_grad_(with_separator)
