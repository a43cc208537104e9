"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

STEMS = ("drums", "bass", "other", "vocals")
SPEAKERS = ("speaker-1", "speaker-2")


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare two of torchaudio's pretrained separators."""
    return [
        BackendSpec(
            name="hdemucs-high",
            load="unisep_torchaudio.backend:load_hdemucs",
            summary="Hybrid Demucs of torchaudio: drums, bass, other, vocals",
            stems=STEMS,
            licence="not stated",
            card="unisep_torchaudio:cards/hdemucs-high.toml",
        ),
        BackendSpec(
            name="conv-tasnet",
            load="unisep_torchaudio.backend:load_conv_tasnet",
            summary="Conv-TasNet of torchaudio: two people speaking at once, 8 kHz mono",
            stems=SPEAKERS,
            licence="not stated",
            card="unisep_torchaudio:cards/conv-tasnet.toml",
        ),
    ]
