"""What one result says does not depend on what else is asked for, or on what was asked before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from unisep_align.alignment import keep_map

from unisep import (
    Audio,
    Backend,
    BackendInfo,
    BackendSpec,
    Direction,
    EncoderSpec,
    Ensemble,
    Output,
    Query,
    RouteSpec,
    Separator,
    hookimpl,
    plugins,
)
from unisep.cli import main
from unisep.errors import EnsembleError, OptionError, QueryError
from unisep.query.space_maps import Agreement, MapCard, MapStore, SpaceMap
from unisep.testing import noise, tone
from unisep.testing.toy import SPACE, ToyEncoder, toy_plugin

HERE = __name__


def spec(name: str, load: str, *stems: str) -> BackendSpec:
    return BackendSpec(name=name, load=f"{HERE}:{load}", summary="", stems=stems)


class Halves(Backend):
    info = BackendInfo(sources=("kick", "snare"), sample_rate_hz=44_100, channels=2, segment_seconds=1.0)

    def separate(self, mixture, queries=None, negatives=None):
        return Output(torch.stack([mixture / 2, mixture / 2], dim=1))


class Squashed(Halves):
    info = BackendInfo(
        sources=("kick", "snare"), sample_rate_hz=44_100, channels=2, segment_seconds=1.0, normalisation="song"
    )

    def separate(self, mixture, queries=None, negatives=None):
        return Output(torch.stack([mixture.tanh(), mixture - mixture.tanh()], dim=1))


def halves(*, weights, device, dtype):
    return Halves()


def squashed(*, weights, device, dtype):
    return Squashed()


def by_text(question):
    return Direction(stem=question.texts[0]) if question.texts else None


class Foreign(ToyEncoder):
    space = "other-1"


def foreign(*, weights, device):
    return Foreign()


@pytest.mark.parametrize("rate_hz", [44_100, 16_000])
def test_presence_is_that_of_the_range_whatever_else_is_asked(rate_hz: int) -> None:
    parts = [tone(3_000, 5.0, rate_hz), tone(90, 5.0, rate_hz)]
    song = Audio(np.concatenate([part.samples for part in parts], axis=1), rate_hz)
    low = Query(text="bass", time_range=(0, 3))
    with toy_plugin(), Separator("toy", query_backend="toy", encoder="toy") as separator:
        alone, together = separator.separate(song, [low]), separator.separate(song, [low, "hat"])
    for one, other in zip(alone.presence_over_time["bass"], together.presence_over_time["bass"], strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert max(each.start_seconds for each in together.presence_over_time["bass"]) < 3
    assert together.presence["bass"] == pytest.approx(alone.presence["bass"], abs=1e-3)
    assert together.presence["bass"] < 0.1
    assert max(each.stop_seconds for each in together.presence_over_time["hat"]) == pytest.approx(10, abs=1.1)


def test_rules_know_the_stems_of_the_callers_own_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = tmp_path / "own.bin"
    weights.write_bytes(b"any")
    module = SimpleNamespace(
        unisep_backends=hookimpl(lambda: [spec("own", "halves", "zap", "b")]),
        unisep_routes=hookimpl(lambda: [RouteSpec(name="r", load=f"{HERE}:by_text", summary="")]),
    )
    with plugins.registered(module, "own"), toy_plugin():
        separator = Separator("own", weights=weights, query_backend="toy", encoder="toy")
        assert separator.separate(noise(0.3), "kick").plan["kick"].backend == "own"
        assert separator.separate(noise(0.3), "zap").plan["zap"].backend == "toy"
        assert "own' has no stem 'zap' ready" in caplog.text


@pytest.mark.parametrize("name", ["rest", "Rest", "mixture"])
def test_no_stem_of_an_ensemble_takes_the_name_of_a_result_of_unisep(name: str) -> None:
    ensemble = Ensemble(members=[{"backend": "toy", "weights": {name: 1.0}, "stems": {name: "high"}}])
    with toy_plugin(), pytest.raises(EnsembleError, match=f"{name!r} is what unisep calls"):
        Separator(ensemble).separate(noise(0.3))


@pytest.mark.parametrize("name", ["rest", "REST", "rest.", " rest", "mixture "])
def test_no_query_takes_the_name_of_a_file_of_unisep(name: str) -> None:
    with toy_plugin(), pytest.raises(QueryError, match="reserved"):
        Separator(query_backend="toy", encoder="toy").separate(noise(0.3), Query(text="bass", name=name))


def test_an_ensemble_that_must_hear_the_whole_takes_no_shorter_segments() -> None:
    module = SimpleNamespace(
        unisep_backends=hookimpl(
            lambda: [spec("plain", "halves", "kick", "snare"), spec("song", "squashed", "kick", "snare")]
        )
    )
    mixed = Ensemble(
        members=[{"backend": "plain", "weights": {"snare": 1}}, {"backend": "song", "weights": {"kick": 1}}]
    )
    song = noise(2.5)
    with plugins.registered(module, "mixed"):
        whole = Separator(mixed).separate(song)["kick"].samples
        assert np.abs(whole - Separator("song").separate(song)["kick"].samples).max() < 1e-5
        short = Separator(mixed, segment_seconds=0.5)
        with pytest.raises(OptionError, match="must hear a recording in one piece: leave out"):
            short.separate(song)
        with pytest.raises(OptionError, match="must hear a recording in one piece: leave out"):
            short.stream([song.samples], sample_rate_hz=44_100)
        with pytest.raises(OptionError, match=r"nothing comes out before the end\. Use separate"):
            Separator(mixed).stream([song.samples], sample_rate_hz=44_100)
        assert np.abs(short.separate(song, stems="snare")["snare"].samples - song.samples / 2).max() < 1e-6


def test_a_map_that_was_fitted_anew_is_used_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path))
    agreement = Agreement(n=10, top_1=1, top_5=1, cosine=1, centred_cosine=1.0)
    card = MapCard(source="other-1", target=SPACE, text=agreement, n_captions=1, captions_sha256="",
                   ridge_strength=1.0, unisep_version="0")  # fmt: skip
    zero = np.zeros(4, np.float32)
    module = SimpleNamespace(
        unisep_encoders=hookimpl(lambda: [EncoderSpec(name="other", load=f"{HERE}:foreign", space="other-1")])
    )
    with toy_plugin(), plugins.registered(module, "other"):
        separator, found = Separator(query_backend="toy", encoder="other"), []
        for matrix in (np.eye(4), np.eye(4)[::-1]):
            keep_map(MapStore(), card, SpaceMap(matrix.astype(np.float32), {"text": (zero, zero)}))
            found.append(separator.embed("bass").vector)
        again = Separator(query_backend="toy", encoder="other").embed("bass").vector
    assert np.array_equal(found[1], again)
    np.testing.assert_allclose(found[0], found[1][::-1], atol=1e-6)


def test_a_report_is_written_whatever_options_were_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unisep import files

    for name, hz in (("low", 90), ("high", 3_000)):
        files.write(tmp_path / "songs" / "one" / f"{name}.wav", tone(hz, 1.5))
    plugin = tmp_path / "extra.py"
    plugin.write_text(
        "from unisep import CommandSpec, hookimpl\n@hookimpl\ndef unisep_commands():\n"
        "    return [CommandSpec(name='extra', load='extra:f', summary='')]\n"
    )
    report = tmp_path / "report.json"
    asked = ["evaluate", str(tmp_path / "songs"), "--mode", "stems", "--backend", "toy"]
    with toy_plugin():
        assert main([*asked, "--plugin", str(plugin), "--report", str(report)]) == 0, capsys.readouterr().err
    assert json.loads(report.read_text())["about"]["options"]["plugin"] == [str(plugin)]
