"""Published data sets become parts of a store: the right songs, labels and splits."""

import json

import numpy as np
import pytest
import soundfile
from unisep_evaluate import vocabulary
from unisep_train.data import corpus
from unisep_train.data.catalogue import Catalog, unclear
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


def test_musdb_store_never_holds_test_songs(musdb, tmp_path):
    n_written = corpus.build(musdb, tmp_path / "store", rate_hz=RATE_HZ, part="musdb")
    store = Store(tmp_path / "store")
    assert n_written == len(store.items) == 8
    assert {item.song: item.split for item in store.items} == {"A - One": "train", VALID_SONG: "valid"}
    assert {item.kind for item in store.items} == {"song"}
    assert {item.source_rate_hz for item in store.items} == {RATE_HZ}


def test_other_is_never_asked_for_and_never_hides_what_is(musdb, tmp_path):
    corpus.build(musdb, tmp_path / "store", rate_hz=RATE_HZ)
    catalogue = Catalog(Store(tmp_path / "store"))
    assert set(catalogue.by_tag) == {"drums", "bass", "vocals", "percussion", "human voice"}
    assert "other" not in catalogue.domains["music"][0]
    config = MixConfig(segment_seconds=0.5, batch=32, example_seconds=0.5, complement_probability=0)
    batch = ExampleStream(Store(tmp_path / "store"), config, seed=1).batch(0)
    assert "other" not in batch.names and {"drums", "bass", "vocals"} <= set(batch.names)
    for name, hidden in (("electric guitar", True), ("percussion", True), ("kick drum", False), ("choir", False)):
        assert unclear(name, "other", vocabulary.tags("other")) is hidden


def test_an_unreadable_stem_is_named(tmp_path):
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / "piano.wav").write_bytes(b"not a sound")
    with pytest.raises(DatasetError, match=r"piano\.wav cannot be decoded"):
        corpus.build(tmp_path, tmp_path / "store")


def test_only_curated_songs_are_built(musdb, tmp_path, command):
    verdicts = tmp_path / "verdicts.json"
    verdicts.write_text(json.dumps({"songs": [{"song": "A - One", "kept": False}, {"song": VALID_SONG, "kept": True}]}))
    words = ["corpus", musdb, tmp_path / "store", "--rate", RATE_HZ, "--curated", verdicts]
    assert not command(*words)
    assert {item.song for item in Store(tmp_path / "store").items} == {VALID_SONG}
    verdicts.write_text("[]")
    assert "holds no verdicts" in command(*words, "--part", "again")
