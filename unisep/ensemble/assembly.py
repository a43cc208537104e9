"""Put an ensemble together from what is installed: found by name at once, loaded only as far as it is needed."""

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


@dataclass(frozen=True)
class InstalledMember:
    """A member that is installed: its entry in the catalog, its weights by the ensemble's stems, and what it loads."""

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
        """Return the backend that gives `stems`, of only those members that count for one of them.

        Args:
            stems: of the ensemble; none asks for all.
            load: gives the loaded backend of an entry, ready for its stems of these names.
        """
        wanted = stems or self.entry.spec.stems
        parts = []
        for member in self.members:
            if weights := {stem: member.weights[stem] for stem in wanted if stem in member.weights}:
                backend = load(member.entry, tuple(member.stems.get(stem, stem) for stem in weights))
                parts.append(EnsemblePart(backend, weights, member.stems, member.entry.name))
        return EnsembleBackend(parts, wanted, self.ensemble.domain)


def assemble(ensemble: Ensemble, catalog: Catalog) -> Assembly:
    """Find the members of an ensemble in the catalog. Nothing is loaded or downloaded.

    Raises:
        EnsembleError: a member that is not installed or does not have what it counts for, a file that is not
            there, or a stem for which nobody counts.
    """
    members = [_installed(member, ensemble, catalog) for member in ensemble.members]
    rows = [member.weights for member in members]
    sources = ensemble.sources or tuple(dict.fromkeys(stem for row in rows for stem in row))
    reserved = [stem for stem in sources if is_reserved(stem)]
    if reserved:
        raise EnsembleError(f"{reserved[0]!r} is what unisep calls a result of its own. Give the stem another name.")
    shares = normalised(rows, sources)
    members = [replace(member, weights=share) for member, share in zip(members, shares, strict=True)]
    licences = dict.fromkeys(member.entry.spec.licence or "not stated" for member in members if member.weights)
    spec = BackendSpec(
        name=ensemble.name,
        load=f"{__name__}:{no_weights_of_its_own.__name__}",
        summary=ensemble.summary or f"Mean of {', '.join(member.entry.name for member in members)}",
        stems=sources,
        licence="; ".join(licences),
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
    if member.path:
        path = ensemble.folder / os.path.expanduser(member.path)
        if not is_there(path):
            raise EnsembleError(
                f"The member '{member.backend}' has path={member.path!r:.300}: there is no {str(path)!r:.300}."
            )
        path = path.resolve()
        entry = replace(entry, place=str(path), weights="local")
        return InstalledMember(entry, weights, member.stems, path=path)
    if member.card:
        entry = replace(entry, place=f"{member.card}/{member.file}", weights="local")
        return InstalledMember(entry, weights, member.stems, card=_card_of_one_file(member, catalog))
    names = {stem: member.stems.get(stem, stem) for stem in weights}
    lacking = [stem for stem, name in names.items() if name not in entry.spec.stems]
    if lacking and entry.spec.stems:
        raise EnsembleError(
            f"The member '{member.backend}' counts for '{lacking[0]}' and has no such stem. "
            f"{suggest(names[lacking[0]], entry.spec.stems)}"
        )
    return InstalledMember(entry, weights, member.stems)


def _card_of_one_file(member: EnsembleMember, catalog: Catalog) -> Card:
    """Return the card of the backend `member.card`, with only the file that the member is loaded with."""
    try:
        card = read_card(catalog.backend(member.card).spec.card)
    except (PluginError, WeightsError) as error:
        raise EnsembleError(f"The member '{member.backend}' has card={member.card!r}: {error}") from error
    files = tuple(file for file in card.files if file.name == member.file)
    if not files:
        names = [file.name for file in card.files]
        raise EnsembleError(f"The card {member.card!r} has no file {member.file!r}. {suggest(member.file, names)}")
    return card.model_copy(update={"files": files})
