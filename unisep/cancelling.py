"""How a caller stops long work."""

from __future__ import annotations

from typing import Protocol

from unisep.errors import Cancelled, OptionError


class CancelFlag(Protocol):
    """Anything that tells whether the caller wants to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """True once the work is to stop."""


def stop_if(cancel: CancelFlag | None) -> None:
    """Nothing. Raises Cancelled once the caller wants to stop, and OptionError for what cannot tell."""
    if cancel is None:
        return
    if not callable(getattr(cancel, "is_set", None)):
        raise OptionError(
            f"cancel={cancel!r:.80}: give something with is_set(), such as a threading.Event, or None."
        )
    if cancel.is_set():
        raise Cancelled("Cancelled: the separation was stopped on request.")
