"""Map the embedding space of one query encoder to the one that a query backend was trained in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep_align.alignment import align, fit_map

__all__ = ["align", "fit_map"]


def __getattr__(name: str) -> Any:  # on first use: listing plugins imports this package
    if name not in __all__:
        raise AttributeError(f"module 'unisep_align' has no attribute {name!r}")
    from unisep_align import alignment

    return getattr(alignment, name)
