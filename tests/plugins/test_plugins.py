from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from unisep import BackendSpec, EncoderSpec, Separator, hookimpl, plugins
from unisep.cli import main
from unisep.errors import BackendError, EncoderError, OptionError, PluginError, WeightsError
from unisep.routing.catalog import Catalog, build_catalog
from unisep.testing import signals, toy_plugin

GOOD = """
from unisep import BackendSpec, EncoderSpec, hookimpl

@hookimpl
def unisep_backends():
    return [BackendSpec(name="{name}", load="nowhere:load", summary="s", stems=("a",))]
"""
CPU = torch.device("cpu")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs a distribution with one plugin module, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, code: str, version: str = "1.0") -> None:
        module = distribution.replace("-", "_") + "_plugin"
        (tmp_path / f"{module}.py").write_text(code)
        sys.modules.pop(module, None)
        metadata = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[unisep]\n{distribution}-entry = {module}\n")
        importlib.invalidate_caches()
        plugins.refresh()

    yield install
    plugins.refresh()


def plugin_of(distribution: str) -> plugins.Plugin:
    return next(plugin for plugin in plugins.installed() if plugin.distribution == distribution)


def test_a_good_plugin_is_listed(site) -> None:
    site("good-one", GOOD.format(name="good"), "2.3")
    plugin = plugin_of("good-one")
    assert (plugin.name, plugin.version, plugin.state, plugin.error) == ("good-one-entry", "2.3", "ok", "")
    assert [(spec.kind, spec.name) for spec in plugin.specs] == [("backend", "good")]


SPEC = "BackendSpec(name='x', load='m:f', summary='s', stems=('a',){})"
HOOK = "from unisep import BackendSpec, EncoderSpec, hookimpl\n@hookimpl\ndef unisep_backends():\n    return {}\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise RuntimeError('boom on import')", "boom on import"),
        ("import a_package_that_is_not_there", "a_package_that_is_not_there"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("this is no python", "SyntaxError"),
        (HOOK.format("1 / 0"), "ZeroDivisionError"),
        (HOOK.format("3"), "TypeError"),
        (HOOK.format("['x']"), "no BackendSpec"),
        (HOOK.format("[EncoderSpec(name='x', load='m:f', space='s')]"), "no BackendSpec"),
        (HOOK.format("[" + SPEC.format("").replace("'x'", "'Not A Name'") + "]"), "lower-case"),
        (HOOK.format("[" + SPEC.format("").replace("'x'", "7") + "]"), "must be str"),
        (HOOK.format("[" + SPEC.format("").replace("m:f", "m.f") + "]"), "load must be"),
        (HOOK.format("[" + SPEC.format(", card='card.toml'") + "]"), "card must be 'package"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "'drums'") + "]"), "are tuples of names"),
        (HOOK.format("[" + SPEC.format(", auto_precision={'cpu': 'int8'}") + "]"), "auto_precision maps"),
        (HOOK.format("[" + SPEC.format(", auto_precision='bfloat16'") + "]"), "Error"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "('a', 'a')") + "]"), "none twice"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "('a', 'Rest')") + "]"), "results of unisep's own"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "()") + "]"), "at least one"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "None") + "]"), "Error"),
        (HOOK.replace("unisep_backends", "unisep_backend").format("[]"), "unisep_backend"),
        (HOOK.replace("()", "(surprise)", 1).format("[]"), "surprise"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_traceback_and_harms_no_other(site, code: str, why: str) -> None:
    site("broken-one", code)
    site("good-one", GOOD.format(name="good"))
    broken = plugin_of("broken-one")
    assert broken.state == "broken"
    assert why in broken.error
    assert "Traceback" in broken.error
    assert broken.specs == ()
    assert plugin_of("good-one").state == "ok"


def test_another_plugin_api_is_refused_with_what_to_upgrade(site) -> None:
    site("from-the-future", HOOK.format("[" + SPEC.format(", plugin_api=2, stems_of_tomorrow=()") + "]"))
    assert plugin_of("from-the-future").state == "broken"  # a keyword that this unisep does not know
    site("newer", HOOK.format("[" + SPEC.format(", plugin_api=2") + "]"))
    site("older", HOOK.format("[" + SPEC.format(", plugin_api=0") + "]"))
    assert plugin_of("newer").state == plugin_of("older").state == "incompatible"
    assert "pip install --upgrade unisep" in plugin_of("newer").error
    assert "pip install --upgrade older" in plugin_of("older").error


def test_the_json_of_a_plugin_has_the_promised_keys(site) -> None:
    site("good-one", GOOD.format(name="good"))
    site("broken-one", "1/0")
    for name in ("good-one", "broken-one"):
        item = json.loads(json.dumps(plugin_of(name).to_json()))
        assert set(item) == {"name", "distribution", "version", "state", "error", "specs"}
    (spec,) = plugin_of("good-one").to_json()["specs"]
    assert spec["kind"] == "backend"
    assert spec["stems"] == ["a"]
    with toy_plugin():
        specs = {(s["kind"], s["name"]): s for s in plugin_of("registered").to_json()["specs"]}
    assert specs["encoder", "toy"]["modalities"] == ["audio", "text"]


def test_listing_is_read_once_until_refreshed(site, tmp_path: Path) -> None:
    site("good-one", "with open(__file__ + '.log', 'a') as log: log.write('x')\n" + GOOD.format(name="good"))
    plugins.installed()
    plugins.installed()
    assert (tmp_path / "good_one_plugin.py.log").read_text() == "x"


def test_a_registered_plugin_counts_until_its_block_ends() -> None:
    with toy_plugin():
        assert [spec.name for spec in plugin_of("registered").specs] == ["toy", "toy-pan", "toy"]
    assert all(plugin.distribution != "registered" for plugin in plugins.installed())


def test_what_is_registered_under_one_name_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.registry, "_used", [])
    plugins.register(Hooks("one"), "mine")
    with plugins.registered(Hooks("two"), "mine"), plugins.registered(Hooks("one"), "mine"):
        names = [plugin.name for plugin in plugins.installed() if plugin.distribution == "registered"]
    assert names == ["mine", "mine-2"]
    assert plugin_of("registered").name == "mine"


def test_a_registered_plugin_may_be_broken() -> None:
    class Bad:
        @hookimpl
        def unisep_encoders(self) -> list[EncoderSpec]:
            raise RuntimeError("no")

    with plugins.registered(Bad(), "bad"):
        assert plugin_of("registered").state == "broken"


def spec_of(load: str) -> BackendSpec:
    return BackendSpec(name="mine", load=load, summary="", stems=("a",))


def load(spec: BackendSpec) -> object:
    return plugins.load_backend(spec, weights=None, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("no_such_module_at_all:f", PluginError, "no_such_module_at_all"),
        ("json:no_such_function", PluginError, "no_such_function"),
        ("json:__doc__", PluginError, "not a function"),
        ("builtins:dict", BackendError, "returned dict, not a Backend"),
        ("json:loads", BackendError, "failed to load: TypeError"),
    ],
)
def test_a_load_string_that_leads_nowhere_is_explained(target: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        load(spec_of(target))


def test_errors_of_a_loader_are_told_apart(site) -> None:
    code = """
from unisep.errors import WeightsError
def weights(**_): raise WeightsError("damaged")
def missing(**_): import a_package_that_is_not_there
def crash(**_): raise ValueError("oops")
"""
    site("loaders", code)
    with pytest.raises(WeightsError, match="damaged"):
        load(spec_of("loaders_plugin:weights"))
    with pytest.raises(PluginError, match="a_package_that_is_not_there"):
        load(spec_of("loaders_plugin:missing"))
    with pytest.raises(BackendError, match="'mine' failed to load: ValueError: oops"):
        load(spec_of("loaders_plugin:crash"))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ("sources=('a',), sample_rate_hz=0, channels=2", "sample_rate_hz is 0"),
        ("sources=('a',), sample_rate_hz=8000, channels=3", "channels is 3"),
        ("sources=('a', 'a'), sample_rate_hz=8000, channels=1", "names one twice"),
        ("sources=('a', 'rest'), sample_rate_hz=8000, channels=1", "'rest', which is what unisep calls"),
        ("sources=('a',), sample_rate_hz=8000, channels=1, segment_seconds=0.0", "segment_seconds is 0.0"),
        ("sources=('a',), sample_rate_hz=8000, channels=1, normalisation='loud'", "normalisation is 'loud'"),
    ],
)
def test_facts_that_cannot_be_right_are_refused(site, facts: str, why: str) -> None:
    code = f"""
from unisep import Backend, BackendInfo
class Mine(Backend):
    info = BackendInfo({facts})
    def separate(self, mixture, queries=None, negatives=None): ...
def load(**_): return Mine()
"""
    site("facts", code)
    with pytest.raises(BackendError, match=why):
        load(spec_of("facts_plugin:load"))


def test_a_backend_without_facts_is_refused(site) -> None:
    site(
        "factless",
        "from unisep import Backend\nclass Mine(Backend):\n    def separate(self, *a): ...\ndef load(**_): return Mine()",
    )
    with pytest.raises(BackendError, match="cannot be right: `info` failed with AttributeError"):
        load(spec_of("factless_plugin:load"))


def test_an_encoder_must_be_one_and_keep_its_space() -> None:
    spec = EncoderSpec(name="enc", load="builtins:dict", space="toy-bands-1")
    with pytest.raises(EncoderError, match="not a QueryEncoder"):
        plugins.load_encoder(spec, weights=None, device=CPU)
    other = EncoderSpec(name="enc", load="unisep.testing.toy:load_encoder", space="another")
    with pytest.raises(EncoderError, match="declares the space 'another' and loaded one of 'toy-bands-1'"):
        plugins.load_encoder(other, weights=None, device=CPU)


def test_listing_installed_plugins_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from unisep import plugins; plugins.installed();"
        "print([m for m in ('torch', 'numpy', 'transformers', 'soundfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plugin_that_is_slow_to_import_is_given_up(site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISEP_PLUGINS_TIMEOUT", "0.3")
    site("slow-one", "import threading; threading.Event().wait(3)\n" + GOOD.format(name="slow"))
    site("good-one", GOOD.format(name="good"))
    slow = plugin_of("slow-one")
    assert slow.state == "broken"
    assert "not read within 0.3 s" in slow.error and "UNISEP_PLUGINS=-slow-one-entry" in slow.error
    assert plugin_of("good-one").state == "ok"


def test_the_limit_holds_for_files_and_folders_given_by_hand_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNISEP_PLUGINS_TIMEOUT", "0.3")
    slow = "import threading; threading.Event().wait(5)\n" + GOOD.format(name="slow")
    (tmp_path / "slow_file.py").write_text(slow)
    project = tmp_path / "project"
    project.mkdir()
    (project / "slow_module.py").write_text(slow)
    (project / "pyproject.toml").write_text('[project]\nname = "p"\n[project.entry-points.unisep]\np = "slow_module"\n')
    started = time.monotonic()
    for place in (tmp_path / "slow_file.py", project):
        with pytest.raises(PluginError, match="is broken: It was not read within"), plugins.using(place):
            pass
    assert time.monotonic() - started < 4


def test_a_link_that_leads_to_itself_is_no_plugin(tmp_path: Path) -> None:
    loop = tmp_path / "loop.py"
    loop.symlink_to(loop)
    with pytest.raises(PluginError, match="There is no file or folder"), plugins.using(loop):
        pass


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_must_be_one(site, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("UNISEP_PLUGINS_TIMEOUT", text)
    site("good-one", GOOD.format(name="good"))
    with pytest.raises(OptionError, match="number of seconds above 0"):
        plugins.installed()


def test_a_plugin_that_interrupts_itself_is_broken(site) -> None:
    site("stopping", "raise KeyboardInterrupt")
    assert "KeyboardInterrupt" in plugin_of("stopping").error


def test_nothing_that_a_plugin_only_loads_later_is_imported_to_list_it(site, tmp_path: Path) -> None:
    (tmp_path / "heavy_model.py").write_text("raise RuntimeError('imported')")
    site("good-one", GOOD.format(name="good").replace("nowhere:load", "heavy_model:load"))
    assert plugin_of("good-one").state == "ok"
    with pytest.raises(PluginError, match="imported"):
        plugins.load_function(plugin_of("good-one").specs[0])


def test_damaged_metadata_take_no_other_down(site, tmp_path: Path) -> None:
    site("good-one", GOOD.format(name="good"))
    site("damaged", GOOD.format(name="x"))
    (tmp_path / "damaged-1.0.dist-info" / "entry_points.txt").write_text("[unisep]\nthis is no entry point\n")
    site("unrelated", "")
    (tmp_path / "unrelated-1.0.dist-info" / "entry_points.txt").write_text("[other]\nthis is none either\n")
    plugins.refresh()
    listed = {plugin.name: plugin for plugin in plugins.installed()}
    assert listed["good-one-entry"].state == "ok"
    assert listed["damaged"].state == "broken" and "are damaged" in listed["damaged"].error
    assert "unrelated" not in listed


def test_of_two_copies_of_a_distribution_the_first_counts(site, tmp_path: Path, monkeypatch) -> None:
    site("good-one", GOOD.format(name="good"), "2.0")
    older = tmp_path / "older"
    older.mkdir()
    (tmp_path / "good_one-2.0.dist-info").rename(tmp_path / "keep")
    site("good-one", GOOD.format(name="good"), "1.0")
    (tmp_path / "good_one-1.0.dist-info").rename(older / "good_one-1.0.dist-info")
    (tmp_path / "keep").rename(tmp_path / "good_one-2.0.dist-info")
    monkeypatch.syspath_prepend(older)
    plugins.refresh()
    versions = [p.version for p in plugins.installed() if p.distribution == "good-one"]
    assert versions == ["1.0"]


@pytest.mark.parametrize(
    ("choice", "states"),
    [
        ("", "ok ok"),
        ("one-entry", "ok blocked"),
        ("one", "ok blocked"),
        ("one:one-entry , two", "ok ok"),
        ("-one", "blocked ok"),
        ("-two-entry,", "ok blocked"),
        ("one,two,-two", "ok blocked"),
        ("-*", "blocked blocked"),
        ("o*", "ok blocked"),
    ],
)
def test_plugins_are_allowed_or_blocked_by_name(site, monkeypatch, choice: str, states: str) -> None:
    log = "open(__file__ + '.log', 'a').close()\n"
    for name in ("one", "two"):
        site(name, log + GOOD.format(name=name))
    monkeypatch.setenv("UNISEP_PLUGINS", choice)
    listed = [plugin_of(name) for name in ("one", "two")]
    assert " ".join(plugin.state for plugin in listed) == states
    for plugin in listed:
        module = Path(sys.path[0], f"{plugin.distribution}_plugin.py.log")
        assert module.exists() == (plugin.state == "ok"), "a blocked plugin is not even imported"
        assert (choice in plugin.error) == (plugin.state == "blocked") or not choice


def test_a_blocked_backend_is_said_to_be_so(site, monkeypatch) -> None:
    site("one", GOOD.format(name="one"))
    monkeypatch.setenv("UNISEP_PLUGINS", "-one")
    with pytest.raises(PluginError, match="'one-entry' of one is blocked"):
        entries().backend("one")


def test_a_name_that_no_plugin_has_is_pointed_out(site, monkeypatch) -> None:
    site("one", GOOD.format(name="one"))
    monkeypatch.setenv("UNISEP_PLUGINS", "-on")
    with pytest.warns(UserWarning, match="names 'on', and no plugin"):
        plugins.installed()
    assert plugin_of("one").state == "ok"


def test_a_taken_name_is_an_error_only_when_it_is_asked_for(site) -> None:
    site("one", GOOD.format(name="same"))
    site("two", GOOD.format(name="same"))
    site("three", GOOD.format(name="other"))
    known = entries()
    assert known.backend("other").distribution == "three"
    assert known.backend("two:same").distribution == "two"
    with pytest.raises(
        PluginError, match="'one-entry' of one and 'two-entry' of two both offer a backend named 'same'"
    ):
        known.backend("same")
    assert "same" not in [entry.name for entry in known.usable_backends()]


def entries() -> Catalog:
    return build_catalog(plugins.installed(), (), lambda spec: "none")


@pytest.mark.parametrize("way", ["variable", "block", "argument"])
def test_strictly_a_problem_is_an_error(site, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    site("good-one", GOOD.format(name="good"))
    mine = [plugin for plugin in plugins.installed() if plugin.distribution == "good-one"]
    assert plugins.problems(mine) == []
    site("broken-one", "1 / 0")
    site("other-one", GOOD.format(name="good"))
    assert plugin_of("broken-one").state == "broken"
    if way == "variable":
        monkeypatch.setenv("UNISEP_PLUGINS_STRICT", "1")
    with plugins.strictly() if way == "block" else nullcontext(), pytest.raises(PluginError) as error:
        plugins.installed(strict=True if way == "argument" else None)
    assert "'broken-one-entry' of broken-one is broken: ZeroDivisionError" in str(error.value)
    assert "the backend 'good' is claimed by good-one and other-one" in str(error.value)
    assert plugins.installed(strict=False)
    monkeypatch.setenv("UNISEP_PLUGINS_STRICT", "0")
    assert plugins.installed()


def test_strict_is_for_the_command_line_too(site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    site("broken-one", "1 / 0")
    assert main(["plugins"]) == 0
    capsys.readouterr()
    assert main(["plugins", "--strict-plugins"]) == 1
    out, err = capsys.readouterr()
    assert "broken-one-entry" in out
    assert "unisep: error: 'broken-one-entry' of broken-one is broken: ZeroDivisionError" in err
    assert main(["explain", "--strict-plugins"]) == 1
    assert "Plugins are held strictly" in capsys.readouterr().err
    assert main(["models", "list"]) == 0, "strict is over with the command that asked for it"


def test_the_list_shows_licence_state_and_on_demand_the_traceback(site, capsys) -> None:
    site("broken-one", "def hidden_place(): 1 / 0\nhidden_place()")
    site("good-one", GOOD.format(name="good").replace("summary=", "licence='CC0-1.0', summary="), "2.3")
    assert main(["plugins"]) == 0
    out, err = capsys.readouterr()
    assert "good-one 2.3" in out and "CC0-1.0" in out and "broken-one 1.0" in out
    assert "ZeroDivisionError" in err and "hidden_place" not in err
    assert main(["plugins", "--verbose"]) == 0
    assert "hidden_place" in capsys.readouterr().err


LOCAL = "import log_of_{name}\n" + GOOD.replace("nowhere:load", "{name}:load") + "def load(**_): return 7\n"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a local plugin and what it imports beside it; modules are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, folder: str = "mine", code: str = LOCAL) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"log_of_{name}.py").write_text("")
        (place / f"{name}.py").write_text(code.format(name=name))
        return place / f"{name}.py"

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_local_file_is_a_plugin_while_it_is_used(local) -> None:
    path = local("a_local_one")
    with plugins.using(path):
        (spec,) = plugin_of("local").specs
        assert spec.name == "a_local_one"
        assert plugins.load_function(spec)() == 7
    assert all(plugin.distribution != "local" for plugin in plugins.installed())
    assert plugins.given([str(path)])[0].state == "ok", "a second time, the same module serves"


def test_a_folder_of_local_files_is_read_whole(local, tmp_path: Path) -> None:
    local("one_of_two")
    local("two_of_two")
    local("_private", code="1 / 0")
    local("test_one", code="1 / 0")
    found = plugins.given([tmp_path / "mine"])
    assert [plugin.name for plugin in found] == ["one_of_two", "two_of_two"]


def test_a_local_distribution_needs_no_installation_and_replaces_an_installed_one(local, site) -> None:
    site("unisep-local-dist", GOOD.format(name="elder"))
    path = local("plugin_of_dist", folder="work/unisep-local-dist")
    (path.parent / "pyproject.toml").write_text(
        '[project]\nname = "unisep-local-dist"\nversion = "9.0"\n'
        '[project.entry-points.unisep]\nunisep-local-dist-entry = "plugin_of_dist"\n'
    )
    for place in (path.parent, path.parent.parent):
        (plugin,) = plugins.given([place])
        assert (plugin.distribution, plugin.version, plugin.state) == ("unisep-local-dist", "9.0", "ok")
    with plugins.using(path.parent):
        names = [spec.name for p in plugins.installed() for spec in p.specs if p.distribution == "unisep-local-dist"]
        assert names == ["plugin_of_dist"]


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("json", LOCAL, "There is a module named 'json' already"),
        ("statistics", LOCAL, "There is a module named 'statistics' already"),
        ("my-plugin", "", "Rename it"),
        ("failing_local", "1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_local_file_that_cannot_be_used_says_why(local, name: str, code: str, why: str) -> None:
    path = local(name, code=code)
    with pytest.raises(PluginError, match=why):
        plugins.given([path])
    with plugins.using(path, must_work=False):
        assert why in plugin_of("local").error
    assert getattr(sys.modules.get(name), "__file__", None) != str(path)


def test_a_place_without_plugins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no file or folder"):
        plugins.given([tmp_path / "nothing.py"])
    with pytest.raises(PluginError, match="No plugin is in"):
        plugins.given([tmp_path])
    (tmp_path / "pyproject.toml").write_text("this is no toml")
    with pytest.raises(PluginError, match=r"pyproject.toml cannot be read"):
        plugins.given([tmp_path])


@pytest.mark.parametrize(
    ("pyproject", "why"),
    [
        ("project = 'x'", "'project' is 'x', not a table"),
        ("[project]\nentry-points = 3", "'entry-points' is 3, not a table"),
        ("[project.entry-points]\nunisep = 'x'", "'unisep' is 'x', not a table"),
        ("[project.entry-points.unisep]\nmine = 7", "the entry point 'mine' is 7"),
        ("[project]\nname = 'x'", r"has no entry points. Add \[project.entry-points.unisep\]"),
        ("[tool.ruff]", "has no entry points"),
    ],
)
def test_a_pyproject_without_usable_entry_points_is_refused(tmp_path: Path, pyproject: str, why: str) -> None:
    (tmp_path / "pyproject.toml").write_text(pyproject)
    with pytest.raises(PluginError, match=why):
        plugins.given([tmp_path])


def test_a_file_without_hooks_is_refused(local) -> None:
    with pytest.raises(PluginError, match=r"empty_one.py: none of its functions is marked"):
        plugins.given([local("empty_one", code="x = 1")])
    nothing_today = "from unisep import hookimpl\n@hookimpl\ndef unisep_backends():\n    return []\n"
    assert plugins.given([local("nothing_today", code=nothing_today)])[0].specs == ()


class Hooks:
    """A plugin that offers one backend; it can be gone through, as a list can."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self):
        return iter("no plugins")

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [BackendSpec(name=self.name, load="m:f", summary="", stems=("a",))]


def test_weights_of_one_name_in_two_plugins_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    spec = BackendSpec(name="same", load="m:f", summary="", stems=("a",), card="nowhere:card.toml")
    hooks = SimpleNamespace(unisep_backends=hookimpl(lambda: [spec]))
    with plugins.registered(hooks, "one"), plugins.registered(hooks, "two"):
        assert main(["models", "card", "same"]) == 1
    err = capsys.readouterr().err
    assert "'one' of registered and 'two' of registered both offer a model named 'same'. Give only one" in err


def test_one_plugin_needs_no_list(local) -> None:
    path = local("alone")
    for one in (path, str(path)):
        assert [plugin.name for plugin in plugins.given(one)] == ["alone"]
    for other in (sys.modules["alone"], plugins.given(path)[0], Hooks("mine")):
        assert [plugin.state for plugin in plugins.given(other)] == ["ok"]
    assert [plugin.name for plugin in plugins.given(each for each in [path])] == ["alone"]
    assert plugins.given([]) == ()


@pytest.mark.parametrize("what", [3, None, b"x.py", "", object(), json, dict])
def test_what_is_no_plugin_is_refused(what: object) -> None:
    for given in (what, [what]):
        with pytest.raises(PluginError, match=r"is no plugin. Give a path \(str or Path\)"):
            plugins.given(given)
    with pytest.raises(PluginError, match="is no plugin"):
        Separator(plugins=[what])


def test_objects_of_one_class_are_plugins_each(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = map(Hooks, ("one", "two", "three"))
    assert [p.name for p in plugins.given([one, two, one, three])] == ["Hooks", "Hooks-2", "Hooks-3"]
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    with plugins.using(one), plugins.using(two, one):
        listed = plugins.installed(plugins.given([three, two]))
        assert [spec.name for plugin in listed for spec in plugin.specs] == ["one", "two", "three"]
    plugins.refresh()


@pytest.mark.parametrize("constructor", ["", "    def __init__(self): self.gain = 1\n"])
def test_a_class_whose_constructor_takes_nothing_needs_no_load_function(local, constructor: str) -> None:
    path = local("ten_lines", code=TEN_LINES.replace("    def separate", constructor + "    def separate"))
    (plugin,) = plugins.given([path])
    assert load(plugin.specs[0]).info.sources == ("middle", "sides")


TEN_LINES = """
import torch
from unisep import Backend, BackendInfo, BackendSpec, Output, hookimpl
class MidSide(Backend):
    info = BackendInfo(sources=("middle", "sides"), sample_rate_hz=44_100, channels=2)
    def separate(self, mixture, queries=None, negatives=None):
        middle = mixture.mean(1, keepdim=True).expand_as(mixture)
        return Output(torch.stack([middle, mixture - middle], dim=1))
@hookimpl
def unisep_backends():
    return [BackendSpec(name="mid-side", load="ten_lines:MidSide", summary="", stems=("middle", "sides"))]
"""


def test_plugins_of_one_separator_are_of_no_other(local) -> None:
    path = local("ten_lines", code=TEN_LINES)
    song = signals.noise(0.5)
    parts = Separator("mid-side", plugins=[path]).separate(song)
    assert list(parts) == ["middle", "sides"]
    assert np.array_equal(parts["middle"].samples[0], parts["middle"].samples[1])
    with pytest.raises(PluginError, match="No backend named 'mid-side'"):
        Separator("mid-side")
    module = sys.modules["ten_lines"]
    assert list(Separator("mid-side", plugins=[module]).separate(song)) == ["middle", "sides"]
    with pytest.raises(PluginError, match="no file or folder"):
        Separator(plugins=["nowhere.py"])


def test_the_command_line_takes_a_plugin_before_or_after_the_command(local, tmp_path, capsys, monkeypatch) -> None:
    path = local("ten_lines", code=TEN_LINES)
    soundfile.write(tmp_path / "song.wav", signals.noise(0.3).samples.T, 44_100)
    monkeypatch.chdir(tmp_path)
    asked = ["separate", "song.wav", "--backend", "mid-side"]
    assert main([*asked, "-o", "one", f"--plugin={path}"]) == 0
    assert main(["--plugin", str(path), *asked, "-o", "two"]) == 0
    assert sorted(p.name for p in (tmp_path / "two" / "song").iterdir()) == ["middle.wav", "sides.wav"]
    capsys.readouterr()
    assert main([*asked]) == 1
    assert "No backend named 'mid-side'" in capsys.readouterr().err


def test_a_broken_plugin_given_by_hand_stops_the_work_but_not_the_list(local, capsys) -> None:
    path = local("failing_local", code="def deep(): 1 / 0\ndeep()")
    assert main(["separate", "song.wav", "--plugin", str(path)]) == 1
    assert "'failing_local' is broken: ZeroDivisionError" in capsys.readouterr().err
    assert main(["plugins", "--verbose", "--plugin", str(path)]) == 0
    assert "in deep" in capsys.readouterr().err
    assert main(["separate", "song.wav", "--plugin"]) == 2
    assert main(["separate", "song.wav", "--plugin", "nowhere.py"]) == 1
