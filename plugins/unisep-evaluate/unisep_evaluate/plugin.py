"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep evaluate`."""
    summary = "measure separation on recordings whose stems are known"
    return [CommandSpec(name="evaluate", load="unisep_evaluate.command:main", summary=summary)]
