"""The recipe of a run: all that decides what it learns, in one frozen value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, TypeAdapter, model_validator
from unisep_film.config import FilmConfig

from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.queries import QueryMix
from unisep_train.tasks.start import Start, model_at_start
from unisep_train.tasks.teacher import Teacher, pinned
from unisep_train.trainer.kept import kept_recipe
from unisep_train.trainer.losses import LossWeights
from unisep_train.trainer.pace import Pace


class Recipe(Pace):
    """All that decides what a run learns; saved beside its checkpoint and never changed after.

    start: the weights the first step begins with; nothing by default.
    conditioning_steps: in the first so many steps only what hears the query is trained (FiLMs, projectors, source
        weights, presence), then everything. For starts from weights that separate already.
    teacher: a larger model whose answers are learnt, beside the true targets or instead of them; none by default.
    """

    model: FilmConfig
    start: Start = Start()
    teacher: Teacher | None = None
    mix: MixConfig = MixConfig()
    queries: QueryMix = QueryMix()
    losses: LossWeights = LossWeights()
    conditioning_steps: NonNegativeInt = 0
    absent_from: int = 1500  # step from which a queried sound may be absent: a model that knows nothing falls silent

    @model_validator(mode="after")
    def _fits_its_model(self) -> Recipe:
        if len(self.model.spaces) != 1:
            raise ValueError("training takes queries of one embedding space: give `model.spaces` one entry")
        n_channels = self.model.separator.audio_channels
        if self.mix.n_channels != n_channels:
            raise ValueError(f"mix.n_channels is {self.mix.n_channels}, and the model hears {n_channels}")
        return self

    @property
    def space(self) -> str:
        """The embedding space of the queries."""
        (space,) = self.model.spaces
        return space


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file; the shape of the model may be left to the weights it starts from.

    Raises:
        OSError, pydantic.ValidationError: no such file, no JSON, an unknown field or an impossible value.
        OptionError, WeightsError: a start or a teacher that does not go with the model, or cannot be read.
    """
    given = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    start = Start.model_validate(given.get("start", {}))
    asked = TypeAdapter(dict[str, Any]).validate_python(given.get("model", {}))
    recipe = Recipe.model_validate({**given, "model": model_at_start(start, asked)})
    if recipe.teacher is None:
        return recipe
    teacher = pinned(recipe.teacher, recipe.model, recipe.mix.segment_seconds)
    return recipe.model_copy(update={"teacher": teacher})


def load_recipe(folder: Path, given: Path | None) -> Recipe:
    """The run's own recipe if it has one, else the given one, which is then the run's; see `kept_recipe`."""
    return kept_recipe(folder, given, Recipe, read_recipe)
