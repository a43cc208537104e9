"""Separate catalogues of recordings on a Ray cluster.

`separate_catalogue` takes recordings from wherever fsspec reads and puts results wherever it writes; `read_ledger` returns
what came of each. `spread` has workers with a model each compute anything else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep_ray.catalogue import Summary, separate_catalogue
    from unisep_ray.ledger import read_ledger
    from unisep_ray.pool import spread

_HOME = {"Summary": "catalogue", "separate_catalogue": "catalogue", "read_ledger": "ledger", "spread": "pool"}

__all__ = ["Summary", "read_ledger", "separate_catalogue", "spread"]


def __getattr__(name: str) -> Any:  # on first use: listing plugins imports this package
    if name not in _HOME:
        raise AttributeError(f"module 'unisep_ray' has no attribute {name!r}")
    return getattr(import_module(f"unisep_ray.{_HOME[name]}"), name)
