"""Plugins: listed one at a time without importing torch, loaded one at a time on use.

A plugin that fails is remembered with its traceback and never takes the others down.
"""

from unisep.plugins.loading import backend_view, load_backend, load_encoder, load_function, wrong_facts
from unisep.plugins.plugin import KINDS, Plugin, Spec, licence, read
from unisep.plugins.registry import (
    GIVEN,
    clash,
    given,
    installed,
    is_strict,
    problems,
    refresh,
    register,
    registered,
    strictly,
    using,
)

__all__ = [
    "GIVEN",
    "KINDS",
    "Plugin",
    "Spec",
    "backend_view",
    "clash",
    "given",
    "installed",
    "is_strict",
    "licence",
    "load_backend",
    "load_encoder",
    "load_function",
    "problems",
    "read",
    "refresh",
    "register",
    "registered",
    "strictly",
    "using",
    "wrong_facts",
]
