"""Curation counts as the paper says, and finds mislabelled and swapped stems, with a separator whose matrix is known."""

import json
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
from unisep_evaluate.layouts import ManifestRow
from unisep_train.data.curation import Judgement, count_row, judge_all, levels_db, source_of

from unisep import Backend, BackendInfo, BackendSpec, Output, Separator, hookimpl
from unisep.plugins.registry import registered

RATE_HZ = 8000
SOURCES = ("drums", "bass", "other", "vocals")
HZ = {"drums": 3000, "bass": 100, "other": 500, "vocals": 1500}
EDGES_HZ = {"drums": (2500, 4001), "bass": (0, 250), "other": (250, 1000), "vocals": (1000, 2500)}


class Bands(Backend):
    """Gives a frequency band for each stem; what leaks from one to another is up to the test's signals."""

    info = BackendInfo(sources=SOURCES, sample_rate_hz=RATE_HZ, channels=2)

    def separate(self, mixture, queries=None, negatives=None):
        spectrum = torch.fft.rfft(mixture)
        hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / RATE_HZ)
        masks = [((hz >= low) & (hz < high)).float() for low, high in EDGES_HZ.values()]
        return Output(torch.stack([torch.fft.irfft(spectrum * m, mixture.shape[-1]) for m in masks], dim=1))


def load(*, weights, device, dtype):
    return Bands()


class Plugin:
    @hookimpl
    def unisep_backends(self):
        return [BackendSpec(name="bands", load="bands_backend:load", summary="Bands", stems=SOURCES)]


@pytest.fixture
def bands(monkeypatch):
    module = types.ModuleType("bands_backend")
    vars(module)["load"] = load
    monkeypatch.setitem(sys.modules, "bands_backend", module)
    with registered(Plugin(), "bands"):
        yield "bands"


def tone(name, seconds=10, level=0.3):
    return level * np.sin(2 * np.pi * HZ[name] * np.arange(seconds * RATE_HZ) / RATE_HZ)


def song(folder, stems):
    folder.mkdir(parents=True)
    for name, sound in stems.items():
        soundfile.write(folder / f"{name}.wav", np.float32(sound), RATE_HZ)


def clean():
    return {name: tone(name) for name in SOURCES}


def verdict_of(folder, bands):
    with Separator(bands, device="cpu") as separator:
        (verdict,), failed = judge_all(folder, separator, sample_rate_hz=RATE_HZ)
    assert not failed
    return verdict


def counted(*sources, **rows):
    """A judgement from the counts of each row: segments, those that sound, and those in which each output is heard."""
    nothing = (0, 0, [0] * len(sources))
    filled = (rows.get(source, nothing) for source in sources)
    return Judgement("song", sources, np.array([[n, n_sounding, *heard] for n, n_sounding, heard in filled]))


def test_levels_are_mean_power_of_whole_seconds():
    sound = np.zeros((2, 25), np.float32)
    sound[:, :10] = 1.0
    sound[0, 10:20] = 0.1
    np.testing.assert_allclose(levels_db(sound, 10), [0.0, -23.0103], atol=1e-3)
    assert levels_db(sound[:, :4], 10).shape == (1,)


def test_a_row_is_counted_as_published():
    # Five seconds at -6, -6, -6, -39 and -41 dB: the last is silent. Outputs 9 and 11 dB below it.
    stem = np.repeat(10 ** (np.array([-6, -6, -6, -39, -41.0]) / 20), 10)[None]
    near, far = stem * 10 ** (-9 / 20), stem * 10 ** (-11 / 20)
    half = np.where(np.arange(50) < 20, near, far)
    assert count_row(stem, [near, far, half], 10) == [5, 4, 4, 0, 2]


def test_the_rule_is_strict_about_its_limits():
    def kept(own, other, sounding=10):
        return not counted("a", "b", a=(10, sounding, [own, other]), b=(10, 10, [0, 10])).reasons

    assert kept(8, 2)
    assert not kept(7, 2), "P[i, i] must be above 70 %"
    assert not kept(8, 3), "P[i, j] must be below 30 %"
    assert kept(3, 0, sounding=3)
    assert not kept(2, 0, sounding=2), "30 % of the segments must sound"
    assert counted("a").reasons == ["a sounds in 0% of the segments, 30% are needed"]


def test_a_clean_song_is_kept(tmp_path, bands):
    song(tmp_path / "clean", clean())
    verdict = verdict_of(tmp_path, bands)
    assert not verdict.reasons
    np.testing.assert_array_equal(verdict.matrix, np.eye(4))
    assert verdict.sounding_share.tolist() == [1.0] * 4


def test_swapped_stems_are_found(tmp_path, bands):
    stems = clean()
    stems["bass"], stems["vocals"] = stems["vocals"], stems["bass"]
    song(tmp_path / "swapped", stems)
    verdict = verdict_of(tmp_path, bands)
    expected = np.eye(4)[[0, 3, 2, 1]]
    np.testing.assert_array_equal(verdict.matrix, expected)
    assert verdict.reasons
    assert {"bass comes out as vocals in 100%", "vocals comes out as bass in 100%"} <= set(verdict.reasons)


def test_leakage_counts_from_10_db_below(tmp_path, bands):
    stems = clean()
    first = np.arange(10 * RATE_HZ) < 4 * RATE_HZ
    stems["other"] = stems["other"] + tone("drums", level=0.3 * 10 ** (-8 / 20)) * first
    stems["vocals"] = stems["vocals"] + tone("drums", level=0.3 * 10 ** (-12 / 20))
    song(tmp_path / "leaky", stems)
    verdict = verdict_of(tmp_path, bands)
    matrix = verdict.matrix
    assert matrix[2, 0] == pytest.approx(0.4) and matrix[3, 0] == 0.0
    assert verdict.reasons == ["other comes out as drums in 40%"]


def test_several_stems_of_one_source_are_summed_and_a_missing_one_is_said(tmp_path, bands):
    stems = clean()
    half = np.arange(10 * RATE_HZ) < 5 * RATE_HZ
    del stems["bass"], stems["drums"]
    song(tmp_path / "song", stems | {"kick drum": tone("drums") * half, "hi-hat": tone("drums") * ~half})
    verdict = verdict_of(tmp_path, bands)
    assert verdict.sounding_share.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert verdict.reasons == ["bass sounds in 0% of the segments, 30% are needed"]
    assert verdict.shares()["matrix"]["bass"] is None


def test_sounds_go_to_the_source_that_names_them():
    six = ("drums", "bass", "other", "vocals", "guitar", "piano")

    def goes(label, sources, four_stem="other"):
        return source_of(ManifestRow(path="x", label=label, four_stem=four_stem), sources)

    assert goes("acoustic guitar", six) == "guitar" and goes("acoustic guitar", six[:4]) == "other"
    assert goes("honky-tonk piano", six) == "piano" and goes("flute", six) == "other"
    assert goes("kick drum", six, "drums") == "drums" and goes("low", ("low", "high")) == "low"
    assert goes("flute", ("low", "high")) is None


def test_the_command_prints_and_writes_verdicts(tmp_path, bands, capsys, command):
    song(tmp_path / "songs" / "clean", clean())
    song(tmp_path / "songs" / "wrong", clean() | {"drums": tone("other")})
    out = tmp_path / "verdicts.json"
    words = ["curate", tmp_path / "songs", "--backend", bands, "--rate", RATE_HZ, "--device", "cpu", "--json"]
    assert not command(*words, out)
    printed = capsys.readouterr().out
    assert "1 of 2 songs kept" in printed and "drums comes out as other in 100%" in printed
    found = json.loads(out.read_text())
    assert {s["song"]: s["kept"] for s in found["songs"]} == {"clean": True, "wrong": False}
    assert found["songs"][1]["matrix"]["drums"] == {"drums": 0.0, "bass": 0.0, "other": 1.0, "vocals": 0.0}
    assert not command(*words, "-")
    assert json.loads(capsys.readouterr().out) == found


def test_a_song_that_cannot_be_read_does_not_stop_the_others(tmp_path, bands, capsys, command):
    song(tmp_path / "clean", clean())
    song(tmp_path / "empty", clean() | {"drums": np.zeros(0)})
    assert command("curate", tmp_path, "--backend", bands, "--rate", RATE_HZ, "--device", "cpu") == "1"
    printed = capsys.readouterr().out
    assert "not judged" in printed and "1 of 2 songs kept" in printed


def test_what_cannot_be_curated_is_said(tmp_path, bands, command):
    assert "no layout known here" in command("curate", tmp_path, "--backend", bands)
    assert "No backend named 'nobody'" in command("curate", tmp_path, "--backend", "nobody")
