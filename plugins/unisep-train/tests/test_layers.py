"""The subpackages: few modules in each, imports that point down, functions of a readable length."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import unisep_train

ROOT = Path(unisep_train.__file__).parent
# From the ground up: a subpackage imports from those before it.
ORDER = ["data", "mixing", "rendering", "trainer", "tasks", "measuring"]
FILES = sorted(path for path in ROOT.glob("*/*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_and_functions_fit_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {module.split(".")[1] for module in modules if module.startswith("unisep_train.")}
    assert all(ORDER.index(package) <= ORDER.index(path.parent.name) for package in packages)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 40, function.name


def test_few_modules_in_a_subpackage() -> None:
    assert {path.parent.name for path in FILES} == set(ORDER)
    assert all(len([path for path in FILES if path.parent.name == package]) <= 9 for package in ORDER)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 450 for path in FILES)
