"""`unisep plugins`: everything installed, working or not. Loads neither torch nor numpy."""

from __future__ import annotations

from argparse import Namespace

from unisep.backend import BackendSpec
from unisep.cli.console import Console, columns
from unisep.encoder import EncoderSpec
from unisep.plugins import KINDS, Plugin, Spec, installed, is_strict, licence, problems

_HEAD = ("NAME", "KIND", "PLUGIN", "LICENCE", "STATE", "GIVES")


def plugins(arguments: Namespace, console: Console) -> int:
    """0, also when a plugin is broken, since the list says which and why; 1 for any problem if that is strict."""
    found = installed(strict=False)
    console.data([plugin.to_json() for plugin in found])
    if not found:
        console.lines(["No plugin is installed. Run: pip install unisep-htdemucs unisep-film unisep-clap"])
        return 0
    console.lines(columns([_HEAD, *(row for plugin in found for row in _rows(plugin))]))
    for plugin in found:
        if plugin.error:
            console.say(f"\n{plugin.name} of {plugin.distribution} is {plugin.state}:")
            console.say(plugin.error.rstrip() if arguments.verbose else plugin.complaint)
    strictly = problems(found) if is_strict() else []
    for problem in strictly:
        console.say(f"unisep: error: {problem}")
    return 1 if strictly else 0


def _rows(plugin: Plugin) -> list[tuple[str, ...]]:
    origin = f"{plugin.distribution} {plugin.version}".strip()
    rows: list[tuple[str, ...]] = [
        (spec.name, KINDS[type(spec)], origin, licence(spec) or "-", plugin.state, _gives(spec))
        for spec in plugin.specs
    ]
    return rows or [(plugin.name, "-", origin, "-", plugin.state, "")]


def _gives(spec: Spec) -> str:
    if isinstance(spec, BackendSpec):
        gives = [", ".join(spec.stems)] if spec.stems else []
        return "; ".join(gives + ([f"queries in {', '.join(spec.spaces)}"] if spec.spaces else []))
    if isinstance(spec, EncoderSpec):
        return f"{' and '.join(sorted(spec.modalities, reverse=True))} in {spec.space}"
    return spec.summary
