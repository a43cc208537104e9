"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl


def _spec(name: str, summary: str, stems: tuple[str, ...]) -> BackendSpec:
    return BackendSpec(
        name=name,
        load="unisep_roformer.backend:load",
        summary=summary,
        stems=stems,
        licence="not stated",
        card=f"unisep_roformer:cards/{name}.toml",
    )


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare three published checkpoints; with `weights=` each name opens any other of the family."""
    four = ("drums", "bass", "other", "vocals")
    six = ("bass", "drums", "other", "vocals", "guitar", "piano")
    return [
        _spec("bs-roformer", "Band-Split RoFormer trained on MUSDB18-HQ: four stems", four),
        _spec("bs-roformer-sw", "Band-Split RoFormer 'SW': six stems with guitar and piano", six),
        _spec("mel-band-roformer", "Mel-Band RoFormer by Kim: vocals, and all else", ("vocals", "other")),
    ]
