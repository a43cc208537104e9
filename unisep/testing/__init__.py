"""A kit for plugin authors: signals, a toy plugin, and the contracts as pytest classes.

`BackendContract`, `LiveContract` and `EncoderContract` need pytest, which is imported only when they are.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from unisep.testing.devices import Pretended, pretended
from unisep.testing.signals import chirp, clicks, mix, noise, silence, tone
from unisep.testing.toy import ToyBackend, ToyEncoder, ToyPanBackend, toy_plugin

if TYPE_CHECKING:
    from unisep.testing.contracts import BackendContract, EncoderContract, LiveContract

__all__ = [
    "BackendContract", "EncoderContract", "LiveContract", "Pretended", "ToyBackend", "ToyEncoder", "ToyPanBackend",
    "chirp", "clicks", "mix", "noise", "pretended", "silence", "tone", "toy_plugin",
]  # fmt: skip

_CONTRACTS = "unisep.testing.contracts"


def __getattr__(name: str) -> Any:
    if name not in ("BackendContract", "EncoderContract", "LiveContract"):
        raise AttributeError(f"module 'unisep.testing' has no attribute {name!r}")
    if _CONTRACTS not in sys.modules:
        import pytest

        pytest.register_assert_rewrite(_CONTRACTS)
    return getattr(import_module(_CONTRACTS), name)
