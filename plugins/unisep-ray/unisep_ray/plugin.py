"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep catalogue`."""
    summary = "separate a catalogue of recordings on a Ray cluster"
    return [CommandSpec(name="catalogue", load="unisep_ray.command:main", summary=summary)]
