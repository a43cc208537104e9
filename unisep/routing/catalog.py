"""The catalog: what is installed, with the state of its weights, found by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from unisep.errors import PluginError, WeightsError, arg, suggest
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import clash
from unisep.plugins.specs import BackendSpec, EncoderSpec, ResultSpec, RouteSpec
from unisep.query.concepts import Meaning
from unisep.weights.cards import read_card
from unisep.weights.presets import figures_at

if TYPE_CHECKING:
    from unisep.query.space_maps import MapCard  # loads NumPy

SpecT = TypeVar("SpecT", BackendSpec, EncoderSpec)
ExtensionT = TypeVar("ExtensionT", RouteSpec, ResultSpec)
PREFERRED = ("htdemucs", "htdemucs-film", "htdemucs_6s", "htdemucs_ft")


@dataclass(frozen=True)
class CatalogEntry(Generic[SpecT]):
    """A spec, the distribution and the plugin it comes from, and its weights.

    weights: "none" (needs none), "embedded", "present", "missing", "broken" (its card cannot be read), or "local" (the
    user's own). place: where the user's own weights are, a folder or a name on a hub; "" for those of the card.
    """

    spec: SpecT
    distribution: str
    weights: str
    place: str = ""
    plugin: str = ""

    @property
    def name(self) -> str:
        """The spec's name, with the place of the user's own weights: "clap@./folder"."""
        return f"{self.spec.name}@{self.place}" if self.place else self.spec.name

    @property
    def is_here(self) -> bool:
        """Whether it can be loaded without a download."""
        return self.weights not in ("missing", "broken")

    @property
    def licence(self) -> str:
        """That of its weights, as its spec says, or else its card: an SPDX expression, or "not stated"."""
        try:
            return self.spec.licence or (read_card(self.spec.card).licence if self.spec.card else "not stated")
        except WeightsError:
            return "not stated"

    @property
    def key(self) -> str:
        """The name that no other distribution can claim."""
        return f"{self.distribution}:{self.name}"


BackendEntry = CatalogEntry[BackendSpec]
EncoderEntry = CatalogEntry[EncoderSpec]
MapLookup = Callable[[str, str], "MapCard | None"]
EntryT = TypeVar("EntryT", BackendEntry, EncoderEntry, BackendEntry | EncoderEntry)
WeightsState = Callable[[BackendSpec | EncoderSpec], str]


@dataclass(frozen=True)
class Extension(Generic[ExtensionT]):
    """A routing rule or a step for results, and the distribution it comes from."""

    spec: ExtensionT
    distribution: str

    @property
    def title(self) -> str:
        """How it is named in a plan or a message."""
        return f"'{self.spec.name}' of {self.distribution}"


def rank(entry: BackendEntry) -> tuple[int, str]:
    """Return a sort key: the default first."""
    return (PREFERRED.index(entry.name) if entry.name in PREFERRED else len(PREFERRED), entry.name)


@dataclass(frozen=True)
class Catalog:
    """Every entry of the plugins that work, and the plugins that do not.

    map_between: looks up the card of the map from one space to another; None where none was fitted. quality: looks up, by the
    place of its card, a backend's published figures in dB by stem; those of all backends compare. meaning: says what a text
    means by the vectors of an encoder; None where none can tell. rules: asked in this order who answers a query. steps: what
    every result goes through, in this order. left_out: models whose licence the caller does not allow.
    """

    backends: tuple[BackendEntry, ...]
    encoders: tuple[EncoderEntry, ...]
    broken: tuple[Plugin, ...] = ()
    map_between: MapLookup = lambda source, target: None
    quality: Callable[[str], Mapping[str, float]] = figures_at
    meaning: Callable[[str], Meaning | None] = lambda text: None
    rules: tuple[Extension[RouteSpec], ...] = ()
    steps: tuple[Extension[ResultSpec], ...] = ()
    left_out: tuple[BackendEntry | EncoderEntry, ...] = ()

    def backend(self, name: str) -> BackendEntry:
        """Return the backend called `name` or `distribution:name`. Raise PluginError for none, or two."""
        return find("backend", name, self.backends, self.broken)

    def encoder(self, name: str) -> EncoderEntry:
        """Return the encoder called `name` or `distribution:name`. Raise PluginError for none, or two."""
        return find("encoder", name, self.encoders, self.broken)

    def usable_backends(self) -> list[BackendEntry]:
        """Return the backends whose name one distribution alone claims, the default first."""
        return sorted(_unique(self.backends), key=rank)

    def usable_encoders(self) -> list[EncoderEntry]:
        """Return the encoders whose name one distribution alone claims."""
        return _unique(self.encoders)

    def encoders_of(self, spaces: Collection[str]) -> str:
        """Return for a message the names of the encoders of one of `spaces`."""
        names = [entry.name for entry in self.usable_encoders() if entry.spec.space in spaces]
        return ", ".join(names) or "none is installed"

    def names(self, *, stems: bool) -> str:
        """Return names for a message: of the backends with fixed stems, or else of those that answer queries."""
        names = [entry.name for entry in self.backends if (entry.spec.stems if stems else entry.spec.spaces)]
        return ", ".join(sorted(set(names))) or "none is installed"

    def broken_hint(self) -> str:
        """Return for a message which plugins are installed and do not work, or are left out, or ""."""
        faulty = ", ".join(sorted({plugin.distribution for plugin in self.broken if plugin.is_faulty}))
        blocked = ", ".join(sorted({plugin.distribution for plugin in self.broken if not plugin.is_faulty}))
        hints = [f"{faulty} is installed but broken: see `unisep plugins`"] if faulty else []
        hints += [f"UNISEP_PLUGINS leaves out {blocked}"] if blocked else []
        hints += [self.left_out_hint({entry.name for entry in self.left_out})] if self.left_out else []
        return f" ({'; '.join(hints)})" if hints else ""

    def left_out_hint(self, names: Set[str | None]) -> str:
        """Return for a message which models, of those called `names`, are left out for their licence, or ""."""
        entries = [entry for entry in self.left_out if names & {entry.name, entry.key}]
        listed = [f"'{entry.name}' ({entry.licence})" for entry in sorted(entries, key=lambda entry: not entry.is_here)]
        listed[3:] = [f"{len(listed) - 3} others"] if len(listed) > 3 else []
        return f"{arg('licences')} leaves out {', '.join(listed)}" if listed else ""


def build_catalog(plugins: Iterable[Plugin], own_weights: Collection[str], weights_state: WeightsState) -> Catalog:
    """Build the catalog of `plugins`; `own_weights` are the keys of entries that load the user's own file."""
    plugins = tuple(plugins)

    def entry(spec: SpecT, plugin: Plugin) -> CatalogEntry[SpecT]:
        is_own = f"{plugin.distribution}:{spec.name}" in own_weights
        return CatalogEntry(spec, plugin.distribution, "local" if is_own else weights_state(spec), plugin=plugin.name)

    return Catalog(
        tuple(entry(spec, plugin) for plugin in plugins for spec in plugin.specs_of(BackendSpec)),
        tuple(entry(spec, plugin) for plugin in plugins for spec in plugin.specs_of(EncoderSpec)),
        tuple(plugin for plugin in plugins if plugin.state != "ok"),
        rules=tuple(Extension(spec, plugin.distribution) for plugin in plugins for spec in plugin.specs_of(RouteSpec)),
        steps=tuple(Extension(spec, plugin.distribution) for plugin in plugins for spec in plugin.specs_of(ResultSpec)),
        quality=cache(figures_at),  # a card is read once a catalog, not once a query
    )


def _unique(entries: tuple[CatalogEntry[SpecT], ...]) -> list[CatalogEntry[SpecT]]:
    names = [entry.name for entry in entries]
    return [entry for entry in entries if names.count(entry.name) == 1]


def find(kind: str, name: str, entries: tuple[EntryT, ...], broken: tuple[Plugin, ...] = ()) -> EntryT:
    """Return the entry called `name` or `distribution:name`. Raise PluginError for none, or two of one name."""
    matches = [entry for entry in entries if name in (entry.name, entry.key)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise PluginError(clash(kind, matches[0].name, [(entry.distribution, entry.plugin) for entry in matches]))
    failed = "".join(f" The plugin '{plugin.name}' of {plugin.distribution} is {plugin.state}." for plugin in broken)
    advice = " Run `unisep plugins` to see why." if broken else ""
    raise PluginError(
        f"No {kind} named {name!r} is installed. {suggest(name, (entry.name for entry in entries))}{failed}{advice}"
    )
