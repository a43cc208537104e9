"""The whole plugin contract on one screen.

A plugin is a distribution with an entry point in the group `unisep` that names a light module.
The module implements any of the hooks below; nothing heavy may be imported in it, since it is
read whenever plugins are listed. See `unisep.backend` and `unisep.encoder` for the two main seams,
`unisep.extensions` for the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from unisep.backend import BackendSpec
from unisep.encoder import EncoderSpec
from unisep.extensions import CommandSpec, ResultSpec, RouteSpec

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
