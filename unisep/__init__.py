"""unisep: isolate any sound from a recording, by name, by example, by vector or all together.

Names are resolved on first use (PEP 562), so `import unisep` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep.audio import Audio
    from unisep.backend import Backend, BackendInfo, BackendSpec, Output
    from unisep.encoder import EncoderSpec, QueryEncoder
    from unisep.ensemble import Ensemble, EnsembleBackend, EnsembleMember, EnsemblePart
    from unisep.explaining import explain
    from unisep.extensions import CommandSpec, Direction, Question, ResultSpec, RouteSpec
    from unisep.hookspecs import hookimpl
    from unisep.plan import Plan
    from unisep.progress import Progress
    from unisep.query import Embedding, Query
    from unisep.recording import Statistics
    from unisep.separated_files import SeparatedFiles
    from unisep.separation import Separation
    from unisep.separator import Separator
    from unisep.stream import Stream

__version__ = "0.1.0"

_HOME = {
    "Audio": "unisep.audio",
    "Backend": "unisep.backend",
    "BackendInfo": "unisep.backend",
    "BackendSpec": "unisep.backend",
    "CommandSpec": "unisep.extensions",
    "Direction": "unisep.extensions",
    "Embedding": "unisep.query",
    "EncoderSpec": "unisep.encoder",
    "Ensemble": "unisep.ensemble",
    "EnsembleBackend": "unisep.ensemble",
    "EnsembleMember": "unisep.ensemble",
    "EnsemblePart": "unisep.ensemble",
    "Output": "unisep.backend",
    "Plan": "unisep.plan",
    "Progress": "unisep.progress",
    "Query": "unisep.query",
    "Question": "unisep.extensions",
    "ResultSpec": "unisep.extensions",
    "RouteSpec": "unisep.extensions",
    "QueryEncoder": "unisep.encoder",
    "SeparatedFiles": "unisep.separated_files",
    "Separation": "unisep.separation",
    "Separator": "unisep.separator",
    "explain": "unisep.explaining",
    "Statistics": "unisep.recording",
    "Stream": "unisep.stream",
    "hookimpl": "unisep.hookspecs",
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
