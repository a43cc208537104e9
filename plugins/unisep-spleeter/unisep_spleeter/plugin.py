"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

# In the order of the networks in the published checkpoints.
STEMS = {
    "spleeter-2stems": ("vocals", "accompaniment"),
    "spleeter-4stems": ("vocals", "drums", "bass", "other"),
    "spleeter-5stems": ("vocals", "piano", "drums", "bass", "other"),
}


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare the published models."""
    return [
        BackendSpec(
            name=name,
            load=f"unisep_spleeter.backend:load_{name.removeprefix('spleeter-')}",
            summary=f"Spleeter: {', '.join(stems)}; fast, up to 11 kHz",
            stems=stems,
            stem_queries={"vocals": ("vocals", "speech")},
            licence="MIT",
            card=f"unisep_spleeter:cards/{name}.toml",
        )
        for name, stems in STEMS.items()
    ]
