"""Concepts: the sounds that people ask for, and the words they have for them, as concepts.json beside this module lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Concept:
    """A sound by its standard name.

    kind: "voice", "speech", "drums", "instrument", "everyday", "nature", "animal", "machine" or "effect". within: names of
    the next wider concepts. stem: the fixed stem that is this sound as a whole, or "". wordings: what people call it, the name
    first; each stands under the one concept that most people mean by it.
    held_out: wordings for measuring how well words are understood; never looked up, and kept from training.
    """

    name: str
    kind: str
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]
    within: tuple[str, ...] = ()
    stem: str = ""


@dataclass(frozen=True)
class Meaning:
    """The concept that a text comes near, None where none is near enough, and the names of the nearest, that first."""

    concept: str | None
    nearest: tuple[str, ...]


@cache
def concepts() -> dict[str, Concept]:
    """Return all concepts by name."""
    tables: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    frozen: dict[str, dict[str, Any]] = {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        for name, table in tables.items()
    }
    return {name: Concept(name, **fields) for name, fields in frozen.items()}


@cache
def names_by_wording() -> dict[str, str]:
    """Return the name of the concept for every name and wording that is looked up."""
    names = {wording: concept.name for concept in concepts().values() for wording in concept.wordings}
    return names | {name: name for name in concepts()}


@cache
def wider(name: str) -> tuple[str, ...]:
    """Return the names of all concepts that contain one, the next first; none for what is no concept."""
    near = concepts()[name].within if name in concepts() else ()
    return tuple(dict.fromkeys((*near, *(far for one in near for far in wider(one)))))


def plain(text: str) -> str:
    """Return the text as words are compared: without capitals, spare spaces and a leading "the"."""
    return " ".join(text.casefold().split()).removeprefix("the ")


def named(text: str) -> str | None:
    """Return the concept whose name or wording the text is, as `plain` compares them; None where none is.

    >>> named("The Singer"), named("elephant on a bicycle")
    ('vocals', None)
    """
    return names_by_wording().get(plain(text))
