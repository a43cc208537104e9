"""Which sounds answer to a name, and which might.

A sound answers to its label, its synonyms, and its role among the four stems. Others might hold what is asked
without saying so: a drum loop may hold a hi-hat, one synthesizer may be an analog one. Where such a sound is
heard, a window says nothing about the name, so it is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ROLES = ("drums", "bass", "vocals")
# Stems that may hold anything that has no stem of its own.
UNDECLARED = frozenset({"other", "others", "accompaniment", "instrumental", "backing track", "residual"})
# A label with one of these words is of several things together.
_COMPOUND = frozenset({"beat", "build", "ensemble", "fill", "groove", "kit", "loop", "mix", "sequence", "tops"})
# Families that some would count to a role and others not.
_NEAR_ROLE: dict[str, frozenset[str]] = {
    "drums": frozenset({"percussion"}),
    "vocals": frozenset({"speech"}),
    "bass": frozenset(),
}


def canonical(name: str) -> str:
    """The name in lower case with single spaces; "_" counts as a space.

    >>> canonical(" Electric_Guitar ")
    'electric guitar'
    """
    return " ".join(name.casefold().replace("_", " ").split())


def names_of(label: str, synonyms: Iterable[str], role: str) -> frozenset[str]:
    """Every name that a sound answers to.

    >>> sorted(names_of("kick drum", ["Kick"], "drums"))
    ['drums', 'kick', 'kick drum']
    """
    roles = {role} & set(ROLES)
    return frozenset(canonical(name) for name in (label, *synonyms, *roles))


def is_compound(names: Iterable[str]) -> bool:
    """Whether a sound of these names is of several things together.

    >>> is_compound({"drum loop"}), is_compound({"kick drum"})
    (True, False)
    """
    return any(_COMPOUND & set(re.findall(r"\w+", name)) for name in names)


@dataclass(frozen=True)
class Kin:
    """What the sounds that answer to `name` are otherwise: their names, roles and families, in the whole data set."""

    name: str
    names: frozenset[str]
    roles: frozenset[str]
    families: frozenset[str]

    def might_hold(self, names: frozenset[str], role: str, family: str) -> bool:
        """Whether a sound that does not answer to the name might hold it without saying so.

        >>> hats = Kin("hi-hat", frozenset({"hi-hat", "drums"}), frozenset({"drums"}), frozenset())
        >>> hats.might_hold(frozenset({"drum loop", "drums"}), "drums", "")
        True
        >>> hats.might_hold(frozenset({"kick", "drums"}), "drums", "")
        False
        """
        if self.name in ROLES:
            return family in _NEAR_ROLE[self.name]
        shares_a_name = bool((self.names & names) - set(ROLES))
        return shares_a_name or (role in self.roles and is_compound(names))

    def is_near(self, names: frozenset[str], role: str, family: str) -> bool:
        """Whether a sound is of the kind asked for, or might hold it: then what was asked is not called absent."""
        same_kind = role in self.roles & set(ROLES) or family in self.families
        return same_kind or self.name in names or self.might_hold(names, role, family)
