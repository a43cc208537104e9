from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
from unisep_evaluate import WindowOptions, open_dataset, query_items, songs
from unisep_evaluate.items import Examples
from unisep_evaluate.passages import levels_of, loudest, read_passages
from unisep_evaluate.windows import song_windows

from unisep.errors import AudioFileError, DatasetError, OptionError
from unisep.testing import chirp, noise, tone

RATE_HZ = 8_000


def write(path, samples, rate_hz=RATE_HZ):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.atleast_2d(samples).T, rate_hz, subtype="FLOAT")


def sound(kind, seconds=4.0, gain=1.0, rate_hz=RATE_HZ, channels=2):
    makers = {
        "low": lambda: tone(120, seconds, rate_hz, channels, 0.2),
        "noise": lambda: noise(seconds, rate_hz, channels),
    }
    makers["high"] = lambda: tone(3_000, seconds, rate_hz, channels, 0.2)
    makers["chirp"] = lambda: chirp(seconds, rate_hz, channels)
    return gain * makers[kind]().samples


def manifest(folder, lines):
    """A manifest folder: each line is (path, label, samples, more fields)."""
    rows = []
    for path, label, samples, more in lines:
        write(folder / path, samples)
        rows.append({"path": path, "label": label, **more})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def two_songs(folder):
    for song in ("one", "two"):
        write(folder / song / "low.wav", sound("low"))
        write(folder / song / "high.wav", sound("high"))
    return folder


def test_folders_of_stems(tmp_path):
    two_songs(tmp_path)
    write(tmp_path / "one" / "mixture.wav", sound("noise"))
    (tmp_path / "one" / "notes.txt").write_text("no audio")
    (tmp_path / ".hidden").mkdir()
    dataset = open_dataset(tmp_path)
    assert [track.name for track in dataset.tracks] == ["one", "two"]
    assert [stem.label for stem in dataset.tracks[0].stems] == ["high", "low"]
    assert dataset.tracks[0].mixture is not None and dataset.tracks[1].mixture is None


def test_musdb_has_subsets_and_the_four_roles(tmp_path):
    for subset in ("train", "test"):
        for stem in ("mixture", "drums", "bass", "other", "vocals"):
            write(tmp_path / subset / f"{subset} song" / f"{stem}.wav", sound("noise", 0.5))
    dataset = open_dataset(tmp_path)
    assert [track.name for track in dataset.tracks] == ["test song"]
    assert sorted(stem.role for stem in dataset.tracks[0].stems) == ["bass", "drums", "other", "vocals"]
    assert [track.name for track in open_dataset(tmp_path, subset="train").tracks] == ["train song"]
    (song,) = songs(dataset, seconds=0.25)
    assert sorted(song.references) == ["bass", "drums", "other", "vocals"]
    assert song.mixture.seconds == 0.25


def test_a_manifest_has_songs_and_single_sounds(tmp_path):
    manifest(tmp_path, [
        ("songs/a/kick.wav", "kick drum", sound("low"), {"song": "a", "four_stem": "drums", "synonyms": ["kick"], "new": 1}),
        ("songs/a/pad.wav", "Synth_Pad", sound("high"), {"song": "a", "four_stem": "other"}),
        ("solo/dog.wav", "dog bark", sound("noise"), {"four_stem": "none"}),
    ])  # fmt: skip
    dataset = open_dataset(tmp_path)
    (track,) = dataset.tracks
    kick, pad = track.stems
    assert kick.names == {"kick drum", "kick", "drums"} and kick.answers("drums")
    assert pad.label == "synth pad" and pad.role == "other"
    assert [single.label for single in dataset.singles] == ["dog bark"]


def test_a_role_that_no_stem_has_is_silence_where_all_roles_are_stated(tmp_path):
    stated = manifest(tmp_path / "stated", [
        ("a/1.wav", "kick", sound("low", 0.5), {"song": "a", "four_stem": "drums"}),
        ("a/2.wav", "snare", sound("high", 0.5), {"song": "a", "four_stem": "drums"}),
        ("a/3.wav", "pad", sound("noise", 0.5), {"song": "a", "four_stem": "other"}),
    ])  # fmt: skip
    (song,) = songs(open_dataset(stated))
    assert {name: bool(samples.any()) for name, samples in song.references.items()} == {
        "drums": True, "bass": False, "vocals": False, "other": True,
    }  # fmt: skip
    np.testing.assert_allclose(song.references["drums"], sound("low", 0.5) + sound("high", 0.5), atol=1e-6)
    for stem in ("drums", "other"):  # here "other" may hold the vocals
        write(tmp_path / "plain" / "a" / f"{stem}.wav", sound("noise", 0.5))
    (song,) = songs(open_dataset(tmp_path / "plain"))
    assert set(song.references) == {"drums", "other"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"),
        ("[]", "line 1"),
        ('{"label": "x"}', "path"),
        ('{"path": "x.wav", "label": ""}', "label"),
        ('{"path": "../x.wav", "label": "x"}', "leaves the folder"),
        ("", "names no file"),
    ],
)
def test_a_broken_manifest_is_named_with_its_line(tmp_path, line, said):
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)


def test_no_data_says_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"song/drums\.wav"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no folder"):
        open_dataset(tmp_path / "nowhere")


def test_selecting_sets_the_rest_aside(tmp_path):
    two_songs(tmp_path)
    dataset = open_dataset(tmp_path).select(songs=["two"])
    assert [track.name for track in dataset.tracks] == ["two"]
    assert [track.name for track in dataset.aside_tracks] == ["one"]
    with pytest.raises(DatasetError, match="Did you mean 'two'"):
        open_dataset(tmp_path).select(songs=["tow"])


def test_single_sounds_are_selected_by_the_hash_of_their_path(tmp_path):
    from hashlib import md5

    paths = [f"solo/{n}.wav" for n in range(12)]
    manifest(tmp_path, [(path, "x", sound("low", 0.2), {}) for path in paths])
    dataset = open_dataset(tmp_path)
    digit = md5(b"solo/3.wav").hexdigest()[-1]
    kept = dataset.select(hashed=digit)
    assert tmp_path / "solo/3.wav" in {single.path for single in kept.singles}
    assert {s.path.name for s in kept.singles} == {
        path[5:] for path in paths if md5(path.encode()).hexdigest()[-1] == digit
    }
    assert len(kept.singles) + len(kept.aside_singles) == 12
    with pytest.raises(DatasetError, match="Nothing"):
        dataset.select(kinds=["voice"])


def test_levels_and_passages_equal_the_file(tmp_path):
    samples = np.concatenate([np.zeros((2, RATE_HZ)), sound("noise", 2.0)], axis=1).astype(np.float32)
    write(tmp_path / "x.wav", samples)
    levels = levels_of(tmp_path / "x.wav")
    assert levels.seconds == 3.0 and len(levels.step_db) == 30
    first = samples[:, RATE_HZ : RATE_HZ + 800].astype(np.float64)
    assert levels.step_db[10] == pytest.approx(10 * np.log10(np.mean(first**2)), abs=1e-6)
    assert levels.is_silent(0, 1) and not levels.is_silent(0.5, 1)
    found = read_passages(tmp_path / "x.wav", [7_000, 23_900], 200, RATE_HZ, 2)
    np.testing.assert_array_equal(found[0], samples[:, 7_000:7_200])
    np.testing.assert_array_equal(found[1], np.pad(samples[:, 23_900:], ((0, 0), (0, 100))))
    assert loudest(levels.step_db, 0.5) == pytest.approx(1.0, abs=1.5)
    assert loudest(levels.step_db, 0.5, avoid=(0.9, 3.0)) is None


def options(**changes):
    return WindowOptions(**{"window_seconds": 1.0, "n_per_class": 3, "n_absent": 4, "example_seconds": 0.5} | changes)


def test_windows_have_target_and_rest_at_like_levels(tmp_path):
    rising = np.concatenate([np.zeros((2, RATE_HZ)), sound("low", 1.0, 0.05), sound("low", 2.0)], axis=1)
    write(tmp_path / "a" / "low.wav", rising)
    write(tmp_path / "a" / "high.wav", sound("high"))
    items = list(query_items(open_dataset(tmp_path), options()))
    present = [item for item in items if item.group == "song"]
    absent = [item for item in items if item.group == "absent"]
    assert {(item.name, item.start_seconds) for item in present} == {
        (name, start) for name in ("low", "high") for start in (1.5, 2.5)
    }  # fmt: skip
    assert [(item.name, item.start_seconds) for item in absent] == [("low", 0.0)]
    assert not absent[0].target.any() and absent[0].mixture.samples.any()
    for item in present:
        rest = item.mixture.samples - item.target
        assert abs(10 * np.log10(np.sum(item.target**2) / np.sum(rest**2))) <= 10
        stem = rising if item.name == "low" else sound("high")
        start = round(item.start_seconds * RATE_HZ)
        np.testing.assert_allclose(item.target, stem[:, start : start + RATE_HZ], atol=1e-6)


def test_how_near_the_levels_must_be_is_an_option(tmp_path):
    write(tmp_path / "a" / "low.wav", sound("low", gain=0.05))
    write(tmp_path / "a" / "high.wav", sound("high"))
    with pytest.raises(DatasetError, match="10 dB"):
        list(query_items(open_dataset(tmp_path), options()))
    found = list(query_items(open_dataset(tmp_path), options(within_db=math.inf, n_absent=0)))
    assert {item.name for item in found} == {"low", "high"}


def test_where_something_might_hold_the_name_no_window_is_taken(tmp_path):
    half = np.concatenate([sound("noise", 2.0), np.zeros((2, 2 * RATE_HZ))], axis=1)
    drums = {"song": "a", "four_stem": "drums", "family": "drums"}
    manifest(tmp_path, [
        ("a/1.wav", "hi-hat", sound("high"), drums),
        ("a/2.wav", "drum loop", half, drums),
        ("a/3.wav", "piano", sound("low"), {"song": "a", "four_stem": "other", "family": "keys"}),
    ])  # fmt: skip
    windows = song_windows(open_dataset(tmp_path), options(n_absent=0, n_per_class=9))
    hats = [window.start_seconds for window in windows if window.name == "hi-hat"]
    assert hats and min(hats) >= 2.0
    assert [w.start_seconds for w in windows if w.name == "drums"] == [0.0, 1.0, 2.0, 3.0]
    assert not [w for w in song_windows(open_dataset(tmp_path), options(classes=("drums",))) if w.absent]


def test_what_other_stems_may_hold_is_not_called_absent(tmp_path):
    for song, stems in {"a": ("vocals", "other"), "b": ("violin", "piano")}.items():
        for stem in stems:
            write(tmp_path / song / f"{stem}.wav", sound("noise"))
    windows = song_windows(open_dataset(tmp_path), options(n_absent=20))
    absent = {(window.track.name, window.name) for window in windows if window.absent}
    assert absent == {("b", "vocals")}


def test_absent_windows_go_round_names_and_songs_before_they_repeat(tmp_path):
    for song, stem in {"a": "violin", "b": "piano"}.items():
        write(tmp_path / song / f"{stem}.wav", sound("noise"))
        write(tmp_path / song / "flute.wav", sound("high"))
    dataset = open_dataset(tmp_path)
    for n_absent in (2, 4, 8, 30):
        windows = [w for w in song_windows(dataset, options(n_absent=n_absent)) if w.absent]
        names = [window.name for window in windows]
        assert names.count("violin") == names.count("piano") == min(n_absent, 8) // 2  # 4 s hold 4 windows each
        assert len(set(windows)) == len(windows)


def test_examples_are_never_the_target_itself(tmp_path):
    two_songs(tmp_path)
    dataset = open_dataset(tmp_path)
    one, _ = dataset.tracks
    clip = Examples(dataset, options()).for_window("low", one, (1.0, 2.0))
    assert clip is not None and clip.seconds == 0.5
    alone = dataset.select(songs=["one"])
    aside = Examples(alone, options()).for_window("low", one, (0.0, 4.0))  # from the song set aside
    assert aside is not None
    only = type(dataset)(dataset.name, (one,))
    assert Examples(only, options()).for_window("low", one, (0.0, 4.0)) is None
    elsewhere = Examples(only, options()).for_window("low", one, (0.0, 3.0))
    np.testing.assert_allclose(elsewhere.samples, sound("low")[:, 3 * RATE_HZ :][:, : RATE_HZ // 2], atol=1e-6)


def test_an_example_of_drums_is_all_of_another_songs_drums(tmp_path):
    lines = []
    for song in ("a", "b"):
        for number, kind in enumerate(("low", "high")):
            drums = {"song": song, "four_stem": "drums"}
            lines.append((f"{song}/{number}.wav", f"drum {number}", sound(kind), drums))
        lines.append((f"{song}/x.wav", "piano", sound("noise"), {"song": song, "four_stem": "other"}))
    dataset = open_dataset(manifest(tmp_path, lines))
    clip = Examples(dataset, options()).for_window("drums", dataset.tracks[0], (0.0, 1.0))
    assert clip is not None
    spectrum = np.abs(np.fft.rfft(clip.samples[0]))
    peaks_hz = np.fft.rfftfreq(clip.n_samples, 1 / RATE_HZ)[np.argsort(spectrum)[-2:]]
    assert sorted(peaks_hz) == pytest.approx([120, 3_000], abs=2)


def test_single_sounds_are_mixed_with_others_at_like_levels(tmp_path):
    lines = [
        (f"solo/{label}{n}.wav", label, sound(kind, 1.5), {"synonyms": [label]})
        for label, kind in [("dog", "low"), ("cat", "high"), ("rain", "noise")]
        for n in range(3)
    ]
    dataset = open_dataset(manifest(tmp_path, lines))
    items = list(query_items(dataset, options()))
    single = [item for item in items if item.group == "single"]
    assert sorted({item.name for item in single}) == ["cat", "dog", "rain"] and len(single) == 9
    for item in single:
        rest = item.mixture.samples - item.target
        assert abs(10 * np.log10(np.sum(item.target**2) / np.sum(rest**2))) <= 6.01
        assert item.example is not None
    absent = [item for item in items if item.group == "absent"]
    assert len(absent) == 4 and not any(item.target.any() for item in absent)


def test_the_same_data_and_options_give_the_same_items(tmp_path):
    two_songs(tmp_path)
    first, second = (list(query_items(open_dataset(tmp_path), options())) for _ in range(2))
    assert [(i.track, i.name, i.start_seconds) for i in first] == [(i.track, i.name, i.start_seconds) for i in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.mixture.samples, other.mixture.samples)
        assert one.example is not None and other.example is not None
        np.testing.assert_array_equal(one.example.samples, other.example.samples)


def test_stems_of_different_rates_and_channels_come_to_the_highest(tmp_path):
    write(tmp_path / "a" / "low.wav", sound("low", channels=1))
    write(tmp_path / "a" / "high.wav", sound("high", rate_hz=16_000), 16_000)
    (song,) = songs(open_dataset(tmp_path))
    assert song.mixture.sample_rate_hz == 16_000 and song.mixture.n_channels == 2
    np.testing.assert_allclose(song.mixture.samples, song.references["low"] + song.references["high"], atol=1e-6)
    np.testing.assert_allclose(
        song.references["low"][1, 800:-800], sound("low", rate_hz=16_000)[1, 800:-800], atol=1e-3
    )


@pytest.mark.parametrize(
    "wrong",
    [{"window_seconds": 0}, {"window_seconds": math.inf}, {"within_db": -1}, {"within_db": math.nan}, {"n_per_class": 0}, {"n_absent": -1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError):
        WindowOptions(**wrong)


def test_an_unknown_class_is_refused_with_what_there_is(tmp_path):
    two_songs(tmp_path)
    with pytest.raises(DatasetError, match="Did you mean 'high'"):
        list(query_items(open_dataset(tmp_path), options(classes=("hihg",))))


def test_a_file_that_is_missing_or_no_audio_is_named(tmp_path):
    two_songs(tmp_path)
    dataset = open_dataset(tmp_path)
    (tmp_path / "two" / "low.wav").write_text("no audio")
    with pytest.raises(AudioFileError, match=r"low\.wav"):
        list(query_items(dataset, options()))
    (tmp_path / "two" / "low.wav").unlink()
    with pytest.raises(AudioFileError, match=r"low\.wav"):
        list(songs(dataset))


def test_a_file_that_changed_is_read_again(tmp_path):
    write(tmp_path / "x.wav", sound("low", 1.0))
    assert levels_of(tmp_path / "x.wav").seconds == 1.0
    write(tmp_path / "x.wav", sound("low", 2.0))
    assert levels_of(tmp_path / "x.wav").seconds == 2.0
