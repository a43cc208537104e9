from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from unisep import Audio, Plan, Separation, files
from unisep.audio import difference
from unisep.engine.timeline import Presence
from unisep.errors import AudioError, AudioFileError, OptionError, UnisepError
from unisep.files.formats import AudioFileInfo
from unisep.routing.types import Choice
from unisep.separation import total
from unisep.testing import noise, silence, tone

PARTS = {"drums": tone(200, 0.1), "hi/hat": tone(3_000, 0.1)}


def test_a_separation_is_an_ordered_mapping() -> None:
    result = Separation(PARTS, rest=noise(0.1), presence_over_time={"drums": [Presence(0, 1, 0.9)]})
    assert list(result) == ["drums", "hi/hat"]
    assert result.target is result["drums"] is PARTS["drums"]
    assert dict(result.presence) == {"drums": 0.9, "hi/hat": None}
    assert (len(result), "drums" in result, "rest" in result) == (2, True, False)
    with pytest.raises(TypeError):
        result.presence["drums"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("kind", [KeyError, UnisepError])
def test_a_name_that_no_result_has_is_a_key_error_and_one_of_unisep(kind: type[Exception]) -> None:
    result = Separation(PARTS, plan=Plan({"drums": Choice("b", None, "", "MIT", "none")}))
    with pytest.raises(kind, match=r"^No target named 'drum'. Did you mean 'drums'\?.*`.rest` is the rest\.$"):
        result["drum"]
    with pytest.raises(kind, match=r"^The plan has no result named 'drum'. Did you mean 'drums'\? Known: drums\.$"):
        result.plan["drum"]
    assert result.get("drum") is result.plan.get("drum") is None
    assert "drum" not in result.plan and "drums" in result.plan


def test_a_mapping_of_names_to_audio_is_all_it_needs(tmp_path: Path) -> None:
    result = Separation(PARTS)
    assert not result.rest.samples.any()
    assert result.plan.reason == ""
    written = result.save(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written.paths] == ["audio/drums.wav", "audio/hi_hat.wav"]


@pytest.mark.parametrize("targets", [{}, {"a": tone(), "b": tone(seconds=2)}, {"a": tone(), "b": tone(channels=1)}])
def test_targets_must_be_alike(targets: dict[str, Audio]) -> None:
    with pytest.raises(AudioError, match="same rate, channels and length"):
        Separation(targets)


def test_a_plan_is_read_only_and_gives_each_reason_once() -> None:
    plan = Plan({name: Choice("b", None, why, "MIT", "none") for name, why in (("x", "A."), ("y", "B."), ("z", "A."))})
    assert plan.reason == "A. B."
    assert plan.to_json()["y"]["reason"] == "B."
    with pytest.raises(TypeError):
        plan["x"] = plan["y"]  # type: ignore[index]


def test_the_remainder_brings_back_the_mixture() -> None:
    generator = np.random.default_rng(0)
    mixture = noise(0.5, deviation=1.0)
    parts = [Audio(generator.standard_normal(mixture.samples.shape) * 10, 44_100) for _ in range(4)]
    rest = difference(mixture.samples, [part.samples for part in parts])
    assert rest.dtype == np.float32
    error = np.abs(total([*parts, Audio(rest, 44_100)]).samples - mixture.samples).max()
    assert error <= np.finfo(np.float32).eps * 40  # one rounding of the rest, whose peak is below 80


def info(format: str, subtype: str) -> AudioFileInfo:
    return AudioFileInfo(44_100, 2, 4_410, format, subtype)


@pytest.mark.parametrize(
    ("source", "suffix", "subtype"),
    [
        (None, "wav", "FLOAT"),
        (info("wav", "PCM_24"), "wav", "PCM_24"),
        (info("wav", "PCM_16"), "wav", "PCM_16"),
        (info("flac", "PCM_16"), "flac", "PCM_16"),
        (info("mp3", "MPEG_LAYER_III"), "flac", "PCM_24"),
        (info("m4a", ""), "flac", "PCM_24"),
    ],
)
def test_saves_in_the_format_and_depth_of_the_input(
    tmp_path: Path, source: AudioFileInfo | None, suffix: str, subtype: str
) -> None:
    result = Separation(PARTS, rest=silence(0.1), source_name="my song", source_info=source)
    written = result.save(tmp_path)
    assert [path.name for path in written.paths] == [f"{name}.{suffix}" for name in ("drums", "hi_hat", "rest")]
    assert {path.parent for path in written.paths} == {tmp_path / "my song"}
    assert {files.probe(path).subtype for path in written.paths} == {subtype}
    assert written.gain == 1.0


def test_one_common_gain_keeps_integers_from_clipping(tmp_path: Path) -> None:
    loud = Audio(tone(100, 0.1).samples * 4, 44_100)
    result = Separation({"loud": loud, "soft": tone(300, 0.1)}, rest=silence(0.1))
    as_integers = result.save(tmp_path / "pcm", format="WAV", subtype="PCM_16")
    assert 0.49 < as_integers.gain < 0.5001
    soft = files.read(tmp_path / "pcm" / "audio" / "soft.wav")
    assert np.abs(soft.samples - result["soft"].samples * as_integers.gain).max() < 1e-4
    as_floats = result.save(tmp_path / "float")
    assert as_floats.gain == 1.0
    assert np.array_equal(files.read(as_floats.paths[0]).samples, loud.samples)


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    result = Separation(
        {"../../up": tone(seconds=0.1), "UP": tone(seconds=0.1), "up": tone(seconds=0.1)}, source_name="../.."
    )
    written = result.save(tmp_path / "out")
    assert all(path.resolve().is_relative_to((tmp_path / "out").resolve()) for path in written.paths)
    assert len({path.name.casefold() for path in written.paths}) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_saving_never_replaces_the_recording(tmp_path: Path) -> None:
    path = files.write(tmp_path / "drums" / "drums.wav", tone(100, 0.1))
    before = path.read_bytes()
    result = Separation(PARTS, source_name="drums", source_path=path)
    for folder in (tmp_path, tmp_path / "drums" / ".."):
        with pytest.raises(OptionError, match=r"'drums' would replace the recording .* itself"):
            result.save(folder)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["drums.wav"]
    assert result.save(tmp_path / "elsewhere").paths
    path.unlink()
    assert path in result.save(tmp_path, tags=False).paths  # what is no longer there cannot be replaced


def test_saving_in_an_unknown_format_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="xyz"):
        Separation(PARTS).save(tmp_path, format="xyz")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_draws_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = Separation(PARTS, rest=silence(0.1)).plot(tmp_path / "new" / "spectra.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match=r"ends in \.png"):
        Separation(PARTS).plot(tmp_path / "spectra.xyz")
    with pytest.raises(OptionError, match=r"no suffix.*ends in \.png"):
        Separation(PARTS).plot(tmp_path / "spectra")
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert Separation({"$a_{$": tone(200, 0.1)}).plot(tmp_path / "odd.png").is_file()


def test_without_matplotlib_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "unisep.picture", raising=False)
    with pytest.raises(OptionError, match=r'pip install "unisep\[plot\]"'):
        Separation(PARTS).plot(tmp_path / "spectra.png")


def test_a_separation_goes_through_pickle_and_copy() -> None:
    plan = Plan({"drums": Choice("toy", None, "asked", "MIT", "none")})
    result = Separation(PARTS, rest=noise(0.1), presence_over_time={"drums": [Presence(0, 1, 0.9)]}, plan=plan)
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert list(again) == list(result) and dict(again.plan) == dict(plan)
        assert dict(again.presence) == {"drums": 0.9, "hi/hat": None}
        assert np.array_equal(again.rest.samples, result.rest.samples)
        with pytest.raises(TypeError):
            again.presence["drums"] = 1.0  # type: ignore[index]


def test_names_with_nul_and_parts_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="Cannot write"):
        Separation(PARTS).save(str(tmp_path / "a\0b"))
    with pytest.raises(AudioError, match="made of Audio"):
        Separation({"a": noise(0.1).samples})  # type: ignore[dict-item]
