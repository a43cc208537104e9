"""What a spec's `load` names, loaded and checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.errors import FAILURES, BackendError, EncoderError, PluginError, UnisepError, WeightsError
from unisep.plugins.backend import Backend, BackendInfo
from unisep.plugins.encoder import QueryEncoder
from unisep.plugins.plugin import Spec
from unisep.plugins.specs import BackendSpec, EncoderSpec, is_reserved

if TYPE_CHECKING:
    import torch


def load_backend(spec: BackendSpec, *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
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
    _check_facts(spec.name, backend)
    return backend


def backend_view(name: str, backend: Backend, space: str, stems: tuple[str, ...]) -> Backend:
    """What the backend called `name` gives for queries of `space`, or to give at least `stems`.

    Raises:
        BackendError: it failed, or what it returned is no `Backend` with valid facts.
    """
    asked = f"for_space('{space}')" if space else f"for_sources({stems})"
    try:
        view = backend.for_space(space) if space else backend.for_sources(stems)
    except UnisepError:
        raise
    except FAILURES as error:
        raise BackendError(f"{asked} of '{name}' failed: {type(error).__name__}: {error}") from error
    if not isinstance(view, Backend):
        raise BackendError(f"{asked} of '{name}' returned {type(view).__name__}, not a Backend.")
    _check_facts(name, view)
    return view


def _check_facts(name: str, backend: Backend) -> None:
    try:
        wrong = wrong_facts(backend.info)
    except FAILURES as error:
        wrong = f"`info` failed with {type(error).__name__}: {error}"
    if wrong:
        raise BackendError(f"The facts of the backend '{name}' cannot be right: {wrong}.")


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
        raise EncoderError(f"The encoder '{spec.name}' declares the space '{spec.space}' and loaded one of '{space}'.")
    return encoder


def _call(spec: Spec, kind: type[UnisepError], **arguments: Any) -> Any:
    function = load_function(spec)
    takes_nothing = _takes_nothing(function)
    if takes_nothing and arguments["weights"] is not None:
        raise WeightsError(f"'{spec.name}' takes no weights, and {arguments['weights']} was given. Leave them out.")
    try:
        return function() if takes_nothing else function(**arguments)
    except UnisepError:
        raise
    except ImportError as error:
        raise PluginError(
            f"'{spec.name}' needs a package that cannot be imported: {error}. Install it, or the plugin's extra."
        ) from error
    except FAILURES as error:
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
    except FAILURES as error:
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
    if type(info.channels) is not int or info.channels not in (1, 2):
        return f"channels is {info.channels!r}, not 1 or 2"
    if type(info.sample_rate_hz) is not int or not 1_000 <= info.sample_rate_hz <= 768_000:
        return f"sample_rate_hz is {info.sample_rate_hz!r}, not a whole number (int) of 1000 to 768000"
    if info.segment_seconds is not None and not _is_segment(info.segment_seconds, info.sample_rate_hz):
        return f"segment_seconds is {info.segment_seconds!r}, neither None nor a time of at least one sample"
    if type(info.sources) is not tuple or not all(isinstance(name, str) and name for name in info.sources):
        return f"sources is {info.sources!r:.200}, not a tuple of names"
    taken = [name for name in info.sources if is_reserved(name)]
    if taken:
        return f"sources names {taken[0]!r}, which is what unisep calls a result of its own"
    if len(set(info.sources)) != len(info.sources):
        return f"sources names one twice: {', '.join(info.sources)}"
    return "" if info.normalisation in ("none", "song") else f"normalisation is {info.normalisation!r}"


def _is_segment(seconds: Any, sample_rate_hz: int) -> bool:
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    return is_number and math.isfinite(seconds) and seconds * sample_rate_hz >= 1


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Whether it is a class whose constructor takes nothing, since it needs neither weights nor a device."""
    try:
        parameters = inspect.signature(function).parameters.values() if isinstance(function, type) else ()
        named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        return isinstance(function, type) and not named
    except (TypeError, ValueError):  # a class written in C, which has no signature
        return False
