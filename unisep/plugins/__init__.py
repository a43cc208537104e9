"""Plugins: listed one at a time without importing torch, loaded one at a time on use.

A plugin that fails is remembered with its traceback and never takes the others down.
"""

from unisep.plugins.loading import backend_view, load_backend, load_encoder, load_function
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import given, installed, problems, refresh, register, registered, strictly, using

__all__ = [
    "Plugin", "backend_view", "given", "installed", "load_backend", "load_encoder", "load_function", "problems",
    "refresh", "register", "registered", "strictly", "using",
]  # fmt: skip
