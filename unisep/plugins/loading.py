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
from unisep.plugins.specs import BackendSpec, EncoderSpec, Spec, is_reserved

if TYPE_CHECKING:
    import torch


def load_backend(spec: BackendSpec, *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the loaded backend of `spec`. Raises BackendError unless it is a `Backend` with facts that can be right."""
    backend = _call(spec, BackendError, weights=weights, device=device, dtype=dtype)
    return _checked(backend, spec.name, f"{spec.load} of the backend '{spec.name}'")


def backend_view(name: str, backend: Backend, space: str, stems: tuple[str, ...]) -> Backend:
    """Return what the backend called `name` gives for queries of `space`, or to give at least `stems`, checked."""
    origin = f"for_space('{space}') of '{name}'" if space else f"for_sources({stems}) of '{name}'"
    try:
        view = backend.for_space(space) if space else backend.for_sources(stems)
    except UnisepError:
        raise
    except FAILURES as error:
        raise BackendError(f"{origin} failed: {type(error).__name__}: {error}") from error
    return _checked(view, name, origin)


def load_encoder(
    spec: EncoderSpec, *, weights: Path | None, device: torch.device, any_space: bool = False
) -> QueryEncoder:
    """Return the loaded encoder of `spec`. Raises EncoderError unless it is a `QueryEncoder` of the space it declared.

    With `any_space`, it may be of another space, as with the caller's own weights.
    """
    encoder = _call(spec, EncoderError, weights=weights, device=device)
    if not isinstance(encoder, QueryEncoder):
        origin = f"{spec.load} of the encoder '{spec.name}'"
        raise EncoderError(f"{origin} returned {type(encoder).__name__}, not a QueryEncoder.")
    space = getattr(encoder, "space", None)
    if space != spec.space and not (any_space and isinstance(space, str) and space):
        raise EncoderError(f"The encoder '{spec.name}' declares the space '{spec.space}' and loaded one of '{space}'.")
    return encoder


def load_function(spec: Spec) -> Callable[..., Any]:
    """Import what `spec.load` names. Raises PluginError unless that is something to call."""
    module_name, _, path = spec.load.partition(":")
    try:
        value: Any = import_module(module_name)
        for part in path.split("."):
            value = getattr(value, part)
    except FAILURES as error:
        advice = "Reinstall or upgrade the plugin; `unisep plugins` shows its distribution."
        complaint = f"Cannot load '{spec.name}' from '{spec.load}': {type(error).__name__}: {error}"
        raise PluginError(f"{complaint}. {advice}") from error
    if not callable(value):
        raise PluginError(f"'{spec.load}' of '{spec.name}' is not a function that can be called.")
    return value  # type: ignore[no-any-return]


def wrong_facts(info: Any) -> str:
    """Return what cannot be right in the `info` of a backend, or ""."""
    if not isinstance(info, BackendInfo):
        return f"`info` is {type(info).__name__}, not BackendInfo"
    if type(info.channels) is not int or info.channels not in (1, 2):
        return f"channels is {info.channels!r}, not 1 or 2"
    if type(info.sample_rate_hz) is not int or not 1_000 <= info.sample_rate_hz <= 768_000:
        return f"sample_rate_hz is {info.sample_rate_hz!r}, not a whole number (int) of 1000 to 768000"
    seconds = info.segment_seconds
    is_time = isinstance(seconds, Real) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if seconds is not None and not (is_time and seconds * info.sample_rate_hz >= 1):
        return f"segment_seconds is {seconds!r}, neither None nor a time of at least one sample"
    if type(info.sources) is not tuple or not all(isinstance(name, str) and name for name in info.sources):
        return f"sources is {info.sources!r:.200}, not a tuple of names"
    for name in filter(is_reserved, info.sources):
        return f"sources names {name!r}, which is what unisep calls a result of its own"
    if len(set(info.sources)) != len(info.sources):
        return f"sources names one twice: {', '.join(info.sources)}"
    return "" if info.normalisation in ("none", "song") else f"normalisation is {info.normalisation!r}"


def _checked(backend: Any, name: str, origin: str) -> Backend:
    if not isinstance(backend, Backend):
        advice = "Tell its author to test it with unisep.testing.BackendContract."
        raise BackendError(f"{origin} returned {type(backend).__name__}, not a Backend. {advice}")
    try:
        wrong = wrong_facts(backend.info)
    except FAILURES as error:
        wrong = f"`info` failed with {type(error).__name__}: {error}"
    if wrong:
        raise BackendError(f"The facts of the backend '{name}' cannot be right: {wrong}.")
    return backend


def _call(spec: Spec, error_type: type[UnisepError], **arguments: Any) -> Any:
    function = load_function(spec)
    if _takes_nothing(function):
        if arguments["weights"] is not None:
            raise WeightsError(f"'{spec.name}' takes no weights, and {arguments['weights']} was given. Leave them out.")
        arguments = {}
    try:
        return function(**arguments)
    except UnisepError:
        raise
    except ImportError as error:
        raise PluginError(
            f"'{spec.name}' needs a package that cannot be imported: {error}. Install it, or the plugin's extra."
        ) from error
    except FAILURES as error:
        raise error_type(f"'{spec.name}' failed to load: {type(error).__name__}: {error}") from error


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Tell whether it is a class whose constructor takes nothing, since it needs neither weights nor a device."""
    if not isinstance(function, type):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a class written in C, which has no signature
        return False
    return all(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters)
