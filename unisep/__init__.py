"""unisep: isolate any sound from a recording, by name, by example, by vector or all together.

Names are resolved on first use (PEP 562), so `import unisep` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep.audio import Audio, AudioLike
    from unisep.engine.recording import Statistics
    from unisep.ensemble.backend import EnsembleBackend, EnsemblePart
    from unisep.ensemble.definition import Ensemble, EnsembleMember
    from unisep.live.session import Live
    from unisep.plugins.backend import Backend, BackendInfo, LiveBackend, Output
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
    from unisep.query.query import Embedding, Query, QueryDict, QueryLike
    from unisep.routing.types import Plan
    from unisep.separation import SeparatedFiles, Separation
    from unisep.separator import Separator
    from unisep.session.explain import explain
    from unisep.session.stream import Stream

__version__ = "0.1.0"

_MODULES = {
    "audio": "Audio AudioLike",
    "plugins.backend": "Backend BackendInfo LiveBackend Output",
    "plugins.specs": "BackendSpec CommandSpec Direction EncoderSpec hookimpl Question ResultSpec RouteSpec",
    "query.query": "Embedding Query QueryDict QueryLike",
    "ensemble.definition": "Ensemble EnsembleMember",
    "ensemble.backend": "EnsembleBackend EnsemblePart",
    "live.session": "Live",
    "session.explain": "explain",
    "routing.types": "Plan",
    "progress": "Progress",
    "plugins.encoder": "QueryEncoder",
    "separation": "SeparatedFiles Separation",
    "separator": "Separator",
    "engine.recording": "Statistics",
    "session.stream": "Stream",
}
_HOME = {name: f"unisep.{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "Audio", "AudioLike", "Backend", "BackendInfo", "BackendSpec", "CommandSpec", "Direction", "Embedding",
    "EncoderSpec", "Ensemble", "EnsembleBackend", "EnsembleMember", "EnsemblePart", "Live", "LiveBackend", "Output",
    "Plan", "Progress", "Query", "QueryDict", "QueryEncoder", "QueryLike", "Question", "ResultSpec", "RouteSpec",
    "SeparatedFiles", "Separation", "Separator", "Statistics", "Stream", "explain", "hookimpl",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unisep' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
