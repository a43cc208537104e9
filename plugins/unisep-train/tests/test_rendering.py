"""Scores by rule, arrangements, effects, and the renderer where its soundfont is installed."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import soundfile
from unisep_evaluate import vocabulary
from unisep_train.data.store import Store
from unisep_train.rendering import effects, scores
from unisep_train.rendering.kits import Kit, is_kit
from unisep_train.rendering.scores import BEATS_PER_BAR, INSTRUMENTS, PIECES, arrange
from unisep_train.rendering.songs import DEFAULT_SOUNDFONT, Band, Synth, render, song_parts
from unisep_train.rendering.synthesizer import Patch

from unisep.errors import DatasetError

SONGS = {"seed": 1, "seconds": 5.0}


class Tones:
    """Stands in for tinysoundfont's synthesizer: every key that is down sounds as a sine, louder to the right."""

    def __init__(self, samplerate, gain):
        self.rate_hz, self.time, self.keys = samplerate, 0, {}

    def sfload(self, path):
        return 0

    def sfpreset_name(self, font, bank, program):
        return "tone" if program < 128 else None

    def program_select(self, *chosen):
        self.time = 0

    def pitchbend(self, *wheel):
        pass

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
    wet = effects.reverb(click, 8000, 0.2, -6.0, rng)
    assert wet.shape == (4000, 2) and np.abs(wet[:100]).max() < 1e-6
    assert np.abs(wet[200:2000]).max() > 0 and not np.array_equal(wet[:, 0], wet[:, 1])
    tone = np.sin(np.arange(4000) * 0.3)[:, None].astype(np.float32) * 0.5
    driven = effects.drive(tone, 4.0)
    assert np.abs(driven).max() == pytest.approx(0.5, abs=0.01)
    assert np.mean(driven**2) > 1.3 * np.mean(tone**2)
    assert not effects.drive(np.zeros((10, 1), np.float32), 2.0).any()
    swelled = effects.swell(tone, 1000, 4.0, rng)
    assert 20 * np.log10(np.abs(swelled).max() / 0.5) < 4.01


def test_missing_soundfont_is_named(tmp_path, soundfont):
    with pytest.raises(DatasetError, match="No soundfont"):
        render(tmp_path, soundfont=[tmp_path / "none.sf2"])


def test_rendered_songs(tmp_path, soundfont):
    n_written = render(tmp_path, soundfont=[soundfont], songs=2, valid=1, rate_hz=22050, **SONGS)
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
    render(again, soundfont=[soundfont], songs=2, valid=1, rate_hz=22050, **SONGS)
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


def write_kit(folder, rate_hz=22050):
    """Write a small kit of Hydrogen: a kick in two layers, an open and a closed hat that last a second, a roll."""
    (folder).mkdir(parents=True)
    rows = []
    sounds = {"Kick": [("soft.wav", 0.5, 0.2), ("hard.wav", 1.0, 0.8)], "Hat open": [("open.wav", 1.0, 0.4)],
              "Hat closed": [("closed.wav", 1.0, 0.4)], "Snare Roll": [("roll.wav", 1.0, 0.9)], "Gone": [("gone.wav", 1.0, 1)]}  # fmt: skip
    for name, layers in sounds.items():
        for file, _, level in layers:
            if name != "Gone":
                soundfile.write(folder / file, np.full(rate_hz, level), rate_hz)
        text = "".join(f"<layer><filename>{f}</filename><max>{m}</max><gain>1</gain></layer>" for f, m, _ in layers)
        rows.append(f"<instrument><name>{name}</name>{text}</instrument>")
    text = f'<drumkit_info xmlns="http://www.hydrogen-music.org/drumkit">{"".join(rows)}</drumkit_info>'
    (folder / "drumkit.xml").write_text(text)
    return folder


def test_kits_choose_by_velocity_and_hats_end_each_other(tmp_path):
    kit = Kit(write_kit(tmp_path / "kit"), 22050)
    assert kit.keys() == {35, 36, 42, 46}
    soft, hard = (kit.play([(0, 36, velocity)], 22050, np.random.default_rng(0)) for velocity in (40, 127))
    assert hard.max() == pytest.approx(0.7, abs=1e-3) and soft.max() < 0.25 * hard.max()  # the loudest sample's peak
    hats = kit.play([(0, 46, 127), (11025, 42, 60)], 22050, np.random.default_rng(0))
    alone = kit.play([(0, 46, 127)], 22050, np.random.default_rng(0))
    assert np.array_equal(hats[:11025], alone[:11025]) and hats[13000:].max() < 0.5 * alone[13000:].min()
    assert not kit.play([(0, 38, 127), (30000, 36, 127)], 22050, np.random.default_rng(0)).any()  # a roll is no snare


def test_what_is_no_kit_is_refused(tmp_path):
    assert is_kit(write_kit(tmp_path / "kit")) and not is_kit(tmp_path)
    with pytest.raises(DatasetError, match="no drum kit"):
        Kit(tmp_path, 22050)
    (tmp_path / "kit" / "drumkit.xml").write_text("<drumkit_info><instrument></drumkit_info>")
    with pytest.raises(DatasetError, match="no drum kit"):
        Kit(tmp_path / "kit", 22050)
    (tmp_path / "kit" / "drumkit.xml").write_text(
        "<drumkit_info><instrument><name>Kick</name></instrument></drumkit_info>"
    )
    with pytest.raises(DatasetError, match="No instrument"):
        Kit(tmp_path / "kit", 22050)


def test_an_amplifier_compresses_and_adds_harmonics_within_the_loudspeakers_band():
    seconds = np.arange(44100) / 44100
    note = (np.sin(2 * np.pi * 220 * seconds) * np.exp(-2 * seconds))[:, None].astype(np.float32)
    clean, hot = (effects.amplify(note, 44100, gain_db, np.random.default_rng(3)) for gain_db in (-20.0, 36.0))
    fade = [np.abs(x[30000:34000]).max() / np.abs(x[4000:8000]).max() for x in (clean, hot)]
    assert hot.shape == note.shape and fade[0] < 0.4 < 0.7 < fade[1]
    power = np.abs(np.fft.rfft(hot[:, 0])) ** 2
    assert power[655:665].sum() > 1e-3 * power[215:225].sum()  # the third harmonic
    assert power[14000:].sum() < 1e-5 * power.sum() and power[:30].sum() < 1e-3 * power.sum()
    both = effects.double_track(clean, hot, np.random.default_rng(0))
    assert both.shape == (44100, 2) and not np.allclose(both[:, 0], both[:, 1])


@pytest.mark.parametrize("role", ["lead", "pad", "arpeggio", "bass", "chords"])
def test_the_synthesizer_plays_in_tune_without_aliases_and_ends_with_its_notes(role):
    rng = np.random.default_rng(5)
    for _ in range(4):
        patch = dataclasses.replace(Patch.drawn(role, rng), n_unison=1, sub=0.0, vibrato_cents=0.0, sustain=1.0)
        sound = patch.play([(0, 44100, 81, 100)], 88200, 44100, rng)
        assert np.isfinite(sound).all() and np.abs(sound).max() > 0.01
        assert np.abs(sound[44100 + round(2 * patch.release_seconds * 44100) :]).max() < 1e-3
        power = np.abs(np.fft.rfft(sound[22050:44100, 0] * np.hanning(22050))) ** 2
        hz = np.fft.rfftfreq(22050, 1 / 44100)
        between = np.abs(hz / 880 - np.round(hz / 880)) * 880 > 20  # above half the rate nothing folds back
        assert power[between].sum() < 2e-3 * power.sum()


def test_a_band_plays_what_it_is_asked_to_and_leaves_the_rest_as_it_was(tmp_path, soundfont):
    kit = write_kit(tmp_path / "kit")
    frame = {"soundfont": [soundfont], "songs": 3, "valid": 0, "rate_hz": 22050, **SONGS}
    render(tmp_path / "plain", **frame)
    render(tmp_path / "rich", **frame, kits=[kit, kit, kit], amplified=1.0, synthesized=1.0, licence="CC0-1.0")
    plain, rich = ({item.id: item for item in Store(tmp_path / name).items} for name in ("plain", "rich"))
    stores = Store(tmp_path / "plain"), Store(tmp_path / "rich")
    assert {item.licence for item in rich.values()} == {"CC0-1.0"} and set(rich) <= set(plain)
    changed = set()
    for name, item in rich.items():
        same = all(
            np.array_equal(*(s.read(i, at, 4096) for s, i in zip(stores, (plain[name], item), strict=True)))
            for at in (0, 22050)
        )
        changed |= set() if same else {item.family}
    assert changed <= {"drums", "guitar", "synth", "bass"} and "drums" in changed


def test_further_soundfonts_play_a_share_of_what_they_have_programs_for(tmp_path, soundfont):
    class Bass:
        """A soundfont that has electric basses alone, and plays one tone."""

        sample_rate_hz = 22050

        def has(self, program):
            return program in (33, 34)

        def play(self, program, is_drums, events, n_samples):
            assert not is_drums
            return np.full((n_samples, 2), 0.5, dtype=np.float32)

    synth, basses = Synth(soundfont, 22050), Bass()
    assert synth.has(33) and not synth.has(128)
    played = {True: 0, False: 0}
    for index in range(12):
        score, parts = song_parts(index, 0, 4.0)
        for number, part in enumerate(parts):
            rng = np.random.default_rng((index, number))
            stem = Band(fonts=[basses]).take(synth, part, score, rng, rng)
            assert stem is None or (part.program in (33, 34) and np.all(stem == 0.5))
            if part.program in (33, 34) and not part.is_drums:
                played[stem is not None] += 1
    assert min(played.values()) > 0
