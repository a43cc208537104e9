"""Published data sets become manifests: right files, labels, roles and splits, from tiny folders in each layout."""

import json

import numpy as np
import pytest
import soundfile
from unisep_evaluate import WindowOptions, layouts, open_dataset, query_items, songs, vocabulary

from unisep.errors import DatasetError

RATE_HZ = 8000
VALID_SONG = "Fergessen - Nos Palpitants"


def write(path, level=0.1, rate_hz=RATE_HZ, seconds=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).standard_normal(round(seconds * rate_hz))
    soundfile.write(path, np.float32(level * noise), rate_hz)


@pytest.fixture
def musdb(tmp_path):
    for split, song in (("train", "A - One"), ("train", VALID_SONG), ("test", "B - Two")):
        for stem in ("mixture", "drums", "bass", "other", "vocals"):
            write(tmp_path / "musdb18hq" / split / song / f"{stem}.wav", seconds=4)
    return tmp_path / "musdb18hq"


MOISES_SONG = {
    "song": "A Song", "artist": "Somebody", "genre": "rock",
    "stems": [
        {"id": "s1", "stemName": "drums", "tracks": [
            {"id": "k1", "trackType": "kick_drum", "extension": "wav", "has_bleed": False},
            {"id": "k2", "trackType": "snare_drum", "extension": "wav", "has_bleed": True},
            {"id": "k3", "trackType": "overheads", "extension": "wav", "has_bleed": False}]},
        {"id": "s2", "stemName": "bass", "tracks": [
            {"id": "b1", "trackType": "tuba_(bass_of_brass)", "extension": "wav"}]},
        {"id": "s3", "stemName": "vocals", "tracks": [
            {"id": "v1", "trackType": "lead_female_singer", "extension": "wav"},
            {"id": "v2", "trackType": "background_vocals", "extension": "wav", "has_bleed": True}]},
        {"id": "s4", "stemName": "other_keys", "tracks": [
            {"id": "o1", "trackType": "other_sounds_(hapischord,_melotron_etc)", "extension": "wav"},
            {"id": "o2", "trackType": "never heard of", "extension": "wav"}]},
        {"id": "s5", "stemName": "percussion", "tracks": [
            {"id": "p1", "trackType": "a-tonal_percussion_(claps,_shakers,_congas,_cowbell_etc)", "extension": "wav"}]},
    ],
}  # fmt: skip


@pytest.fixture
def moisesdb(tmp_path):
    for number in range(3):
        folder = tmp_path / "moisesdb" / "moisesdb_v0.1" / f"0000-{number}"
        for stem in MOISES_SONG["stems"]:
            for track in stem["tracks"]:
                write(folder / stem["stemName"] / f"{track['id']}.wav")
        (folder / "data.json").write_text(json.dumps(MOISES_SONG))
    return tmp_path / "moisesdb"


SLAKH_METADATA = """\
UUID: 1a81ae092884234f3264e2f45927f00a
audio_dir: stems
normalized: true
overall_gain: 0.18270259567062658
stems:
  S00:
    audio_rendered: true
    inst_class: Guitar
    integrated_loudness: -12.82
    is_drum: false
    midi_program_name: Distortion Guitar
    midi_saved: true
    plugin_name: elektrik_guitar.nkm
    program_num: 30
  S01:
    audio_rendered: true
    inst_class: Drums
    is_drum: true
    plugin_name: ar_modern_sparkle_kit_full.nkm
    program_num: 128
  S02:
    audio_rendered: false
    inst_class: Sound Effects
    is_drum: false
    plugin_name: None
    program_num: 127
  S03:
    audio_rendered: true
    inst_class: Strings (continued)
    is_drum: false
    plugin_name: 'x: y.nkm'
    program_num: 43
  S04:
    audio_rendered: true
    inst_class: Pipe
    is_drum: false
    program_num: 73
target_peak: -1.0
"""


def slakh_track(folder):
    for stem in ("S00", "S01", "S03", "S04"):
        write(folder / "stems" / f"{stem}.flac")
    write(folder / "mix.flac")
    (folder / "metadata.yaml").write_text(SLAKH_METADATA)


def test_musdb(musdb):
    assert layouts.fits(musdb, "musdb")
    rows = layouts.rows(musdb)
    assert {row.label for row in rows} == {"drums", "bass", "other", "vocals"}
    assert {row.four_stem for row in rows if row.label == row.four_stem} == {"drums", "bass", "other", "vocals"}
    assert {(row.song, row.split) for row in rows} == {
        ("A - One", "train"), (VALID_SONG, "valid"), ("B - Two", "test")}  # fmt: skip


def test_moisesdb(moisesdb):
    assert layouts.fits(moisesdb, "moisesdb")
    rows = {row.path.split("/", 2)[2]: row for row in layouts.rows(moisesdb) if row.song == "0000-1"}
    found = {path: (row.label, row.four_stem) for path, row in rows.items()}
    assert found == {
        "drums/k1.wav": ("kick drum", "drums"),
        "drums/k2.wav": ("drums", "drums"),  # a snare microphone that hears the kit
        "drums/k3.wav": ("drums", "drums"),
        "bass/b1.wav": ("tuba", "bass"),
        "vocals/v1.wav": ("lead vocal", "vocals"),  # v2 has bleeding of other stems and is left off
        "other_keys/o1.wav": ("keyboard", "other"),
        "other_keys/o2.wav": ("keyboard", "other"),
        "percussion/p1.wav": ("percussion loop", "other"),
    }
    assert rows["vocals/v1.wav"].synonyms == ("female singing",)
    assert {row.family for row in rows.values()} == {"drums", "brass", "vocals", "keys", "percussion"}


def test_songs_of_an_artist_share_their_split(moisesdb):
    assert len({row.split for row in layouts.rows(moisesdb)}) == 1
    splits = [layouts.drawn_split(f"artist {number}") for number in range(800)]
    assert splits == [layouts.drawn_split(f"artist {number}") for number in range(800)]
    assert 25 < splits.count("valid") < 80 and set(splits) == {"train", "valid"}


def test_moisesdb_paths_cannot_leave_the_song(moisesdb):
    path = next(moisesdb.glob("*/*/data.json"))
    hostile = json.loads(path.read_text())
    hostile["stems"][0]["tracks"][0]["id"] = "../../../elsewhere"
    path.write_text(json.dumps(hostile))
    with pytest.raises(DatasetError, match="does not describe a song"):
        layouts.rows(moisesdb)


def test_slakh_in_folders_of_splits(tmp_path):
    for split in ("train", "validation", "test", "omitted"):
        slakh_track(tmp_path / split / f"Track0000{len(split)}")
    assert layouts.fits(tmp_path, "slakh")
    rows = layouts.rows(tmp_path)
    assert {(row.song, row.split) for row in rows} == {
        ("Track00005", "train"), ("Track000010", "valid"), ("Track00004", "test")}  # fmt: skip
    found = {row.path.rsplit("/", 1)[1]: (row.label, row.four_stem) for row in rows if row.split == "train"}
    assert found == {
        "S00.flac": ("distorted guitar", "other"), "S01.flac": ("drums", "drums"),
        "S03.flac": ("double bass", "bass"), "S04.flac": ("woodwind", "other"),
    }  # fmt: skip


def test_slakh_as_published_is_split_by_number(tmp_path):
    for number in ("00001", "01500", "01501", "01875", "01876"):
        slakh_track(tmp_path / f"Track{number}")
    assert {row.song: row.split for row in layouts.rows(tmp_path, "slakh")} == {
        "Track00001": "train", "Track01500": "train", "Track01501": "valid", "Track01875": "valid",
        "Track01876": "test"}  # fmt: skip


def test_damaged_metadata_is_named(tmp_path):
    slakh_track(tmp_path / "Track00001")
    (tmp_path / "Track00001" / "metadata.yaml").write_text("stems: [1, {")
    with pytest.raises(DatasetError, match=r"metadata\.yaml does not describe"):
        layouts.rows(tmp_path)


def test_every_program_has_a_label_that_means_something():
    programs = [layouts.slakh_label(number) for number in range(128)]
    known = vocabulary.NAMES | {"harmonica", "accordion", "english horn", "timpani", "oboe", "orchestra hit"}
    assert {name for name in programs if name not in known} <= {"viola", "tuba", "trombone", "bassoon", "clarinet"}
    assert layouts.slakh_label(instrument_class="unheard of") == "other"


def test_plain_folders(tmp_path):
    names = ("01_Lead Vocal.wav", "drums.flac", "Mixture.wav", "E-Gtr of Ann.wav", "cover.txt", "other.wav")
    for name in names:
        if name.endswith("txt"):
            (tmp_path / "My Song" / name).write_text("no sound")
        else:
            write(tmp_path / "My Song" / name)
    rows = {row.path: row for row in layouts.rows(tmp_path)}
    assert {path.split("/")[1]: (row.label, row.four_stem) for path, row in rows.items()} == {
        "01_Lead Vocal.wav": ("lead vocal", "vocals"), "drums.flac": ("drums", "drums"),
        "E-Gtr of Ann.wav": ("e gtr of ann", "other"), "other.wav": ("other", "other"),
    }  # fmt: skip
    assert {row.song for row in rows.values()} == {"My Song"}


def test_a_manifest_comes_first_and_may_state_the_split(tmp_path):
    write(tmp_path / "song" / "a.wav")
    line = {"path": "song/a.wav", "label": "piano", "song": "song", "split": "valid"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    assert layouts.fits(tmp_path, "manifest")
    assert layouts.rows(tmp_path)[0].split == "valid"
    line["split"] = "perhaps"
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    with pytest.raises(DatasetError, match="split"):
        layouts.rows(tmp_path)


def test_what_is_no_data_set_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DatasetError, match=r"no layout known here.*musdb.*manifest\.jsonl"):
        layouts.rows(tmp_path)
    with pytest.raises(DatasetError, match="no stems in the layout 'musdb'"):
        layouts.rows(tmp_path, "musdb")


def test_moisesdb_is_judged_on_the_artists_held_out(moisesdb):
    for number, path in enumerate(sorted(moisesdb.glob("*/*/data.json"))):
        artist = next(f"{k}" for k in range(99) if layouts.drawn_split(f"{k}") == ("valid" if number == 2 else "train"))
        path.write_text(json.dumps(MOISES_SONG | {"artist": artist}))
    (track,) = open_dataset(moisesdb).tracks
    assert track.name == "0000-2" and len(open_dataset(moisesdb, subset="train").tracks) == 2
    lead = next(stem for stem in track.stems if stem.path.name == "v1.wav")
    assert (lead.label, lead.role, lead.family) == ("lead vocal", "vocals", "vocals")
    assert lead.answers("female singing") and lead.answers("vocals")
    (song,) = songs(open_dataset(moisesdb))
    assert set(song.references) >= {"drums", "bass", "vocals", "other"}
    assert song.mixture.samples == pytest.approx(sum(song.references.values()), abs=1e-5)


def test_slakh_is_judged_on_what_it_keeps_for_testing(tmp_path):
    for split in ("train", "test"):
        slakh_track(tmp_path / split / f"Track0000{len(split)}")
    (track,) = open_dataset(tmp_path).tracks
    assert track.name == "Track00004" and open_dataset(tmp_path, "slakh", "train").tracks[0].name == "Track00005"
    assert {stem.label: stem.role for stem in track.stems} == {
        "distorted guitar": "other", "drums": "drums", "double bass": "bass", "woodwind": "other"}  # fmt: skip
    items = list(query_items(open_dataset(tmp_path), WindowOptions(window_seconds=0.4, within_db=99.0)))
    assert {"drums", "bass", "woodwind"} <= {item.name for item in items}


def test_a_data_set_without_songs_of_a_subset_says_so(tmp_path):
    slakh_track(tmp_path / "Track00001")
    with pytest.raises(DatasetError, match=r"names no file.*another subset"):
        open_dataset(tmp_path)
