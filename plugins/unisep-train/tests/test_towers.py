"""The recipe behind clap-mini, on material made here."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from unisep_clap.audio_tower import AudioTower, AudioTowerConfig
from unisep_clap.log_mel import LogMel, LogMelConfig, level_free, mel_filters
from unisep_clap.mini import load_mini
from unisep_clap.text_tower import TextTower, TextTowerConfig
from unisep_clap.wordpiece import WordPiece
from unisep_train.data.band_powers import MEL, build, read
from unisep_train.data.corpus import decode
from unisep_train.measuring import cards
from unisep_train.rendering.clips import DRUM_KIT, TIMBRES, phrase
from unisep_train.rendering.scores import new_score
from unisep_train.tasks import audio_tower, phrases
from unisep_train.tasks.audio_tower import (
    AudioRecipe,
    AudioRun,
    Listener,
    Names,
    RougheningConfig,
    hear,
    retrieval,
    roughened,
)
from unisep_train.tasks.text_tower import Shift, draw_together, embed, fit_projection, load_teacher, start_from

from unisep.errors import DatasetError

RATE_HZ = MEL.sample_rate_hz
SMALL = AudioTowerConfig(window_seconds=1.0, widths=(4, 8, 8, 8), pooled_width=16, n_heads=2, n_dims=8)


def corpus(folder: Path) -> Path:
    """Low and high tones with a manifest like the corpus's; two repositories."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for i in range(12):
        low = i % 2 == 0
        hz = draw.uniform(80, 160) if low else draw.uniform(3000, 6000)
        seconds = draw.uniform(1.0, 4.0)
        t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
        soundfile.write(folder / f"{i}.wav", 0.2 * np.sin(2 * np.pi * hz * t), RATE_HZ, "FLOAT")
        rows.append({
            "path": f"{i}.wav", "kind": "song", "song": "held" if i >= 10 else "kept", "family": "synth",
            "label": "low tone" if low else "high tone", "synonyms": ["hum"] if low else ["whistle"],
            "repo": "a/b" if i else "x/excluded",
        })  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    build(corpus(folder / "corpus"), folder / "out", exclude_repo=["x/excluded"])
    return folder / "corpus", read(folder / "out")


def test_mel_filters_cover_every_band_and_sum_to_one():
    filters = mel_filters(LogMelConfig())
    assert torch.allclose(filters.sum(1), torch.ones(64)) and (filters >= 0).all()


def test_log_mel_is_blind_to_level():
    wave = torch.randn(1, RATE_HZ, generator=torch.Generator().manual_seed(0))
    mel = LogMel(MEL)
    assert torch.allclose(mel(wave), mel(0.01 * wave), atol=1e-3)


def test_store_leaves_out_excluded_repositories_and_keeps_what_the_tower_sees(store):
    folder, made = store
    assert [clip.path for clip in made.clips] == [f"{i}.wav" for i in range(1, 12)]
    clip = made.clips[0]
    samples = torch.from_numpy(decode(folder / clip.path, RATE_HZ, mono=True))[None]
    powers = torch.from_numpy(made.powers(clip, 0, clip.n_frames))[None].transpose(1, 2)
    stored = level_free(powers[:, :-1], powers[:, -1].mean(-1), MEL)
    assert (LogMel(MEL)(samples) - stored).abs().mean() < 0.02


def test_an_interrupted_build_leaves_no_store(tmp_path):
    folder = corpus(tmp_path / "corpus")
    build(folder, tmp_path / "out")
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + '\n{"path": "missing.wav", "label": "x"}\n')
    with pytest.raises(DatasetError, match=r"missing\.wav cannot be decoded"):
        build(folder, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "out")


def test_a_path_and_a_label_are_enough_of_a_manifest(tmp_path):
    folder = corpus(tmp_path / "corpus")
    (folder / "manifest.jsonl").write_text('{"path": "1.wav", "label": "Bell"}\n')
    build(folder, tmp_path / "out")
    (clip,) = read(tmp_path / "out").clips
    assert (clip.label, clip.kind, clip.song, clip.synonyms) == ("bell", "solo", None, ())


def test_split_is_by_song_and_by_hash(store):
    _, made = store
    held = {clip.path for clip in made.clips if clip.is_validation(frozenset({"held"}))}
    assert held == {"10.wav", "11.wav"}
    solo = [replace(made.clips[0], kind="solo", path=f"solo/{i}.opus") for i in range(400)]
    assert 0.06 < np.mean([clip.is_validation(frozenset()) for clip in solo]) < 0.20


def test_examples_are_repeatable_and_finite(store):
    _, made = store
    config = RougheningConfig()

    def draw():
        sounds, strangers, clips = Listener([(made, list(made.clips))], 50, config, 3).draw(16)
        return roughened(sounds, strangers, config, torch.Generator().manual_seed(1)), [clip.path for clip in clips]

    (first, paths), (second, again) = draw(), draw()
    assert first.shape == (16, 1, 64, 50) and torch.isfinite(first).all()
    assert torch.equal(first, second) and paths == again


def test_nothing_is_bent_where_all_rates_are_zero(store):
    _, made = store
    config = RougheningConfig(
        mix_rate=0, noise_rate=0, pitch_semitones=0, equaliser_db=0, low_pass_rate=0, shorten_rate=0
    )
    sounds, strangers, _ = Listener([(made, list(made.clips))], 50, config, 0).draw(8)
    plain = level_free(sounds[:, :-1], sounds[:, -1].mean(-1), MEL)
    assert torch.allclose(roughened(sounds, strangers, config, torch.Generator()), plain, atol=1e-3)


def two_tones(made, folder, **changes):
    """A run on the tones that are not held out, and its listener."""
    rightness = {"low tone": torch.tensor([1.0, 0.0]), "high tone": torch.tensor([0.0, 1.0])}
    names = Names(("low tone", "high tone"), torch.eye(8)[:2], rightness)
    torch.manual_seed(0)
    tower = AudioTower(SMALL)
    kept = [clip for clip in made.clips if clip.song == "kept"]
    recipe = AudioRecipe(**{"n_steps": 40, "batch_size": 16, "average_decay": 0.9} | changes)
    listener = Listener([(made, kept)], audio_tower.n_frames_of(tower), RougheningConfig(), 0)
    return AudioRun(tower, names, recipe, folder), listener


def test_the_audio_tower_learns_two_tones(store, tmp_path):
    _, made = store
    run, listener = two_tones(made, tmp_path)
    trained = run.learn_all(audio_tower.batches(listener, run.recipe))
    held = [clip for clip in made.clips if clip.song == "held"]
    assert retrieval(trained, made, held, run.names)["all"]["top_1"] == 1.0
    assert torch.allclose(hear(trained, made, held[0]).norm(), torch.tensor(1.0), atol=1e-5)


def test_a_resumed_audio_tower_is_the_unbroken_one(store, tmp_path):
    _, made = store
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()

    def learned(name, stop_after_seconds=math.inf):
        run, listener = two_tones(made, tmp_path / name, n_steps=4)
        batches = audio_tower.batches(listener, run.recipe)
        return run.learn_all(batches, stop_after_seconds=stop_after_seconds), run.step

    whole, _ = learned("whole")
    assert learned("broken", stop_after_seconds=0)[1] == 1
    second, _ = learned("broken")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_held_out_words_never_reach_training():
    assert phrases.is_held_out("an old Kazoo solo", frozenset())
    kept = phrases.is_held_out("electric guitar", frozenset({"electric", "guitar"}))
    assert not kept
    names = phrases.sound_links(None).names
    assert not set(" ".join(names).lower().split()) & phrases.HELD_OUT_WORDS


@pytest.fixture(scope="module")
def mini():
    """The embedded encoder, which this recipe made."""
    return load_mini()


@pytest.mark.parametrize(
    ("word", "others", "wanted"),
    [
        ("dulcimer", ["zither", "trumpet", "dog bark", "speech", "rain"], "zither"),
        ("typewriter", ["keyboard typing", "flute", "dog bark", "rain", "choir"], "keyboard typing"),
        ("walrus", ["sea lion", "snare drum", "electric guitar", "door slam"], "sea lion"),
    ],
)
def test_words_that_training_never_saw_find_their_kin(mini, word, others, wanted):
    assert word in phrases.HELD_OUT_WORDS
    assert others[int((mini.encode_text(others) @ mini.encode_text([word])[0]).argmax())] == wanted


def test_unseen_words_differ_from_each_other(mini):
    vectors = mini.encode_text(sorted(phrases.HELD_OUT_WORDS))
    similar = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    assert torch.isfinite(vectors).all()
    assert float(similar.median()) < 0.5


def test_phrases_come_from_a_dictionary_and_a_manifest(tmp_path):
    def lines(file, *words):
        return "  a licence\n" + "\n".join(f"0000 {file} n 01 {word} 0 000 @ 0 | gloss" for word in words)

    (tmp_path / "data.noun").write_text(
        lines("05", "dog", "snow_goose", "Rome", "mp3") + "\n" + lines("15", "hillside")
    )
    (tmp_path / "data.adj").write_text(lines("00", "wet(a)"))
    (tmp_path / "data.verb").write_text(lines("30", "bake", "see"))
    (tmp_path / "words").write_text("Kettle don't")
    rows = [
        {"path": "1.wav", "label": "bell", "synonyms": ["gong", "chime"]},
        {"path": "2.wav", "label": "tin bell", "synonyms": ["gong"]},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    links = phrases.sound_links(tmp_path / "manifest.jsonl")
    assert ("bell", "gong", 1.0) in links.pairs and "tin bell" in links.names
    sounds, known, held_out = phrases.split(links, [" Zither Hum", "", "bell"], tmp_path, tmp_path / "words")
    assert sounds[-1] == "zither hum" and sounds.count("bell") == 1
    assert {"dog", "snow goose", "baking", "seeing", "kettle"} <= {*known, *held_out}
    assert not {"Rome", "mp3", "hillside", "don't"} & {*known, *held_out} and any(p.startswith("wet ") for p in known)
    assert phrases.dictionary_phrases(tmp_path, None, sounds) == phrases.dictionary_phrases(tmp_path, None, sounds)


def test_linked_names_are_drawn_together_and_others_left():
    links = phrases.Links(("a", "b", "c"), (("a", "b", 1.0),))
    start = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    moved = draw_together(start, links)
    assert float(moved[0] @ moved[1]) > float(start[0] @ start[1]) + 0.1
    assert float(moved[2] @ start[2]) > 0.9
    shift = Shift(start, moved - start)
    far = torch.nn.functional.normalize(-start.sum(0, keepdim=True), dim=-1)
    assert torch.allclose(shift(far), far, atol=1e-3)


def test_projection_keeps_the_widest_axes():
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(200, 5, generator=generator) * torch.tensor([5.0, 0.1, 3.0, 0.1, 0.1]) + 7
    projection = fit_projection(cloud, cloud, 2)
    assert projection(cloud).shape == (200, 2)
    assert projection.components.abs().sum(1).argsort(descending=True)[:2].sort().values.tolist() == [0, 2]


def teacher_folder(folder: Path, width=64, n_layers=3, hidden_width=96, n_positions=32, n_pieces=40):
    """A small random sentence encoder in the layout of MiniLM's, and the model itself."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=n_pieces, hidden_size=width, num_hidden_layers=n_layers, num_attention_heads=width // 32,
        intermediate_size=hidden_width, max_position_embeddings=n_positions,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(chr(97 + i) for i in range(26)),
        *(f"##{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(n_pieces - 30)),
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return model


def test_teacher_equals_bert_with_mean_pooling(tmp_path):
    model = teacher_folder(tmp_path)
    tower, tokens = load_teacher(tmp_path)
    texts = ["a bc", "d", "e f g h"]
    with torch.no_grad():
        for text, vector in zip(texts, embed(tower, tokens, texts), strict=True):
            mean = model(input_ids=torch.tensor([tokens.encode(text)])).last_hidden_state.mean(1)
            assert torch.allclose(torch.nn.functional.normalize(mean, dim=-1)[0], vector, atol=1e-5)


def test_a_student_of_full_size_starts_as_its_teacher(tmp_path):
    teacher_folder(tmp_path)
    teacher, tokens = load_teacher(tmp_path)
    config = TextTowerConfig(
        n_pieces=40, n_factors=40, n_positions=32, width=64, n_layers=3, n_heads=2, hidden_width=96, n_dims=64
    )
    student = start_from(teacher, list(range(40)), config, (0, 1, 2)).eval()
    with torch.no_grad():
        student.head.weight.copy_(torch.eye(64))
        student.head.bias.zero_()
    texts = ["a b", "zz"]
    assert torch.allclose(embed(student, tokens, texts), embed(teacher, tokens, texts), atol=1e-4)


def test_both_towers_from_the_command_line(store, tmp_path, monkeypatch, command):
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    teacher.mkdir()
    teacher_folder(teacher, width=384, n_layers=6, hidden_width=512, n_positions=64, n_pieces=150)
    letters = [f"{chr(97 + i)}q{chr(97 + j)}zz" for i in range(26) for j in range(12)]
    monkeypatch.setattr(phrases, "dictionary_phrases", lambda wordnet, words, sounds: sounds + letters)
    (tmp_path / "names.txt").write_text("zither hum, y\n")
    words = ["text-tower", "--teacher", teacher, "--wordnet", tmp_path, "--out", out, "--n-steps", 2]
    assert not command(*words, "--names", tmp_path / "names.txt")
    report = json.loads((out / "text.json").read_text())
    assert report["n_steps"] == 2
    assert report["n_phrases"] + report["held_out_words"]["n"] >= len(letters)
    assert 0 < report["held_out_words"]["n"] < report["n_phrases"]
    pieces = (out / "vocab.txt").read_text().splitlines()
    tower = TextTower(TextTowerConfig(**report["tower"]))
    tower.load_state_dict(load_file(out / "text.safetensors"))
    assert tower.config.n_pieces == len(pieces) == 150
    assert torch.isfinite(embed(tower.eval(), WordPiece(pieces), ["a b"])).all()
    monkeypatch.setattr(audio_tower, "AudioTowerConfig", lambda: replace(SMALL, n_dims=256))
    folder, audio = store[0].parent, tmp_path / "audio"
    words = ["audio-tower", "--text", out, "--out", audio, "--n-steps", 2, "--validation-song", "held"]
    assert not command(*words, "--store", folder / "out", "--store", folder / "out")
    assert json.loads((audio / "audio.json").read_text())["validation"]["all"]["n"] == 2
    assert not command("release-clap", "--text", out, "--audio", audio, "--out", tmp_path / "released")
    card = tomllib.loads((tmp_path / "released" / "clap-mini.toml").read_text())
    assert card["measured"]["audio"]["n_steps"] == 2 and card["notes"]


def test_packed_weights_and_card(tmp_path, command):
    tokens = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    text = TextTower(
        TextTowerConfig(n_pieces=5, n_factors=2, width=32, n_layers=1, n_heads=1, hidden_width=8, n_dims=8)
    )
    for folder, state in (("text", text.state_dict()), ("audio", AudioTower(SMALL).state_dict())):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / f"{folder}.safetensors")
        report = {
            "n_steps": 3,
            "n_phrases": 5,
            "sounds": {},
            "held_out_words": {},
            "validation": {"drums": {"top_1": 0.5}},
        }
        (tmp_path / folder / f"{folder}.json").write_text(json.dumps(report))
    (tmp_path / "text" / "vocab.txt").write_text("\n".join(tokens.pieces))
    assert not command(
        "release-clap", "--text", tmp_path / "text", "--audio", tmp_path / "audio", "--out", tmp_path / "out"
    )
    packed = load_file(tmp_path / "out" / "clap_mini.safetensors")
    assert {name.split(".")[0] for name in packed} == {"text", "audio"}
    assert {value.dtype for value in packed.values()} == {torch.float16, torch.int32}
    parsed = tomllib.loads((tmp_path / "out" / "clap-mini.toml").read_text())
    assert parsed["measured"]["audio"] == {"n_steps": 3, "drums": {"top_1": 0.5}} and parsed["name"] == "clap-mini"
    assert [file["name"] for file in parsed["files"]] == ["clap_mini.safetensors", "vocab.txt"]


def test_a_tower_that_learnt_wordings_replaces_the_embedded_one_and_the_rest_stays(tmp_path, command):
    embedded = cards.CLAP_CARD.with_name("clap_mini.safetensors")
    before = load_file(embedded)
    tower = {
        name.removeprefix("text."): value.float() + 1 for name, value in before.items() if name.startswith("text.")
    }
    save_file(tower, tmp_path / "text.safetensors")
    report = {"n_steps": 3, "n_phrases": 5, "held_out_before": {}, "held_out_wordings": {"nearest": 0.5}, "kept": {}}
    (tmp_path / "text.json").write_text(json.dumps(report))
    (tmp_path / "vocab.txt").write_bytes(embedded.with_name("vocab.txt").read_bytes())
    assert not command("release-clap", "--wordings", tmp_path, "--out", tmp_path / "out")
    packed = load_file(tmp_path / "out" / "clap_mini.safetensors")
    changed = {name for name, value in packed.items() if not torch.equal(value, before[name])}
    assert packed.keys() == before.keys() and {name.split(".")[0] for name in changed} == {"text"}
    released, known = (
        tomllib.loads(path.read_text()) for path in (tmp_path / "out" / "clap-mini.toml", cards.CLAP_CARD)
    )
    assert released["measured"]["wordings"]["held_out_wordings"] == {"nearest": 0.5}
    assert released["measured"]["audio"] == known["measured"]["audio"]


def test_every_timbre_has_a_phrase_within_its_seconds():
    assert {timbre.program for timbre in TIMBRES if timbre.percussion_note is None} == set(range(128))
    for number, timbre in enumerate((*TIMBRES, DRUM_KIT)):
        rng = np.random.default_rng(number)
        score = new_score(4.0, rng)
        part = phrase(timbre, score, rng)
        assert part.notes and all(
            0 <= score.seconds(note.start_beats) < 4.0 and note.n_beats > 0 for note in part.notes
        )
        if timbre.percussion_note:
            assert {note.key for note in part.notes} == {timbre.percussion_note}
    assert part.is_drums and len({note.key for note in part.notes}) > 1
