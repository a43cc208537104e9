"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep serve` and `unisep studio`."""
    return [
        CommandSpec(name="serve", load="unisep_studio.command:serve", summary="separate over HTTP, with a queue"),
        CommandSpec(name="studio", load="unisep_studio.command:studio", summary="the same with a page in the browser"),
    ]
