"""What a user's type checker says of unisep: wrong calls are found, right ones are left alone, however it is installed."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from types import FunctionType

import pytest

import unisep
from unisep import files
from unisep.testing import noise, tone, toy_plugin

SCRIPTS = Path(__file__).with_name("typed")
Complaints = dict[tuple[str, int], str]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, from which the checkout cannot be seen."""
    folder = tmp_path_factory.mktemp("types")
    for script in SCRIPTS.glob("*.py"):
        shutil.copy(script, folder)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    return folder


@pytest.fixture(scope="module", params=["editable", "wheel"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of the tests, where unisep is editable; or one of its own with the wheel and all else of the first."""
    if request.param == "editable":
        return Path(sys.executable)
    place = tmp_path_factory.mktemp("wheel")
    root = runpy.run_path(str(Path(__file__).with_name("check.py")))["ROOT"]
    shutil.copytree(root / "unisep", place / "source" / "unisep")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, place / "source")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run((sys.executable, "-c", build, str(place)), cwd=place / "source", check=True, capture_output=True)
    venv.create(place / "venv")
    (site,) = (place / "venv").glob("[Ll]ib/**/site-packages")
    with zipfile.ZipFile(*place.glob("unisep-*.whl")) as wheel:
        wheel.extractall(site)
    # a path in a .pth file brings no .pth files of its own, so the editable install stays out
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return next(path for path in (place / "venv").glob("*/python*") if path.stem == "python")


def test_unisep_is_where_it_should_be(python: Path, desk: Path) -> None:
    script = "import unisep, pathlib; print(pathlib.Path(unisep.__file__).parents[1])"
    found = run([python, "-c", script], desk).strip()
    assert ("site-packages" in found) == (python != Path(sys.executable))
    assert Path(found, "unisep", "py.typed").exists()


def run(command: list[str | Path], desk: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MYPY", "PYTHON"))}
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 1), f"{done.stdout}{done.stderr}"
    return done.stdout


def by_mypy(python: Path, desk: Path) -> Complaints:
    options = (
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        desk / "cache",
    )  # what both installs share is read once
    text = run([sys.executable, "-m", "mypy", *options, "good.py", "bad.py"], desk)
    lines = re.findall(r"^(\S+?):(\d+): error: (.*)$", text, re.MULTILINE)
    return {(file, int(number)): message for file, number, message in lines}


def by_pyright(python: Path, desk: Path) -> Complaints:
    options = ("--outputjson", "--pythonpath", python)
    report = json.loads(run([sys.executable, "-m", "pyright", *options, "good.py", "bad.py"], desk))
    return {
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1): item["message"]
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [by_mypy, by_pyright])
def test_wrong_calls_are_found_and_no_others(checker, python: Path, desk: Path) -> None:
    complaints = checker(python, desk)
    marked = {
        (script.name, number)
        for script in SCRIPTS.glob("*.py")
        for number, line in enumerate(script.read_text(encoding="utf-8").splitlines(), 1)
        if "  # error" in line
    }
    assert len(marked) > 30
    assert {place: complaints[place] for place in complaints.keys() - marked} == {}, "false alarms"
    assert marked - complaints.keys() == set(), "not found"


def test_what_they_let_pass_works(tmp_path: Path) -> None:
    song = files.write(tmp_path / "song.wav", noise(1.0, 8_000))
    clip = files.write(tmp_path / "clip.wav", tone(80, 0.5, 8_000))
    main = runpy.run_path(str(SCRIPTS / "good.py"))["main"]
    with toy_plugin():
        main(tmp_path, song, clip)


def test_nothing_public_takes_just_anything() -> None:
    named = {name: getattr(unisep, name) for name in unisep.__all__}
    for name, value in named.items():
        members = {name: value} if not isinstance(value, type) else vars(value)
        for member, function in members.items():
            is_public = member == "__init__" or not member.startswith("_")
            if is_public and isinstance(function := getattr(function, "__func__", function), FunctionType):
                parameters = {
                    key: text
                    for key, text in function.__annotations__.items()
                    if key not in ("return", "fields", "state")
                }
                loose = {key for key, text in parameters.items() if text in ("Any", "Iterable[Any]", "Sequence[Any]")}
                assert not loose, f"{name}.{member}: {loose}"
