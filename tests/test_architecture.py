"""The house as the blueprint draws it: imports point one way, modules stay short, plugins stay outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unisep

ROOT = Path(unisep.__file__).parent
MAX_LINES = 300

# From the ground up. A module may import modules of lower floors, and those before it on its own floor.
FLOORS = [
    ["errors"],
    ["audio"],
    ["progress", "cancelling"],
    [
        "small_file",
        "names",
        "naming",
        "sources",
        "formats",
        "headers",
        "ffmpeg",
        "tags",
        "stamps",
        "writing",
        "fileset",
        "files",
    ],
    ["convert"],
    ["segments", "chunks"],
    ["opening", "recording"],
    ["query", "request"],
    ["plan", "targets", "separation", "picture", "separated_files"],
    ["backend", "encoder", "extensions"],
    ["hookspecs"],
    ["plugins"],
    ["locks", "cards", "hub", "hashes", "download", "weights", "parameters", "described", "safe_yaml"],
    ["maps"],
    ["precision"],
    ["resolve"],
    [
        "heap",
        "buffers",
        "options",
        "vectors",
        "spans",
        "silence",
        "scale",
        "inference",
        "stepping",
        "lanes",
        "passes",
        "pipeline",
    ],
    ["aligned"],
    ["ensemble"],
    ["finishing", "results", "cost", "explaining"],
    ["to_disk", "places", "provenance", "loading", "planner", "stream", "separator"],
    ["captions", "alignment"],
    ["testing", "scaffold"],
    ["evaluation"],
    ["cli", "__main__"],
]
# Pairs of floors that stand side by side in the blueprint and must not know each other.
APART = [("files", "convert"), ("files", "chunks"), ("convert", "chunks"), ("plugins", "weights")]
LAZY = {("separation", "picture")}
LISTS = {"add_questions"}  # a declaration of options, one after the other; nothing to follow
FORBIDDEN = {"transformers", "torchaudio", "demucs", "torchvision"}
PLACE = {name: (floor, room) for floor, rooms in enumerate(FLOORS) for room, name in enumerate(rooms)}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, lazily or not, but not for type checking only."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            module = node.module or ""
            names |= {f"unisep.{alias.name}" for alias in node.names} if module == "unisep" else {module}
    return names


def own_modules(path: Path) -> set[str]:
    public = {name: home.removeprefix("unisep.") for name, home in unisep._HOME.items()}
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("unisep.")}
    return {public.get(part, part) for part in parts} - {"__version__"}


def test_every_module_has_its_place() -> None:
    assert {module_of(path) for path in FILES} <= set(PLACE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    module = module_of(path)
    for other in own_modules(path) - {module}:
        allowed = PLACE[other] < PLACE[module] or (module, other) in LAZY
        assert allowed, f"{module} must not import {other}, which stands above it"


def test_neighbours_do_not_know_each_other() -> None:
    reach = {
        module: set().union(*(own_modules(p) for p in FILES if module_of(p) == module)) for module in PLACE
    }
    for one, other in APART:
        assert other not in reach[one], f"{one} imports {other}"
        assert one not in reach[other], f"{other} imports {one}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_here_imports_a_plugin_or_a_peer(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not {top for top in tops if top.startswith("unisep_")}
    assert not tops & FORBIDDEN


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *FILES], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_drawers_for_odds_and_ends() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name not in LISTS:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            n_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert n_lines <= 40, f"{path.name}: {node.name} has {n_lines} lines"
