"""Which installed plugins are read at all, as UNISEP_PLUGINS says, and what a strict host refuses."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from unisep.errors import suggest
from unisep.plugins.plugin import KINDS, Plugin

CHOICE, STRICT = "UNISEP_PLUGINS", "UNISEP_PLUGINS_STRICT"


@dataclass(frozen=True)
class Choice:
    """Names of plugins that are allowed or blocked: entry points, distributions, or distribution:entry point.

    allowed: only these, if there are any. blocked: never these. Both may hold `*`.

    >>> chosen = Choice.of("-htdemucs-film, -unisep-clap")
    >>> chosen.allows("htdemucs", "unisep-htdemucs"), chosen.allows("clap", "unisep-clap")
    (True, False)
    >>> Choice.of("htdemucs").allows("htdemucs-film", "unisep-film")
    False
    """

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Choice:
        """The choice that `text` writes: names parted by commas, those to block with a `-` before them."""
        names = [name.strip() for name in text.split(",") if name.strip()]
        blocked = [name[1:].strip() for name in names if name.startswith("-")]
        return cls(tuple(name for name in names if not name.startswith("-")), tuple(blocked))

    def allows(self, name: str, distribution: str) -> bool:
        """Whether the entry point `name` of `distribution` may be read."""
        known = (name, distribution, f"{distribution}:{name}")
        wanted = not self.allowed or _any(known, self.allowed)
        return wanted and not _any(known, self.blocked)

    def unknown(self, plugins: Iterable[Plugin]) -> str:
        """A sentence on names that no plugin has, or ""."""
        found = list(plugins)
        names = [
            pattern
            for pattern in (*self.allowed, *self.blocked)
            if "*" not in pattern
            and not any(_any((p.name, p.distribution, p.key), (pattern,)) for p in found)
        ]
        known = [plugin.name for plugin in found]
        return (
            f"{CHOICE} names {names[0]!r}, and no plugin is called so. {suggest(names[0], known)}"
            if names
            else ""
        )


def choice_of_environment() -> str:
    """What UNISEP_PLUGINS says, "" for everything."""
    return os.environ.get(CHOICE, "").strip()


def strict_by_environment() -> bool:
    """Whether UNISEP_PLUGINS_STRICT asks that a problem with any plugin be an error."""
    return os.environ.get(STRICT, "").strip() not in ("", "0")


def problems(plugins: Iterable[Plugin]) -> list[str]:
    """A sentence for each plugin that does not work, each name that two claim, and a name that UNISEP_PLUGINS has wrong."""
    found = list(plugins)
    faults = [f"'{p.name}' of {p.distribution} is {p.state}: {p.complaint}" for p in found if p.is_faulty]
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for plugin in found:
        for spec in plugin.specs:
            owners[KINDS[type(spec)], spec.name].append(plugin.distribution)
    faults += [
        f"the {kind} '{name}' is claimed by {' and '.join(claimed)}"
        for (kind, name), claimed in owners.items()
        if len(claimed) > 1
    ]
    unknown = Choice.of(choice_of_environment()).unknown(found)
    return [*faults, unknown] if unknown else faults


def _any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
