"""Scores by rule, arrangements, effects, and the renderer where its soundfont is installed."""

import json
import sys
import types

import numpy as np
import pytest
import soundfile
from unisep_evaluate import vocabulary
from unisep_train.data.store import Store
from unisep_train.rendering import scores, songs
from unisep_train.rendering.scores import BEATS_PER_BAR, INSTRUMENTS, PIECES, arrange
from unisep_train.rendering.songs import DEFAULT_SOUNDFONT, render, song_parts

from unisep.errors import DatasetError

SONGS = {"seed": 1, "seconds": 5.0}


class Tones:
    """Stands in for tinysoundfont's synthesizer: every key that is down sounds as a sine, louder to the right."""

    def __init__(self, samplerate, gain):
        self.rate_hz, self.time, self.keys = samplerate, 0, {}

    def sfload(self, path):
        return 0

    def program_select(self, *chosen):
        pass

    pitchbend = program_select

    def noteon(self, channel, key, velocity):
        self.keys[key] = velocity / 127

    def noteoff(self, channel, key):
        self.keys.pop(key, None)

    def sounds_off(self):
        self.keys.clear()

    def generate(self, n):
        time = (self.time + np.arange(n)) / self.rate_hz
        self.time += n
        sound = sum((v * np.sin(2 * np.pi * 440 * 2 ** ((k - 69) / 12) * time) for k, v in self.keys.items()), 0 * time)
        return np.float32([0.1 * sound, 0.2 * sound]).T.tobytes()


@pytest.fixture
def soundfont(tmp_path, monkeypatch):
    """A soundfont, played by tinysoundfont where both are installed, else a file that stands in for it."""
    try:
        import tinysoundfont  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "tinysoundfont", types.SimpleNamespace(Synth=Tones))
    else:
        if DEFAULT_SOUNDFONT.is_file():
            return DEFAULT_SOUNDFONT
        pytest.skip("fluidr3mono-gm-soundfont is not installed")
    (tmp_path / "font.sf2").touch()
    return tmp_path / "font.sf2"


def test_scores_are_the_same_for_the_same_seed():
    assert song_parts(3, **SONGS) == song_parts(3, **SONGS)
    assert song_parts(3, **SONGS) != song_parts(4, **SONGS)


@pytest.mark.parametrize("index", range(12))
def test_parts_stay_in_range_and_in_the_piece(index):
    score, parts = song_parts(index, **SONGS)
    known = {instrument.label: instrument for instrument in INSTRUMENTS}
    drum_keys = {key for piece in PIECES.values() for key in piece.keys}
    assert len(parts) >= 2 and len({part.label for part in parts}) == len(parts)
    for part in parts:
        keys = {note.key for note in part.notes}
        if part.is_drums:
            assert keys <= drum_keys and part.four_stem == "drums"
        elif not known[part.label].power_chords:
            ranges = [i for i in INSTRUMENTS if i.label == part.label]
            assert min(i.low for i in ranges) <= min(keys) and max(keys) <= max(i.high for i in ranges) + 12
        assert all(0 <= note.start_beats < score.n_beats and note.n_beats > 0 for note in part.notes)
        assert all(1 <= note.velocity <= 127 for note in part.notes)


def test_notes_belong_to_the_key():
    for index in range(6):
        rng = np.random.default_rng(index)
        score = scores.new_score(8.0, rng)
        classes = {(score.tonic + step) % 12 for step in score.scale}
        for write in (scores.bass_part, scores.chord_part, scores.pad_part, scores.arpeggio_part, scores.lead_part):
            assert {note.key % 12 for note in write(score, 40, 80, rng)} <= classes


def test_parts_follow_the_same_chords():
    rng = np.random.default_rng(2)
    score = scores.new_score(10.0, rng)
    for note in scores.pad_part(score, 40, 80, rng):
        bar = int((note.start_beats + 0.03) // BEATS_PER_BAR)
        assert note.key % 12 in {pitch % 12 for pitch in score.chord(bar)}


def test_time_moves_on_with_swing():
    score = scores.Score("jazz", 120.0, 0, scores.SCALES["major"], (0, 3), True)
    times = [score.seconds(beats) for beats in np.arange(0, 8, 0.25)]
    assert np.all(np.diff(times) > 0)
    assert score.seconds(3.0) == pytest.approx(1.5) and score.seconds(0.5) > 0.25


def test_every_instrument_has_a_place_in_the_vocabulary():
    for instrument in INSTRUMENTS:
        tags = vocabulary.tags(instrument.label, instrument.synonyms, instrument.four_stem)
        assert ("bass" in tags) == (instrument.four_stem == "bass")
        assert not {"vocals", "drums"} & tags
    assert len({program for instrument in INSTRUMENTS for program in instrument.programs}) >= 45


def test_arrangements_vary():
    found = set()
    for index in range(60):
        rng = np.random.default_rng(index)
        found |= {part.label for part in arrange(scores.new_score(6.0, rng), rng)}
    assert len(found) > 45 and {"kick drum", "hi-hat", "bass guitar", "piano"} <= found


def test_effects_change_sound_but_not_its_frame():
    rng = np.random.default_rng(0)
    click = np.zeros((4000, 1), dtype=np.float32)
    click[100] = 0.5
    wet = songs.reverb(click, 8000, 0.2, -6.0, rng)
    assert wet.shape == (4000, 2) and np.abs(wet[:100]).max() < 1e-6
    assert np.abs(wet[200:2000]).max() > 0 and not np.array_equal(wet[:, 0], wet[:, 1])
    tone = np.sin(np.arange(4000) * 0.3)[:, None].astype(np.float32) * 0.5
    driven = songs.drive(tone, 4.0)
    assert np.abs(driven).max() == pytest.approx(0.5, abs=0.01)
    assert np.mean(driven**2) > 1.3 * np.mean(tone**2)
    assert not songs.drive(np.zeros((10, 1), np.float32), 2.0).any()
    swelled = songs.swell(tone, 1000, 4.0, rng)
    assert 20 * np.log10(np.abs(swelled).max() / 0.5) < 4.01


def test_missing_soundfont_is_named(tmp_path, soundfont):
    with pytest.raises(DatasetError, match="No soundfont"):
        render(tmp_path, soundfont=tmp_path / "none.sf2")


def test_rendered_songs(tmp_path, soundfont):
    n_written = render(tmp_path, soundfont=soundfont, songs=2, valid=1, rate_hz=22050, **SONGS)
    store = Store(tmp_path)
    assert n_written == len(store.items) >= 4
    by_song = {}
    for item in store.items:
        by_song.setdefault(item.song, []).append(item)
        assert item.kind == "rendered" and item.split == ("valid" if item.song == "render-0001" else "train")
        sound = store.read(item, 0, item.n_samples)
        assert np.isfinite(sound).all() and np.abs(sound).max() > 0.003
    for song, stems in by_song.items():
        assert len({item.n_samples for item in stems}) == 1, song
        score, _ = song_parts(int(song.removeprefix("render-")), **SONGS)
        assert stems[0].n_samples / 22050 == pytest.approx(score.seconds(score.n_beats) + 1.5, abs=0.01)
    again = tmp_path / "again"
    render(again, soundfont=soundfont, songs=2, valid=1, rate_hz=22050, **SONGS)
    assert (again / "rendered" / "index.jsonl").read_bytes() == (tmp_path / "rendered" / "index.jsonl").read_bytes()


def test_rendered_clips(tmp_path, soundfont, command):
    words = ["clips", "--soundfont", soundfont, "--n-phrases", "1", "--n-beats", "2"]
    assert not command(*words, "--out", tmp_path / "one") and not command(*words, "--out", tmp_path / "two")
    lines = [json.loads(line) for line in (tmp_path / "one" / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) > 150 and [line["label"] for line in lines[-2:]] == ["drums", "drums"]
    for line in lines[::25]:
        sound, rate_hz = soundfile.read(tmp_path / "one" / line["path"])
        assert (len(sound), rate_hz) == (4 * 32000, 32000) and 0.001 < np.abs(sound).max() <= 0.9001
        assert (tmp_path / "two" / line["path"]).read_bytes() == (tmp_path / "one" / line["path"]).read_bytes()
