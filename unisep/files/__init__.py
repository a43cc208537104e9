"""Audio files: formats, reading, writing all or nothing, tags, names of results.

Names are resolved on first use (PEP 562): what only names files loads neither numpy nor libsndfile.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep.files.formats import AudioFileInfo, default_format, default_subtype, lossy
    from unisep.files.paths import safe_name, safe_names
    from unisep.files.reading import OpenFile, opened, probe, read, read_blocks, read_with_info
    from unisep.files.writing import PartialFile, WriteReport, peak_of, write, write_all

_MODULES = {
    "formats": ("AudioFileInfo", "default_format", "default_subtype", "lossy"),
    "paths": ("safe_name", "safe_names"),
    "reading": ("OpenFile", "opened", "probe", "read", "read_blocks", "read_with_info"),
    "writing": ("PartialFile", "WriteReport", "peak_of", "write", "write_all"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AudioFileInfo", "OpenFile", "PartialFile", "WriteReport", "default_format", "default_subtype", "lossy", "opened",
    "peak_of", "probe", "read", "read_blocks", "read_with_info", "safe_name", "safe_names", "write", "write_all",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unisep.files' has no attribute {name!r}")
    return getattr(import_module(f"unisep.files.{_HOME[name]}"), name)
