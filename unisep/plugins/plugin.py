"""One plugin: what is known of it, read within a time limit and checked."""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import pluggy

from unisep.errors import FAILURES, OptionError
from unisep.plugins import specs as hookspecs
from unisep.plugins.specs import (
    PLUGIN_API,
    PRECISIONS,
    RESERVED_NAMES,
    BackendSpec,
    CommandSpec,
    EncoderSpec,
    ModelSpec,
    ResultSpec,
    RouteSpec,
    Spec,
    is_reserved,
)

DEFAULT_TIMEOUT_SECONDS = 30.0
SPEC_KINDS = (BackendSpec, EncoderSpec, CommandSpec, RouteSpec, ResultSpec)

State = Literal["ok", "broken", "incompatible", "blocked"]
SpecT = TypeVar("SpecT", bound=Spec)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LOAD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `unisep`, or one local file: its specs if it is "ok", or what went wrong.

    It is "incompatible" if made for another plugin API, and "blocked", and not imported, if `UNISEP_PLUGINS` leaves it out.
    `error` is the traceback, or what to do.
    """

    name: str
    distribution: str
    version: str = ""
    state: State = "ok"
    error: str = ""
    specs: tuple[Spec, ...] = ()

    @property
    def key(self) -> str:
        """The name that no other distribution can claim."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_faulty(self) -> bool:
        """Whether something is wrong with it that somebody should mend."""
        return self.state in ("broken", "incompatible")

    @property
    def complaint(self) -> str:
        """The last line of what went wrong, or ""."""
        return self.error.strip().rpartition("\n")[2]

    def to_json(self) -> dict[str, Any]:
        """Return the plugin as plain values; keys name, distribution, version, state, error, specs."""
        specs = [
            {"kind": spec.kind, **{name: _plain(value) for name, value in vars(spec).items()}} for spec in self.specs
        ]
        return {**vars(self), "error": self.error or None, "specs": specs}

    def specs_of(self, kind: type[SpecT]) -> tuple[SpecT, ...]:
        """Return the specs of one kind, such as `BackendSpec`."""
        return tuple(spec for spec in self.specs if isinstance(spec, kind))


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def read(plugin: Plugin, load: Callable[[], Any], failures: tuple[type[BaseException], ...] = FAILURES) -> Plugin:
    """Return `plugin` with the specs that its hooks return; `load` imports the module or object that has them.

    Whatever happens on the way, of the kinds of `failures`, makes the plugin "broken", even an exit.
    """
    try:
        specs = tuple(_specs(load(), plugin.name))
        foreign = next((spec for spec in specs if spec.plugin_api != PLUGIN_API), None)
        if foreign is not None:  # another version of the contract may have other rules
            return replace(plugin, state="incompatible", error=_upgrade_advice(foreign, plugin.distribution))
        for spec in specs:
            _check(spec)
    except failures:
        return replace(plugin, state="broken", error=traceback.format_exc())
    return replace(plugin, specs=specs)


def read_in_time(plugin: Plugin, load: Callable[[], Any]) -> Plugin:
    """Read a plugin as `read` does, in a thread of its own that is given up after `UNISEP_PLUGINS_TIMEOUT` seconds."""
    timeout_seconds = _timeout_seconds()
    results: list[Plugin] = []

    def run() -> None:  # in a thread of the plugin's own, even an interrupt is its own doing
        results.append(read(plugin, load, failures=(BaseException,)))

    thread = threading.Thread(target=run, name=f"plugin {plugin.name}", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if results:
        return results[0]
    error = (
        f"It was not read within {timeout_seconds:g} s. A hook module must import nothing heavy; tell its author. To wait "
        f"longer, set UNISEP_PLUGINS_TIMEOUT to a number of seconds; to go without, UNISEP_PLUGINS=-{plugin.name}, or no --plugin for it."
    )
    return replace(plugin, state="broken", error=error)


def _timeout_seconds() -> float:
    text = os.environ.get("UNISEP_PLUGINS_TIMEOUT", "").strip()
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise OptionError(f"UNISEP_PLUGINS_TIMEOUT={text!r}: give a number of seconds above 0.")
    return seconds


def _specs(module: Any, name: str) -> Iterator[Spec]:
    """Yield what the hooks of one plugin return, through a pluggy manager of its own."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    for kind in SPEC_KINDS:
        hook = getattr(manager.hook, f"unisep_{kind.kind}s")
        for specs in hook():
            for spec in specs:
                if type(spec) is not kind:
                    raise TypeError(f"{hook.name} returned {spec!r}, which is no {kind.__name__}")
                yield spec


def _check(spec: Spec) -> None:
    """Raise ValueError unless what `spec` declares can be right."""
    texts = [getattr(spec, field.name) for field in fields(spec) if field.type == "str"]
    if not all(isinstance(text, str) for text in texts) or not _NAME.fullmatch(spec.name):
        raise ValueError(f"{spec!r}: its name must be of lower-case letters, digits, '-', '_', '.'; texts must be str")
    if not _LOAD.fullmatch(spec.load):
        raise ValueError(f"'{spec.name}': load must be 'package.module:function'")
    if isinstance(spec, ModelSpec) and spec.card and ":" not in spec.card:
        raise ValueError(f"'{spec.name}': card must be 'package:path/card.toml'")
    if isinstance(spec, BackendSpec):
        _check_backend(spec)
    if isinstance(spec, EncoderSpec):
        is_set = isinstance(spec.modalities, frozenset)
        if not spec.space or not is_set or not spec.modalities <= {"text", "audio"}:
            raise ValueError(f"'{spec.name}': give a space, and modalities as a set of 'text' and 'audio'")


def _check_backend(spec: BackendSpec) -> None:
    names = (*spec.stems, *spec.spaces)
    are_tuples = isinstance(spec.stems, tuple) and isinstance(spec.spaces, tuple)
    if not are_tuples or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"'{spec.name}': stems and spaces are tuples of names")
    if len(set(names)) != len(names) or bool(names) == spec.reads_files:
        raise ValueError(f"'{spec.name}': give at least one stem or space, none twice; none with reads_files")
    if any(map(is_reserved, spec.stems)):
        raise ValueError(f"'{spec.name}': {' and '.join(RESERVED_NAMES)} are results of unisep's own, and no stems")
    if not set(spec.auto_precision.values()) <= PRECISIONS:
        raise ValueError(f"'{spec.name}': auto_precision maps kinds of device to {' or '.join(sorted(PRECISIONS))}")


def _upgrade_advice(spec: Spec, distribution: str) -> str:
    outdated = "unisep" if isinstance(spec.plugin_api, int) and spec.plugin_api > PLUGIN_API else distribution
    return (
        f"'{spec.name}' was made for plugin API {spec.plugin_api}, this unisep has {PLUGIN_API}. "
        f"Upgrade {outdated}: pip install --upgrade {outdated}"
    )
