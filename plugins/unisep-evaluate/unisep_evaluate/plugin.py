"""What this plugin offers to unisep; light, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import CommandSpec, hookimpl


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """`unisep evaluate`."""
    return [
        CommandSpec(
            name="evaluate",
            load="unisep_evaluate.arguments:main",
            summary="measure separation on recordings whose stems are known",
        )
    ]
