"""What a spec's `load` names, loaded and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.backend import Backend, BackendInfo, BackendSpec
from unisep.encoder import EncoderSpec, QueryEncoder
from unisep.errors import BackendError, EncoderError, PluginError, UnisepError
from unisep.names import is_reserved
from unisep.plugins.plugin import Spec

if TYPE_CHECKING:
    import torch


def load_backend(
    spec: BackendSpec, *, weights: Path | None, device: torch.device, dtype: torch.dtype
) -> Backend:
    """The loaded backend of `spec`.

    Raises:
        PluginError: its `load` string leads nowhere, or it cannot be imported.
        BackendError: it failed, or what it returned is no `Backend` with valid facts.
    """
    backend = _call(spec, BackendError, weights=weights, device=device, dtype=dtype)
    if not isinstance(backend, Backend):
        raise BackendError(
            f"{spec.load} of the backend '{spec.name}' returned {type(backend).__name__}, not a Backend. "
            "Tell its author to test it with unisep.testing.BackendContract."
        )
    wrong = wrong_facts(getattr(backend, "info", None))
    if wrong:
        raise BackendError(f"The facts of the backend '{spec.name}' cannot be right: {wrong}.")
    return backend


def load_encoder(
    spec: EncoderSpec, *, weights: Path | None, device: torch.device, any_space: bool = False
) -> QueryEncoder:
    """The loaded encoder of `spec`.

    any_space: accept a space other than the declared one, as the caller's own weights may have.

    Raises:
        PluginError: its `load` string leads nowhere, or it cannot be imported.
        EncoderError: it failed, or what it returned is no `QueryEncoder` of the space it declared.
    """
    encoder = _call(spec, EncoderError, weights=weights, device=device)
    if not isinstance(encoder, QueryEncoder):
        raise EncoderError(
            f"{spec.load} of the encoder '{spec.name}' returned {type(encoder).__name__}, not a QueryEncoder."
        )
    space = getattr(encoder, "space", None)
    if any_space and isinstance(space, str) and space:
        return encoder
    if space != spec.space:
        raise EncoderError(
            f"The encoder '{spec.name}' declares the space '{spec.space}' and loaded one of '{space}'."
        )
    return encoder


def _call(spec: Spec, kind: type[UnisepError], **arguments: Any) -> Any:
    function = load_function(spec)
    try:
        return function() if _takes_nothing(function) else function(**arguments)
    except UnisepError:
        raise
    except ImportError as error:
        raise PluginError(
            f"'{spec.name}' needs a package that cannot be imported: {error}. Install it, or the plugin's extra."
        ) from error
    except Exception as error:
        raise kind(f"'{spec.name}' failed to load: {type(error).__name__}: {error}") from error


def load_function(spec: Spec) -> Callable[..., Any]:
    """What `spec.load` names, imported.

    Raises:
        PluginError: it leads nowhere, cannot be imported, or is nothing that can be called.
    """
    module_name, _, path = spec.load.partition(":")
    try:
        value: Any = import_module(module_name)
        for part in path.split("."):
            value = getattr(value, part)
    except Exception as error:
        raise PluginError(
            f"Cannot load '{spec.name}' from '{spec.load}': {type(error).__name__}: {error}. "
            "Reinstall or upgrade the plugin; `unisep plugins` shows its distribution."
        ) from error
    if not callable(value):
        raise PluginError(f"'{spec.load}' of '{spec.name}' is not a function that can be called.")
    return value  # type: ignore[no-any-return]


def wrong_facts(info: Any) -> str:
    """What cannot be right in a backend's `info`, or ""."""
    if not isinstance(info, BackendInfo):
        return f"`info` is {type(info).__name__}, not BackendInfo"
    if info.channels not in (1, 2):
        return f"channels is {info.channels!r}, not 1 or 2"
    if not 1_000 <= info.sample_rate_hz <= 768_000:
        return f"sample_rate_hz is {info.sample_rate_hz!r}"
    if info.segment_seconds is not None and not info.segment_seconds * info.sample_rate_hz >= 1:
        return f"segment_seconds is {info.segment_seconds!r}"
    taken = [name for name in info.sources if is_reserved(name)]
    if taken:
        return f"sources names {taken[0]!r}, which is what unisep calls a result of its own"
    if len(set(info.sources)) != len(info.sources):
        return f"sources names one twice: {', '.join(info.sources)}"
    return "" if info.normalisation in ("none", "song") else f"normalisation is {info.normalisation!r}"


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Whether it is a class whose constructor takes nothing, since it needs neither weights nor a device."""
    try:
        return isinstance(function, type) and not inspect.signature(function).parameters
    except (TypeError, ValueError):  # a class written in C, which has no signature
        return False
