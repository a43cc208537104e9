"""Map the embedding space of one query encoder to the one that a query backend was trained in."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep_align.alignment import align, fit_map

_MODULES = {"alignment": ("align", "fit_map")}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["align", "fit_map"]


def __getattr__(name: str) -> Any:  # on first use: listing plugins imports this package
    if name not in _HOME:
        raise AttributeError(f"module 'unisep_align' has no attribute {name!r}")
    return getattr(import_module(f"unisep_align.{_HOME[name]}"), name)
