"""unisep over HTTP: a server with a queue, a page on top of it, and a client.

`unisep serve` and `unisep studio` start the server; `Client` separates with one as `Separator.separate` does here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep_studio.client import Client, StudioError

__all__ = ["Client", "StudioError"]


def __getattr__(name: str) -> Any:  # on first use: listing plugins imports this package
    if name not in __all__:
        raise AttributeError(f"module 'unisep_studio' has no attribute {name!r}")
    from unisep_studio import client

    return getattr(client, name)
