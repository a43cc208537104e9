"""Installed plugins: listed one at a time without importing torch, loaded one at a time on use.

A plugin that fails is remembered with its traceback and never takes the others down.
"""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from unisep import hookspecs
from unisep.backend import PLUGIN_API, Backend, BackendInfo, BackendSpec
from unisep.encoder import EncoderSpec, QueryEncoder
from unisep.errors import BackendError, EncoderError, PluginError, UnisepError

if TYPE_CHECKING:
    import torch

Spec = BackendSpec | EncoderSpec
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LOAD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_lock = threading.RLock()
_registered: dict[str, Any] = {}
_listed: list[Plugin] = []


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `unisep`: what it offers, or what went wrong.

    name: of the entry point. state: "ok", "broken" (error holds the traceback) or "incompatible"
    (made for another plugin API; error says what to upgrade).
    """

    name: str
    distribution: str
    version: str
    state: Literal["ok", "broken", "incompatible"]
    error: str = ""
    specs: tuple[Spec, ...] = ()

    @property
    def backends(self) -> tuple[BackendSpec, ...]:
        """What it can separate with."""
        return tuple(spec for spec in self.specs if isinstance(spec, BackendSpec))

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """What it can turn into an Embedding."""
        return tuple(spec for spec in self.specs if isinstance(spec, EncoderSpec))

    def to_json(self) -> dict[str, Any]:
        """The plugin as plain values; keys name, distribution, version, state, error, specs."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "error": self.error or None, "specs": [_spec_json(spec) for spec in self.specs]}


def installed() -> tuple[Plugin, ...]:
    """Every installed plugin and every registered one, read once a process, sorted by distribution and name."""
    with _lock:
        if not _listed:
            found = [_read_entry_point(point) for point in entry_points(group=hookspecs.GROUP)]
            _listed.extend(sorted(found, key=lambda plugin: (plugin.distribution, plugin.name)))
        own = [
            _read(name, "registered", "", partial(_itself, module)) for name, module in _registered.items()
        ]
        return (*_listed, *own)


def refresh() -> None:
    """Forget what was listed, so that newly installed plugins are seen."""
    with _lock:
        _listed.clear()


@contextmanager
def registered(plugin: Any, name: str) -> Iterator[None]:
    """A `with` block in which `plugin` (a module or object with hooks) counts as installed."""
    register(plugin, name)
    try:
        yield
    finally:
        with _lock:
            _registered.pop(name, None)


def register(plugin: Any, name: str) -> None:
    """Let `plugin` (a module or object with hooks) count as installed, for experiments and tests.

    Its distribution is "registered". Raises PluginError when the name is taken.
    """
    with _lock:
        if name in _registered:
            raise PluginError(f"A plugin named {name!r} is registered already. Choose another name.")
        _registered[name] = plugin


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
    function = _function(spec)
    try:
        return function(**arguments)
    except UnisepError:
        raise
    except ImportError as error:
        raise PluginError(
            f"'{spec.name}' needs a package that cannot be imported: {error}. Install it, or the plugin's extra."
        ) from error
    except Exception as error:
        raise kind(f"'{spec.name}' failed to load: {type(error).__name__}: {error}") from error


def _function(spec: Spec) -> Callable[..., Any]:
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
    if len(set(info.sources)) != len(info.sources):
        return f"sources names one twice: {', '.join(info.sources)}"
    return "" if info.normalisation in ("none", "song") else f"normalisation is {info.normalisation!r}"


def _read_entry_point(point: EntryPoint) -> Plugin:
    distribution = point.dist.name if point.dist else "unknown"
    version = point.dist.version if point.dist else ""
    return _read(point.name, distribution, version, point.load)


def _itself(module: Any) -> Any:
    return module


def _read(name: str, distribution: str, version: str, load: Callable[[], Any]) -> Plugin:
    try:
        specs = tuple(_specs(load(), name))
        for spec in specs:
            _check_spec(spec)
        other_api = next((spec for spec in specs if spec.plugin_api != PLUGIN_API), None)
    except (Exception, SystemExit):  # a plugin may do anything, even exit; the others must still be listed
        return Plugin(name, distribution, version, "broken", traceback.format_exc())
    if other_api is not None:
        return Plugin(name, distribution, version, "incompatible", _advice(other_api, distribution))
    return Plugin(name, distribution, version, "ok", specs=specs)


def _specs(module: Any, name: str) -> Iterable[Spec]:
    """What the hooks of one plugin return, through a pluggy manager of its own."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    for hook, kind in (
        (manager.hook.unisep_backends, BackendSpec),
        (manager.hook.unisep_encoders, EncoderSpec),
    ):
        for returned in hook():
            for spec in returned:
                if type(spec) is not kind:
                    raise TypeError(f"{hook.name} returned {spec!r}, which is no {kind.__name__}")
                yield spec


def _check_spec(spec: Spec) -> None:
    if spec.plugin_api != PLUGIN_API:
        return  # another version of the contract may have other rules
    texts = [spec.name, spec.load, spec.summary, spec.licence, spec.card]
    if not all(isinstance(text, str) for text in texts) or not _NAME.fullmatch(spec.name):
        raise ValueError(
            f"{spec!r}: its name must be of lower-case letters, digits, '-', '_', '.'; texts must be str"
        )
    if not _LOAD.fullmatch(spec.load) or (spec.card and ":" not in spec.card):
        raise ValueError(
            f"'{spec.name}': load must be 'package.module:function', card 'package:path/card.toml'"
        )
    names = (*spec.stems, *spec.spaces) if isinstance(spec, BackendSpec) else (spec.space, *spec.modalities)
    lists = (spec.stems, spec.spaces) if isinstance(spec, BackendSpec) else (spec.modalities,)
    if any(isinstance(given, str) for given in lists) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(
            f"'{spec.name}': stems, spaces and modalities are tuples of names, not a single text"
        )
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"'{spec.name}': give at least one stem or space, and none twice")
    if isinstance(spec, EncoderSpec) and not set(spec.modalities) <= {"text", "audio"}:
        raise ValueError(f"'{spec.name}': modalities are of 'text' and 'audio'")


def _advice(spec: Spec, distribution: str) -> str:
    what = "unisep" if isinstance(spec.plugin_api, int) and spec.plugin_api > PLUGIN_API else distribution
    return (
        f"'{spec.name}' was made for plugin API {spec.plugin_api}, this unisep has {PLUGIN_API}. "
        f"Upgrade {what}: pip install --upgrade {what}"
    )


def _spec_json(spec: Spec) -> dict[str, Any]:
    values = {"kind": "backend" if isinstance(spec, BackendSpec) else "encoder", **asdict(spec)}
    return {
        key: sorted(value)
        if isinstance(value, set | frozenset)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in values.items()
    }
