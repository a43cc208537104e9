"""What contains what: the hierarchy of sound names, and which sounds answer a prompt.

The names are in `vocabulary.toml`. A sound's *tags* are its label and synonyms with all that contain them; it
answers a prompt whose name is among its tags. A sound labelled only by a wider name (a drum loop, for "kick
drum") might contain what is asked: it is *unclear*, and must not stand in a mixture whose target is the
narrower sound.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib import resources

_VOCABULARY = tomllib.loads(resources.files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"))


def _parents() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for wider, narrower in _VOCABULARY["contains"].items():
        for name in narrower:
            found[name].append(wider)
    return {name: tuple(wider) for name, wider in found.items()}


# A name and the wider ones it is directly part of.
PARENTS: dict[str, tuple[str, ...]] = _parents()
# A name and its other spellings, and back.
SPELLINGS: dict[str, tuple[str, ...]] = {n: tuple(others) for n, others in _VOCABULARY["spellings"].items()}
ALIASES: dict[str, str] = {other: name for name, others in SPELLINGS.items() for other in others}
# Percussion that some would count among the drums of a song and others not.
MAY_BE_DRUMS: frozenset[str] = frozenset(_VOCABULARY["may_be_drums"]["words"])
NOT_PROMPTS: frozenset[str] = frozenset(_VOCABULARY["not_prompts"]["words"])
# Labels of stems that hold anything but drums, bass and vocals.
MIXED: frozenset[str] = frozenset(_VOCABULARY["mixed"]["words"])
# Every name, in its one spelling.
NAMES: frozenset[str] = frozenset({*PARENTS, *_VOCABULARY["contains"], *SPELLINGS})


def canonical(name: str) -> str:
    """The name this module uses for `name`: lower case, without article, one spelling.

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
    """All wider names that contain the canonical `name`, without itself.

    >>> sorted(ancestors("kick drum"))
    ['drums', 'percussion']
    """
    parents = PARENTS.get(name, ())
    return frozenset(parents).union(*(ancestors(parent) for parent in parents))


def tags(label: str, synonyms: Iterable[str] = (), four_stem: str = "none") -> frozenset[str]:
    """Every canonical name a sound answers to: its label, synonyms, role among the four stems, and what
    contains them.

    >>> sorted(tags("woodblock", four_stem="drums"))
    ['drums', 'percussion', 'woodblock']
    """
    names = {canonical(label), *(canonical(synonym) for synonym in synonyms)} - NOT_PROMPTS - MIXED
    names |= {"drums": {"drums"}, "bass": {"bass"}, "vocals": {"vocals"}}.get(four_stem, set())
    return frozenset(names).union(*(ancestors(name) for name in names))


def answers(prompt: str, sound_tags: frozenset[str]) -> bool:
    """Whether a sound with these tags is (part of) what `prompt` asks for."""
    return canonical(prompt) in sound_tags


def unclear(prompt: str, label: str, sound_tags: frozenset[str]) -> bool:
    """Whether a sound might contain what `prompt` asks for without its label saying so.

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
    own = canonical(label)
    if own in MIXED:
        return not ({name} | ancestors(name)) & {"drums", "bass", "vocals"}
    # A loop holds any of what is under "drums"; "synthesizer" may be any synthesizer.
    holds = {own} | ({"drums", "percussion"} if _is_compound(own) else set())
    return bool(holds & ancestors(name))


def _is_compound(name: str) -> bool:
    return name in {"drums", "percussion loop", "techno sequence"} or bool(
        {"drum loop", "drum fill", "percussion build"} & ({name} | ancestors(name))
    )


def spellings(name: str) -> tuple[str, ...]:
    """What a user may type for the canonical `name`, itself first."""
    return (name, *SPELLINGS.get(name, ()))


def recognised(text: str) -> str:
    """The name in `text` as people write it on files: known words at its end, else all of it.

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
    """Which of the four stems a sound of a song belongs to.

    >>> four_stem("hi-hat"), four_stem("double bass"), four_stem("violin")
    ('drums', 'bass', 'other')
    """
    own = tags(label)
    return next((role for role in ("drums", "bass", "vocals") if role in own), "other")
