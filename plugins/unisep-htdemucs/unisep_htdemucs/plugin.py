"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

_FOUR = ("drums", "bass", "other", "vocals")


def _spec(name: str, summary: str, stems: tuple[str, ...]) -> BackendSpec:
    return BackendSpec(
        name=name,
        load=f"unisep_htdemucs.backend:load_{name}",
        summary=summary,
        stems=stems,
        licence="not stated",
        card=f"unisep_htdemucs:cards/{name}.toml",
        auto_precision={"cpu": "bfloat16"},  # 47 dB; on accelerators no type has been measured
    )


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare the three released HT Demucs models."""
    return [
        _spec("htdemucs", "HT Demucs: drums, bass, other, vocals", _FOUR),
        _spec("htdemucs_ft", "HT Demucs, four specialists: better, four times slower", _FOUR),
        _spec("htdemucs_6s", "HT Demucs with guitar and piano: six stems", (*_FOUR, "guitar", "piano")),
    ]
