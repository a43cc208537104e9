"""The training store, its builder, mixing and validation, on a small folder of pure tones.

Every label sounds at frequencies of its own, so a spectrum tells what is in a mixture and what is not.
"""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import soundfile
from unisep_evaluate import vocabulary
from unisep_train.data import corpus
from unisep_train.data.catalogue import Catalog, unclear
from unisep_train.data.store import PartWriter, Store
from unisep_train.measuring.validation import ValidationConfig, validation_items
from unisep_train.mixing import sounds
from unisep_train.mixing.config import UNCHANGED, MixConfig
from unisep_train.mixing.examples import COMPLEMENTS, ExampleStream, Sampler, phrase

from unisep.errors import DatasetError, OptionError
from unisep.query.concepts import concepts

RATE_HZ = 8000
SECONDS = 6
FREQUENCIES_HZ = {
    "kick drum": 100, "hi-hat": 3600, "synth bass": 200, "lead vocal": 700, "synthesizer": 1100,
    "acoustic guitar": 1500, "electric guitar": 1900, "speech": 2300, "dog bark": 2700, "piano": 3100,
}  # fmt: skip
FOUR_STEM = {"kick drum": "drums", "hi-hat": "drums", "synth bass": "bass", "lead vocal": "vocals"}
SONG_LABELS = ("kick drum", "hi-hat", "synth bass", "lead vocal", "synthesizer")
PLAIN = MixConfig(
    segment_seconds=1.0, batch=6, variation=UNCHANGED, vocals_variation=UNCHANGED, example_seconds=1.0,
    complement_probability=0.0, target_only_probability=0.0,
)  # fmt: skip


def tone(label, first_sounding=0.0, channels=1, level=0.3):
    time = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    sound = level * np.sin(2 * np.pi * FREQUENCIES_HZ[label] * time) * (time >= first_sounding)
    return np.stack([sound, 0.5 * sound][:channels], axis=1)


def rows():
    for song in ("train-song", "other-song", "eif-sodium"):
        for label in SONG_LABELS:
            yield {"path": f"songs/{song}-{label}.wav", "kind": "song", "song": song, "stem": label, "label": label}
    for number in range(6):
        yield {
            "path": f"solo/acoustic-{number}.wav",
            "kind": "solo",
            "label": "acoustic guitar",
            "synonyms": ["guitar"],
        }
        yield {
            "path": f"solo/electric-{number}.wav",
            "kind": "solo",
            "label": "electric guitar",
            "synonyms": ["guitar"],
        }
        yield {"path": f"voice/speech-{number}.wav", "kind": "voice", "label": "speech"}
        yield {"path": f"universal/dog-{number}.wav", "kind": "universal", "label": "dog bark"}
        yield {"path": f"notes/piano-{number}.wav", "kind": "notes", "label": "piano"}
    yield {"path": "solo/demo.wav", "kind": "solo", "label": "piano", "repo": "sonic-pi-net/sonic-pi"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for row in rows():
        path = folder / row["path"]
        path.parent.mkdir(exist_ok=True)
        is_late = row.get("stem") == "lead vocal"
        soundfile.write(path, tone(row["label"], 3.0 if is_late else 0.0, 2 if is_late else 1), RATE_HZ)
        lines.append(json.dumps({**row, "four_stem": FOUR_STEM.get(row["label"], "none"), "more": "ignored"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    corpus.build(source, folder, rate_hz=RATE_HZ)
    return Store(folder)


def level_at(sound, label):
    """Level in dB of the label's frequency in the last axis, over channels."""
    sound = np.atleast_2d(sound)
    spectrum = np.fft.rfft(sound * np.hanning(sound.shape[-1]), axis=-1)
    frequencies = np.fft.rfftfreq(sound.shape[-1], 1 / RATE_HZ)
    near = np.abs(frequencies - FREQUENCIES_HZ[label]) < 40
    return 10 * np.log10(np.sum(np.abs(spectrum[:, near]) ** 2) / sound.shape[-1] + 1e-12)


def items_by_label(store):
    return {item.label: item for item in store.items if item.split == "train"}


def test_store_returns_what_was_written(store, source):
    item = next(item for item in store.items if item.id == "songs/train-song-lead vocal.wav")
    original, _ = soundfile.read(source / item.id, dtype="float32", always_2d=True)
    assert item.n_channels == 2 and item.n_samples == SECONDS * RATE_HZ
    np.testing.assert_allclose(store.read(item, 0, item.n_samples), original.T, atol=item.scale)
    padded = store.read(item, -100, item.n_samples + 300)
    assert not padded[:, :100].any() and not padded[:, -200:].any()
    np.testing.assert_array_equal(padded[:, 100:-200], store.read(item, 0, item.n_samples))


def test_activity_tells_where_it_sounds(store):
    item = items_by_label(store)["lead vocal"]
    activity = store.activity(item)
    assert len(activity) == 60 and (activity[:30] == -120).all()
    # 0.3 sin has an RMS of -13.5 dBFS; half of it beside it in the other channel: -15.5 over both.
    assert (np.abs(activity[31:] + 15.5) <= 1).all()


def test_store_at_another_rate(source, tmp_path):
    corpus.build(source, tmp_path, rate_hz=4000)
    halved = Store(tmp_path)
    assert halved.sample_rate_hz == 4000
    assert {item.n_samples for item in halved.items} == {SECONDS * 4000}


def test_split_holds_out_songs_and_hashed_files_and_excludes_the_demo(store):
    splits = {item.id: item.split for item in store.items}
    assert {splits[f"songs/eif-sodium-{label}.wav"] for label in SONG_LABELS} == {"valid"}
    assert {splits[f"songs/train-song-{label}.wav"] for label in SONG_LABELS} == {"train"}
    assert splits["solo/demo.wav"] == "excluded"
    assert {splits[f"notes/piano-{number}.wav"] for number in range(6)} == {"train"}
    # md5("voice/speech-0.wav") and the like: the rule is on the last digit.
    split_of, row = corpus.split_of, corpus.ManifestRow
    assert split_of(row(path="notes/mer-tabla-1.opus", label="tabla", kind="notes")) == "excluded"
    hashed = [split_of(row(path=f"solo/{n}.wav", label="flute", kind="solo")) for n in range(400)]
    assert 0.05 < hashed.count("valid") / 400 < 0.22
    assert {split_of(row(path=f"{n}.wav", label="flute", kind="notes")) for n in range(60)} == {"train"}


def test_training_never_sees_what_is_held_out(store):
    stream = ExampleStream(store, PLAIN, seed=3)
    held_out = {item.id for item in store.items if item.split != "train"}
    assert len(held_out) > 5
    assert not {item.id for item in stream.catalogue.items} & held_out
    assert not {i for step in range(5) for i in stream.batch(step).source_ids} & held_out


def test_an_interrupted_build_goes_on_and_equals_an_unbroken_one(source, store, tmp_path, monkeypatch):
    decode, seen = corpus.decode, []

    def failing(path, rate):
        seen.append(path)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return decode(path, rate)

    monkeypatch.setattr(corpus, "decode", failing)
    with pytest.raises(KeyboardInterrupt):
        corpus.build(source, tmp_path, rate_hz=RATE_HZ)
    with pytest.raises(DatasetError, match="no finished part"):
        Store(tmp_path)
    with (tmp_path / "corpus" / "samples.i16").open("ab") as file:
        file.write(b"half a sound")
    with (tmp_path / "corpus" / "index.jsonl").open("ab") as file:
        file.write(b'{"id": "half a li')
    monkeypatch.setattr(corpus, "decode", decode)
    assert corpus.build(source, tmp_path, rate_hz=RATE_HZ) == len(list(rows())) - 7
    for name in ("samples.i16", "activity.i8", "index.jsonl", "part.json"):
        assert (tmp_path / "corpus" / name).read_bytes() == (store.folder / "corpus" / name).read_bytes()


def test_a_finished_part_is_not_overwritten(store, source):
    with pytest.raises(DatasetError, match="finished part"):
        corpus.build(source, store.folder, rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "manifest.jsonl"),
        ("not json\n", "line 1"),
        ('{"path": "a.wav"}\n', "label"),
        ('{"path": "../a.wav", "label": "x"}\n', "leaves the folder"),
        ('{"path": "missing.wav", "label": "x"}\n', "cannot be decoded"),
        ('{"path": "text.wav", "label": "x"}\n', "cannot be decoded"),
        ('{"path": "empty.wav", "label": "x"}\n', "no samples"),
        ('{"path": "a.wav", "label": "x"}\n' * 2, "names 'a.wav' twice"),
        ('{"path": "a.wav", "label": "x", "split": "test"}\n', "No sound of"),
    ],
)
def test_bad_sources_are_refused_by_name(tmp_path, command, manifest, message):
    (tmp_path / "text.wav").write_text("this is not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), RATE_HZ)
    if manifest is not None:
        (tmp_path / "manifest.jsonl").write_text(manifest)
    with pytest.raises(DatasetError, match=message):
        corpus.build(tmp_path, tmp_path / "store", rate_hz=RATE_HZ)
    assert re.search(message, command("corpus", tmp_path, tmp_path / "store", "--rate", RATE_HZ))


def test_a_damaged_store_is_refused(tmp_path):
    facts = dict(kind="solo", song="", stem="", synonyms=(), family="x", four_stem="none", split="train",
                 licence="CC0-1.0", source_rate_hz=RATE_HZ)  # fmt: skip
    with PartWriter(tmp_path, "one", RATE_HZ) as writer:
        writer.add(np.ones((10, 1), np.float32), id="a", label="a", **facts)
        with pytest.raises(DatasetError, match="finite"):
            writer.add(np.full((10, 1), np.nan, np.float32), id="b", label="b", **facts)
    other = f"other parts of .* are at {RATE_HZ} Hz, not {2 * RATE_HZ}"
    with pytest.raises(DatasetError, match=other), PartWriter(tmp_path, "two", 2 * RATE_HZ):
        pass
    with PartWriter(tmp_path / "elsewhere", "two", 2 * RATE_HZ) as writer:
        writer.add(np.ones((10, 1), np.float32), id="c", label="c", **facts)
    (tmp_path / "elsewhere" / "two").rename(tmp_path / "two")
    with pytest.raises(DatasetError, match=f"one at {RATE_HZ} Hz, two at {2 * RATE_HZ} Hz"):
        Store(tmp_path)
    shutil.rmtree(tmp_path / "two")
    assert len(Store(tmp_path).items) == 1
    (tmp_path / "one" / "index.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DatasetError, match="damaged"):
        Store(tmp_path)


FACTS = dict(kind="solo", stem="", synonyms=(), family="x", four_stem="none", split="train", licence="",
             source_rate_hz=RATE_HZ, label="a")  # fmt: skip


def test_a_build_goes_on_at_its_own_rate_only(tmp_path):
    with pytest.raises(ZeroDivisionError), PartWriter(tmp_path, "one", RATE_HZ) as writer:
        writer.add(np.ones((10, 1), np.float32), id="a", song="", **FACTS)
        raise ZeroDivisionError
    with pytest.raises(DatasetError, match=f"begun at {RATE_HZ} Hz, not 44100"), PartWriter(tmp_path, "one", 44100):
        pass
    with PartWriter(tmp_path, "one", RATE_HZ) as writer:
        assert writer.done == {"a"}
        with pytest.raises(DatasetError, match=r"a is in .* already"):
            writer.add(np.ones((10, 1), np.float32), id="a", song="", **FACTS)
        writer.add(np.ones((10, 1), np.float32), id="b", song="", **FACTS)
    assert [item.id for item in Store(tmp_path).items] == ["a", "b"]
    with pytest.raises(OptionError, match=f"store is at {RATE_HZ} Hz, the model at 44100"):
        Store(tmp_path).at_rate(44100)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", ".."])
def test_a_part_lies_in_its_store(tmp_path, name):
    with pytest.raises(DatasetError, match="no name of a part"):
        PartWriter(tmp_path / "store", name, RATE_HZ)


def test_an_unfinished_part_goes_on_with_its_own_source_only(tmp_path, caplog, command):
    def offer(folder, *names):
        folder.mkdir(exist_ok=True)
        lines = [json.dumps({"path": f"{name}.wav", "label": name, "split": "train"}) for name in names]
        (folder / "manifest.jsonl").write_text("\n".join(lines))
        for name in set(names) - {"missing"}:
            soundfile.write(folder / f"{name}.wav", np.ones(RATE_HZ) / 2, RATE_HZ)

    one, two, store = tmp_path / "one", tmp_path / "two", tmp_path / "store"
    more = [store, "--rate", RATE_HZ, "--part", "x"]
    offer(one, "piano", "cello", "missing")
    offer(two, "piano")
    assert "missing.wav cannot be decoded" in command("corpus", one, *more)  # two are written
    assert "Go on as it was begun" in command("corpus", two, *more)
    offer(one, "piano", "flute")
    gone = command("corpus", one, *more)
    assert "1 sounds that" in gone and "such as 'cello.wav'" in gone
    offer(one, "piano", "cello", "flute")
    caplog.set_level("INFO")
    assert not command("corpus", one, *more)
    assert "1 new sounds" in caplog.text and len(Store(store).items) == 3


def test_a_missing_folder_and_a_wrong_line_are_said_plainly(tmp_path, command):
    assert "There is no folder" in command("corpus", tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "manifest.jsonl").write_text('{"label": "piano"}\n')
    reason = command("corpus", tmp_path, tmp_path / "store")
    assert "line 1: path: Field required." in reason and "http" not in reason


def test_songs_of_two_parts_are_two_songs_whatever_they_are_called(tmp_path):
    for part, songs in {"one": ("Intro", "Only here"), "two": ("Intro",), "none": ()}.items():
        with PartWriter(tmp_path, part, RATE_HZ) as writer:
            for song in songs:
                for stem in ("drums", "bass"):
                    sound = np.ones((RATE_HZ, 1), np.float32)
                    writer.add(sound, id=f"{song}/{stem}", song=song, **{**FACTS, "stem": stem, "label": stem})
    store = Store(tmp_path)
    assert {song: len(stems) for song, stems in Catalog(store).songs.items()} == {
        "one/Intro": 2, "Only here": 2, "two/Intro": 2,
    }  # fmt: skip
    assert store.read(store.items[0], 0, 5).max() == pytest.approx(1)


def test_two_equal_channels_are_stored_as_one(tmp_path):
    with PartWriter(tmp_path, "one", RATE_HZ) as writer:
        writer.add(
            np.ones((10, 2), np.float32), id="a", label="a", kind="solo", song="", stem="", synonyms=(), family="x",
            four_stem="none", split="train", licence="", source_rate_hz=RATE_HZ,
        )  # fmt: skip
    (item,) = Store(tmp_path).items
    assert item.n_channels == 1
    np.testing.assert_allclose(Store(tmp_path).read(item, 0, 10), np.ones((2, 10)), atol=1e-6)


def test_batches_depend_on_seed_and_step_alone(store):
    first, again = ExampleStream(store, PLAIN, seed=1), ExampleStream(store, PLAIN, seed=1)
    again.batch(0)
    a, b = first.batch(4), again.batch(4)
    np.testing.assert_array_equal(a.mixture, b.mixture)
    np.testing.assert_array_equal(a.target, b.target)
    assert a.prompts == b.prompts and a.source_ids == b.source_ids
    assert not np.array_equal(a.mixture, first.batch(5).mixture)
    assert not np.array_equal(a.mixture, ExampleStream(store, PLAIN, seed=2).batch(4).mixture)


def test_a_stream_pickles_without_audio(store):
    stream = ExampleStream(store, PLAIN, seed=1)
    stream.batch(0)
    data = pickle.dumps(stream)
    assert len(data) < 100_000
    np.testing.assert_array_equal(pickle.loads(data).batch(2).mixture, stream.batch(2).mixture)


def test_shapes_and_channels(store):
    batch = ExampleStream(store, PLAIN).batch(0)
    assert batch.mixture.shape == batch.target.shape == (6, 2, RATE_HZ)
    assert batch.mixture.dtype == batch.target.dtype == np.float32
    mono = ExampleStream(store, MixConfig(segment_seconds=1.0, batch=2, n_channels=1)).batch(0)
    assert mono.mixture.shape == (2, 1, RATE_HZ)
    assert all(clip is None or clip.ndim == 1 for clip in mono.examples)


def answering(name):
    return {label for label in FREQUENCIES_HZ if name in vocabulary.tags(label, (), FOUR_STEM.get(label, "none"))}


@pytest.mark.parametrize("own_song", [0.0, 1.0])
def test_target_holds_all_that_answers_and_the_rest_none_of_it(store, own_song):
    config = MixConfig(**{**vars(PLAIN), "own_song_probability": own_song, "vocals_own_song_probability": own_song})
    stream, n_checked = ExampleStream(store, config, seed=5), 0
    for step in range(6):
        batch = stream.batch(step)
        for name, mixture, target in zip(batch.names, batch.mixture, batch.target, strict=True):
            matching, rest = answering(name), mixture - target
            loudest = max(level_at(target, label) for label in matching)
            for label in FREQUENCIES_HZ:
                if label in matching:
                    assert level_at(rest, label) < loudest - 35, (name, label)
                else:
                    assert level_at(target, label) < loudest - 35, (name, label)
            n_checked += bool(matching)
    assert n_checked == 36


def test_whole_song_targets_are_sums_of_stems(store):
    config = MixConfig(**{**vars(PLAIN), "own_song_probability": 1.0, "drums_share": 1.0})
    stream, found = ExampleStream(store, config, seed=0), 0
    for step in range(4):
        batch = stream.batch(step)
        for name, target in zip(batch.names, batch.target, strict=True):
            if name == "drums":
                assert min(level_at(target, "kick drum"), level_at(target, "hi-hat")) > level_at(target, "piano") + 30
                found += 1
    assert found > 5


def test_levels_stay_near(store):
    batches = [ExampleStream(store, PLAIN, seed=8).batch(step) for step in range(5)]
    for batch in batches:
        for mixture, target in zip(batch.mixture, batch.target, strict=True):
            assert abs(sounds.loudness_db(target) - sounds.level_db(mixture - target)) < 10.1
            assert -28.1 < sounds.level_db(mixture) < -15.9


def test_absent_and_target_only(store):
    absent = ExampleStream(store, MixConfig(**{**vars(PLAIN), "absent_probability": 1.0}), seed=1).batch(0)
    assert not absent.target.any() and not absent.present.any() and absent.mixture.any()
    for name, mixture in zip(absent.names, absent.mixture, strict=True):
        loudest = max(level_at(mixture, label) for label in FREQUENCIES_HZ)
        assert all(level_at(mixture, label) < loudest - 35 for label in answering(name))
    alone = ExampleStream(store, MixConfig(**{**vars(PLAIN), "target_only_probability": 1.0}), seed=1).batch(0)
    np.testing.assert_array_equal(alone.mixture, alone.target)
    assert alone.present.all()


def test_everything_but(store):
    config = MixConfig(**{**vars(PLAIN), "vocals_share": 1.0, "drums_share": 0.0, "complement_probability": 1.0})
    batch = ExampleStream(store, config, seed=2).batch(0)
    found = [k for k, name in enumerate(batch.names) if name == "-vocals"]
    assert found and all(batch.prompts[k] in COMPLEMENTS["vocals"] for k in found)
    for k in found:
        assert level_at(batch.target[k], "lead vocal") < level_at(batch.mixture[k], "lead vocal") - 30


def test_example_clips_come_from_elsewhere(store):
    stream = ExampleStream(store, PLAIN, seed=4)
    n_clips = 0
    for step in range(6):
        batch = stream.batch(step)
        for name, clip in zip(batch.names, batch.examples, strict=True):
            if clip is None:
                continue
            assert clip.shape == (RATE_HZ,) and clip.dtype == np.float32
            assert max(level_at(clip, label) for label in answering(name)) > -20
            n_clips += 1
    assert n_clips > 20


def test_windows_start_where_the_sound_sounds(store):
    catalogue = Catalog(store)
    index = next(k for k, item in enumerate(catalogue.items) if item.label == "lead vocal")
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = catalogue.start(index, RATE_HZ, rng)
        assert sounds.level_db(store.read(catalogue.items[index], start, RATE_HZ)) > -40
    assert not catalogue.sounds_in(index, 0, 2 * RATE_HZ) and catalogue.sounds_in(index, 4 * RATE_HZ, RATE_HZ)


def test_hierarchy():
    assert {"drums", "percussion"} <= vocabulary.tags("kick drum")
    assert "vocals" in vocabulary.tags("backing vocals")
    assert "guitar" in vocabulary.tags("electric guitar", ["clean electric guitar"])
    assert "acoustic guitar" not in vocabulary.tags("electric guitar")
    assert "drums" in vocabulary.tags("woodblock", four_stem="drums")
    assert "vocals" not in vocabulary.tags("female speech")
    assert vocabulary.canonical("the voice") in vocabulary.tags("speech")
    assert unclear("hi-hat", "breakbeat", vocabulary.tags("breakbeat"))
    assert unclear("electric guitar", "guitar", vocabulary.tags("guitar"))
    assert unclear("drums", "tambourine", vocabulary.tags("tambourine"))
    assert not unclear("drums", "marimba", vocabulary.tags("marimba"))
    assert not unclear("violin", "piano", vocabulary.tags("piano"))


def test_vocabulary_is_consistent():
    assert not set(vocabulary.ALIASES) & set(vocabulary.SPELLINGS), "a spelling is also a name of its own"
    assert not set(vocabulary.ALIASES) & set(vocabulary.PARENTS), "a spelling stands in the hierarchy"
    n_spellings = sum(len(others) for others in vocabulary.SPELLINGS.values())
    assert n_spellings == len(vocabulary.ALIASES), "a spelling belongs to two names"
    for name in vocabulary.PARENTS:
        assert name not in vocabulary.ancestors(name)


def test_prompts_name_what_they_ask_for():
    rng = np.random.default_rng(0)
    texts = {phrase("kick drum", rng) for _ in range(200)}
    assert "kick drum" in texts and len(texts) > 20
    assert all(any(s in text.lower() for s in ("kick drum", *vocabulary.SPELLINGS["kick drum"])) for text in texts)


def test_wordings_of_a_concept_are_asked_for_and_those_held_out_never():
    rng, concept = np.random.default_rng(0), concepts()["male singing"]
    texts = {phrase("male singing", rng, wording_probability=1.0) for _ in range(600)}
    assert texts == set(concept.wordings) and texts.isdisjoint(concept.held_out)
    texts = [phrase("male singing", rng, wording_probability=0.3) for _ in range(300)]
    others = set(concept.wordings) - {"male singing", *vocabulary.SPELLINGS["male singing"]}
    assert 0.1 < np.mean([text in others for text in texts]) < 0.3
    assert "mermaid song" not in concepts()
    assert "mermaid song" in {phrase("mermaid song", rng, wording_probability=1.0) for _ in range(20)}


def test_a_band_without_vocals_accompanies_singing_alone_and_is_never_asked_for(store, source, tmp_path):
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "band.wav", tone("dog bark"), RATE_HZ)
    row = {"path": "songs/band.wav", "kind": "song", "song": "live", "label": "band without vocals"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    corpus.build(source, tmp_path / "store", part="one", rate_hz=RATE_HZ)
    corpus.build(tmp_path, tmp_path / "store", part="two", rate_hz=RATE_HZ)
    config = MixConfig(**{**vars(PLAIN), "bundle_probability": 1.0, "n_sources": (2, 2), "universal_share": 0.0})
    stream = ExampleStream(Store(tmp_path / "store"), config)
    assert [stream.catalogue.names[index] for index in stream.catalogue.bands] == ["band without vocals"]
    assert Catalog(store).bands == []
    batches = [stream.batch(step) for step in range(40)]
    names = [name for batch in batches for name in batch.names]
    assert "band without vocals" not in names
    heard = {name: [] for name in names}
    for batch in batches:
        for name, mixture in zip(batch.names, batch.mixture, strict=True):
            heard[name].append(level_at(mixture, "dog bark") > -20)
    assert 0.2 < np.mean(heard.pop("vocals")) < 0.8
    assert any(heard.pop("lead vocal"))
    assert not any(any(of_name) for of_name in heard.values())  # it may hold any of these


def test_raised_names_are_drawn_more_often_and_the_rest_of_their_domain_less(store):
    def share(**fields):
        config = MixConfig(**{**vars(PLAIN), "drums_share": 0.0, "vocals_share": 0.0, "bass_share": 0.0, **fields})
        sampler, rng = Sampler(Catalog(store), config), np.random.default_rng(0)
        labels = [sampler.catalogue.names[sampler.target(rng)[1]] for _ in range(600)]
        return {name: labels.count(name) / len(labels) for name in ("electric guitar", "acoustic guitar", "dog bark")}

    plain, raised = share(), share(raised={"electric guitar": 4.0, "guitar": 2.0})
    assert raised["electric guitar"] / raised["acoustic guitar"] == pytest.approx(
        2 * plain["electric guitar"] / plain["acoustic guitar"], rel=0.3
    )
    assert raised["electric guitar"] > 1.5 * plain["electric guitar"]
    assert raised["dog bark"] == pytest.approx(plain["dog bark"], abs=0.05)


def test_validation_windows_are_fixed_and_fair(store):
    config = ValidationConfig(segment_seconds=1.0, n_per_name=3, n_absent=4, example_seconds=1.0)
    items, again = list(validation_items(store, config)), list(validation_items(store, config))
    assert [(i.name, i.group, i.song) for i in items] == [(i.name, i.group, i.song) for i in again]
    assert all(np.array_equal(a.mixture, b.mixture) for a, b in zip(items, again, strict=True))
    assert {"song", "remix", "single", "absent"} <= {item.group for item in items}
    assert {"drums", "vocals", "bass"} <= {item.name for item in items if item.group in ("song", "remix")}
    held_out = {item.id for item in store.items if item.split == "valid"} | {"eif-sodium"}
    assert {item.song for item in items} <= held_out
    for item in items:
        assert item.mixture.shape == item.target.shape == (2, RATE_HZ)
        if item.group == "absent":
            assert not item.target.any() and item.mixture.any()
            assert item.name not in {"vocals", "speech"}, "the song has a voice"
            continue
        assert abs(sounds.level_db(item.target) - sounds.level_db(item.mixture - item.target)) <= 10
        loudest = max(level_at(item.target, label) for label in answering(item.name))
        assert all(level_at(item.mixture - item.target, label) < loudest - 35 for label in answering(item.name))


def test_validation_groups_can_be_chosen(store):
    config = ValidationConfig(segment_seconds=1.0, n_per_name=2, n_absent=2)
    assert {item.group for item in validation_items(store, config, groups=["absent"])} == {"absent"}


def test_effects_keep_shape_and_level():
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal((2, 1000))).astype(np.float32)
    assert sounds.level_db(sounds.to_level(sound, -20.0)) == pytest.approx(-20.0, abs=0.01)
    sparse = np.zeros((2, 1000), np.float32)
    sparse[:, 10] = 1.0
    assert np.abs(sounds.to_level(sparse, -20.0)).max() == pytest.approx(1.2, rel=1e-3)
    assert sounds.respeed(sound, 900).shape == (2, 900)
    assert sounds.colour(sound, RATE_HZ, rng, range_db=0.0) == pytest.approx(sound, abs=1e-5)
    assert not np.allclose(sounds.colour(sound, RATE_HZ, rng), sound)
    assert sounds.level_db(sounds.pan(sound, rng)) == pytest.approx(sounds.level_db(sound), abs=0.6)
