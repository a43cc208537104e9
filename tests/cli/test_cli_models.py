import hashlib
import importlib.metadata
import io
import json
import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from unisep import plugins
from unisep.cli import doctor, main

WEIGHTS = b"weights of a model" * 100
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
PLUGIN = """
from unisep import BackendSpec, hookimpl

@hookimpl
def unisep_backends():
    return [BackendSpec(name=name, load="cli_probe.nowhere:load", summary=name, stems=("low",), licence="CC0-1.0",
                        card=f"cli_probe:{name}.toml") for name in ("probe-inside", "probe-outside")]
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "outside.bin").write_bytes(WEIGHTS)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield served, f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def probe(tmp_path, monkeypatch, server):
    """An installed distribution with one embedded and one downloadable model, and one that is broken."""
    site = tmp_path / "site"
    package = site / "cli_probe"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(PLUGIN)
    (package / "inside.bin").write_bytes(WEIGHTS)
    common = 'licence = "CC0-1.0"\nsource = "made for this test"\nnotes = "Made of words."\n'
    inside = f'[[files]]\nname = "inside.bin"\nresource = "inside.bin"\nsha256 = "{SHA256}"\n'
    outside = f'[[files]]\nname = "outside.bin"\nurl = "{server[1]}/outside.bin"\nsha256 = "{SHA256}"\n'
    measured = "[measured]\nspeed = 2.5\n[measured.drums]\nsisdr_db = 3.5\n[measured.bass]\nsdr_db = 1.25\n"
    (package / "probe-inside.toml").write_text(f'name = "probe-inside"\nsummary = "inside"\n{common}{inside}{measured}')
    (package / "probe-outside.toml").write_text(f'name = "probe-outside"\nsummary = "outside"\n{common}{outside}')
    for name, module in (("cli-probe", "cli_probe.plugin"), ("cli-broken", "cli_probe.is_not_there")):
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[unisep]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    plugins.refresh()
    yield package
    plugins.refresh()
    for name in [name for name in sys.modules if name.split(".")[0] == "cli_probe"]:
        del sys.modules[name]


def run_json(capsys, *argv):
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_plugins_lists_all_and_what_is_broken_with_code_0(capsys):
    code, listed = run_json(capsys, "plugins")
    assert code == 0
    by_name = {plugin["name"]: plugin for plugin in listed}
    assert set(by_name["cli-probe"]) >= {"name", "distribution", "version", "state", "error", "specs"}
    assert [spec["name"] for spec in by_name["cli-probe"]["specs"]] == ["probe-inside", "probe-outside"]
    assert by_name["cli-broken"]["state"] == "broken" and "Traceback" in by_name["cli-broken"]["error"]


def test_plugins_for_people_names_the_reason_and_shows_the_traceback_only_when_asked(capsys):
    assert main(["plugins"]) == 0
    out, err = capsys.readouterr()
    assert "probe-inside" in out and "cli-broken" in out
    assert "is_not_there" in err and "Traceback" not in err
    assert main(["plugins", "--verbose"]) == 0
    assert "Traceback" in capsys.readouterr().err


def test_list_pull_verify_and_damage(server, tmp_path, capsys):
    states = {model["name"]: model["state"] for model in run_json(capsys, "models", "list")[1]}
    assert states["probe-inside"] == "embedded" and states["probe-outside"] == "missing"

    code, (pulled,) = run_json(capsys, "models", "pull", "probe-outside")
    assert code == 0 and pulled["ok"] and pulled["licence"] == "CC0-1.0"
    states = {model["name"]: model["state"] for model in run_json(capsys, "models", "list")[1]}
    assert states["probe-outside"] == "present"

    code, (checked,) = run_json(capsys, "models", "verify", "cli-probe:probe-outside")
    assert code == 0
    assert checked["files"] == [{"name": "outside.bin", "state": "ok", "sha256": SHA256, "expected": SHA256}]

    (file,) = (tmp_path / "home").rglob("outside.bin")
    file.write_bytes(WEIGHTS[:-1] + b"!")
    code, (checked,) = run_json(capsys, "models", "verify", "probe-outside")
    assert code == 1 and checked["files"][0]["state"] == "damaged"
    assert main(["models", "pull", "probe-outside"]) == 0
    assert file.read_bytes() == WEIGHTS


def test_a_failed_download_has_code_1_and_does_not_stop_the_others(server, capsys):
    (server[0] / "outside.bin").write_bytes(b"something else")
    code, results = run_json(capsys, "models", "pull", "probe-outside", "probe-inside")
    assert code == 1
    assert [result["ok"] for result in results] == [False, True]
    assert results[0]["error"]


def test_offline_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["models", "pull", "probe-outside"]) == 1
    err = capsys.readouterr().err
    assert "offline" in err and "Traceback" not in err


def test_card_shows_licence_hash_notes_and_measures(capsys):
    assert main(["models", "card", "probe-inside"]) == 0
    out = capsys.readouterr().out
    for message in (
        "CC0-1.0",
        SHA256,
        "Made of words.",
        "speed: 2.5",
        "sisdr_db  sdr_db",
        "drums  3.5       -",
        "embedded",
    ):
        assert message in out
    code, card = run_json(capsys, "models", "card", "probe-inside")
    assert code == 0 and card["measured"]["drums"]["sisdr_db"] == 3.5


def test_a_model_that_is_not_there_is_named_with_the_nearest(capsys):
    assert main(["models", "card", "probe-insid"]) == 1
    assert "Did you mean 'probe-inside'" in capsys.readouterr().err


def test_a_broken_card_is_listed_and_the_others_too(probe, capsys):
    (probe / "probe-outside.toml").write_text("name = 3")
    code, listed = run_json(capsys, "models", "list")
    states = {model["name"]: model["state"] for model in listed}
    assert code == 0 and states["probe-outside"] == "broken" and states["probe-inside"] == "embedded"
    assert main(["models", "pull", "probe-outside"]) == 1


def test_doctor_finds_a_broken_plugin_and_damaged_weights(probe, capsys):
    (probe / "inside.bin").write_bytes(b"damaged")
    code, report = run_json(capsys, "doctor")
    assert code == 1 and report["healthy"] is False
    found = {finding["what"]: finding for finding in report["findings"]}
    assert found["plugin cli-broken"]["state"] == "broken"
    assert "unisep plugins" in found["plugin cli-broken"]["advice"]
    assert found["weights probe-inside"]["state"] == "broken"
    assert found["weights probe-outside"]["state"] == "note"
    assert "unisep models pull probe-outside" in found["weights probe-outside"]["advice"]
    assert found["torch"]["state"] == found["python"]["state"] == "ok"
    assert main(["doctor"]) == 1
    assert "broken" in capsys.readouterr().out


def test_doctor_goes_on_after_what_fails_and_says_what_to_do(monkeypatch, capsys):
    def no_torch(name):
        raise ImportError("no such package")

    monkeypatch.setattr(doctor, "import_module", no_torch)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr(doctor.platform, "platform", lambda: 1 // 0)
    monkeypatch.setattr("unisep.files.ffmpeg.program", lambda: None)
    monkeypatch.setenv("UNISEP_PLUGINS", "-cli-broken")
    code, report = run_json(capsys, "doctor")
    listed = {finding["what"]: finding for finding in report["findings"]}
    assert code == 1
    assert listed["python"]["detail"] == "ZeroDivisionError: integer division or modulo by zero"
    assert listed["torch"]["advice"] == "Run: pip install --force-reinstall torch"
    assert listed["plugin cli-broken"]["state"] == listed["ffmpeg"]["state"] == "note"
    assert "little room" in listed["weights folder"]["advice"]
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert (
        "cannot be written"
        in {f["what"]: f for f in run_json(capsys, "doctor")[1]["findings"]}["weights folder"]["advice"]
    )


def test_doctor_takes_ten_lines_where_all_is_well(monkeypatch, capsys):
    monkeypatch.setenv("UNISEP_PLUGINS", "-cli-broken")
    monkeypatch.setattr("unisep.files.ffmpeg.program", lambda: "/usr/bin/ffmpeg")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [
        "unisep",
        "devices",
        "plugins",
        "weights",
        "fixed stems",
        "text queries",
        "example queries",
        "ffmpeg",
        "weights folder",
    ]
    assert [line.split("  ")[1].strip() for line in lines[: len(heads)]] == heads
    assert len(lines) <= 10
    assert main(["doctor", "--verbose"]) == 0
    verbose = capsys.readouterr().out
    assert len(verbose.splitlines()) > 30 and "numpy" in verbose and "plugin cli-probe" in verbose


def test_doctor_counts_what_is_in_order_and_names_what_is_not(probe, capsys):
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken  plugin cli-broken" in out and "plugin cli-probe" not in out
    counted = re.search(r"weights +(\d+) missing, (\d+) embedded \(the strongest: unisep models pull best\)", out)
    assert counted and int(counted[1]) >= 1 and int(counted[2]) >= 1
    assert "weights probe-outside" not in out
    (probe / "inside.bin").write_bytes(b"damaged")
    assert main(["doctor"]) == 1
    assert "broken  weights probe-inside" in capsys.readouterr().out


QUALITY = """
[[quality]]
stem = "{stem}"
figure_db = {figure_db}
metric = "SDR, mean of whole songs"
test_set = "Multisong"
source = "made for this test"
"""


@pytest.fixture
def measured(probe, server, monkeypatch):
    """The models of the probe alone, and a third: one has drums and a whistle, one more of all, one cannot be fetched."""
    (probe / "plugin.py").write_text(
        PLUGIN.replace('"probe-outside")]', '"probe-outside", "probe-best", "probe-open")]')
    )
    only = [d for d in importlib.metadata.distributions(path=[str(probe.parent)]) if d.metadata["Name"] == "cli-probe"]
    monkeypatch.setattr(plugins.registry, "distributions", lambda: only)
    plugins.refresh()
    file = f'[[files]]\nname = "outside.bin"\nurl = "{server[1]}/outside.bin"\nn_bytes = {len(WEIGHTS)}\n'
    known = f'{file}sha256 = "{SHA256}"\n'
    for name, files, figures in (
        ("probe-outside", known, {"drums": 9.9, "whistle": 20.0}),
        ("probe-best", known, {"drums": 10.0, "bass": 8.0}),
        ("probe-open", file, {"drums": 30.0}),
    ):
        entries = "".join(QUALITY.format(stem=stem, figure_db=figure) for stem, figure in figures.items())
        (probe / f"{name}.toml").write_text(f'name = "{name}"\nsummary = "s"\n{entries}{files}')


def test_the_preset_is_shown_and_fetched_only_when_agreed_to(measured, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    assert main(["models", "pull", "best"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"probe-best +missing +0.0 MB +not stated +drums 10.0, bass 8.0", err)
    assert "probe-open" not in err and "probe-outside" not in err, "no sha256; no stronger than the other"
    assert "unisep models pull best --yes" in err and not home.exists()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert main(["models", "pull", "best"]) == 1
    assert "[y/N]" in capsys.readouterr().err and not home.exists()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert main(["models", "pull", "best"]) == 0
    assert "To download: 0.0 MB" in capsys.readouterr().err and list(home.rglob("outside.bin"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, (pulled,) = run_json(capsys, "models", "pull", "best")
    assert code == 0 and pulled["name"] == "probe-best", "what is here needs no agreement"


def test_the_preset_is_fetched_unasked_with_yes(measured, capsys):
    code, (pulled,) = run_json(capsys, "models", "pull", "best", "--yes")
    assert code == 0 and pulled["ok"] and pulled["name"] == "probe-best"


def test_without_a_model_for_the_preset_it_is_said_what_to_install(capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins.registry, "distributions", lambda: [])
        plugins.refresh()
        assert main(["models", "pull", "best", "--yes"]) == 1
    plugins.refresh()
    assert "pip install unisep-htdemucs" in capsys.readouterr().err


def test_the_list_has_licence_and_quality_and_says_on_which_songs(measured, capsys):
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"probe-best +missing +0.0 MB +not stated +10.0 +8.0 +Multisong +s", out)
    (best,) = [model for model in run_json(capsys, "models", "list")[1] if model["name"] == "probe-best"]
    assert best["quality"][0] == {
        "stem": "drums", "figure_db": 10.0, "metric": "SDR, mean of whole songs", "test_set": "Multisong", "source": "made for this test",
    }  # fmt: skip
    assert main(["models", "card", "probe-best"]) == 0
    assert re.search(r"drums +10 dB +SDR, mean of whole songs +Multisong +made for this test", capsys.readouterr().out)


@pytest.fixture
def with_drums(measured, probe):
    """The models of `measured` have the stem drums."""
    (probe / "plugin.py").write_text((probe / "plugin.py").read_text().replace('("low",)', '("drums", "low")'))
    plugins.refresh()


def test_the_list_can_be_narrowed_to_licences(measured, capsys):
    def names(*options):
        return [model["name"] for model in run_json(capsys, "models", "list", *options)[1]]

    assert (
        names("--licences", "CC0-1.0,MIT") == names() == ["probe-best", "probe-inside", "probe-open", "probe-outside"]
    )
    assert names("--licences", "MIT") == []
    assert main(["models", "list", "--licences", "MIT"]) == 0
    assert capsys.readouterr().out == "No such model with weights is installed.\n"
    assert main(["models", "list", "--licences", "not stated"]) == 2
    assert "--licences not stated: give 'commercial'" in capsys.readouterr().err


def test_a_stem_is_listed_with_the_best_first(with_drums, capsys):
    assert main(["models", "list", "--stem", "drums"]) == 0
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split() == ["NAME", "STATE", "SIZE", "LICENCE", "DRUMS", "ON", "WHAT"]
    assert [row.split()[0] for row in rows[:4]] == ["probe-open", "probe-best", "probe-outside", "probe-inside"]
    assert " 30.0 " in rows[0]
    assert main(["models", "list", "--stem", "drum"]) == 2
    assert "--stem drum: no such stem. Did you mean 'drums'? Known: drums, low." in capsys.readouterr().err


def test_what_is_here_and_what_would_be_better_is_recommended(with_drums, capsys):
    code, told = run_json(capsys, "models", "recommend", "the drum kit")
    assert (code, told["query"], told["error"]) == (0, "the drum kit", None)
    assert (told["now"]["backend"], told["now"]["licence"]) == ("probe-inside", "CC0-1.0")
    figures = [(model["name"], model["stem"], model["figure_db"], model["n_bytes"]) for model in told["better"]]
    expected = [("probe-open", 30.0), ("probe-best", 10.0), ("probe-outside", 9.9)]
    assert figures == [(name, "drums", figure_db, len(WEIGHTS)) for name, figure_db in expected]
    assert main(["models", "recommend", "drums"]) == 0
    first, second, heads, best, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("drums: now probe-inside, licence CC0-1.0. The query asks for the stem 'drums'")
    assert second == "Better after `unisep models pull NAME`:" and "DRUMS" in heads
    assert re.search(r"probe-open +missing +0.0 MB +not stated +30.0", best)


def test_where_nobody_answers_it_is_said_with_what_is_known(with_drums, capsys):
    assert main(["models", "recommend", "oboe"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("oboe: nobody answers now. No backend that answers queries is installed. Run: pip install")
    assert out.endswith("No other model is known to be better.\n")
    code, told = run_json(capsys, "models", "recommend", "drums", "--licences", "MIT")
    assert (code, told["now"], told["better"]) == (0, None, [])
    assert "--licences leaves out 'probe-inside' (CC0-1.0)" in told["error"]
    assert main(["models", "recommend", ""]) == 2


def test_a_download_shows_its_progress_to_those_who_look(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["models", "pull", "probe-outside"]) == 0
    assert "probe-outside: outside.bin 0.0 MB of 0.0 MB" in capsys.readouterr().err


def test_doctor_is_content_when_what_is_needed_is_there(monkeypatch, capsys):
    from unisep.testing import toy_plugin

    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    with toy_plugin():
        code, report = run_json(capsys, "doctor")
    assert code == 0 and report["healthy"] is True
    found = {finding["what"]: finding for finding in report["findings"]}
    assert found["text queries"]["detail"] == "answered by toy"
    assert found["weights folder"]["state"] in ("ok", "note")


def test_without_any_plugin_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    assert main(["plugins"]) == 0
    assert "No plugin is installed. Run: pip install unisep-htdemucs" in capsys.readouterr().out
    code, report = run_json(capsys, "doctor")
    found = {finding["what"]: finding for finding in report["findings"]}
    assert code == 1
    assert found["plugins"]["state"] == "broken" and "pip install" in found["plugins"]["advice"]
    assert found["text queries"]["state"] == "broken"
