"""Specialists: backends with a stem that is what a query asks for, the best first; and what they take out for others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unisep.query.concepts import Concept, concepts, named, plain, wider
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, rank
from unisep.routing.types import Request

# What is taken out before the query model listens, by what is asked for, a concept or a kind of them: where that was
# measured to gain under voices and not to lose without any. Others sound like voices to the specialists: electric guitars,
# flutes, shakers.
TAKEN_OUT = {
    **dict.fromkeys(("drums", "bass", "acoustic guitar", "keyboard", "synthesizer"), "vocals"),
    **dict.fromkeys(("theremin", "synth choir"), ""),
    **dict.fromkeys(("everyday", "nature", "animal", "machine", "effect"), "speech"),
}


@dataclass(frozen=True)
class Specialist:
    """A backend and its stem that answers.

    level_db: how well it gives what is asked for, on the one scale of figures; minus infinity where its card does not say.
    is_better: False where a query model that is here is known to give it no worse.
    """

    backend: BackendEntry
    stem: str
    level_db: float
    is_better: bool

    @property
    def title(self) -> str:
        """How a plan names it."""
        level = f", {self.level_db:.1f} dB" if self.level_db > -math.inf else ""
        return f"'{self.stem}' of '{self.backend.name}' ({self.backend.licence}{level})"


def concept_of(text: str, catalog: Catalog) -> Concept | None:
    """Return the concept that a text means, by its letters or else by its vector; None for what no concept is near."""
    name = named(text)
    if name is None and (meaning := catalog.meaning(text)) is not None:
        name = meaning.concept
    return concepts().get(name or "")


def sounds_of(text: str, catalog: Catalog) -> tuple[str, ...]:
    """Return what a text asks for: its concept, the stem that this is, and the very words, whichever there are."""
    words = plain(text)
    answered = {sound for entry in catalog.backends for stem in entry.spec.stems for sound in _answered(entry, stem)}
    concept = concepts().get(named(words) or "") if words in answered else concept_of(words, catalog)
    return tuple(filter(None, (concept.name, concept.stem, words) if concept else (words,)))


def specialists(text: str, request: Request, catalog: Catalog) -> list[Specialist]:
    """Return the specialists for what a text asks for, here or not, the best first; those without figures come last."""
    usable = catalog.usable_backends()
    models = [entry for entry in usable if entry.spec.spaces and entry.is_here]
    if request.route == "auto" and any(entry.spec.spaces for entry in usable):  # somebody else can answer
        usable = [entry for entry in usable if not entry.spec.only_by_name]
    entries = usable if request.backend is None else [catalog.backend(request.backend)]
    sounds = sounds_of(text, catalog)
    known_db = max((level_db(entry, sounds, catalog) for entry in models), default=-math.inf)
    matches = []
    for entry in entries:
        level = level_db(entry, sounds, catalog)
        is_better = not known_db >= level > -math.inf
        stems = [stem for stem in request.stems_of(entry) if _answered(entry, stem) & set(sounds)]
        matches += [Specialist(entry, stem, level, is_better) for stem in stems[:1]]
    return sorted(matches, key=lambda one: (-one.level_db, rank(one.backend)))


def level_db(entry: BackendEntry, sounds: Sequence[str], catalog: Catalog) -> float:
    """Return how well a backend gives the first of `sounds` that its card has a figure for; minus infinity for none."""
    figures = catalog.quality(entry.spec.card)
    return next((figures[sound] for sound in sounds if sound in figures), -math.inf)


def taken_out(parsed: ParsedQuery, request: Request, catalog: Catalog) -> Specialist | None:
    """Return whose stem is taken out of the recording before the query model hears it, if anybody's.

    That is a specialist whose weights are here, for a sound that is not asked for, whose card states a gain: what queries
    for other sounds were measured to win. Only where unisep chose the query model, and knows all words of the query.
    """
    if request.cascade == "off" or request.route != "auto" or request.backend or request.query_backend:
        return None
    matches = [concept_of(text, catalog) for text in parsed.query.texts]
    sounds = {_taken_out_for(concept) if concept else "" for concept in matches}
    if len(sounds) != 1 or not (sound := sounds.pop()):
        return None
    here = [one for one in specialists(sound, request, catalog) if one.backend.is_here]
    gains_db = {one: level_db(one.backend, (f"without {sound}",), catalog) for one in here}
    best = max(here, key=gains_db.__getitem__, default=None)
    return best if best and gains_db[best] > 0 else None


def _taken_out_for(concept: Concept) -> str:
    """Return the sound that is taken out for a concept, by its own name, that of a wider one, or its kind; "" for none."""
    wide = () if concept.kind == "drums" else (*wider(concept.name), concept.kind)  # drums as a whole only
    return next((TAKEN_OUT[name] for name in (concept.name, *wide) if name in TAKEN_OUT), "")


def _answered(entry: BackendEntry, stem: str) -> set[str]:
    """Return the sounds that a stem of a backend answers."""
    words = entry.spec.stem_queries.get(stem, (stem,))
    return {sound for word in words for sound in (plain(word), named(word)) if sound}
