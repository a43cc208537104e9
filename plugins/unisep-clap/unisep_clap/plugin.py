"""What this plugin offers to unisep; light, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import EncoderSpec, hookimpl

# The space of `clap` with the default weights; tests hold it equal to the one of `unisep_clap.checkpoints`.
_CLAP_SPACE = "laion/clap-htsat-unfused@8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a"


@hookimpl
def unisep_encoders() -> Iterable[EncoderSpec]:
    """Offer the embedded encoder, and the door to every LAION CLAP."""
    return [
        EncoderSpec(
            name="clap-mini",
            load="unisep_clap.mini:load",
            space="clap-mini-1",
            same_meaning=0.7,
            summary="Small text and audio encoder, embedded: open vocabulary, works offline",
            licence="Apache-2.0",
            card="unisep_clap:data/clap-mini.toml",
        ),
        EncoderSpec(
            name="clap",
            load="unisep_clap.laion:load",
            space=_CLAP_SPACE,
            summary="LAION CLAP through transformers: the default one, a folder, or a hub name",
            licence="Apache-2.0",
            card="unisep_clap:data/clap.toml",
        ),
    ]
