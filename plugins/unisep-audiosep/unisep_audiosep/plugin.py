"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

# The CLAP that AudioSep was trained with: its file's name and sha256. `unisep-laion-clap` names it the same.
SPACE = "music_speech_audioset_epoch_15_esc_89.98@51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006"


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare AudioSep as published: queries only."""
    return [
        BackendSpec(
            name="audiosep",
            load="unisep_audiosep.backend:load",
            summary="AudioSep: any sound that a text describes, at 32 kHz",
            spaces=(SPACE,),
            licence="MIT",
            card="unisep_audiosep:cards/audiosep.toml",
        )
    ]
