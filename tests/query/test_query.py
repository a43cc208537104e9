from __future__ import annotations

import copy
import io
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unisep import Audio, Embedding, Query
from unisep.engine.recording import InMemory
from unisep.errors import AudioError, AudioFileError, EmbeddingError, QueryError, UnisepError
from unisep.files.paths import is_there
from unisep.query.encode import encode_queries
from unisep.query.parsed import is_file, parse_queries
from unisep.testing import ToyEncoder, noise, tone

VECTOR = Embedding(np.array([1.0, 0, 0, 0]), "toy-bands-1")


def encoded(query: object, mixture: Audio | None = None) -> np.ndarray:
    parsed_queries = parse_queries(query, 44_100)
    found = encode_queries(parsed_queries, [ToyEncoder()] * len(parsed_queries), InMemory(mixture or noise()).excerpt)
    return found.queries.numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_an_unknown_field_is_refused_and_the_allowed_ones_named() -> None:
    with pytest.raises(QueryError, match=r"no field 'txt'\. Allowed: text, audio, embedding, weights, exclude"):
        Query(txt="guitar")
    with pytest.raises(QueryError, match="no field 'colour'"):
        parse_queries({"text": "guitar", "colour": "blue"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "asks for nothing"),
        ({"text": ""}, "is empty"),
        ({"text": "  "}, "is empty"),
        ({"text": ["guitar", ""]}, "is empty"),
        ({"text": []}, "is empty"),
        ({"text": 3}, "'text' cannot be used"),
        ({"text": "a", "name": " "}, "name of a query is empty"),
        ({"text": "a", "exclude": ["b", " "]}, "excluded text is empty"),
        ({"text": "a", "time_range": (5, 5)}, "is no range"),
        ({"text": "a", "time_range": (-1, 5)}, "is no range"),
        ({"text": "a", "time_range": (float("inf"), None)}, "is no range"),
        ({"text": "a", "time_range": (1, 2, 3)}, "'time_range' cannot be used"),
        ({"text": "a", "time_range": (float("nan"), 2)}, "is no range"),
        ({"text": "a", "time_range": 30}, "'time_range' cannot be used"),
        ({"text": "a", "example_range": (3, 2)}, "is no range"),
        ({"text": "a", "weights": {"audio": 1.0}}, "weights names audio, the query is made of text"),
        ({"text": "a", "weights": {"text": -1.0}}, "0 or more"),
        ({"text": "a", "weights": {"text": 0.0}}, "above 0"),
        ({"text": "a", "weights": {"text": float("nan")}}, "0 or more"),
        ({"text": "a", "weights": {"txt": 1.0}}, "'weights' cannot be used"),
        ({"embedding": [1.0, 2.0]}, "'embedding' cannot be used"),
    ],
)
def test_bad_fields_are_refused_with_a_reason(fields: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Query(**fields)


def test_what_is_excluded_may_be_a_dict_of_fields() -> None:
    clip = tone(100, 0.1)
    query = Query(text="a", exclude=["b", {"text": ["c", "d"], "audio": clip}, {"embedding": VECTOR}])
    assert query.exclude == ("b", "c", "d", clip, VECTOR)
    with pytest.raises(QueryError, match="no field 'sound'"):
        Query(text="a", exclude={"sound": "b"})


def test_ranges_may_be_open() -> None:
    ranges = [Query(text="a", time_range=span).time_range for span in ((1, None), (None, 30), (None, None))]
    assert ranges == [(1.0, math.inf), (0.0, 30.0), (0.0, math.inf)]
    assert Query(example_range=[2, None]).example_range == (2.0, math.inf)


def test_queries_are_equal_by_what_they_ask() -> None:
    clip, embedding = np.ones((2, 8), np.float32), Embedding([1.0, 0.0], "toy")
    asked: dict[str, Any] = {
        "text": ("hi-hat", "cymbals"), "audio": clip, "embedding": embedding, "weights": {"text": 1, "audio": 2, "embedding": 1},
        "exclude": ["voice", clip], "time_range": (1, 2), "name": "hats",
    }  # fmt: skip
    query = Query(**asked)
    same = Query(**{**asked, "audio": clip.copy(), "exclude": ["voice", clip.copy()]})
    assert query == same and hash(query) == hash(same) and query in [same]
    assert query == copy.deepcopy(query) == pickle.loads(pickle.dumps(query))
    assert Query(audio=memoryview(b"abc")) == Query(audio=memoryview(b"abc")) != Query(audio=memoryview(b"abd"))
    assert Query(audio=Audio(clip, 8_000)) == Query(audio=Audio(clip.copy(), 8_000)) != Query(audio=Audio(clip, 16_000))
    assert Query(audio=clip) != Query(audio=clip.astype(np.int16))
    others: dict[str, Any] = {
        "text": "hi-hat", "audio": clip[:, :4], "embedding": Embedding([0.0, 1.0], "toy"), "exclude": ["voice", 2 * clip],
        "weights": {"text": 1, "audio": 1, "embedding": 1}, "time_range": (1, 3), "name": None,
    }  # fmt: skip
    for field, value in others.items():
        assert query != Query(**{**asked, field: value}), field
    assert Query(audio=clip) != Query(audio=Audio(clip, 8_000)) and query != "hi-hat"


def test_a_clip_is_named_after_its_file_where_no_other_has_the_name(tmp_path: Path) -> None:
    from unisep import files

    lick, rest = (files.write(tmp_path / f"{name}.wav", tone(100, 0.1)) for name in ("lick", "rest"))
    parsed_queries = parse_queries([lick, rest, lick, "lick-2", {"text": "bass", "audio": lick}])
    assert [parsed.name for parsed in parsed_queries] == ["lick", "rest-2", "lick-3", "lick-2", "bass"]


def test_a_query_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Query(text="a").text = "b"


def test_every_kind_of_query_is_understood(tmp_path: Path) -> None:
    clip = tone(100, 0.2)
    path = tmp_path / "lick.wav"
    from unisep import files

    files.write(path, clip)
    data = path.read_bytes()
    parsed_queries = parse_queries(
        [
            "guitar",
            path,
            clip,
            clip.samples,
            torch.zeros(2, 50),
            data,
            io.BytesIO(data),
            VECTOR,
            {"audio": str(path)},
            Query(text="lead vocal", name="lead"),
            {"text": ["hi-hat", "cymbals"]},
        ],
        44_100,
    )
    names = ["guitar", "lick", *(f"example-{n}" for n in range(1, 6)), "embedding-1", "lick-2", "lead", "hi-hat"]
    assert [parsed.name for parsed in parsed_queries] == names
    for parsed in parsed_queries:
        assert parsed.clip is None or isinstance(parsed.clip.audio, Audio)
    assert parsed_queries[0].plain_text == "guitar"
    assert [parsed.plain_text for parsed in parsed_queries[1:9]] == [None] * 8
    assert parsed_queries[9].plain_text == "lead vocal"
    assert parsed_queries[10].plain_text is None


@pytest.mark.parametrize("query", [[], None, 3, [None], [0.1, 0.2], [True], object()])
def test_what_is_no_query_is_refused(query: object) -> None:
    with pytest.raises(UnisepError):
        parse_queries(query)


@pytest.mark.parametrize(
    "query", ["rest", "Mixture", {"text": "a", "name": "REST"}, ["a", "a"], [Query(text="b", name="a"), "a"]]
)
def test_reserved_and_doubled_names_are_refused(query: object) -> None:
    with pytest.raises(QueryError, match="Name it yourself"):
        parse_queries(query)


def test_a_text_that_is_also_a_file_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lick.wav").write_bytes(b"x")
    parse_queries(["guitar", "lick.wav"])
    (message,) = caplog.messages
    assert "'lick.wav' is taken as text" in message and "Path('lick.wav')" in message
    for query in ({"text": "bass", "exclude": "lick.wav"}, Query(text="bass", exclude=["hat", "lick.wav"])):
        told: list[str] = []
        parse_queries(query, say=told.append)
        assert told == [message]
    parse_queries([{"text": "lick.wav"}, "a" * 5_000, "nul\0"])
    assert caplog.messages == [message]


def test_what_was_parsed_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clip,) = parse_queries({"audio": noise(), "exclude": ["hat", noise()], "name": "one"})
    monkeypatch.setattr("unisep.query.parsed.open_audio", lambda *_: pytest.fail("decoded again"))
    assert parse_queries([clip, "bass"])[0] is clip
    assert parse_queries(clip) == (clip,)
    with pytest.raises(QueryError, match="Two queries are named 'one'"):
        parse_queries([clip, clip])


def test_missing_and_unreadable_examples_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="no-such"):
        parse_queries(tmp_path / "no-such.wav")
    with pytest.raises(AudioFileError, match="no-such"):
        parse_queries({"audio": str(tmp_path / "no-such.wav")})
    with pytest.raises(AudioFileError, match="no-such"):
        parse_queries({"text": "a", "exclude": tmp_path / "no-such.wav"})
    with pytest.raises(AudioError, match=r"\[samples, channels\]"):
        parse_queries(np.zeros((1000, 2)))


def test_excluded_things_are_told_apart() -> None:
    clip = tone()
    (parsed,) = parse_queries({"text": "a", "exclude": ["drums ", clip, VECTOR]})
    assert parsed.excluded_texts == ("drums",)
    assert [opened.audio for opened in parsed.excluded_clips] == [clip]
    assert parsed.excluded_embeddings == (VECTOR,)
    assert parsed.modalities == {"text", "audio"}
    (single,) = parse_queries({"embedding": VECTOR, "exclude": "drums"})
    assert single.modalities == {"text"}


def test_the_example_range_cuts_the_clip_or_the_mixture() -> None:
    clip = noise(2.0, 1_000)
    (parsed,) = parse_queries({"audio": clip, "example_range": (0.5, 1.5)})
    assert np.array_equal(parsed.example(InMemory(clip).excerpt).samples, clip.samples[:, 500:1500])
    (about_mixture,) = parse_queries({"example_range": (1, 99)})
    mixture = noise(3.0, 1_000, seed=4)
    assert np.array_equal(about_mixture.example(InMemory(mixture).excerpt).samples, mixture.samples[:, 1000:])
    (beyond,) = parse_queries({"audio": clip, "example_range": (2.0, 3.0)})
    with pytest.raises(QueryError, match=r"2\.000 s long"):
        beyond.example(InMemory(clip).excerpt)


def test_texts_are_averaged_and_parts_weighted_as_unit_vectors() -> None:
    words = ToyEncoder().encode_text(["bass", "hat"]).numpy()
    assert np.allclose(encoded({"text": ["bass", "hat"]})[0], unit(words.mean(0)), atol=1e-6)
    clip = tone(9_000)
    heard = ToyEncoder().encode_audio([clip]).numpy()[0]
    both = encoded({"text": "bass", "audio": clip})[0]
    assert np.allclose(both, unit(words[0] + heard), atol=1e-6)
    mostly_text = encoded({"text": "bass", "audio": clip, "weights": {"text": 0.9, "audio": 0.1}})[0]
    assert np.allclose(mostly_text, unit(0.9 * words[0] + 0.1 * heard), atol=1e-6)
    only_audio = encoded({"text": "bass", "audio": clip, "weights": {"text": 0, "audio": 2}})[0]
    assert np.allclose(only_audio, heard, atol=1e-6)
    long_vector = Embedding(np.array([0, 70.0, 0, 0]), "toy-bands-1")
    with_vector = encoded({"text": "bass", "embedding": long_vector})[0]
    assert np.allclose(with_vector, unit(words[0] + np.array([0, 1, 0, 0])), atol=1e-6)


def test_all_parts_together_give_one_unit_vector() -> None:
    query = {
        "text": "bass",
        "audio": tone(500),
        "embedding": VECTOR,
        "weights": {"text": 1, "audio": 2, "embedding": 3},
        "exclude": ["hat", tone(3_000), VECTOR],
    }
    parsed_queries = parse_queries([query, "drums"])
    found = encode_queries(parsed_queries, [ToyEncoder()] * 2, InMemory(noise()).excerpt)
    assert found.negatives is not None
    assert np.allclose(np.linalg.norm(found.queries, axis=1), 1, atol=1e-6)
    assert np.allclose(np.linalg.norm(found.negatives, axis=1), [1, 0], atol=1e-6)


def test_without_exclusions_there_are_no_negatives() -> None:
    assert encode_queries(parse_queries("bass"), [ToyEncoder()], InMemory(noise()).excerpt).negatives is None


def test_parts_that_cancel_out_are_refused() -> None:
    opposite = Embedding(-ToyEncoder().encode_text(["bass"])[0].numpy(), "toy-bands-1")
    with pytest.raises(QueryError, match="points nowhere"):
        encoded({"text": "bass", "embedding": opposite})


def test_vectors_of_different_sizes_are_refused() -> None:
    short = Embedding(np.ones(3), "toy-bands-1")
    with pytest.raises(EmbeddingError, match="different sizes"):
        encoded({"text": "bass", "embedding": short})
    with pytest.raises(EmbeddingError, match="different sizes"):
        encoded(["bass", short])


@pytest.mark.parametrize("vector", [np.zeros(4), np.ones((2, 2)), np.array([1, np.nan]), [], "text"])
def test_an_embedding_is_a_finite_vector_that_is_not_zero(vector: object) -> None:
    with pytest.raises(EmbeddingError):
        Embedding(vector, "toy-bands-1")  # type: ignore[arg-type]


def test_an_embedding_needs_a_space() -> None:
    with pytest.raises(EmbeddingError, match="name of its space"):
        Embedding(np.ones(4), "")


@pytest.mark.parametrize("provenance", [{"a": 1}, {1: "a"}, [], {"a": np.zeros(2)}, "text"])
def test_the_provenance_of_an_embedding_is_texts(provenance: Any) -> None:
    with pytest.raises(EmbeddingError, match="provenance"):
        Embedding(np.ones(4), "s", provenance)


def test_an_embedding_holds_on_to_its_own_numbers() -> None:
    vector, provenance = np.ones(4, dtype=np.float32), {"a": "b"}
    embedding = Embedding(vector, "s", provenance)
    vector[:], provenance["a"] = 2, "c"
    assert embedding.vector.tolist() == [1, 1, 1, 1] and embedding.provenance == {"a": "b"}


def test_an_embedding_travels_through_a_file(tmp_path: Path) -> None:
    saved = Embedding(torch.tensor([[1.0, 2.0]]), "toy-bands-1", {"text": "bass"}).save(tmp_path / "q.safetensors")
    loaded = Embedding.load(saved)
    assert loaded.vector.tolist() == [1.0, 2.0]
    assert (loaded.space, loaded.provenance) == ("toy-bands-1", {"text": "bass"})
    assert [path.name for path in tmp_path.iterdir()] == ["q.safetensors"]


def test_files_that_are_no_embedding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("noise.safetensors", "empty.safetensors", "missing.safetensors"):
        with pytest.raises(EmbeddingError, match="unisep embed"):
            Embedding.load(tmp_path / name)


def test_a_saved_embedding_is_a_file_like_others(tmp_path: Path) -> None:
    embedding, place = Embedding([1.0, 0.0], "toy"), tmp_path / "e.safetensors"
    (tmp_path / "e.safetensors.part").write_text("mine")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: embedding.save(place), range(40))) == {place}
    (tmp_path / "plain").write_text("")
    assert place.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "e.safetensors.part").read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "leads here")
    embedding.save(link)
    assert link.is_symlink() and Embedding.load(tmp_path / "leads here").space == "toy"
    embedding.save(tmp_path / ("n" * 252))
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "", ".", "a\0b"):
        with pytest.raises(EmbeddingError):
            Embedding([1.0], "toy").save(place)
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(EmbeddingError):
        Embedding([1.0], "toy\ud800").save(tmp_path / "e")


def test_an_embedding_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in ("folder", "none/vector.safetensors"):
        with pytest.raises(EmbeddingError, match="Cannot write"):
            Embedding(np.ones(3), "a").save(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("text", ["a" * 5000, "a\0b", "", "~nosuchuser/x"])
def test_a_text_that_is_no_path_can_be_asked_for_one(text: str) -> None:
    assert not is_file(text)
    assert not is_there(Path(text)) or text == ""
