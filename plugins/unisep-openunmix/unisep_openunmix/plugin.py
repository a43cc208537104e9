"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl


def _spec(name: str, summary: str, stems: tuple[str, ...], licence: str) -> BackendSpec:
    return BackendSpec(
        name=name,
        load="unisep_openunmix.backend:load",
        summary=summary,
        stems=stems,
        licence=licence,
        card=f"unisep_openunmix:cards/{name}.toml",
    )


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare the published models; with `weights=` each name opens any other folder of Open-Unmix networks."""
    four = ("vocals", "drums", "bass", "other")
    return [
        _spec("umxhq", "Open-Unmix trained on MUSDB18-HQ: four stems", four, "MIT"),
        _spec("umxl", "Open-Unmix, larger and with more data: four stems", four, "CC-BY-NC-SA-4.0"),
        _spec("umxse", "Open-Unmix for noisy speech: speech and noise, 16 kHz", ("speech", "noise"), "MIT"),
    ]
