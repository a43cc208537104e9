"""Which plugins there are: installed, added by hand, allowed or blocked by `UNISEP_PLUGINS`."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from unisep.errors import PluginError, arg, suggest
from unisep.plugins.local import LOCAL, has_hooks, read_local
from unisep.plugins.plugin import Plugin, read, read_in_time
from unisep.plugins.specs import GROUP

CHOICE, STRICT = "UNISEP_PLUGINS", "UNISEP_PLUGINS_STRICT"
REGISTERED = "registered"
GIVEN = (LOCAL, REGISTERED)  # distributions that nobody installed, and that UNISEP_PLUGINS does not touch

_lock = threading.RLock()
_listed: dict[str, tuple[Plugin, ...]] = {}  # by the value of UNISEP_PLUGINS
_used: list[tuple[Plugin, ...]] = []
_strict = [False]


def installed(also: Sequence[Plugin] = (), *, strict: bool | None = None) -> tuple[Plugin, ...]:
    """Return every installed plugin, read once a process and sorted by distribution and name; then those added by hand.

    Plugins in `also`, as `given` returns them, take the place of installed ones of their distribution and name. If `strict`,
    by default as `is_strict` says, PluginError is raised for any of the `problems`.
    """
    with _lock:
        choice = _choice()
        if choice not in _listed:
            _listed[choice] = _read_installed(choice)
        by_hand = [plugin for plugins in _used for plugin in plugins]
        plugins = _merged((*_listed[choice], *by_hand, *also))
    must_work = is_strict() if strict is None else strict
    if must_work and (sentences := problems(plugins)):
        raise PluginError(
            f"Plugins are held strictly ({STRICT} or --strict-plugins), and there are problems: "
            f"{'; '.join(sentences)}. Mend or uninstall them, or leave them out with {CHOICE}=-name."
        )
    return plugins


def refresh() -> None:
    """Forget what was listed, so that newly installed plugins are seen."""
    with _lock:
        _listed.clear()


def given(plugins: Any) -> tuple[Plugin, ...]:
    """Return the plugins at paths to files or folders, or of modules or objects with hooks, read anew; one needs no list.

    Raises PluginError unless all of them work.
    """
    read_plugins = _read_given(plugins)
    for plugin in read_plugins:
        if plugin.state != "ok":
            advice = "`unisep plugins --verbose` with the same --plugin shows the whole traceback."
            raise PluginError(f"The plugin '{plugin.name}' is {plugin.state}: {plugin.complaint} {advice}")
    return read_plugins


@contextmanager
def using(*plugins: Any, must_work: bool = True) -> Iterator[None]:
    """Open a `with` block in which the files, folders, modules or objects count as installed, in the whole process.

    Raises PluginError where nothing is there, or, unless `must_work` is False, where it does not work.
    """
    read_plugins = given(plugins) if must_work else _read_given(plugins)
    with _lock:
        _used.append(read_plugins)
    try:
        yield
    finally:
        with _lock:
            _used[:] = [other for other in _used if other is not read_plugins]


@contextmanager
def registered(plugin: Any, name: str) -> Iterator[None]:
    """Open a `with` block in which `plugin` (a module or object with hooks) counts as installed, as "registered:name"."""
    with using(_read_object(plugin, name), must_work=False):
        yield


def register(plugin: Any, name: str) -> None:
    """Let `plugin` (a module or object with hooks) count as installed from now on, as "registered:name"."""
    with _lock:
        _used.append((_read_object(plugin, name),))


@contextmanager
def strictly() -> Iterator[None]:
    """Open a `with` block in which a problem with any plugin is an error."""
    _strict.append(True)
    try:
        yield
    finally:
        _strict.pop()


def is_strict() -> bool:
    """Tell whether a problem with any plugin is an error, by `strictly` or by `UNISEP_PLUGINS_STRICT`."""
    return _strict[-1] or os.environ.get(STRICT, "").strip() not in ("", "0")


def problems(plugins: Sequence[Plugin]) -> list[str]:
    """Return a sentence for each plugin that does not work, name that two claim, and name that UNISEP_PLUGINS has wrong."""
    sentences = [f"'{p.name}' of {p.distribution} is {p.state}: {p.complaint}" for p in plugins if p.is_faulty]
    owners: dict[str, list[str]] = defaultdict(list)
    for plugin in plugins:
        for spec in plugin.specs:
            owners[f"{spec.kind} '{spec.name}'"].append(plugin.distribution)
    shared = {claim: places for claim, places in owners.items() if len(places) > 1}
    sentences += [f"the {claim} is claimed by {' and '.join(places)}" for claim, places in shared.items()]
    unknown = _unknown_name(_choice(), plugins)
    return [*sentences, unknown] if unknown else sentences


def clash(kind: str, name: str, owners: Sequence[tuple[str, str]]) -> str:
    """Return what to say of a `name` that specs of one `kind` share; `owners` name their distributions and plugins."""
    labels = sorted({f"{plugin}.py" if place == LOCAL else f"'{plugin}' of {place}" for place, plugin in owners})
    if len(labels) == 1:
        return f"{labels[0]} offers the {kind} {name!r} twice, so that neither can be chosen. Tell its author."
    places = [place for place, _ in owners]
    selectors = [f"'{place}:{name}'" for place in places if places.count(place) == 1]
    if selectors:
        advice = f"Choose one with {' or '.join(selectors)}, or leave out the others."
    elif set(places) <= set(GIVEN):
        advice = f"Give only one of them with {arg('plugins')}."
    else:
        advice = f"Leave one out, as with {CHOICE}=-{':'.join(owners[0])}."
    return f"{' and '.join(labels)} both offer a {kind} named {name!r}. {advice}"


def _read_given(plugins: Any) -> tuple[Plugin, ...]:
    is_one = isinstance(plugins, str | bytes | Plugin) or not isinstance(plugins, Iterable) or has_hooks(plugins)
    return _merged(plugin for item in ([plugins] if is_one else plugins) for plugin in _read_one(item))


def _read_one(item: Any) -> tuple[Plugin, ...]:
    if isinstance(item, Plugin):
        return (item,)
    if isinstance(item, str | Path) and item != "":
        return read_local(Path(item))
    if has_hooks(item):
        return (_read_object(item, str(getattr(item, "__name__", type(item).__name__))),)
    raise PluginError(
        f"{item!r:.80} is no plugin. Give a path (str or Path) to a .py file or a folder, or a module or "
        "object that has functions marked @unisep.hookimpl."
    )


def _read_object(plugin: Any, name: str) -> Plugin:
    return read(Plugin(name, REGISTERED), lambda: plugin)


def _merged(plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Return each plugin once, the last of those with one key; objects of one name that differ are numbered, and kept."""
    merged: dict[str, Plugin] = {}
    for plugin in plugins:
        if plugin.distribution == REGISTERED:
            plugin = _numbered(plugin, merged)
        merged[plugin.key] = plugin
    return tuple(merged.values())


def _numbered(plugin: Plugin, others: Mapping[str, Plugin]) -> Plugin:
    """Return the one of `others` that is the same but for its number, or the plugin under the first name that is free."""
    stem = re.sub(r"-\d+$", "", plugin.name)
    names = (plugin.name, stem, *(f"{stem}-{n}" for n in range(2, len(others) + 3)))
    candidates = [replace(plugin, name=name) for name in names]
    same = [candidate for candidate in candidates if others.get(candidate.key) == candidate]
    return same[0] if same else next(candidate for candidate in candidates if candidate.key not in others)


def _read_installed(choice: str) -> tuple[Plugin, ...]:
    """Read the plugins of all distributions; where the path holds two of one name, Python imports the first."""
    names: set[str] = set()
    plugins: list[Plugin] = []
    for distribution in distributions():
        try:
            points = distribution.entry_points.select(group=GROUP)
            if not points:
                continue
            name, version = distribution.metadata["Name"] or "unknown", distribution.version or ""
        except Exception as error:  # a folder of metadata may be damaged in any way
            plugins += _damaged(distribution, error)
            continue
        if name.casefold() not in names:
            names.add(name.casefold())
            for point in points:
                plugin = Plugin(point.name, name, version)
                blocked = replace(plugin, state="blocked", error=f"{CHOICE}={choice!r} leaves it out.")
                plugins.append(read_in_time(plugin, point.load) if is_chosen(plugin, choice) else blocked)
    unknown = _unknown_name(choice, plugins)
    if unknown:
        warnings.warn(unknown, stacklevel=3)
    return tuple(sorted(plugins, key=lambda plugin: (plugin.distribution, plugin.name)))


def _damaged(distribution: Distribution, error: Exception) -> list[Plugin]:
    """Return a broken plugin for a distribution with damaged metadata, if it has plugins at all."""
    try:
        if f"[{GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
            return []
    except Exception:  # what cannot be read says nothing of plugins
        return []
    folder = Path(str(getattr(distribution, "_path", "")))
    complaint = f"The metadata in {folder} are damaged ({type(error).__name__}: {error}). Reinstall the distribution."
    return [Plugin(folder.stem.split("-")[0] or "unknown", "unknown", "", "broken", complaint)]


def is_chosen(plugin: Plugin, choice: str) -> bool:
    """Tell whether `choice`, the value of `UNISEP_PLUGINS`, lets the plugin be read.

    It holds names of entry points, of distributions, or `distribution:entry point`, parted by commas, with `*` for any
    letters; those with a `-` before them are blocked, and where there are others, only these are allowed.

    >>> clap = Plugin("clap", "unisep-clap")
    >>> is_chosen(clap, "htdemucs, cl*"), is_chosen(clap, "clap-mini"), is_chosen(clap, "clap, -unisep-clap")
    (True, False, False)
    """
    names = _choice_names(choice)
    allowed = [name for name in names if not name.startswith("-")]
    blocked = [name[1:].strip() for name in names if name.startswith("-")]
    return (not allowed or _matches(plugin, allowed)) and not _matches(plugin, blocked)


def _unknown_name(choice: str, plugins: Sequence[Plugin]) -> str:
    """Return a sentence on a name in `UNISEP_PLUGINS` that no plugin has, or ""."""
    for name in (name.removeprefix("-").strip() for name in _choice_names(choice)):
        if "*" not in name and not any(_matches(plugin, [name]) for plugin in plugins):
            return f"{CHOICE} names {name!r}, and no plugin is called so. {suggest(name, (p.name for p in plugins))}"
    return ""


def _choice() -> str:
    return os.environ.get(CHOICE, "").strip()


def _choice_names(choice: str) -> list[str]:
    return [name.strip() for name in choice.split(",") if name.strip()]


def _matches(plugin: Plugin, patterns: Iterable[str]) -> bool:
    names = (plugin.name, plugin.distribution, plugin.key)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
