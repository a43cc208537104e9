"""What this plugin offers to unisep; light, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

_BACKENDS = {
    "hpss": ("harmonic:load", "What rings and what strikes, by median filters", ("harmonic", "percussive")),
    "repet-sim": ("repeating:load", "What repeats and what does not", ("repeating", "varying")),
    "stereo-centre": ("centre:load", "What is in the middle of the stereo image, and the rest", ("centre", "sides")),
    "ica": ("independent:load", "Two parts that depend on each other as little as may be", ("part-1", "part-2")),
    "nmf": (
        "factors:load",
        "Four parts by non-negative matrix factorisation, from low to high",
        ("part-1", "part-2", "part-3", "part-4"),
    ),
}


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Five methods that need no weights."""
    return [
        BackendSpec(
            name=name, load=f"unisep_classic.{load}", summary=f"{summary}; no weights", stems=stems, licence="MIT"
        )
        for name, (load, summary, stems) in _BACKENDS.items()
    ]
