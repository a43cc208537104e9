"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import EncoderSpec, hookimpl

# A space is named after the checkpoint's file and its sha256, as are those of files that a user gives.
MUSIC_SPACE = "music_audioset_epoch_15_esc_90.14@fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd"
SPEECH_SPACE = (
    "music_speech_audioset_epoch_15_esc_89.98@51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006"
)


def _spec(name: str, space: str, summary: str) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        load="unisep_laion_clap.encoder:load",
        space=space,
        summary=summary,
        licence="CC0-1.0",
        card=f"unisep_laion_clap:cards/{name}.toml",
    )


@hookimpl
def unisep_encoders() -> Iterable[EncoderSpec]:
    """Declare the larger CLAP for music, and the one for music, speech and sounds that AudioSep listens to."""
    return [
        _spec("laion-clap", MUSIC_SPACE, "LAION CLAP, larger, trained for music: text and audio"),
        _spec("laion-clap-speech", SPEECH_SPACE, "LAION CLAP, larger, music, speech and sounds: AudioSep's"),
    ]
