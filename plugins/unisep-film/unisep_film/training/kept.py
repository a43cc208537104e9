"""The recipe of a run: read from a file when the run begins, then kept beside its checkpoint and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unisep.errors import OptionError, UnisepError

from .pace import Pace

RECIPE_FILE = "recipe.json"
RecipeT = TypeVar("RecipeT", bound=Pace)


def kept_recipe(
    folder: Path, given: Path | None, kind: type[RecipeT], read: Callable[[Path], RecipeT]
) -> RecipeT:
    """The run's own recipe if it has one, else what `read` makes of the given file, which is then the run's.

    Raises OptionError when there is none or it cannot be understood, and as `read` does.
    """
    own = folder / RECIPE_FILE
    source = own if own.exists() else given
    if source is None:
        raise OptionError(f"{folder} holds no run yet: give --config with a recipe to start one.")
    try:
        if source == own:
            return kind.model_validate_json(own.read_bytes())
        recipe = read(source)
    except UnisepError:
        raise
    except (OSError, ValueError) as error:
        raise OptionError(f"{source} cannot be read as a recipe: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    partial = own.with_name(own.name + ".part")
    partial.write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(own)
    return recipe
