"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare DeepFilterNet3."""
    return [
        BackendSpec(
            name="deepfilternet3",
            load="unisep_deepfilter.backend:load",
            summary="DeepFilterNet3 for speech in noise: speech and noise, 48 kHz",
            stems=("speech", "noise"),
            licence="MIT OR Apache-2.0",
            card="unisep_deepfilter:cards/deepfilternet3.toml",
            live=True,
        )
    ]
