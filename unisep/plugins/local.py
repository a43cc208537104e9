"""Plugins for experiments: a Python file, a distribution that is not installed, or a folder of both."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from unisep.errors import PluginError
from unisep.plugins.plugin import Plugin, read_in_time
from unisep.plugins.specs import GROUP

LOCAL = "local"  # the distribution of a file


def read_local(path: Path) -> tuple[Plugin, ...]:
    """Read the plugins at `path`: a file, a folder with a pyproject.toml, or a folder of such files and folders.

    The folder that a module lies in is added to the end of `sys.path`, so that `load` finds what lies beside it. Raises
    PluginError where there is no plugin.
    """
    path = Path(os.path.realpath(os.path.expanduser(path)))  # a link in a circle is nothing that is there
    if path.is_file():
        plugin = _read_file(path)
        plugins = [plugin] if plugin.specs or plugin.error or has_hooks(sys.modules[path.stem]) else []
        lack = "none of its functions is marked @unisep.hookimpl."
    elif (path / "pyproject.toml").is_file():
        plugins = list(_read_distribution(path))
        lack = (
            f"its pyproject.toml has no entry points. Add [project.entry-points.{GROUP}] with a line such as "
            'mine = "package.module", or give a .py file instead.'
        )
    elif path.is_dir():
        files = [file for file in sorted(path.glob("*.py")) if not file.name.startswith(("_", "test_", "conftest"))]
        projects = [file.parent for file in sorted(path.glob("*/pyproject.toml"))]
        candidates = [*map(_read_file, files), *chain.from_iterable(map(_read_distribution, projects))]
        plugins = [plugin for plugin in candidates if plugin.specs or plugin.error]
        lack = (
            f"no .py file with hooks, and no folder with a pyproject.toml that has entry points of the group '{GROUP}'."
        )
    else:
        raise PluginError(f"There is no file or folder {path} to read a plugin from.")
    if not plugins:
        raise PluginError(f"No plugin is in {path}: {lack}")
    return tuple(plugins)


def has_hooks(plugin: Any) -> bool:
    """Tell whether any function of the module or object is marked `@hookimpl`, of whatever name."""
    manager = pluggy.PluginManager(GROUP)
    try:
        return any(manager.parse_hookimpl_opts(plugin, name) is not None for name in dir(plugin))
    except Exception:  # an attribute that cannot be looked at; `read` says what is wrong
        return True


def _read_file(path: Path) -> Plugin:
    return read_in_time(Plugin(path.stem, LOCAL), partial(_import_file, path))


def _import_file(path: Path) -> ModuleType:
    """Import the file as a module of its own name, so that "name:function" in a spec leads back to it."""
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier():
        raise PluginError(f"{path.name} cannot be imported by its name. Rename it as module_name.py.")
    _add_to_path(path.parent)
    spec = find_spec(name)
    origin = (spec and spec.origin) or "a folder without __init__.py"
    if os.path.realpath(origin) != str(path):
        raise PluginError(f"There is a module named {name!r} already, in {origin}. Rename {path.name}.")
    return importlib.import_module(name)


def _read_distribution(folder: Path) -> Iterator[Plugin]:
    """Yield the plugins that the pyproject.toml in `folder` declares."""
    file = folder / "pyproject.toml"
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{file} cannot be read: {error}") from error
    project = _table(file, values, "project")
    distribution, version = str(project.get("name", folder.name)), str(project.get("version", ""))
    root = folder / "src" if (folder / "src").is_dir() else folder
    for name, value in _table(file, _table(file, project, "entry-points"), GROUP).items():
        if not isinstance(value, str):
            raise PluginError(f'{file}: the entry point {name!r} is {value!r}; write "package.module".')
        load = partial(_load_from, root, EntryPoint(name, value, GROUP))
        yield read_in_time(Plugin(name, distribution, version), load)


def _table(file: Path, values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the table of this name, empty where there is none."""
    table = values.get(name, {})
    if not isinstance(table, dict):
        advice = f'Entry points are lines such as mine = "package.module" below [project.entry-points.{GROUP}].'
        raise PluginError(f"{file}: {name!r} is {table!r:.80}, not a table. {advice}")
    return table


def _load_from(root: Path, point: EntryPoint) -> Any:
    """Load what the entry point names from `root`, and from nowhere else."""
    _add_to_path(root)
    sys.path.insert(0, str(root))
    try:
        loaded = point.load()
    finally:
        sys.path.remove(str(root))
    place = getattr(sys.modules[point.module], "__file__", None) or ""
    if not Path(place).resolve().is_relative_to(root):
        advice = f"Uninstall that one, or install this one: pip install -e {root}"
        raise PluginError(f"{point.module} is loaded already, from {place}. {advice}")
    return loaded


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may have been written a moment ago
