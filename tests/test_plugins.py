from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unisep import BackendSpec, EncoderSpec, hookimpl, plugins
from unisep.errors import BackendError, EncoderError, PluginError, WeightsError
from unisep.testing import toy_plugin

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
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (metadata / "entry_points.txt").write_text(f"[unisep]\n{distribution}-entry = {module}\n")
        importlib.invalidate_caches()
        plugins.refresh()

    yield install
    plugins.refresh()


def found(distribution: str) -> plugins.Plugin:
    return next(plugin for plugin in plugins.installed() if plugin.distribution == distribution)


def test_a_good_plugin_is_listed(site) -> None:
    site("good-one", GOOD.format(name="good"), "2.3")
    plugin = found("good-one")
    assert (plugin.name, plugin.version, plugin.state, plugin.error) == ("good-one-entry", "2.3", "ok", "")
    assert [spec.name for spec in plugin.backends] == ["good"]
    assert plugin.encoders == ()


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
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "'drums'") + "]"), "not a single text"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "('a', 'a')") + "]"), "none twice"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "()") + "]"), "at least one"),
        (HOOK.format("[" + SPEC.format("").replace("('a',)", "None") + "]"), "Error"),
        (HOOK.replace("unisep_backends", "unisep_backend").format("[]"), "unisep_backend"),
        (HOOK.replace("()", "(surprise)", 1).format("[]"), "surprise"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_traceback_and_harms_no_other(site, code: str, why: str) -> None:
    site("broken-one", code)
    site("good-one", GOOD.format(name="good"))
    broken = found("broken-one")
    assert broken.state == "broken"
    assert why in broken.error
    assert "Traceback" in broken.error
    assert broken.specs == ()
    assert found("good-one").state == "ok"


def test_another_plugin_api_is_refused_with_what_to_upgrade(site) -> None:
    site("from-the-future", HOOK.format("[" + SPEC.format(", plugin_api=2, stems_of_tomorrow=()") + "]"))
    assert found("from-the-future").state == "broken"  # a keyword that this unisep does not know
    site("newer", HOOK.format("[" + SPEC.format(", plugin_api=2") + "]"))
    site("older", HOOK.format("[" + SPEC.format(", plugin_api=0") + "]"))
    assert found("newer").state == found("older").state == "incompatible"
    assert "pip install --upgrade unisep" in found("newer").error
    assert "pip install --upgrade older" in found("older").error


def test_the_json_of_a_plugin_has_the_promised_keys(site) -> None:
    site("good-one", GOOD.format(name="good"))
    site("broken-one", "1/0")
    for name in ("good-one", "broken-one"):
        item = json.loads(json.dumps(found(name).to_json()))
        assert set(item) == {"name", "distribution", "version", "state", "error", "specs"}
    (spec,) = found("good-one").to_json()["specs"]
    assert spec["kind"] == "backend"
    assert spec["stems"] == ["a"]
    with toy_plugin():
        specs = {(s["kind"], s["name"]): s for s in found("registered").to_json()["specs"]}
    assert specs["encoder", "toy"]["modalities"] == ["audio", "text"]


def test_listing_is_read_once_until_refreshed(site, tmp_path: Path) -> None:
    site("good-one", "with open(__file__ + '.log', 'a') as log: log.write('x')\n" + GOOD.format(name="good"))
    plugins.installed()
    plugins.installed()
    assert (tmp_path / "good_one_plugin.py.log").read_text() == "x"


def test_a_registered_plugin_counts_until_its_block_ends() -> None:
    with toy_plugin():
        assert [spec.name for spec in found("registered").backends] == ["toy", "toy-pan"]
        with pytest.raises(PluginError, match="registered already"):
            plugins.register(SimpleNamespace(), "toy")
    assert all(plugin.distribution != "registered" for plugin in plugins.installed())


def test_a_registered_plugin_may_be_broken() -> None:
    class Bad:
        @hookimpl
        def unisep_encoders(self) -> list[EncoderSpec]:
            raise RuntimeError("no")

    with plugins.registered(Bad(), "bad"):
        assert found("registered").state == "broken"


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
    with pytest.raises(BackendError, match="not BackendInfo"):
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
