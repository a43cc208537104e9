"""What contains what: the hierarchy of sound names in `vocabulary.toml`.

A sound's *tags* are its label and synonyms with all that contain them; it answers a prompt whose name is among them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources

TABLE: dict[str, dict[str, list[str]]] = tomllib.loads(
    resources.files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8")
)
_CONTAINS = TABLE["contains"]

# A name and the wider ones it is directly part of.
PARENTS: dict[str, tuple[str, ...]] = {
    name: tuple(wider for wider, narrower in _CONTAINS.items() if name in narrower)
    for name in dict.fromkeys(name for narrower in _CONTAINS.values() for name in narrower)
}
# A name and its other spellings, and back.
SPELLINGS = TABLE["spellings"]
ALIASES: dict[str, str] = {other: name for name, others in SPELLINGS.items() for other in others}
MAY_BE_DRUMS, NOT_PROMPTS, MIXED = (frozenset(TABLE[key]["words"]) for key in ("may_be_drums", "not_prompts", "mixed"))
# Every name, in its one spelling.
NAMES: frozenset[str] = frozenset({*PARENTS, *_CONTAINS, *SPELLINGS})
ROLES = ("drums", "bass", "vocals")


def canonical(name: str) -> str:
    """Return the name this module uses for `name`: lower case, without article, one spelling.

    >>> canonical("The Hihat"), canonical("singing")
    ('hi-hat', 'vocals')
    """
    text = " ".join(name.lower().split())
    for article in ("the ", "a ", "an "):
        if text not in ALIASES and text.startswith(article):
            text = text.removeprefix(article)
    return ALIASES.get(text, text)


@cache
def ancestors(name: str) -> frozenset[str]:
    """Return all wider names that contain the canonical `name`, without itself.

    >>> sorted(ancestors("kick drum"))
    ['drums', 'percussion']
    """
    parents = PARENTS.get(name, ())
    return frozenset(parents).union(*(ancestors(parent) for parent in parents))


def tags(label: str, synonyms: Iterable[str] = (), four_stem: str = "none") -> frozenset[str]:
    """Return all canonical names a sound answers to: label, synonyms, role among the four stems, what contains them.

    >>> sorted(tags("woodblock", four_stem="drums"))
    ['drums', 'percussion', 'woodblock']
    """
    names = {canonical(label), *(canonical(synonym) for synonym in synonyms)} - NOT_PROMPTS - MIXED
    names |= {four_stem} & set(ROLES)
    return frozenset(names).union(*(ancestors(name) for name in names))


def recognised(text: str) -> str:
    """Return the name in `text` as people write it on files: known words at its end, else all of it.

    >>> recognised("03_Verse-LeadVocals 2"), recognised("Gtr of Ann")
    ('lead vocal', 'gtr of ann')
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    words = re.sub(r"[\W_]+", " ", spaced.lower()).split()
    numbered = [word for word in words if not word.isdigit()] or words
    for first in range(len(numbered)):
        name = canonical(" ".join(numbered[first:]))
        if name in NAMES or name in MIXED:
            return name
    return " ".join(numbered)
