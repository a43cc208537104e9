"""The structure of the package: few subpackages, imports that point down, modules of a readable length."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unisep

ROOT = Path(unisep.__file__).parent
# From the ground up: a subpackage imports from those before it, and never from those after it.
ORDER = [
    "errors", "notebook", "audio", "progress", "picture",
    "plugins", "files", "weights", "query", "routing", "engine", "ensemble",
    "separation", "session", "live", "separator", "testing", "cli", "__main__",
]  # fmt: skip
MAX_MODULES_AT_THE_ROOT, MAX_PACKAGES, MAX_MODULES_IN_A_PACKAGE = 9, 11, 9
MAX_LINES, MAX_LINES_OF_A_FUNCTION, MAX_LINES_IN_ALL = 600, 40, 13_757
STEPS_UP = {"audio": {"files"}}  # Audio.save, when it is called
NO_NOUNS = {"asked", "each", "found", "given", "made", "own", "said", "told"}
FORBIDDEN = {"transformers", "torchaudio", "demucs", "torchvision"}
FILES = sorted(ROOT.rglob("*.py"))
PACKAGES = sorted({path.parent for path in FILES} - {ROOT})

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, lazily, or for its types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            module = node.module or ""
            names |= {f"unisep.{alias.name}" for alias in node.names} if module == "unisep" else {module}
    return names


def packages_imported(path: Path) -> set[str]:
    homes = {name: home.removeprefix("unisep.").split(".")[0] for name, home in unisep._HOME.items()}
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("unisep.")}
    return {homes.get(part, part) for part in parts} - {"__version__"}


@each_file
def test_imports_point_down(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":  # the names of the package are looked up on first use
        return
    above = {other for other in packages_imported(path) if ORDER.index(other) > ORDER.index(package)} - STEPS_UP.get(
        package, set()
    )
    assert not above, f"{package} must not import {above}: it stands above"


def test_the_core_stays_small() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= MAX_LINES_IN_ALL


def test_few_packages_and_few_modules_in_each() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MAX_MODULES_AT_THE_ROOT
    assert len(PACKAGES) <= MAX_PACKAGES
    for package in PACKAGES:
        assert len([path for path in package.glob("*.py") if path.name != "__init__.py"]) <= MAX_MODULES_IN_A_PACKAGE


@each_file
def test_nothing_here_imports_a_plugin_or_a_peer(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not {top for top in tops if top.startswith("unisep_")}
    assert not tops & FORBIDDEN


@each_file
def test_modules_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_no_drawers_for_odds_and_ends() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}


@each_file
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            n_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert n_lines <= MAX_LINES_OF_A_FUNCTION, f"{path.name}: {node.name} has {n_lines} lines"


@each_file
def test_docstrings_say_what_is_done(path: Path) -> None:
    """Ruff asks for the imperative; these it lets pass."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = (ast.get_docstring(node) or "").split(" ")[0].rstrip(".;,:")
            assert first != "Nothing", f"{path.name}: {getattr(node, 'name', 'the module')}"
            is_property = any("property" in ast.unparse(mark) for mark in getattr(node, "decorator_list", []))
            if isinstance(node, ast.FunctionDef) and not is_property:
                assert first not in ("Whether", "What", "Where", "How", "Which"), f"{path.name}: {node.name}"


@each_file
def test_variables_are_nouns(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = node.arg if isinstance(node, ast.arg) else ""
        name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else name
        assert name not in NO_NOUNS, f"{path.name}, line {getattr(node, 'lineno', 0)}: {name}"
