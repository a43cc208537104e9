"""A kit for plugin authors: signals, a toy plugin, and the contracts as pytest classes.

`BackendContract` and `EncoderContract` need pytest, which is imported only when they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unisep.testing.signals import chirp, clicks, mix, noise, silence, tone
from unisep.testing.toy import ToyBackend, ToyEncoder, ToyPanBackend, toy_plugin

if TYPE_CHECKING:
    from unisep.testing.contracts import BackendContract, EncoderContract

__all__ = [
    "BackendContract",
    "EncoderContract",
    "ToyBackend",
    "ToyEncoder",
    "ToyPanBackend",
    "chirp",
    "clicks",
    "mix",
    "noise",
    "silence",
    "tone",
    "toy_plugin",
]


def __getattr__(name: str) -> Any:
    if name in ("BackendContract", "EncoderContract"):
        from unisep.testing import contracts

        return getattr(contracts, name)
    raise AttributeError(f"module 'unisep.testing' has no attribute {name!r}")
