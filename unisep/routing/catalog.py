"""What is installed, with the state of its weights, found by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from unisep.errors import PluginError, suggest
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import clash
from unisep.plugins.specs import BackendSpec, EncoderSpec, ResultSpec, RouteSpec
from unisep.query.space_maps import MapCard

SpecT = TypeVar("SpecT", BackendSpec, EncoderSpec)


ExtraT = TypeVar("ExtraT", RouteSpec, ResultSpec)


PREFERRED = ("htdemucs", "htdemucs-film", "htdemucs_6s", "htdemucs_ft")


@dataclass(frozen=True)
class CatalogEntry(Generic[SpecT]):
    """A spec, the distribution it comes from, and its weights.

    weights: "none" (needs none), "embedded", "present", "missing", "broken" (its card cannot be read),
        or "local" (the user's own file).
    place: where the caller found the weights, a folder or a name on a hub; "" for those of the card.
    plugin: the name of the plugin of that distribution, or "".
    """

    spec: SpecT
    distribution: str
    weights: str
    place: str = ""
    plugin: str = ""

    @property
    def name(self) -> str:
        """The spec's name, with the place of the caller's own weights: "clap@./folder"."""
        return f"{self.spec.name}@{self.place}" if self.place else self.spec.name

    @property
    def is_here(self) -> bool:
        """Whether it can be loaded without a download."""
        return self.weights not in ("missing", "broken")

    @property
    def key(self) -> str:
        """The name that no other distribution can claim."""
        return f"{self.distribution}:{self.name}"


BackendEntry = CatalogEntry[BackendSpec]


EncoderEntry = CatalogEntry[EncoderSpec]


MapLookup = Callable[[str, str], MapCard | None]


WeightsState = Callable[[BackendSpec | EncoderSpec], str]


@dataclass(frozen=True)
class Extra(Generic[ExtraT]):
    """A routing rule or a step for results, and the distribution it comes from."""

    spec: ExtraT
    distribution: str

    @property
    def title(self) -> str:
        """How it is named in a plan or a message."""
        return f"'{self.spec.name}' of {self.distribution}"


def rank(entry: BackendEntry, here_first: bool = False) -> tuple[bool, int, str]:
    """Sort key: the default first. With `here_first`, those whose weights are here come before."""
    place = PREFERRED.index(entry.name) if entry.name in PREFERRED else len(PREFERRED)
    return (here_first and not entry.is_here, place, entry.name)


def _no_map(source: str, target: str) -> None:
    return None


@dataclass(frozen=True)
class Catalog:
    """Every offer of the plugins that work, and the plugins that do not.

    map_between: what is known of the map from one space to another, None where none was fitted.
    rules: asked in this order who answers a query. steps: what every result goes through, in this order.
    """

    backends: tuple[BackendEntry, ...]
    encoders: tuple[EncoderEntry, ...]
    broken: tuple[Plugin, ...] = ()
    map_between: MapLookup = _no_map
    rules: tuple[Extra[RouteSpec], ...] = ()
    steps: tuple[Extra[ResultSpec], ...] = ()

    def backend(self, name: str) -> BackendEntry:
        """The backend called `name` or `distribution:name`. Raises PluginError when there is none, or two."""
        return _find("backend", name, self.backends, self.broken)

    def encoder(self, name: str) -> EncoderEntry:
        """The encoder called `name` or `distribution:name`. Raises PluginError when there is none, or two."""
        return _find("encoder", name, self.encoders, self.broken)

    def usable_backends(self) -> list[BackendEntry]:
        """Backends whose name only one distribution claims; the others wait until they are asked for."""
        return _unique(self.backends)

    def usable_encoders(self) -> list[EncoderEntry]:
        """Encoders whose name only one distribution claims."""
        return _unique(self.encoders)

    def names(self, *, stems: bool) -> str:
        """Names for a message: of the backends with fixed stems, or else of those that answer queries."""
        entries = [o.name for o in self.backends if (o.spec.stems if stems else o.spec.spaces)]
        return ", ".join(sorted(set(entries))) or "none is installed"

    def broken_hint(self) -> str:
        """For a message: which plugins are installed and do not work, or are left out, or ""."""
        faulty = ", ".join(sorted({plugin.distribution for plugin in self.broken if plugin.is_faulty}))
        blocked = ", ".join(sorted({plugin.distribution for plugin in self.broken if not plugin.is_faulty}))
        hints = [f"{faulty} is installed but broken: see `unisep plugins`"] if faulty else []
        hints += [f"UNISEP_PLUGINS leaves out {blocked}"] if blocked else []
        return f" ({'; '.join(hints)})" if hints else ""


def catalog(plugins: Iterable[Plugin], own_weights: Collection[str], weights_state: WeightsState) -> Catalog:
    """The offers of `plugins`.

    own_weights: keys of the offers that load the caller's own file. weights_state: tells the state of
    the weights of any other spec.
    """
    plugins = tuple(plugins)

    def entry(spec: SpecT, plugin: Plugin) -> CatalogEntry[SpecT]:
        own = f"{plugin.distribution}:{spec.name}" in own_weights
        weights = "local" if own else weights_state(spec)
        return CatalogEntry(spec, plugin.distribution, weights, plugin=plugin.name)

    return Catalog(
        tuple(entry(spec, plugin) for plugin in plugins for spec in plugin.specs_of(BackendSpec)),
        tuple(entry(spec, plugin) for plugin in plugins for spec in plugin.specs_of(EncoderSpec)),
        tuple(plugin for plugin in plugins if plugin.state != "ok"),
        rules=tuple(Extra(spec, plugin.distribution) for plugin in plugins for spec in plugin.specs_of(RouteSpec)),
        steps=tuple(Extra(spec, plugin.distribution) for plugin in plugins for spec in plugin.specs_of(ResultSpec)),
    )


def _unique(entries: tuple[CatalogEntry[SpecT], ...]) -> list[CatalogEntry[SpecT]]:
    names = [entry.name for entry in entries]
    return [entry for entry in entries if names.count(entry.name) == 1]


def _find(
    kind: str, name: str, entries: tuple[CatalogEntry[SpecT], ...], broken: tuple[Plugin, ...]
) -> CatalogEntry[SpecT]:
    found = [entry for entry in entries if name in (entry.name, entry.key)]
    if len(found) == 1:
        return found[0]
    if found:
        owners = [(entry.distribution, entry.plugin) for entry in found]
        raise PluginError(clash(kind, found[0].name, owners))
    failed = "".join(f" The plugin '{p.name}' of {p.distribution} is {p.state}." for p in broken)
    advice = " Run `unisep plugins` to see why." if broken else ""
    raise PluginError(
        f"No {kind} named {name!r} is installed. {suggest(name, (entry.name for entry in entries))}{failed}{advice}"
    )
