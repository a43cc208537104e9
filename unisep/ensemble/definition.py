"""Define an ensemble: its members, and how much each counts for each stem; in Python or as TOML."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisep.errors import EnsembleError, arg, reasons, suggest

AT = "ensemble@"
_LARGEST_FILE_BYTES = 1 << 16

Domain = Literal["waveform", "spectrogram"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    """A model in which fields that are unknown, cannot be used or do not go together are an EnsembleError."""

    model_config = ConfigDict(frozen=True)

    def __init__(self, **fields: Any) -> None:
        known = type(self).model_fields
        if unknown := sorted(fields.keys() - known):
            raise EnsembleError(f"unknown field {unknown[0]!r}. {suggest(unknown[0], known)}")
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise EnsembleError(reasons(error, "the fields together")) from error


class EnsembleMember(_Strict):
    """One backend, and how much it counts.

    Attributes:
        backend: as for `Separator(backend=)`.
        weights: how much it counts for each stem of the ensemble; one number stands for all stems it has.
        stems: where the names differ, the ensemble's stem to this backend's: {"drums": "percussive"}.
        path: a file or folder with weights of your own, from where the TOML file lies.
        card: instead of `path`, the backend of whose published weights `file` is one.
        file: the name of that file.
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

    def weights_among(self, stems: tuple[str, ...]) -> dict[str, float]:
        """Return the weight for each of the ensemble's stems that the member, whose backend declares `stems`, counts for.

        Raises EnsembleError where one number stands for all stems, and they are not declared or wrongly renamed.
        """
        if isinstance(self.weights, dict):
            return {stem: weight for stem, weight in self.weights.items() if weight > 0}
        if not stems:
            raise EnsembleError(
                f"weights={self.weights} of the member '{self.backend}': that backend does not declare its stems. "
                'Name them: weights = { "vocals" = 1.0 }'
            )
        kept = [stem for stem in stems if stem not in self.stems.values()]
        wrong = [f"no {stem!r}" for stem in self.stems.values() if stem not in stems]
        wrong += [f"a {name!r} of its own, and `stems` makes another" for name in self.stems if name in kept]
        if wrong:
            raise EnsembleError(
                f"The member '{self.backend}' has {wrong[0]}. It gives: {', '.join(stems)}. Change `stems`, or name the weights."
            )
        names = {stem: [name for name, its_stem in self.stems.items() if its_stem == stem] or [stem] for stem in stems}
        return {name: self.weights for stem in stems for name in names[stem] if self.weights > 0}


class Ensemble(_Strict):
    """Members whose outputs are averaged, stem by stem; the weights of a stem are divided by their sum.

    Attributes:
        members: the backends.
        sources: the stems, in order; without, all that a member counts for, in the order they are met.
        domain: "waveform" averages samples; "spectrogram" averages magnitudes, under the phase of the averaged
            samples, so that what members agree on but place differently in time is not cancelled.
        name: how the plan names it.
        summary: one line for lists of backends.
        folder: what a relative `path` of a member starts from.

    >>> both = Ensemble(members=[{"backend": "htdemucs", "weights": {"vocals": 3}}, {"backend": "mdx_extra"}])
    >>> both.members[0].weights, both.domain
    ({'vocals': 3.0}, 'waveform')
    """

    members: Annotated[tuple[EnsembleMember, ...], Field(min_length=1)]
    sources: tuple[str, ...] = ()
    domain: Domain = "waveform"
    name: Annotated[str, Field(min_length=1, max_length=300)] = "ensemble"
    summary: str = ""
    folder: Path = Path()

    def __init__(self, *, members: Sequence[EnsembleMember | Mapping[str, Any]] = (), **fields: Any) -> None:
        super().__init__(members=members, **fields)

    @model_validator(mode="after")
    def _consistent(self) -> Ensemble:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources names one twice")
        for member in self.members:
            named = member.weights if self.sources and isinstance(member.weights, dict) else ()
            if unknown := set(named) - set(self.sources):
                raise ValueError(f"weights of '{member.backend}' name {min(unknown)!r}, which is not in sources")
        return self


def read_ensemble(path: Path) -> Ensemble:
    """Return the ensemble that a TOML file describes. Raises EnsembleError that names the file where it does not."""
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise EnsembleError(f"the file is larger than {_LARGEST_FILE_BYTES} bytes")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if reserved := {"name", "folder"} & set(values):
            raise EnsembleError(f"unknown field {min(reserved)!r}; an ensemble is named by its file")
        return Ensemble(**values, folder=path.resolve().parent)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise EnsembleError(f"The ensemble {path} cannot be read: {error}.") from error
    except EnsembleError as error:
        raise EnsembleError(f"The ensemble {path}: {error}") from error


def as_ensemble(backend: object) -> Ensemble | None:
    """Return the ensemble that was given as such, or as "ensemble@file.toml"; None for anything else."""
    if isinstance(backend, Ensemble):
        return backend
    if not (isinstance(backend, str) and backend.startswith(AT)):
        return None
    if backend == AT:
        raise EnsembleError(f"{arg('backend', AT)} is incomplete. Write 'ensemble@file.toml'.")
    ensemble = read_ensemble(Path(os.path.expanduser(backend.removeprefix(AT))))
    return ensemble.model_copy(update={"name": backend})


def normalised(rows: Sequence[Mapping[str, float]], sources: tuple[str, ...]) -> list[dict[str, float]]:
    """Divide the weights of each stem, a row a member, by their sum. Raises EnsembleError if nobody counts for one."""
    sums = {stem: sum(max(0.0, row.get(stem, 0.0)) for row in rows) for stem in sources}
    if not sources:
        raise EnsembleError("No member counts for anything: give weights above 0.")
    if empty := [stem for stem, total in sums.items() if not 0 < total < math.inf]:
        raise EnsembleError(f"No member counts for '{empty[0]}': give one of them a weight above 0 there.")
    return [{stem: row[stem] / sums[stem] for stem in sources if row.get(stem, 0.0) > 0} for row in rows]


def check_stems(member: str, weighted: Iterable[str], names: Mapping[str, str], sources: tuple[str, ...]) -> None:
    """Raise EnsembleError unless the backend of a member, with these `sources`, gives all stems it counts for."""
    for stem in weighted:
        if (name := names.get(stem, stem)) not in sources:
            raise EnsembleError(
                f"'{member}' counts for '{stem}' and gives no '{name}'. It gives: "
                f'{", ".join(sources) or "no fixed stems"}. Where names differ: stems = {{ {stem} = "its name" }}'
            )
