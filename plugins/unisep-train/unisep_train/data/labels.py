"""What contains what: the hierarchy of sound names, and which sounds answer a prompt.

The names are in `vocabulary.toml`. A sound's *tags* are its label and synonyms with all that contain them; it
answers a prompt whose name is among its tags. A sound labelled only by a wider name (a drum loop, for "kick
drum") might contain what is asked: it is *unclear*, and must not stand in a mixture whose target is the
narrower sound.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources

_VOCABULARY = tomllib.loads(resources.files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"))
_CONTAINS: dict[str, list[str]] = _VOCABULARY["contains"]

# A name and the wider ones it is directly part of.
PARENTS: dict[str, tuple[str, ...]] = {
    name: tuple(wider for wider, narrower in _CONTAINS.items() if name in narrower)
    for name in dict.fromkeys(name for narrower in _CONTAINS.values() for name in narrower)
}
# A name and its other spellings, and back.
SPELLINGS: dict[str, tuple[str, ...]] = {name: tuple(others) for name, others in _VOCABULARY["spellings"].items()}
ALIASES: dict[str, str] = {other: name for name, others in SPELLINGS.items() for other in others}
# Percussion that some would count among the drums of a song and others not.
MAY_BE_DRUMS: frozenset[str] = frozenset(_VOCABULARY["may_be_drums"]["words"])
NOT_PROMPTS: frozenset[str] = frozenset(_VOCABULARY["not_prompts"]["words"])
# Labels of stems that hold anything but drums, bass and vocals.
MIXED: frozenset[str] = frozenset(_VOCABULARY["mixed"]["words"])
# What a prompt may be besides a name, and prompts for all but one of the four stems.
TEMPLATES: tuple[str, ...] = tuple(_VOCABULARY["prompts"]["templates"])
COMPLEMENTS: dict[str, tuple[str, ...]] = {name: tuple(words) for name, words in _VOCABULARY["complements"].items()}
# Every name, in its one spelling.
NAMES: frozenset[str] = frozenset({*PARENTS, *_CONTAINS, *SPELLINGS})
ROLES = ("drums", "bass", "vocals")
# Sounds of several things together: these alone, and these with all that they contain.
_COMPOUND = frozenset({"drums", "percussion loop", "techno sequence"})
_COMPOUND_FAMILIES = frozenset({"drum loop", "drum fill", "percussion build"})


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


def unclear(prompt: str, label: str, sound_tags: frozenset[str]) -> bool:
    """Tell whether a sound might contain what `prompt` asks for without its label saying so.

    >>> unclear("kick drum", "drum loop", tags("drum loop"))
    True
    >>> unclear("kick drum", "hi-hat", tags("hi-hat"))
    False
    >>> unclear("piano", "other", tags("other")), unclear("vocals", "other", tags("other"))
    (True, False)
    """
    name = canonical(prompt)
    if name in sound_tags:
        return False
    if name == "drums":
        return bool(sound_tags & MAY_BE_DRUMS)
    broad = canonical(label)
    if broad in MIXED:
        return not ({name} | ancestors(name)) & set(ROLES)
    # A loop holds any of what is under "drums"; "synthesizer" may be any synthesizer.
    is_compound = broad in _COMPOUND or bool(_COMPOUND_FAMILIES & {broad, *ancestors(broad)})
    return bool(({broad, "drums", "percussion"} if is_compound else {broad}) & ancestors(name))


def spellings(name: str) -> tuple[str, ...]:
    """Return what a user may type for the canonical `name`, itself first."""
    return (name, *SPELLINGS.get(name, ()))


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


def four_stem(label: str) -> str:
    """Return which of the four stems a sound of a song belongs to.

    >>> four_stem("hi-hat"), four_stem("double bass"), four_stem("violin")
    ('drums', 'bass', 'other')
    """
    return next((role for role in ROLES if role in tags(label)), "other")
