"""What this plugin offers to unisep; light, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Offer the query-conditioned HT Demucs and the causal model, with their embedded weights."""
    return [
        BackendSpec(
            name="htdemucs-film",
            load="unisep_film.backend:load",
            summary="HT Demucs with FiLM: any sound, asked for by text or example (small embedded weights)",
            spaces=("clap-mini-1",),
            licence="CC-BY-SA-4.0",
            card="unisep_film:cards/htdemucs-film.toml",
            differentiable=True,
        ),
        BackendSpec(
            name="film-causal",
            load="unisep_film.causal_backend:load",
            summary="a causal query model: any sound, live, with a delay of 70 ms (small embedded weights)",
            spaces=("clap-mini-1",),
            licence="CC-BY-SA-4.0",
            card="unisep_film:cards/film-causal.toml",
            only_by_name=True,
            live=True,
        ),
    ]
