"""`unisep explain`: who would answer and what else could, without loading anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from unisep import BackendSpec, Direction, EncoderSpec, ResultSpec, RouteSpec, explain, hookimpl, plugins
from unisep.cli import main
from unisep.engine.chunking import SegmentPlan
from unisep.errors import DownloadError, OptionError, PluginError
from unisep.query.parsed import parse_queries
from unisep.routing.catalog import build_catalog
from unisep.routing.router import resolve
from unisep.routing.types import Request
from unisep.session.explain import Cost, cost_of, n_numbers, n_segments
from unisep.testing import toy_plugin
from unisep.weights.store import WeightsStore

CARD = """
name = "{name}"
summary = "s"
licence = "CC-BY-4.0"
sample_rate_hz = 44100
segment_seconds = 7.8
n_parameters = {n_parameters}
[[files]]
name = "{name}.safetensors"
{origin}
n_bytes = 4_000_000
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plugins whose models cannot even be imported: one with stems, two for queries, three encoders."""
    package = tmp_path / "site" / "explained_models"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    save_file({"w": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, package / "here.safetensors")
    for name, origin, n_parameters in (
        ("away", 'url = "https://example.org/away.safetensors"', 12_300_000),
        ("here", 'resource = "here.safetensors"', 0),
    ):
        (package / f"{name}.toml").write_text(CARD.format(name=name, origin=origin, n_parameters=n_parameters))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    load = "explained_models:load"
    backends = [
        BackendSpec(name="stems", load=load, summary="", stems=("drums", "vocals"), card="explained_models:away.toml"),
        BackendSpec(
            name="asked", load=load, summary="", spaces=("one",), licence="MIT", card="explained_models:here.toml"
        ),
        BackendSpec(name="other", load=load, summary="", spaces=("two",), licence="MIT"),
    ]
    encoders = [
        EncoderSpec(name="enc-one", load=load, space="one", licence="CC0-1.0"),
        EncoderSpec(name="enc-two", load=load, space="two"),
        EncoderSpec(name="enc-away", load=load, space="one", card="explained_models:away.toml"),
    ]
    module = SimpleNamespace(unisep_backends=hookimpl(lambda: backends), unisep_encoders=hookimpl(lambda: encoders))
    with plugins.registered(module, "models"):
        yield module
    plugins.refresh()
    assert "explained_models" not in sys.modules


def named(candidates) -> list[tuple[str, str | None]]:
    return [(c.backend.name, c.encoder.name if c.encoder else None) for c in candidates]


def test_who_answers_a_query_and_who_else_could_and_who_cannot(models) -> None:
    (answer,) = explain("violin").answers
    assert named([answer.chosen]) == [("asked", "enc-one")]
    assert answer.chosen.reason == "'asked' answers queries."
    assert named(answer.others) == [("other", "enc-two"), ("asked", "enc-away")], "weights that are here come first"
    unable = {key: c.reason for key, c in zip(named(answer.unable), answer.unable, strict=True)}
    assert set(unable) == {("stems", None), ("asked", "enc-two"), ("other", "enc-one"), ("other", "enc-away")}
    assert "names no stem" in unable["stems", None]
    assert "no map between them was fitted" in unable["asked", "enc-two"]


def test_licences_and_costs_are_those_of_spec_card_and_file(models) -> None:
    (answer,) = explain("vocals").answers
    chosen, encoder = answer.chosen.backend, answer.chosen.encoder
    assert (chosen.licence, chosen.weights, chosen.distribution) == ("MIT", "embedded", "registered")
    assert (chosen.cost.n_values, chosen.cost.n_parameters, chosen.cost.n_download_bytes) == (22, None, 0)
    assert chosen.cost.segment_seconds == 7.8
    assert encoder is not None and (encoder.licence, encoder.weights) == ("CC0-1.0", "none")
    stems = next(other.backend for other in answer.others if other.backend.name == "stems")
    assert (stems.licence, stems.weights) == ("CC-BY-4.0", "missing")
    assert (stems.cost.n_download_bytes, stems.cost.n_parameters) == (4_000_000, 12_300_000)
    assert "'stems' was made for that" in explain("vocals").warning


def test_what_is_explained_is_what_separates(models) -> None:
    store = WeightsStore()
    known = build_catalog(plugins.installed(), (), lambda spec: store.state_at(spec.card))
    for query in ("violin", "vocals", ["violin", "drums"]):
        plan = resolve(Request(parsed_queries=parse_queries(query)), known).plan
        explained = explain(query)
        assert [answer.name for answer in explained.answers] == list(plan)
        for answer in explained.answers:
            assert answer.chosen.backend.name == plan[answer.name].backend
            assert answer.chosen.reason == plan[answer.name].reason


def test_the_fixed_stems_are_explained_too(models) -> None:
    answers = explain().answers
    assert [answer.name for answer in answers] == ["drums", "bass", "other", "vocals"]
    for answer in answers:
        assert named([answer.chosen]) == [("asked", "enc-one")]
        assert ("stems", None) in named(answer.unable), "it has drums and vocals only"
    (drums,) = explain(stems=["drums"]).answers
    assert named([drums.chosen]) == [("stems", None)]
    (drums,) = explain(stems=["drums"], backend="asked").answers
    assert named([drums.chosen]) == [("asked", "enc-one")] and ("stems", None) in named(drums.others)


def test_what_the_caller_insists_on_is_explained(models) -> None:
    (answer,) = explain("violin", query_backend="other").answers
    assert named([answer.chosen]) == [("other", "enc-two")]
    assert ("asked", "enc-one") in named(answer.others)
    with pytest.raises(PluginError, match="No backend named 'nobody'"):
        explain("violin", query_backend="nobody")
    with pytest.raises(DownloadError):
        explain(backend="stems", offline=True)
    with pytest.raises(OptionError):
        explain("violin", route="sideways")


def test_what_licences_leave_out_is_named(models, capsys) -> None:
    (answer,) = explain("violin", licences="CC0-1.0").answers
    assert named([answer.chosen]) == [("other", "enc-two")], "what needs no weights is always allowed"
    assert answer.chosen.reason.endswith("licences= leaves out 'asked' (MIT).")
    unable = {key: c.reason for key, c in zip(named(answer.unable), answer.unable, strict=True)}
    assert (
        unable["asked", "enc-one"] == "The licence of 'asked' is MIT, which licences= does not allow. Allowed: CC0-1.0."
    )
    assert unable["stems", None].startswith("The licence of 'stems' is CC-BY-4.0, "), "as its card says"
    with pytest.raises(OptionError, match="licence of 'asked' is MIT"):
        explain("violin", query_backend="asked", licences=["CC0-1.0"])
    assert main(["explain", "-q", "violin", "--licences", "CC0-1.0,ISC", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "--licences leaves out 'asked' (MIT)." in out
    assert "cannot: stems: The licence of 'stems' is CC-BY-4.0, which --licences does not allow." in out


def test_rules_and_steps_of_plugins_are_named(models) -> None:
    module = SimpleNamespace(
        send=lambda question: Direction(backend="other", reason="it is known there"),
        unisep_routes=hookimpl(lambda: [RouteSpec(name="rule", load="explained_hooks:send", summary="")]),
        unisep_results=hookimpl(lambda: [ResultSpec(name="step", load="explained_hooks:x", summary="")]),
    )
    sys.modules["explained_hooks"] = module  # type: ignore[assignment]
    found = explain("violin", plugins=[module])
    del sys.modules["explained_hooks"]
    assert (found.rules, found.steps) == (("'rule' of registered",), ("'step' of registered",))
    assert "The rule 'rule' of registered sent it there: it is known there." in found.answers[0].chosen.reason


def test_an_ensemble_is_explained_with_the_cost_of_its_members(models, tmp_path: Path, capsys) -> None:
    (tmp_path / "both.toml").write_text(
        '[[members]]\nbackend = "stems"\n[[members]]\nbackend = "toy-pan"\n'
        'stems = { drums = "left", vocals = "right" }\nweights = { drums = 1.0 }\n'
    )
    with toy_plugin():
        found = explain(backend=f"ensemble@{tmp_path / 'both.toml'}")
        assert main(["explain", "--backend", f"ensemble@{tmp_path / 'both.toml'}"]) == 0
    chosen = found.answers[0].chosen.backend
    assert [answer.name for answer in found.answers] == ["drums", "vocals"]
    assert chosen.name.endswith("both.toml")
    assert (chosen.weights, chosen.cost.n_download_bytes) == ("local", 4_000_000)
    assert (chosen.cost.n_weight_bytes, chosen.cost.n_parameters) == (4_000_000, None)
    assert "weights of its members, 4 MB, 4 MB of them to download" in capsys.readouterr().out


def test_numbers_are_counted_by_the_header_alone(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3)), "b": np.zeros(()), "c": np.zeros((4, 0))}, tmp_path / "a.safetensors")
    assert n_numbers(tmp_path / "a.safetensors") == 7
    (tmp_path / "junk").write_bytes(b"\xff" * 40)
    (tmp_path / "list").write_bytes((2).to_bytes(8, "little") + b"[]")
    for name in ("junk", "list", "nowhere"):
        assert n_numbers(tmp_path / name) is None


def test_the_cost_of_a_card_that_cannot_be_read_is_not_known() -> None:
    assert cost_of("nowhere:card.toml", "broken", WeightsStore()) == Cost()
    assert cost_of("", "none", WeightsStore()) == Cost(n_download_bytes=0, n_weight_bytes=0)


@pytest.mark.parametrize(("seconds", "segment", "n"), [(60, 7.8, 11), (1, 7.8, 1), (100, None, 1), (0, None, 1)])
def test_segments_are_counted_as_they_are_cut(seconds: float, segment: float | None, n: int) -> None:
    assert n_segments(seconds, segment) == n
    if segment and seconds:
        assert len(SegmentPlan(round(segment * 1000)).grid(round(seconds * 1000))) == n


def test_the_command_says_it_in_words(models, tmp_path: Path, capsys, monkeypatch) -> None:
    soundfile.write(tmp_path / "song.wav", np.zeros((44_100 * 60, 1)), 44_100)
    asked = ["explain", str(tmp_path / "song.wav"), "-q", "violin"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "  cannot: 4 others; --verbose says why" in out and "cannot: stems: " not in out
    monkeypatch.setattr("unisep.cli.explain.N_OTHERS", 1)
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert out.count("could also: ") == 2 and "  could also: 1 more; --verbose lists them" in out
    assert main([*asked, "--verbose"]) == 0
    out = capsys.readouterr().out
    for said in (
        "the recording: 60.0 s",
        "violin: asked with enc-one",
        "why: 'asked' answers queries.",
        "of registered, licence MIT, weights come with it, 4 MB, 0.0 million numbers in its weights, segments of 7.8 s, "
        "11 of them for 60.0 s",
        "could also: asked with enc-away",
        "licence CC-BY-4.0, weights are not here, 4 MB to download: unisep models pull enc-away",
        "cannot: stems: ",
    ):
        assert said in out


def test_a_size_that_is_not_known_is_not_spoken_of(models, tmp_path: Path, capsys) -> None:
    card = tmp_path / "site" / "explained_models" / "away.toml"
    card.write_text(card.read_text().replace("n_bytes = 4_000_000", ""))
    assert main(["explain", "-q", "vocals"]) == 0
    out = capsys.readouterr().out
    assert "weights are not here: unisep models pull stems" in out and "to download" not in out


def test_the_command_gives_json_with_the_promised_keys(models, capsys) -> None:
    assert main(["explain", "-q", "violin", "--exclude", "cello", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"input", "seconds", "answers", "warning", "rules", "steps"}
    (answer,) = found["answers"]
    assert set(answer) == {"name", "chosen", "others", "unable"}
    assert set(answer["chosen"]) == {"backend", "encoder", "reason", "level_db"}
    part = {"name", "distribution", "licence", "weights", "cost"}
    assert set(answer["chosen"]["backend"]) == set(answer["chosen"]["encoder"]) == part
    assert {"n_download_bytes", "n_weight_bytes", "n_parameters", "n_values", "segment_seconds"} <= set(
        answer["chosen"]["backend"]["cost"]
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.wav"], 1, "nowhere.wav"),
        (["--weights", "x"], 2, "weights of your own"),
        (["--encoder", "enc-one@folder"], 2, "weights of your own"),
        (["--exclude", "x"], 2, "needs something to isolate"),
        (["--backend", "nobody"], 1, "No backend named 'nobody'"),
        (["-q", "oboe", "--query-backend", "asked", "--licences", "ISC"], 2, "Allowed: ISC."),
        (["--licences", "not stated"], 2, "--licences not stated: give 'commercial'"),
    ],
)
def test_what_cannot_be_explained_says_why(models, words: list[str], code: int, said: str, capsys) -> None:
    assert main(["explain", *words]) == code
    assert said in capsys.readouterr().err


def test_explaining_loads_neither_torch_nor_a_model() -> None:
    code = (
        "import sys; from unisep.cli import main; codes = [main(['explain', '-q', 'guitar']), main(['explain', '--json'])]\n"
        "heavy = [m for m in sys.modules if m in ('torch', 'transformers') or m.endswith(('.backend', '.model'))]\n"
        "heavy = [m for m in heavy if m != 'unisep.plugins.backend']\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
