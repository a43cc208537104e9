"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep live`."""
    return [CommandSpec(name="live", load="unisep_live.command:main", summary="separate while it is played")]
