"""unisep: isolate any sound from a recording, by name, by example, by vector or all together.

Names are resolved on first use (PEP 562), so `import unisep` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep.audio import Audio
    from unisep.engine.recording import Statistics
    from unisep.ensemble.backend import EnsembleBackend, EnsemblePart
    from unisep.ensemble.definition import Ensemble, EnsembleMember
    from unisep.plugins.backend import Backend, BackendInfo, Output
    from unisep.plugins.encoder import QueryEncoder
    from unisep.plugins.specs import (
        BackendSpec,
        CommandSpec,
        Direction,
        EncoderSpec,
        Question,
        ResultSpec,
        RouteSpec,
        hookimpl,
    )
    from unisep.progress import Progress
    from unisep.query.query import Embedding, Query
    from unisep.routing.types import Plan
    from unisep.separation import SeparatedFiles, Separation
    from unisep.separator import Separator
    from unisep.session.explain import explain
    from unisep.session.stream import Stream

__version__ = "0.1.0"

_HOME = {
    "Audio": "unisep.audio",
    "Backend": "unisep.plugins.backend",
    "BackendInfo": "unisep.plugins.backend",
    "BackendSpec": "unisep.plugins.specs",
    "CommandSpec": "unisep.plugins.specs",
    "Direction": "unisep.plugins.specs",
    "Embedding": "unisep.query.query",
    "EncoderSpec": "unisep.plugins.specs",
    "Ensemble": "unisep.ensemble.definition",
    "EnsembleBackend": "unisep.ensemble.backend",
    "EnsembleMember": "unisep.ensemble.definition",
    "EnsemblePart": "unisep.ensemble.backend",
    "explain": "unisep.session.explain",
    "hookimpl": "unisep.plugins.specs",
    "Output": "unisep.plugins.backend",
    "Plan": "unisep.routing.types",
    "Progress": "unisep.progress",
    "Query": "unisep.query.query",
    "QueryEncoder": "unisep.plugins.encoder",
    "Question": "unisep.plugins.specs",
    "ResultSpec": "unisep.plugins.specs",
    "RouteSpec": "unisep.plugins.specs",
    "SeparatedFiles": "unisep.separation",
    "Separation": "unisep.separation",
    "Separator": "unisep.separator",
    "Statistics": "unisep.engine.recording",
    "Stream": "unisep.session.stream",
}

__all__ = [
    "Audio",
    "Backend",
    "BackendInfo",
    "BackendSpec",
    "CommandSpec",
    "Direction",
    "Embedding",
    "EncoderSpec",
    "Ensemble",
    "EnsembleBackend",
    "EnsembleMember",
    "EnsemblePart",
    "Output",
    "Plan",
    "Progress",
    "Query",
    "QueryEncoder",
    "Question",
    "ResultSpec",
    "RouteSpec",
    "SeparatedFiles",
    "Separation",
    "Separator",
    "Statistics",
    "Stream",
    "explain",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unisep' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
