"""The whole plugin contract on one screen.

A plugin is a distribution with an entry point in the group `unisep` that names a light module.
The module implements one or both hooks below; nothing heavy may be imported in it, since it is
read whenever plugins are listed. See `unisep.backend` and `unisep.encoder` for the two seams.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from unisep.backend import BackendSpec
from unisep.encoder import EncoderSpec

GROUP = "unisep"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def unisep_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """Return BackendSpec objects: what this plugin can separate with."""


@hookspec
def unisep_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Return EncoderSpec objects: what this plugin can turn into an Embedding."""
