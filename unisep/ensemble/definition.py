"""What an ensemble is: its members, and how much each counts for each stem; in Python or as TOML."""

from __future__ import annotations

import math
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisep.errors import EnsembleError

Domain = Literal["waveform", "spectrogram"]


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


AT = "ensemble@"


_LARGEST_FILE_BYTES = 1 << 16


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _as_ensemble_error(error, list(type(self).model_fields)) from error


class EnsembleMember(_Strict):
    """One backend, and how much it counts.

    backend: as for `Separator(backend=)`.
    weights: how much it counts for each stem of the ensemble; one number stands for all stems it has.
    stems: where the names differ, the ensemble's stem to this backend's: {"drums": "percussive"}.
    path: a file or folder with weights of your own, from where the TOML file lies.
    card, file: instead of `path`, one file of another backend's published weights.

    Raises:
        EnsembleError: fields that are unknown, negative, not finite, or do not go together.
    """

    backend: Annotated[str, Field(min_length=1)]
    weights: Weight | dict[str, Weight] = 1.0
    stems: dict[str, str] = Field(default_factory=dict)
    path: str = ""
    card: str = ""
    file: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> EnsembleMember:
        if bool(self.card) != bool(self.file) or (self.path and self.card):
            raise ValueError("give `path`, or `card` with `file`, or none of them")
        if "@" in self.backend:
            raise ValueError("a member is an installed backend; give weights of your own as `path`")
        return self

    @property
    def has_own_weights(self) -> bool:
        """Whether it is loaded with other weights than those of its backend's card."""
        return bool(self.path or self.card)

    def weights_among(self, stems: tuple[str, ...]) -> dict[str, float]:
        """Its weight for each of the ensemble's stems that it counts for; `stems` are the backend's own.

        Raises EnsembleError where one number stands for all stems, and the backend declares none, or `stems` renames what it
        does not have, or into what it has too.
        """
        if isinstance(self.weights, dict):
            return {stem: weight for stem, weight in self.weights.items() if weight > 0}
        if not stems:
            raise EnsembleError(
                f"weights={self.weights} of the member '{self.backend}': that backend does not declare its stems. "
                'Name them: weights = { "vocals" = 1.0 }'
            )
        kept = [own for own in stems if own not in self.stems.values()]
        unknown = [own for own in self.stems.values() if own not in stems]
        doubled = [stem for stem in self.stems if stem in kept]
        if unknown or doubled:
            what = (
                f"no {unknown[0]!r}" if unknown else f"a {doubled[0]!r} of its own, and `stems` makes another one of it"
            )
            raise EnsembleError(
                f"The member '{self.backend}' has {what}. It gives: {', '.join(stems)}. Change `stems`, or name the weights."
            )
        named = {own: [stem for stem, other in self.stems.items() if other == own] or [own] for own in stems}
        return {stem: self.weights for own in stems for stem in named[own] if self.weights > 0}


class Ensemble(_Strict):
    """Members whose outputs are averaged, stem by stem; the weights of a stem are divided by their sum.

    sources: the stems, in order; without, all that a member counts for, in the order they are met.
    domain: "waveform" averages samples; "spectrogram" averages magnitudes, under the phase of the
        averaged samples, so that what members agree on but place differently in time is not cancelled.
    name: how the plan names it. folder: what a relative `path` of a member starts from.

    >>> both = Ensemble(members=[{"backend": "htdemucs", "weights": {"vocals": 3}}, {"backend": "mdx_extra"}])
    >>> both.members[0].weights, both.domain
    ({'vocals': 3.0}, 'waveform')

    Raises:
        EnsembleError: fields that are unknown or cannot be used.
    """

    members: Annotated[tuple[EnsembleMember, ...], Field(min_length=1)]
    sources: tuple[str, ...] = ()
    domain: Domain = "waveform"
    name: Annotated[str, Field(min_length=1, max_length=300)] = "ensemble"
    summary: str = ""
    folder: Path = Path()

    @model_validator(mode="after")
    def _consistent(self) -> Ensemble:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources names one twice")
        for member in self.members if self.sources else ():
            weights = member.weights if isinstance(member.weights, dict) else {}
            unknown = [stem for stem in weights if stem not in self.sources]
            if unknown:
                raise ValueError(f"weights of '{member.backend}' name {unknown[0]!r}, which is not in sources")
        return self


def read_ensemble(path: Path) -> Ensemble:
    """The ensemble that a TOML file describes.

    Raises:
        EnsembleError: no such file, no TOML, or not what an ensemble is made of; the message names the file.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise EnsembleError(f"the file is larger than {_LARGEST_FILE_BYTES} bytes")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        reserved = {"name", "folder"} & set(values)
        if reserved:
            raise EnsembleError(f"unknown field {min(reserved)!r}; an ensemble is named by its file")
        return Ensemble(**values, folder=path.resolve().parent)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise EnsembleError(f"The ensemble {path} cannot be read: {error}.") from error
    except EnsembleError as error:
        raise EnsembleError(f"The ensemble {path}: {error}") from error


def as_ensemble(asked: object) -> Ensemble | None:
    """The ensemble that was asked for: given as such, or as "ensemble@file.toml"; None for anything else.

    Raises EnsembleError as `read_ensemble` does, and for a name that ends in the @.
    """
    if isinstance(asked, Ensemble):
        return asked
    if not isinstance(asked, str) or not asked.startswith(AT):
        return None
    if asked == AT:
        raise EnsembleError("backend='ensemble@' is incomplete. Write 'ensemble@file.toml'.")
    ensemble = read_ensemble(Path(os.path.expanduser(asked.removeprefix(AT))))
    return ensemble.model_copy(update={"name": asked})


def normalised(rows: list[dict[str, float]], sources: tuple[str, ...]) -> list[dict[str, float]]:
    """The weights `rows` (a row a member), each divided by the sum of its stem's, which then is 1.

    Raises EnsembleError for a stem for which nobody counts.
    """
    sums = {stem: sum(row.get(stem, 0.0) for row in rows) for stem in sources}
    empty = [stem for stem, total in sums.items() if not total > 0 or not math.isfinite(total)]
    if empty or not sources:
        raise EnsembleError(
            f"No member counts for '{empty[0]}': give one of them a weight above 0 there."
            if empty
            else "No member counts for anything: give weights above 0."
        )
    return [{stem: row[stem] / sums[stem] for stem in sources if row.get(stem, 0.0) > 0} for row in rows]


def _as_ensemble_error(error: ValidationError, fields: list[str]) -> EnsembleError:
    """The first problem as a sentence that names the field, and what is allowed."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, EnsembleError):
        return cause
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return EnsembleError(f"unknown field {where!r}. Allowed: {', '.join(sorted(set(fields) - {'folder'}))}.")
    return EnsembleError(f"{where or 'the fields together'}: {first['msg']}.")
