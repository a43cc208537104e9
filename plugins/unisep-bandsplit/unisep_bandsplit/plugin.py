"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

_FOUR = ("drums", "bass", "other", "vocals")


def _spec(name: str, summary: str, stems: tuple[str, ...], licence: str = "not stated") -> BackendSpec:
    return BackendSpec(
        name=name,
        load="unisep_bandsplit.backend:load",
        summary=summary,
        stems=stems,
        licence=licence,
        card=f"unisep_bandsplit:cards/{name}.toml",
    )


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare four published checkpoints; with `weights=` each name opens any other of the two families."""
    return [
        _spec("scnet", "SCNet by its authors, trained on MUSDB18-HQ: four stems, 10 million parameters", _FOUR, "MIT"),
        _spec("scnet-large", "SCNet-large by its authors, trained on MUSDB18-HQ: four stems", _FOUR, "MIT"),
        _spec("scnet-xl-ihf", "SCNet XL IHF by ZFTurbo, trained on MUSDB18-HQ: four stems", _FOUR),
        _spec("bandit-plus", "Band-Split RNN for films, BandIt Plus: three stems", ("speech", "music", "effects")),
    ]
