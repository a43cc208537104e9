"""Published data sets become manifests: right files, labels, roles and splits, from tiny folders in each layout."""

import json

import numpy as np
import pytest
import soundfile
from unisep_train.data import corpus, labels, layouts
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.examples import ExampleStream

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
    assert layouts.detect(musdb) == "musdb"
    rows = layouts.rows(musdb)
    assert {row.label for row in rows} == {"drums", "bass", "other", "vocals"}
    assert {row.four_stem for row in rows if row.label == row.four_stem} == {"drums", "bass", "other", "vocals"}
    assert {(row.song, row.split) for row in rows} == {
        ("A - One", "train"), (VALID_SONG, "valid"), ("B - Two", "test")}  # fmt: skip
    assert {row.source_rate for row in rows} == {RATE_HZ}


def test_musdb_store_never_holds_test_songs(musdb, tmp_path):
    n_written = corpus.build(musdb, tmp_path / "store", rate_hz=RATE_HZ, part="musdb")
    store = Store(tmp_path / "store")
    assert n_written == len(store.items) == 8
    assert {item.song: item.split for item in store.items} == {"A - One": "train", VALID_SONG: "valid"}
    assert {item.kind for item in store.items} == {"song"}


def test_other_is_never_asked_for_and_never_hides_what_is(musdb, tmp_path):
    corpus.build(musdb, tmp_path / "store", rate_hz=RATE_HZ)
    catalogue = Catalog(Store(tmp_path / "store"))
    assert set(catalogue.by_tag) == {"drums", "bass", "vocals", "percussion", "human voice"}
    assert "other" not in catalogue.domains["music"][0]
    config = MixConfig(segment_seconds=0.5, batch=32, example_seconds=0.5, complement_probability=0)
    batch = ExampleStream(Store(tmp_path / "store"), config, seed=1).batch(0)
    assert "other" not in batch.names and {"drums", "bass", "vocals"} <= set(batch.names)
    for name, hidden in (("electric guitar", True), ("percussion", True), ("kick drum", False), ("choir", False)):
        assert labels.unclear(name, "other", labels.tags("other")) is hidden


def test_moisesdb(moisesdb):
    assert layouts.detect(moisesdb) == "moisesdb"
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
    assert layouts.detect(tmp_path) == "slakh"
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
    known = labels.NAMES | {"harmonica", "accordion", "english horn", "timpani", "oboe", "orchestra hit"}
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
    assert layouts.detect(tmp_path) == "manifest"
    assert corpus.split_of(layouts.rows(tmp_path)[0]) == "valid"
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


def test_an_unreadable_stem_is_named(tmp_path):
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / "piano.wav").write_bytes(b"not a sound")
    with pytest.raises(DatasetError, match=r"piano\.wav cannot be read"):
        layouts.rows(tmp_path)


def test_only_curated_songs_are_built(musdb, tmp_path, command):
    verdicts = tmp_path / "verdicts.json"
    verdicts.write_text(json.dumps({"songs": [{"song": "A - One", "kept": False}, {"song": VALID_SONG, "kept": True}]}))
    words = ["corpus", musdb, tmp_path / "store", "--rate", RATE_HZ, "--curated", verdicts]
    assert not command(*words)
    assert {item.song for item in Store(tmp_path / "store").items} == {VALID_SONG}
    verdicts.write_text("[]")
    assert "holds no verdicts" in command(*words, "--part", "again")
