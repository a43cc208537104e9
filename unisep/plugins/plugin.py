"""One plugin: what is known of it, read within a time limit and checked."""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import pluggy

from unisep.errors import OptionError
from unisep.plugins import specs as hookspecs
from unisep.plugins.specs import (
    PLUGIN_API,
    PRECISIONS,
    RESERVED_NAMES,
    BackendSpec,
    CommandSpec,
    EncoderSpec,
    ResultSpec,
    RouteSpec,
    is_reserved,
)

Spec = BackendSpec | EncoderSpec | CommandSpec | RouteSpec | ResultSpec


SpecT = TypeVar("SpecT", BackendSpec, EncoderSpec, CommandSpec, RouteSpec, ResultSpec)


State = Literal["ok", "broken", "incompatible", "blocked"]


KINDS: dict[type[Spec], str] = {
    BackendSpec: "backend",
    EncoderSpec: "encoder",
    CommandSpec: "command",
    RouteSpec: "route",
    ResultSpec: "result",
}


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `unisep`, or one local file: what it offers, or what went wrong.

    name: of the entry point. state: "ok", "broken" (error holds the traceback), "incompatible" (made for
    another plugin API; error says what to upgrade) or "blocked" (UNISEP_PLUGINS leaves it out; it was not imported).
    """

    name: str
    distribution: str
    version: str
    state: State
    error: str = ""
    specs: tuple[Spec, ...] = ()

    @property
    def backends(self) -> tuple[BackendSpec, ...]:
        """What it can separate with."""
        return self._of(BackendSpec)

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """What it can turn into an Embedding."""
        return self._of(EncoderSpec)

    @property
    def models(self) -> tuple[BackendSpec | EncoderSpec, ...]:
        """What may have weights."""
        return (*self.backends, *self.encoders)

    @property
    def commands(self) -> tuple[CommandSpec, ...]:
        """What it adds to the command line."""
        return self._of(CommandSpec)

    @property
    def routes(self) -> tuple[RouteSpec, ...]:
        """The rules by which it sends queries somewhere."""
        return self._of(RouteSpec)

    @property
    def results(self) -> tuple[ResultSpec, ...]:
        """The steps that it puts results through."""
        return self._of(ResultSpec)

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
        return self.error.strip().splitlines()[-1] if self.error.strip() else ""

    def to_json(self) -> dict[str, Any]:
        """The plugin as plain values; keys name, distribution, version, state, error, specs."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "error": self.error or None, "specs": [_spec_json(spec) for spec in self.specs]}

    def _of(self, kind: type[SpecT]) -> tuple[SpecT, ...]:
        return tuple(spec for spec in self.specs if isinstance(spec, kind))


def licence(spec: Spec) -> str:
    """The licence of the spec's weights; "" for what has none to state."""
    return spec.licence if isinstance(spec, BackendSpec | EncoderSpec) else ""


def _spec_json(spec: Spec) -> dict[str, Any]:
    return {"kind": KINDS[type(spec)], **{each.name: _plain(getattr(spec, each.name)) for each in fields(spec)}}


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


DEFAULT_LIMIT_SECONDS = 30.0


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


_LOAD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def read(name: str, distribution: str, version: str, load: Callable[[], Any]) -> Plugin:
    """The plugin whose module `load` gives; whatever it does is caught, even an exit."""
    try:
        specs = tuple(_specs(load(), name))
        for spec in specs:
            _check(spec)
        other_api = next((spec for spec in specs if spec.plugin_api != PLUGIN_API), None)
    except (Exception, SystemExit):  # a plugin may do anything, even exit; the others must still be listed
        return Plugin(name, distribution, version, "broken", traceback.format_exc())
    if other_api is not None:
        return Plugin(name, distribution, version, "incompatible", _advice(other_api, distribution))
    return Plugin(name, distribution, version, "ok", specs=specs)


def read_in_time(name: str, distribution: str, version: str, load: Callable[[], Any]) -> Plugin:
    """As `read`, in a thread of its own that is given up after UNISEP_PLUGINS_TIMEOUT seconds.

    Raises:
        OptionError: UNISEP_PLUGINS_TIMEOUT is no number of seconds.
    """
    limit_seconds = _limit_seconds()
    found: list[Plugin] = []

    def run() -> None:
        try:
            found.append(read(name, distribution, version, load))
        except BaseException:  # in a thread of the plugin's own, even an interrupt is its own doing
            found.append(Plugin(name, distribution, version, "broken", traceback.format_exc()))

    thread = threading.Thread(target=run, name=f"plugin {name}", daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if found:
        return found[0]
    return Plugin(
        name,
        distribution,
        version,
        "broken",
        f"It was not read within {limit_seconds:g} s. A hook module must import nothing heavy; tell its author. "
        "To wait longer, set UNISEP_PLUGINS_TIMEOUT to a number of seconds; "
        f"to leave it out, UNISEP_PLUGINS=-{name}.",
    )


def _limit_seconds() -> float:
    text = os.environ.get("UNISEP_PLUGINS_TIMEOUT", "").strip()
    try:
        limit_seconds = float(text) if text else DEFAULT_LIMIT_SECONDS
    except ValueError:
        limit_seconds = 0.0
    if not 0 < limit_seconds <= threading.TIMEOUT_MAX:
        raise OptionError(f"UNISEP_PLUGINS_TIMEOUT={text!r}: give a number of seconds above 0.")
    return limit_seconds


def _specs(module: Any, name: str) -> Iterable[Spec]:
    """What the hooks of one plugin return, through a pluggy manager of its own."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()
    for kind, word in KINDS.items():
        hook = getattr(manager.hook, f"unisep_{word}s")
        for returned in hook():
            for spec in returned:
                if type(spec) is not kind:
                    raise TypeError(f"{hook.name} returned {spec!r}, which is no {kind.__name__}")
                yield spec


def _check(spec: Spec) -> None:
    if spec.plugin_api != PLUGIN_API:
        return  # another version of the contract may have other rules
    texts = [spec.name, spec.load, spec.summary]
    if isinstance(spec, BackendSpec | EncoderSpec):
        texts += [spec.licence, spec.card]
    if not all(isinstance(text, str) for text in texts) or not _NAME.fullmatch(spec.name):
        raise ValueError(f"{spec!r}: its name must be of lower-case letters, digits, '-', '_', '.'; texts must be str")
    if not _LOAD.fullmatch(spec.load):
        raise ValueError(f"'{spec.name}': load must be 'package.module:function'")
    if isinstance(spec, BackendSpec | EncoderSpec):
        _check_model(spec)


def _check_model(spec: BackendSpec | EncoderSpec) -> None:
    if spec.card and ":" not in spec.card:
        raise ValueError(f"'{spec.name}': card must be 'package:path/card.toml'")
    lists = (spec.stems, spec.spaces) if isinstance(spec, BackendSpec) else (spec.modalities,)
    own = () if isinstance(spec, BackendSpec) else (spec.space,)
    names = (*own, *(name for given in lists if isinstance(given, tuple | frozenset) for name in given))
    are_lists = all(isinstance(given, tuple | frozenset) for given in lists)
    if not are_lists or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"'{spec.name}': stems and spaces are tuples of names, modalities a set of them")
    if isinstance(spec, BackendSpec) and any(map(is_reserved, spec.stems)):
        raise ValueError(f"'{spec.name}': {' and '.join(RESERVED_NAMES)} are results of unisep's own, and no stems")
    if isinstance(spec, BackendSpec) and not set(spec.auto_precision.values()) <= PRECISIONS:
        raise ValueError(f"'{spec.name}': auto_precision maps kinds of device to {' or '.join(sorted(PRECISIONS))}")
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
