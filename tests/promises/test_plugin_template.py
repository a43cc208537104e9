"""The plugin template is what `unisep new-plugin` writes; built and installed where nothing else of ours is, it works."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import import_module
from pathlib import Path

import pytest

from unisep import Separator, plugins
from unisep.cli import main
from unisep.cli.arguments import PLUGIN_KINDS
from unisep.cli.plugins import rendered, write_plugin
from unisep.errors import OptionError
from unisep.testing import noise

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TEMPLATE = EXAMPLES / "plugin_template"
BARE = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNISEP"))}
QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def run(*command, cwd, **environment):
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**BARE, **QUIET, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied(source, target):
    """A copy to build in, since building leaves its traces; of the repository only what makes a wheel."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "unisep", "unisep_splitter", "tests"):
        place = source / name
        if place.is_dir() and not (source == ROOT and name == "tests"):
            shutil.copytree(place, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif place.is_file():
            shutil.copy(place, target / name)
    return target


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The Python of an environment with the wheels of unisep and of the template, and none of our checkouts."""
    place = tmp_path_factory.mktemp("clean")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
    offline = ("--no-index", "--no-deps")
    for source in (ROOT, TEMPLATE):
        built = copied(source, place / source.name)
        run(*pip, "wheel", *offline, "--no-build-isolation", "-w", place / "wheels", built, cwd=place)
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    run(*pip, "install", *offline, "--target", site, *sorted((place / "wheels").glob("*.whl")), cwd=place)
    # Dependencies come from here; what is named in a .pth file is searched last, and its own .pth files are not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_template_is_built_installed_and_listed(clean, tmp_path):
    where = run(
        clean, "-c", "import unisep, unisep_splitter; print(unisep.__file__, unisep_splitter.__file__)", cwd=tmp_path
    )
    assert all(str(clean.parents[2]) in path for path in where.split())
    listed = json.loads(run(clean, "-m", "unisep", "plugins", "--json", cwd=tmp_path))
    (plugin,) = [item for item in listed if item["distribution"] == "unisep-splitter"]
    assert (plugin["name"], plugin["version"], plugin["state"]) == ("splitter", "0.1.0", "ok")


def test_installed_template_separates(clean, tmp_path):
    song = EXAMPLES / "audio" / "mixture.flac"
    written = run(clean, "-m", "unisep", "separate", song, "--backend", "splitter", "-o", "out", cwd=tmp_path).split()
    assert [Path(path).name for path in written] == ["low.flac", "high.flac"]
    assert all((tmp_path / path).is_file() for path in written)


def test_installed_template_passes_its_own_tests(clean, tmp_path):
    shutil.copytree(TEMPLATE / "tests", tmp_path / "tests")
    said = run(clean, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert " passed" in said and " failed" not in said


def test_the_wheel_holds_what_new_plugin_needs(clean, tmp_path):
    for kind in PLUGIN_KINDS:
        run(clean, "-m", "unisep", "new-plugin", f"my-{kind}", "--kind", kind, "--folder", tmp_path, cwd=tmp_path)
        assert (tmp_path / f"unisep-my-{kind}" / f"unisep_my_{kind}" / f"{kind}.py").is_file()


def test_the_template_is_what_new_plugin_writes(tmp_path):
    folder, files = write_plugin("splitter", tmp_path, "backend")
    made = {path.relative_to(folder): path.read_bytes() for path in files}
    kept = {path.relative_to(TEMPLATE): path.read_bytes() for path in TEMPLATE.rglob("*") if path.is_file()}
    assert made == {path: content for path, content in kept.items() if path.suffix != ".pyc"}


@pytest.mark.parametrize("name", ["output", "backend", "backend-info", "backend-contract", "none", "path", "tensor"])
def test_a_class_never_takes_the_name_of_what_it_is_made_of(name):
    for kind in PLUGIN_KINDS:
        for place, text in rendered(name, kind).items():
            if place.endswith(".py"):
                tree = ast.parse(text)
                imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                            for alias in node.names if node.module != f"unisep_{name.replace('-', '_')}.{kind}"}  # fmt: skip
                defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
                assert not imported & defined, (kind, place)


@pytest.mark.parametrize(("kind", "name"), [*((kind, "my-2nd-model") for kind in PLUGIN_KINDS), ("backend", "output")])
def test_what_new_plugin_writes_passes_its_own_tests(kind, name, tmp_path):
    folder = write_plugin(name, tmp_path, kind)[0]
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder, PYTHONPATH=str(folder))
    assert " passed" in said and " failed" not in said
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"unisep": {name: f"unisep_{name.replace('-', '_')}.plugin"}}


def test_what_new_plugin_writes_gets_long_recordings_in_segments(tmp_path, monkeypatch):
    folder = write_plugin("cut-up", tmp_path, "backend")[0]
    with plugins.using(folder):
        backend = import_module("unisep_cut_up.backend")
        lengths, separate = [], backend.CutUp.separate

        def noted(self, mixture, *more):
            lengths.append(mixture.shape[0] * mixture.shape[-1])
            return separate(self, mixture, *more)

        monkeypatch.setattr(backend.CutUp, "separate", noted)
        song = noise(seconds=60.0)
        low = Separator("cut-up", offline=True).separate(song)["low"]
    assert low.samples.shape == song.samples.shape
    assert len(lengths) > 5 and max(lengths) == backend.SEGMENT_SECONDS * 44_100


@pytest.mark.parametrize("kind", PLUGIN_KINDS)
def test_what_new_plugin_writes_is_clean(kind, tmp_path):
    folder = write_plugin("neat", tmp_path, kind)[0]
    run(
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,I,B,UP",
        "--line-length",
        "120",
        folder,
        cwd=folder,
    )
    assert all("$" not in text for text in rendered("neat", kind).values())


@pytest.mark.parametrize(
    "name", ["", "Splitter", "my_model", "1st", "a--b", "-a", "a-", "a b", "../a", "a/b", "é", "unisep-", "x" * 51]
)
def test_names_that_cannot_be_are_refused(name, tmp_path):
    with pytest.raises(OptionError, match="lower-case letters"):
        write_plugin(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_what_it_wrote(tmp_path, capsys):
    assert main(["new-plugin", "mine", "--folder", str(tmp_path), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["folder"] == str(tmp_path / "unisep-mine")
    assert all(Path(path).is_file() for path in written["files"])


def test_nothing_is_overwritten(tmp_path):
    mine = tmp_path / "unisep-mine"
    mine.mkdir()
    with pytest.raises(OptionError, match="is there already"):
        write_plugin("mine", tmp_path)
    with pytest.raises(OptionError, match="is there already"):
        write_plugin("unisep-mine", tmp_path)
    assert not list(mine.iterdir()) and list(tmp_path.iterdir()) == [mine]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        write_plugin("mine", tmp_path / "file")


def test_example_registers_what_pip_would():
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    (name, module), *others = project["entry-points"]["unisep"].items()
    assert not others
    assert f"{name} = {module}" in (EXAMPLES / "07_write_a_plugin.py").read_text()
