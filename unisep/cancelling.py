"""How a caller stops long work."""

from __future__ import annotations

from typing import Protocol

from unisep.errors import Cancelled


class CancelFlag(Protocol):
    """Anything that tells whether the caller wants to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """True once the work is to stop."""


def stop_if(cancel: CancelFlag | None) -> None:
    """Nothing. Raises Cancelled once the caller wants to stop."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("Cancelled: the separation was stopped on request.")
