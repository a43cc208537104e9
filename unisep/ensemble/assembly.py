"""Put an ensemble together from what is installed: found by name at once, loaded only as far as it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from unisep.ensemble.backend import EnsembleBackend, EnsemblePart
from unisep.ensemble.definition import Ensemble, EnsembleMember, check_stems, normalised
from unisep.errors import EnsembleError, PluginError, WeightsError, suggest
from unisep.files.paths import is_there
from unisep.plugins.backend import Backend
from unisep.plugins.specs import BackendSpec, is_reserved
from unisep.routing.catalog import BackendEntry, Catalog, CatalogEntry
from unisep.routing.licences import check_licence
from unisep.weights.cards import Card, read_card


@dataclass(frozen=True)
class InstalledMember:
    """A member in the catalog: its weights by the ensemble's stems, and what it loads instead of its own card."""

    entry: BackendEntry
    weights: dict[str, float]
    stems: dict[str, str]
    path: Path | None = None
    card: Card | None = None


@dataclass(frozen=True)
class Assembly:
    """An ensemble whose members are known and not loaded; `entry` is how the rest of unisep sees it."""

    ensemble: Ensemble
    entry: BackendEntry
    members: tuple[InstalledMember, ...]

    @property
    def entries(self) -> tuple[BackendEntry, ...]:
        """The members, as the rest of unisep sees them."""
        return tuple(member.entry for member in self.members)

    @property
    def sha256(self) -> str:
        """A digest of the definition: who counts how much for what, and how the mean is taken."""
        definition = self.ensemble.model_dump_json(exclude={"name", "summary", "folder"})
        return hashlib.sha256(definition.encode()).hexdigest()

    @property
    def paths(self) -> dict[str, Path]:
        """Files and folders of the caller's own, by the key of the entry that loads them."""
        return {member.entry.key: member.path for member in self.members if member.path}

    @property
    def cards(self) -> dict[str, Card]:
        """Cards of one file, by the key of the entry that is loaded with it."""
        return {member.entry.key: member.card for member in self.members if member.card}

    def backend(
        self, stems: tuple[str, ...], load: Callable[[BackendEntry, tuple[str, ...]], Backend]
    ) -> EnsembleBackend:
        """Return the backend that gives `stems`, or all without, of only those members that count for one of them.

        `load` gives the loaded backend of an entry, ready for its stems of these names.
        """
        wanted = stems or self.entry.spec.stems
        parts = []
        for member in self.members:
            if weights := {stem: member.weights[stem] for stem in wanted if stem in member.weights}:
                backend = load(member.entry, tuple(member.stems.get(stem, stem) for stem in weights))
                parts.append(EnsemblePart(backend, weights, member.stems, member.entry.name))
        return EnsembleBackend(parts, wanted, self.ensemble.domain)


def assemble(ensemble: Ensemble, catalog: Catalog, licences: tuple[str, ...] = ()) -> Assembly:
    """Find the members of an ensemble in the catalog, loading nothing.

    Raises EnsembleError for what cannot be had, and OptionError for published weights that `licences` do not allow.
    """
    members = [_installed(member, ensemble, catalog) for member in ensemble.members]
    for published in (member.card or member.backend for member in ensemble.members if not member.path):
        check_licence(licences, catalog.backend(published))
    rows = [member.weights for member in members]
    sources = ensemble.sources or tuple(dict.fromkeys(stem for row in rows for stem in row))
    if reserved := [stem for stem in sources if is_reserved(stem)]:
        raise EnsembleError(f"{reserved[0]!r} is what unisep calls a result of its own. Give the stem another name.")
    normalised(rows, sources)  # so that a stem for which nobody counts is an error now
    stated = dict.fromkeys(member.entry.licence for member in members if member.weights)
    spec = BackendSpec(
        name=ensemble.name,
        load=f"{__name__}:{no_weights_of_its_own.__name__}",
        summary=ensemble.summary or f"Mean of {', '.join(member.entry.name for member in members)}",
        stems=sources,
        licence="; ".join(stated),
    )
    return Assembly(ensemble, CatalogEntry(spec, "unisep", "local"), tuple(members))


def no_weights_of_its_own(**_arguments: object) -> Backend:
    """Raise EnsembleError: an ensemble was given weights."""
    raise EnsembleError("An ensemble has no weights of its own: give each member its `path` in the ensemble.")


def _installed(member: EnsembleMember, ensemble: Ensemble, catalog: Catalog) -> InstalledMember:
    try:
        entry = catalog.backend(member.backend)
    except PluginError as error:
        raise EnsembleError(f"A member of the ensemble is not to be had. {error}") from error
    weights = member.weights_among(entry.spec.stems)
    if ensemble.sources:
        weights = {stem: weight for stem, weight in weights.items() if stem in ensemble.sources}
    path, card = None, None
    if member.path:
        path = ensemble.folder / os.path.expanduser(member.path)
        if not is_there(path):
            raise EnsembleError(f"The member '{member.backend}' has a path where nothing is: {str(path)!r:.300}.")
        path = path.resolve()
        entry = replace(entry, place=str(path), weights="local")
    elif member.card:
        card = _card_of_one_file(member, catalog)
        entry = replace(entry, place=f"{member.card}/{member.file}", weights="local")
    elif entry.spec.stems:
        check_stems(member.backend, weights, member.stems, entry.spec.stems)
    return InstalledMember(entry, weights, member.stems, path, card)


def _card_of_one_file(member: EnsembleMember, catalog: Catalog) -> Card:
    """Return the card of the backend `member.card`, with only the file that the member is loaded with."""
    try:
        card = read_card(catalog.backend(member.card).spec.card)
    except (PluginError, WeightsError) as error:
        raise EnsembleError(f"The member '{member.backend}' has card={member.card!r}: {error}") from error
    files = {file.name: file for file in card.files}
    if member.file not in files:
        raise EnsembleError(f"The card {member.card!r} has no file {member.file!r}. {suggest(member.file, files)}")
    return card.model_copy(update={"files": (files[member.file],)})
