"""What a plugin declares: the specs, and the hooks that return them.

The whole plugin contract on one screen. A plugin is a distribution with an entry point in the group `unisep` that names
a light module. The module implements any of the hooks below and imports nothing heavy, since it is read whenever plugins
are listed. Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    pass


RESERVED_NAMES = ("rest", "mixture")  # of results that unisep gives by itself


def is_reserved(name: str) -> bool:
    """Whether it is what unisep calls a result of its own, in whatever case.

    >>> is_reserved("Rest"), is_reserved("restless")
    (True, False)
    """
    return name.casefold() in RESERVED_NAMES


PLUGIN_API = 1


PRECISIONS = frozenset({"float32", "bfloat16", "float16"})


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """What can be known of a backend without importing it.

    name: what the user asks for ("htdemucs"). Lower-case letters, digits, `-`, `_`, `.`.
    load: "package.module:function", imported only on use. The function is called as
        `load(weights=Path | None, device=torch.device, dtype=torch.dtype)` and returns a `Backend`;
        `weights` is the user's file or folder, or the folder that holds the card's verified files.
    summary: one line for listings.
    stems: the fixed sources it gives, in order; empty for a backend that only answers queries.
    spaces: embedding spaces it understands; non-empty means that it answers queries.
    licence: of the weights, an SPDX name or "not stated".
    plugin_api: the version of this contract that the plugin was written for.
    card: "package:path/to/card.toml", the weights' card; empty for a backend without weights.
    auto_precision: kind of device -> "bfloat16" or "float16", the type that `precision="auto"` may take there: it is
        faster, and the results agree with float32 by 40 dB or more. Float32 for kinds that are left out.
    """

    name: str
    load: str
    summary: str
    stems: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    licence: str = ""
    plugin_api: int = PLUGIN_API
    card: str = ""
    auto_precision: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("stems", "spaces"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What can be known of a query encoder without importing it.

    name: what the user asks for ("clap-mini").
    load: "package.module:function", imported only on use. The function is called as
        `load(weights=Path | None, device=torch.device)` and returns a `QueryEncoder`.
    space: the embedding space of its vectors; backends list the spaces they understand.
    modalities: what it encodes, of "text" and "audio".
    summary, licence, plugin_api, card: as in `BackendSpec`.
    """

    name: str
    load: str
    space: str
    modalities: frozenset[str] = frozenset({"text", "audio"})
    summary: str = ""
    licence: str = ""
    plugin_api: int = PLUGIN_API
    card: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.modalities, tuple | list | set):
            object.__setattr__(self, "modalities", frozenset(self.modalities))


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


GROUP = "unisep"


hookspec = pluggy.HookspecMarker(GROUP)


hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def unisep_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """Return BackendSpec objects: what this plugin can separate with."""


@hookspec
def unisep_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Return EncoderSpec objects: what this plugin can turn into an Embedding."""


@hookspec
def unisep_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Return CommandSpec objects: what this plugin adds to the `unisep` program."""


@hookspec
def unisep_routes() -> Iterable[RouteSpec]:  # type: ignore[empty-body]
    """Return RouteSpec objects: rules that may say who answers a query, asked before unisep's own."""


@hookspec
def unisep_results() -> Iterable[ResultSpec]:  # type: ignore[empty-body]
    """Return ResultSpec objects: steps that every result goes through before the caller gets it."""
