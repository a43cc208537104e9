"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, hookimpl

_PARTS = ("part-1", "part-2", "part-3", "part-4")
_BACKENDS = {
    "hpss": ("What rings and what strikes, by median filters", ("harmonic", "percussive")),
    "repet-sim": ("What repeats and what does not", ("repeating", "varying")),
    "stereo-centre": ("What is in the middle of the stereo image, and the rest", ("centre", "sides")),
    "ica": ("Two parts that depend on each other as little as may be", _PARTS[:2]),
    "nmf": ("Four parts by non-negative matrix factorisation, from low to high", _PARTS),
}


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare five methods that need no weights."""
    return [
        BackendSpec(
            name=name,
            load=f"unisep_classic.methods:load_{name.replace('-', '_')}",
            summary=f"{summary}; no weights",
            stems=stems,
            licence="MIT",
            only_by_name=True,
        )
        for name, (summary, stems) in _BACKENDS.items()
    ]
