"""The recipe of a run: read from a file when the run begins, then kept beside its checkpoint and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from unisep.errors import OptionError, UnisepError, reasons
from unisep_train.trainer.pace import Pace

RECIPE_FILE = "recipe.json"
CHECKPOINT_FILE = "checkpoint.pt"
RecipeT = TypeVar("RecipeT", bound=Pace)


def kept_recipe(folder: Path, given: Path | None, kind: type[RecipeT], read: Callable[[Path], RecipeT]) -> RecipeT:
    """The run's own recipe if it has one, else what `read` makes of the given file, which is then the run's.

    A run that has saved no step yet takes another one that is given.

    Raises OptionError when there is none, it cannot be understood, or the run has begun with another; and as `read` does.
    """
    own = folder / RECIPE_FILE
    if given is None and not own.exists():
        raise OptionError(f"{folder} holds no run yet: give --config with a recipe to start one.")
    begun = _understood(own, lambda path: kind.model_validate_json(path.read_bytes())) if own.exists() else None
    recipe = begun if given is None else _understood(given, read)
    assert recipe is not None
    if recipe == begun:
        return recipe
    if begun is not None and (folder / CHECKPOINT_FILE).exists():
        fields = [name for name in kind.model_fields if getattr(recipe, name) != getattr(begun, name)]
        raise OptionError(
            f"{folder} has begun with a recipe of its own, and {given} differs in {', '.join(fields)}. Leave out --config to "
            "go on with that one, or take another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = own.with_name(own.name + ".part")
    partial.write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(own)
    return recipe


def _understood(path: Path, read: Callable[[Path], RecipeT]) -> RecipeT:
    try:
        return read(path)
    except UnisepError:
        raise
    except ValidationError as error:
        raise OptionError(f"{path} cannot be read as a recipe: {reasons(error)}.") from error
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read as a recipe: {error}") from error
