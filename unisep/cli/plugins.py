"""`unisep plugins`: what is installed, and what is broken."""

from __future__ import annotations

from argparse import Namespace

from unisep.cli.console import Console, columns
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import installed, is_strict, problems
from unisep.plugins.specs import BackendSpec, EncoderSpec, ModelSpec, Spec

_HEADS = ("NAME", "KIND", "PLUGIN", "LICENCE", "STATE", "GIVES")


def plugins(arguments: Namespace, console: Console) -> int:
    """List the plugins. Return 0, also when one is broken, since the list says which and why; 1 for any problem if strict."""
    listed = installed(strict=False)
    console.data([plugin.to_json() for plugin in listed])
    if not listed:
        console.lines(["No plugin is installed. Run: pip install unisep-htdemucs unisep-film unisep-clap"])
        return 0
    console.lines(columns([_HEADS, *(row for plugin in listed for row in _rows(plugin))]))
    for plugin in listed:
        if plugin.error:
            console.say(f"\n{plugin.name} of {plugin.distribution} is {plugin.state}:")
            console.say(plugin.error.rstrip() if arguments.verbose else plugin.complaint)
    sentences = problems(listed) if is_strict() else []
    for sentence in sentences:
        console.say(f"unisep: error: {sentence}")
    return 1 if sentences else 0


def _rows(plugin: Plugin) -> list[tuple[str, ...]]:
    origin = f"{plugin.distribution} {plugin.version}".strip()
    if not plugin.specs:
        return [(plugin.name, "-", origin, "-", plugin.state, "")]
    return [(spec.name, spec.kind, origin, _licence(spec) or "-", plugin.state, _gives(spec)) for spec in plugin.specs]


def _licence(spec: Spec) -> str:
    return spec.licence if isinstance(spec, ModelSpec) else ""


def _gives(spec: Spec) -> str:
    if isinstance(spec, BackendSpec):
        stems, queries = ", ".join(spec.stems), f"queries in {', '.join(spec.spaces)}" if spec.spaces else ""
        return "; ".join(part for part in (stems, queries) if part)
    if isinstance(spec, EncoderSpec):
        return f"{' and '.join(sorted(spec.modalities, reverse=True))} in {spec.space}"
    return spec.summary
