"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep align`."""
    summary = "let another encoder serve the query backend"
    return [CommandSpec(name="align", load="unisep_align.command:main", summary=summary)]
