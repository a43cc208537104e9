"""Plugins for experiments: a Python file, a distribution that is not installed, or a folder of both."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from unisep.errors import PluginError
from unisep.plugins import specs as hookspecs
from unisep.plugins.plugin import Plugin, read

DISTRIBUTION = "local"


def read_local(path: Path) -> tuple[Plugin, ...]:
    """The plugins at `path`, of the distribution "local" or of the one whose pyproject.toml is there.

    path: a file, a folder with a pyproject.toml, or a folder of such files and folders. The folder that
    a module lies in is added to the end of `sys.path`, so that `load` finds what lies beside it.

    Raises:
        PluginError: nothing is there, or no plugin in it.
    """
    path = Path(os.path.expanduser(path)).resolve()
    if path.is_file():
        return (_one_file(path),)
    if (path / "pyproject.toml").is_file():
        return _one_distribution(path)
    if not path.is_dir():
        raise PluginError(f"There is no file or folder {path} to read a plugin from.")
    files = [file for file in sorted(path.glob("*.py")) if not file.name.startswith(("_", "test_", "conftest"))]
    found = [_file(file) for file in files]
    found += [plugin for inner in sorted(path.glob("*/pyproject.toml")) for plugin in _distribution(inner.parent)]
    offering = tuple(plugin for plugin in found if plugin.specs or plugin.error)
    if not offering:
        raise PluginError(
            f"No plugin is in {path}: no .py file with hooks, and no folder with a pyproject.toml "
            f"that has entry points of the group '{hookspecs.GROUP}'."
        )
    return offering


def has_hooks(plugin: Any) -> bool:
    """Whether any function of the module or object is marked @hookimpl, of whatever name."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    try:
        return any(manager.parse_hookimpl_opts(plugin, name) is not None for name in dir(plugin))
    except Exception:  # an attribute that cannot be looked at; `read` says what is wrong
        return True


def _one_file(path: Path) -> Plugin:
    plugin = _file(path)
    if plugin.state == "ok" and not plugin.specs and not has_hooks(sys.modules[path.stem]):
        raise PluginError(f"No plugin is in {path}: none of its functions is marked @unisep.hookimpl.")
    return plugin


def _one_distribution(folder: Path) -> tuple[Plugin, ...]:
    found = tuple(_distribution(folder))
    if not found:
        raise PluginError(
            f"No plugin is in {folder}: its pyproject.toml has no entry points. Add [project.entry-points."
            f'{hookspecs.GROUP}] with a line such as mine = "package.module", or give a .py file instead.'
        )
    return found


def _file(path: Path) -> Plugin:
    return read(path.stem, DISTRIBUTION, "", partial(_module, path))


def _distribution(folder: Path) -> Iterator[Plugin]:
    file = folder / "pyproject.toml"
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{file} cannot be read: {error}") from error
    project = _table(file, values, "project")
    points = _table(file, _table(file, project, "entry-points"), hookspecs.GROUP)
    root = folder / "src" if (folder / "src").is_dir() else folder
    for name, value in points.items():
        if not isinstance(value, str):
            raise PluginError(f'{file}: the entry point {name!r} is {value!r}; write "package.module".')
        point = EntryPoint(name, value, hookspecs.GROUP)
        version = str(project.get("version", ""))
        yield read(name, str(project.get("name", folder.name)), version, partial(_point, point, root))


def _table(file: Path, values: dict[str, Any], name: str) -> dict[str, Any]:
    """The table of this name, empty where there is none. Raises PluginError where something else has the name."""
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise PluginError(
            f"{file}: {name!r} is {table!r:.80}, not a table. Entry points are lines such as "
            f'mine = "package.module" below [project.entry-points.{hookspecs.GROUP}].'
        )
    return table


def _point(point: EntryPoint, root: Path) -> Any:
    """What the entry point names, from `root` and from nowhere else."""
    with _found_from(root, first=True):
        loaded = point.load()
    place = getattr(sys.modules[point.module], "__file__", None) or ""
    if not Path(place).resolve().is_relative_to(root):
        raise PluginError(
            f"{point.module} is loaded already, from {place}. Uninstall that one, or install this one: "
            f"pip install -e {root}"
        )
    return loaded


def _module(path: Path) -> ModuleType:
    """The file as a module of its own name, so that "name:function" in a spec leads back to it."""
    name = path.stem
    if path.suffix != ".py" or not name.isidentifier():
        raise PluginError(f"{path.name} cannot be imported by its name. Rename it as module_name.py.")
    place = _place_of(name)
    if place and Path(place).resolve() != path:
        raise PluginError(f"There is a module named {name!r} already, in {place}. Rename {path.name}.")
    if name in sys.modules:
        return sys.modules[name]
    with _found_from(path.parent):
        return _imported(name, path)


def _place_of(name: str) -> str:
    """Where a module of this name comes from; "" where there is none."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) or "Python itself"
    found = find_spec(name)
    return "" if found is None else found.origin or "a folder without __init__.py"


def _imported(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is no Python file.")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _found_from(folder: Path, *, first: bool = False) -> Iterator[None]:
    """A `with` block in which modules are found in `folder`, before all others if `first`; and last from then on."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    if not first:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
