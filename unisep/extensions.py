"""The seams beside backends and encoders: commands, routing rules, and steps after a separation.

Each is declared by a small spec whose `load` is imported only on use. Importing this module loads
neither torch nor numpy, so that a plugin's hook module stays light.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unisep.backend import PLUGIN_API


@dataclass(frozen=True, kw_only=True)
class CommandSpec:
    """A command of its own for the `unisep` program.

    name: the word after `unisep`. Commands of unisep itself keep their names; "distribution:name" selects
        a plugin's command whose name is taken.
    load: "package.module:function", called as `function(arguments: list[str]) -> int | None` with the words
        after the command; the exit code, None for 0. A `UnisepError` becomes one line on stderr.
    summary: one line for `unisep --help`. plugin_api: as in `BackendSpec`.
    """

    name: str
    load: str
    summary: str
    plugin_api: int = PLUGIN_API


@dataclass(frozen=True, kw_only=True)
class RouteSpec:
    """A rule that may say who answers a query, asked before unisep's own rules.

    load: "package.module:function", called as `function(question: Question) -> Direction | None`; None
        leaves the query to the next rule, and in the end to unisep. It must answer the same each time.
    name, summary, plugin_api: as in `BackendSpec`.
    """

    name: str
    load: str
    summary: str
    plugin_api: int = PLUGIN_API


@dataclass(frozen=True, kw_only=True)
class ResultSpec:
    """A step that every result goes through before the caller gets it.

    load: "package.module:function", called as `function(targets, mixture)` with a mapping of names to
        `Audio` and the recording, all read-only; it returns a mapping of the same names to `Audio` of the
        same shape and rate. Afterwards the rest is the recording minus the targets again.
    name, summary, plugin_api: as in `BackendSpec`.
    """

    name: str
    load: str
    summary: str
    plugin_api: int = PLUGIN_API


@dataclass(frozen=True)
class Question:
    """What a routing rule may know of one query.

    name: of the result. texts: what was asked in words, none for a query by example or vector alone.
    kinds: of "text", "audio" and "embedding", what the query is made of. excludes: whether something is left out.
    stems: for each installed backend with fixed stems, their names.
    """

    name: str
    texts: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset({"text"})
    excludes: bool = False
    stems: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Where a rule sends a query. What the caller chose by name is never overruled.

    stem: the fixed stem that answers it, of `backend` or the best one that has it.
    text: ask in these words instead; the result keeps its name.
    backend, encoder: who answers it, and who makes the vector; "" leaves the choice to unisep.
    reason: one sentence for the plan.
    """

    stem: str = ""
    text: str = ""
    backend: str = ""
    encoder: str = ""
    reason: str = ""
