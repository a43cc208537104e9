"""Which plugins there are: installed, added by hand, allowed or blocked by UNISEP_PLUGINS."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

from unisep.errors import PluginError, suggest
from unisep.plugins import specs as hookspecs
from unisep.plugins.local import DISTRIBUTION as LOCAL
from unisep.plugins.local import has_hooks, read_local
from unisep.plugins.plugin import KINDS, Plugin, read, read_in_time

CHOICE, STRICT = "UNISEP_PLUGINS", "UNISEP_PLUGINS_STRICT"


@dataclass(frozen=True)
class Choice:
    """Names of plugins that are allowed or blocked: entry points, distributions, or distribution:entry point.

    allowed: only these, if there are any. blocked: never these. Both may hold `*`.

    >>> chosen = Choice.of("-htdemucs-film, -unisep-clap")
    >>> chosen.allows("htdemucs", "unisep-htdemucs"), chosen.allows("clap", "unisep-clap")
    (True, False)
    >>> Choice.of("htdemucs").allows("htdemucs-film", "unisep-film")
    False
    """

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> Choice:
        """The choice that `text` writes: names parted by commas, those to block with a `-` before them."""
        names = [name.strip() for name in text.split(",") if name.strip()]
        blocked = [name[1:].strip() for name in names if name.startswith("-")]
        return cls(tuple(name for name in names if not name.startswith("-")), tuple(blocked))

    def allows(self, name: str, distribution: str) -> bool:
        """Whether the entry point `name` of `distribution` may be read."""
        known = (name, distribution, f"{distribution}:{name}")
        wanted = not self.allowed or _any(known, self.allowed)
        return wanted and not _any(known, self.blocked)

    def unknown(self, plugins: Iterable[Plugin]) -> str:
        """A sentence on names that no plugin has, or ""."""
        found = list(plugins)
        names = [
            pattern
            for pattern in (*self.allowed, *self.blocked)
            if "*" not in pattern and not any(_any((p.name, p.distribution, p.key), (pattern,)) for p in found)
        ]
        known = [plugin.name for plugin in found]
        return f"{CHOICE} names {names[0]!r}, and no plugin is called so. {suggest(names[0], known)}" if names else ""


def choice_of_environment() -> str:
    """What UNISEP_PLUGINS says, "" for everything."""
    return os.environ.get(CHOICE, "").strip()


def strict_by_environment() -> bool:
    """Whether UNISEP_PLUGINS_STRICT asks that a problem with any plugin be an error."""
    return os.environ.get(STRICT, "").strip() not in ("", "0")


def problems(plugins: Iterable[Plugin]) -> list[str]:
    """A sentence for each plugin that does not work, each name that two claim, and a name that UNISEP_PLUGINS has wrong."""
    found = list(plugins)
    faults = [f"'{p.name}' of {p.distribution} is {p.state}: {p.complaint}" for p in found if p.is_faulty]
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for plugin in found:
        for spec in plugin.specs:
            owners[KINDS[type(spec)], spec.name].append(plugin.distribution)
    faults += [
        f"the {kind} '{name}' is claimed by {' and '.join(claimed)}"
        for (kind, name), claimed in owners.items()
        if len(claimed) > 1
    ]
    unknown = Choice.of(choice_of_environment()).unknown(found)
    return [*faults, unknown] if unknown else faults


def _any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


REGISTERED = "registered"


GIVEN = (LOCAL, REGISTERED)  # distributions that nobody installed, and that UNISEP_PLUGINS does not touch


_lock = threading.RLock()


_registered: dict[str, Any] = {}


_local: list[tuple[Plugin, ...]] = []


_listed: dict[str, tuple[Plugin, ...]] = {}


_strict = [False]


def installed(also: Sequence[Plugin] = (), *, strict: bool | None = None) -> tuple[Plugin, ...]:
    """Every installed plugin, read once a process and sorted by distribution and name; then those added by hand.

    also: more plugins, as `given` returns them; one of the same distribution and name takes the installed one's place.
    strict: whether a plugin that does not work, or a name claimed twice, is an error; None does as
        UNISEP_PLUGINS_STRICT and `strictly` say.

    Raises:
        PluginError: a problem, if strict. OptionError: UNISEP_PLUGINS_TIMEOUT is no number.
    """
    with _lock:
        chosen = choice_of_environment()
        if chosen not in _listed:
            _listed[chosen] = _read_all(Choice.of(chosen))
        own = [read(name, REGISTERED, "", partial(_itself, module)) for name, module in _registered.items()]
        own += [plugin for plugins in _local for plugin in plugins]
        found = _merged((*_listed[chosen], *own, *also))
    if strict or (strict is None and is_strict()):
        _refuse_problems(found)
    return found


def refresh() -> None:
    """Forget what was listed, so that newly installed plugins are seen."""
    with _lock:
        _listed.clear()


def is_strict() -> bool:
    """Whether a problem with any plugin is an error."""
    return _strict[-1] or strict_by_environment()


@contextmanager
def strictly() -> Iterator[None]:
    """A `with` block in which a problem with any plugin is an error."""
    _strict.append(True)
    try:
        yield
    finally:
        _strict.pop()


def given(plugins: Any) -> tuple[Plugin, ...]:
    """The plugins that the caller gives: files, folders, or modules and objects with hooks; or one of them.

    UNISEP_PLUGINS does not touch them, since they were asked for.

    Raises:
        PluginError: nothing is there, or it is no plugin or does not work; the message says why.
    """
    found = _given(plugins)
    for plugin in found:
        if plugin.state != "ok":
            raise PluginError(
                f"The plugin '{plugin.name}' is {plugin.state}: {plugin.complaint} "
                "`unisep plugins --verbose` with the same --plugin shows the whole traceback."
            )
    return found


@contextmanager
def using(*plugins: Any, must_work: bool = True) -> Iterator[None]:
    """A `with` block in which the files, folders, modules or objects count as installed, in the whole process.

    Raises:
        PluginError: nothing is there, or, unless `must_work` is False, what is there does not work.
    """
    found = given(plugins) if must_work else _given(plugins)
    with _lock:
        _local.append(found)
    try:
        yield
    finally:
        with _lock:
            _local[:] = [each for each in _local if each is not found]


@contextmanager
def registered(plugin: Any, name: str) -> Iterator[None]:
    """A `with` block in which `plugin` (a module or object with hooks) counts as installed."""
    register(plugin, name)
    try:
        yield
    finally:
        _registered.pop(name, None)


def register(plugin: Any, name: str) -> None:
    """Let `plugin` (a module or object with hooks) count as installed, for experiments and tests.

    Its distribution is "registered". Raises PluginError when the name is taken.
    """
    with _lock:
        if name in _registered:
            raise PluginError(f"A plugin named {name!r} is registered already. Choose another name.")
        _registered[name] = plugin


def clash(kind: str, name: str, owners: Sequence[tuple[str, str]]) -> str:
    """What to say of a name that several specs of one kind have: whose they are, and how to go on.

    owners: of each spec, the names of its distribution and its plugin.
    """
    distributions = [distribution for distribution, _ in owners]
    alone = [each for each in distributions if distributions.count(each) == 1]
    told = sorted({each if each in alone else _told(each, plugin) for each, plugin in owners})
    if len(told) == 1:
        return f"{told[0]} offers the {kind} {name!r} twice, so that neither can be chosen. Tell its author."
    ways = [f"choose one with {' or '.join(repr(f'{each}:{name}') for each in alone)}"] if alone else []
    ways.append("uninstall the other" if len(alone) == len(owners) else _leaving_out(owners, alone))
    advice = ", or ".join(ways)
    return f"{' and '.join(told)} both offer a {kind} named {name!r}. {advice[0].upper()}{advice[1:]}."


def _told(distribution: str, plugin: str) -> str:
    return f"{plugin}.py" if distribution == LOCAL else f"'{plugin}' of {distribution}"


def _leaving_out(owners: Sequence[tuple[str, str]], alone: Sequence[str]) -> str:
    """How to keep one of those that share a distribution, and that no name tells apart."""
    alike = [owner for owner in owners if owner[0] not in alone]
    if all(distribution in GIVEN for distribution, _ in alike):
        return "give only one of them with --plugin (plugins=)"
    return f"leave one out, as with {CHOICE}=-{':'.join(alike[0])}"


def _given(plugins: Any) -> tuple[Plugin, ...]:
    found: list[Plugin] = []
    for plugin in _each(plugins):
        if isinstance(plugin, Plugin):
            found.append(plugin)
        elif isinstance(plugin, str | Path) and plugin != "":
            found.extend(read_local(Path(plugin)))
        elif has_hooks(plugin):
            name = str(getattr(plugin, "__name__", type(plugin).__name__))
            found.append(read(name, REGISTERED, "", partial(_itself, plugin)))
        else:
            raise PluginError(
                f"{plugin!r:.80} is no plugin. Give a path (str or Path) to a .py file or a folder, or a module or "
                "object that has functions marked @unisep.hookimpl."
            )
    return _merged(found)


def _each(plugins: Any) -> Iterable[Any]:
    """The plugins of a list; what is one plugin by itself counts as a list of one."""
    is_one = isinstance(plugins, str | bytes | Plugin) or not isinstance(plugins, Iterable)
    return (plugins,) if is_one or has_hooks(plugins) else plugins


def _merged(plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Each plugin once, the last of those with one key; but objects of one name that offer different things are all kept."""
    merged: dict[str, Plugin] = {}
    for given in plugins:
        plugin = _numbered(given, merged)
        merged[plugin.key] = plugin
    return tuple(merged.values())


def _numbered(plugin: Plugin, taken: Mapping[str, Plugin]) -> Plugin:
    """The plugin; where it is an object whose name another has, with a number after its name."""
    if plugin.distribution != REGISTERED:
        return plugin
    stem = re.sub(r"-\d+$", "", plugin.name)
    names = (plugin.name, stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3)))
    each = [replace(plugin, name=name) for name in names]
    known = (one for one in each if taken.get(one.key) == one)
    return next(known, None) or next(one for one in each if one.key not in taken)


def _read_all(choice: Choice) -> tuple[Plugin, ...]:
    seen: set[str] = set()
    found: list[Plugin] = []
    for distribution in distributions():
        found += _read_distribution(distribution, choice, seen)
    unknown = choice.unknown(found)
    if unknown:
        warnings.warn(unknown, stacklevel=3)
    return tuple(sorted(found, key=lambda plugin: (plugin.distribution, plugin.name)))


def _read_distribution(distribution: Distribution, choice: Choice, seen: set[str]) -> list[Plugin]:
    """The plugins of one distribution; where the path holds two of one name, Python imports the first."""
    name, version = "unknown", ""
    try:
        points = distribution.entry_points.select(group=hookspecs.GROUP)
        if not points:
            return []
        name, version = distribution.metadata["Name"] or name, distribution.version or ""
    except Exception as error:  # a folder of metadata may be damaged in any way
        return [_damaged(distribution, name, error)] if _mentions_group(distribution) else []
    if name.casefold() in seen:
        return []
    seen.add(name.casefold())
    return [_read_point(point, name, version, choice) for point in points]


def _read_point(point: EntryPoint, distribution: str, version: str, choice: Choice) -> Plugin:
    if not choice.allows(point.name, distribution):
        why = f"{CHOICE}={choice_of_environment()!r} leaves it out."
        return Plugin(point.name, distribution, version, "blocked", why)
    return read_in_time(point.name, distribution, version, point.load)


def _mentions_group(distribution: Distribution) -> bool:
    try:
        return f"[{hookspecs.GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:  # what cannot be read says nothing of plugins
        return False


def _damaged(distribution: Distribution, name: str, error: Exception) -> Plugin:
    place = getattr(distribution, "_path", "")
    why = f"The metadata in {place} are damaged ({type(error).__name__}: {error}). Reinstall the distribution."
    return Plugin(Path(str(place)).stem.split("-")[0] or name, name, "", "broken", why)


def _refuse_problems(found: Sequence[Plugin]) -> None:
    said = problems(found)
    if said:
        raise PluginError(
            f"Plugins are held strictly ({STRICT} or --strict-plugins), and there are problems: {'; '.join(said)}. "
            f"Mend or uninstall them, or leave them out with {CHOICE}=-name."
        )


def _itself(module: Any) -> Any:
    return module
