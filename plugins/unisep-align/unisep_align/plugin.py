"""What this plugin offers to unisep; light, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """`unisep align`."""
    return [
        CommandSpec(
            name="align", load="unisep_align.command:main", summary="let another encoder serve the query backend"
        )
    ]
