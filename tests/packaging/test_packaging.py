"""Wheels of the core and of a plugin hold what they must; `make dist` checks all of them, and sdists, installed."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).with_name("check.py")))
BUILT = ("unisep", "unisep-align")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Project -> wheel; built from copies, since building leaves its traces, and without a network."""
    place = tmp_path_factory.mktemp("wheels")
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(place))
    made = {}
    for project in CHECK["projects"]():
        if project.name in BUILT:
            copy = place / "source" / project.name
            shutil.copytree(project.folder / project.package, copy / project.package)
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(project.folder / name, copy)
            subprocess.run((*command, *options, str(copy)), check=True)
            (made[project],) = place.glob(f"{project.package}-{project.version}-*.whl")
    assert len(made) == len(BUILT)
    return made


def test_wheels_are_complete(wheels):
    assert [CHECK["check_wheel"](wheel, project) for project, wheel in wheels.items()] == [[], []]


@pytest.mark.parametrize(
    ("dropped", "added", "problem"),
    [
        ("unisep_align/captions.txt", None, "captions.txt is missing"),
        ("unisep_align/py.typed", None, "py.typed is missing"),
        ("unisep_align-0.1.0.dist-info/licenses/LICENSE", None, "the licence is missing"),
        ("unisep_align-0.1.0.dist-info/entry_points.txt", None, "no entry point"),
        (None, "unisep_align/tests/test_x.py", "test_x.py is a test"),
        (None, "tests/conftest.py", "conftest.py does not belong there"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_told(wheels, tmp_path, dropped, added, problem):
    project, wheel = next(item for item in wheels.items() if item[0].name == "unisep-align")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(tmp_path / wheel.name, "w") as target:
        for name in source.namelist():
            if name != dropped:
                target.writestr(name, source.read(name))
        if added:
            target.writestr(added, "")
    assert problem in "\n".join(CHECK["check_wheel"](tmp_path / wheel.name, project))


def test_every_distribution_is_expected_in_one_version(tmp_path):
    projects = CHECK["projects"]()
    assert len({project.version for project in projects}) == 1
    (tmp_path / "other-1.0.tar.gz").write_bytes(b"")
    problems = CHECK["check_folder"](tmp_path, projects)
    assert len(problems) == 2 * len(projects) + 1 and "other-1.0.tar.gz is not of this checkout" in problems


def test_an_editable_install_is_a_plain_path(tmp_path):
    """What mypy, pyright and editors follow; they do not run the import hooks that setuptools writes otherwise."""
    project = next(project for project in CHECK["projects"]() if project.name == "unisep-align")
    shutil.copytree(project.folder / project.package, tmp_path / project.package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project.folder / name, tmp_path)
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    subprocess.run((sys.executable, "-c", build, "dist"), cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist() if "dist-info" not in name}
    assert [Path(content.strip()) for content in files.values()] == [tmp_path]
    assert all(name.endswith(".pth") for name in files)


def test_every_distribution_and_every_template_is_editable_so():
    patterns = ("pyproject.toml", "*/*/pyproject.toml", "unisep/cli/templates/*/pyproject.toml.txt")
    definitions = [path for pattern in patterns for path in CHECK["ROOT"].glob(pattern)]
    assert len(definitions) >= len(CHECK["projects"]()) + 3
    for definition in definitions:
        values = tomllib.loads(definition.read_text(encoding="utf-8").replace("$", ""))
        assert values["tool"]["setuptools"]["package-dir"] == {"": "."}, definition


def test_every_distribution_carries_the_licence():
    assert len({(project.folder / "LICENSE").read_bytes() for project in CHECK["projects"]()}) == 1
