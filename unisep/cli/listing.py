"""`unisep plugins`: everything installed, working or not. Loads neither torch nor numpy."""

from __future__ import annotations

from argparse import Namespace

from unisep.cli.console import Console, columns
from unisep.plugins import Plugin, installed


def plugins(arguments: Namespace, console: Console) -> int:
    """0, also when a plugin is broken: the list says which and why."""
    found = installed()
    console.data([plugin.to_json() for plugin in found])
    if not found:
        console.lines(["No plugin is installed. Run: pip install unisep-htdemucs unisep-film unisep-clap"])
        return 0
    console.lines(
        columns([("NAME", "KIND", "PLUGIN", "STATE", "GIVES"), *(row for p in found for row in _rows(p))])
    )
    for plugin in found:
        if plugin.error:
            console.say(f"\n{plugin.name} of {plugin.distribution} is {plugin.state}:")
            console.say(plugin.error if arguments.verbose else plugin.error.strip().splitlines()[-1])
    return 0


def _rows(plugin: Plugin) -> list[tuple[str, ...]]:
    origin = f"{plugin.distribution} {plugin.version}".strip()
    rows: list[tuple[str, ...]] = []
    for backend in plugin.backends:
        gives = [", ".join(backend.stems)] if backend.stems else []
        gives += [f"queries in {', '.join(backend.spaces)}"] if backend.spaces else []
        rows.append((backend.name, "backend", origin, plugin.state, "; ".join(gives)))
    for encoder in plugin.encoders:
        gives = [f"{' and '.join(sorted(encoder.modalities, reverse=True))} in {encoder.space}"]
        rows.append((encoder.name, "encoder", origin, plugin.state, *gives))
    return rows or [(plugin.name, "-", origin, plugin.state, "")]
