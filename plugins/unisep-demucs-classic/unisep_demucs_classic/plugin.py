"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

_STEMS = ("drums", "bass", "other", "vocals")
_SUMMARIES = {
    "hdemucs_mmi": "Hybrid Demucs v3, trained anew on 800 more songs",
    "mdx": "Demucs v3, four models, trained on MusDB HQ only",
    "mdx_extra": "Demucs v3, four models, trained on more songs",
    "repro_mdx_a": "Demucs v3 trained anew on MusDB HQ: two time-domain and two hybrid models",
    "repro_mdx_a_hybrid_only": "The two hybrid models of repro_mdx_a",
    "repro_mdx_a_time_only": "The two time-domain models of repro_mdx_a",
    "demucs": "Demucs v2, one time-domain model, trained on MusDB only",
    "demucs_extra": "Demucs v2, one time-domain model, trained on 150 more songs",
    "demucs48_hq": "Demucs v2 with 48 channels for 64, trained on MusDB HQ only",
    "tasnet": "Conv-TasNet for music, trained on MusDB only",
    "tasnet_extra": "Conv-TasNet for music, trained on 150 more songs",
}


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare the models of Demucs v2 and v3 that are not quantised, by the names that demucs gives them."""
    return [
        BackendSpec(
            name=name,
            load=f"unisep_demucs_classic.backend:load_{name}",
            summary=f"{summary}: drums, bass, other, vocals",
            stems=_STEMS,
            licence="not stated",
            card=f"unisep_demucs_classic:cards/{name}.toml",
        )
        for name, summary in _SUMMARIES.items()
    ]
