"""An ensemble put together from what is installed: found by name at once, loaded only as far as it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from unisep.ensemble.backend import EnsembleBackend, EnsemblePart
from unisep.ensemble.definition import Ensemble, EnsembleMember, normalised
from unisep.errors import EnsembleError, PluginError, WeightsError, suggest
from unisep.files.paths import is_there
from unisep.plugins.backend import Backend
from unisep.plugins.specs import BackendSpec, is_reserved
from unisep.routing.catalog import BackendEntry, Catalog, CatalogEntry
from unisep.weights.cards import Card, read_card

Load = Callable[[BackendEntry, tuple[str, ...]], Backend]


DISTRIBUTION = "unisep"


@dataclass(frozen=True)
class Found:
    """A member that is installed: its offer, and its weights by the ensemble's stems."""

    member: EnsembleMember
    entry: BackendEntry
    weights: dict[str, float]
    path: Path | None = None
    card: Card | None = None

    def own_stems(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """What its backend calls those of the stems `wanted` that it counts for."""
        return tuple(self.member.stems.get(stem, stem) for stem in wanted if stem in self.weights)


@dataclass(frozen=True)
class Assembly:
    """An ensemble whose members are known and not loaded; `offer` is how the rest of unisep sees it."""

    ensemble: Ensemble
    entry: BackendEntry
    members: tuple[Found, ...]

    @property
    def entries(self) -> tuple[BackendEntry, ...]:
        """The members, as the rest of unisep sees them."""
        return tuple(found.entry for found in self.members)

    @property
    def sha256(self) -> str:
        """Over the definition: who counts how much for what, and how the mean is taken."""
        definition = self.ensemble.model_dump_json(exclude={"name", "summary", "folder"})
        return hashlib.sha256(definition.encode()).hexdigest()

    @property
    def paths(self) -> dict[str, Path]:
        """Files and folders of the caller's own, by the key of the offer that loads them."""
        return {found.entry.key: found.path for found in self.members if found.path}

    @property
    def cards(self) -> dict[str, Card]:
        """Cards of one file, by the key of the offer that is loaded with it."""
        return {found.entry.key: found.card for found in self.members if found.card}

    def backend(self, stems: tuple[str, ...], load: Load) -> EnsembleBackend:
        """The backend that gives `stems`, of only those members that count for one of them.

        load: gives the loaded backend of an offer, ready for the stems it is asked for.
        """
        wanted = stems or self.entry.spec.stems
        parts = [
            EnsemblePart(
                load(found.entry, found.own_stems(wanted)),
                {stem: found.weights[stem] for stem in wanted if stem in found.weights},
                found.member.stems,
                found.entry.name,
            )
            for found in self.members
            if found.own_stems(wanted)
        ]
        return EnsembleBackend(parts, wanted, self.ensemble.domain)


def assemble(ensemble: Ensemble, catalog: Catalog) -> Assembly:
    """The ensemble of what is installed. Nothing is loaded or downloaded.

    Raises:
        EnsembleError: a member that is not installed or does not have what it counts for, a file that is not
            there, or a stem for which nobody counts.
    """
    members = tuple(_found(member, ensemble, catalog) for member in ensemble.members)
    rows = [found.weights for found in members]
    sources = ensemble.sources or tuple(dict.fromkeys(stem for row in rows for stem in row))
    reserved = [stem for stem in sources if is_reserved(stem)]
    if reserved:
        raise EnsembleError(f"{reserved[0]!r} is what unisep calls a result of its own. Give the stem another name.")
    shares = normalised(rows, sources)
    members = tuple(replace(found, weights=share) for found, share in zip(members, shares, strict=True))
    licences = dict.fromkeys(found.entry.spec.licence or "not stated" for found in members if found.weights)
    spec = BackendSpec(
        name=ensemble.name,
        load="unisep.ensemble.assembly:no_weights_of_its_own",
        summary=ensemble.summary or f"Mean of {', '.join(found.entry.name for found in members)}",
        stems=sources,
        licence="; ".join(licences),
    )
    return Assembly(ensemble, CatalogEntry(spec, DISTRIBUTION, "local"), members)


def no_weights_of_its_own(**_arguments: object) -> Backend:
    """Never returns. Raises EnsembleError: an ensemble was given weights."""
    raise EnsembleError("An ensemble has no weights of its own: give each member its `path` in the ensemble.")


def _found(member: EnsembleMember, ensemble: Ensemble, catalog: Catalog) -> Found:
    try:
        entry = catalog.backend(member.backend)
    except PluginError as error:
        raise EnsembleError(f"A member of the ensemble is not to be had. {error}") from error
    weights = member.weights_among(entry.spec.stems)
    if ensemble.sources:
        weights = {stem: weight for stem, weight in weights.items() if stem in ensemble.sources}
    if not member.has_own_weights:
        _check_stems(member, weights, entry)
        return Found(member, entry, weights)
    if member.path:
        path = ensemble.folder / os.path.expanduser(member.path)
        if not is_there(path):
            raise EnsembleError(
                f"The member '{member.backend}' has path={member.path!r:.300}: there is no {str(path)!r:.300}."
            )
        path = path.resolve()
        return Found(member, replace(entry, place=str(path), weights="local"), weights, path=path)
    card = _card_of_one_file(member, catalog)
    own = replace(entry, place=f"{member.card}/{member.file}", weights="local")
    return Found(member, own, weights, card=card)


def _check_stems(member: EnsembleMember, weights: dict[str, float], entry: BackendEntry) -> None:
    lacking = [stem for stem in weights if member.stems.get(stem, stem) not in entry.spec.stems]
    if lacking and entry.spec.stems:
        raise EnsembleError(
            f"The member '{member.backend}' counts for '{lacking[0]}' and has no such stem. "
            f"{suggest(member.stems.get(lacking[0], lacking[0]), entry.spec.stems)}"
        )


def _card_of_one_file(member: EnsembleMember, catalog: Catalog) -> Card:
    """The card of the backend `member.card`, with only the file that the member is loaded with."""
    try:
        card = read_card(catalog.backend(member.card).spec.card)
    except (PluginError, WeightsError) as error:
        raise EnsembleError(f"The member '{member.backend}' has card={member.card!r}: {error}") from error
    files = tuple(file for file in card.files if file.name == member.file)
    if not files:
        names = [file.name for file in card.files]
        raise EnsembleError(f"The card {member.card!r} has no file {member.file!r}. {suggest(member.file, names)}")
    return card.model_copy(update={"files": files})
