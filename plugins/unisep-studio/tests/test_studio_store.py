"""What outlives the process, and the queue: order, fairness, room, and what is found after a sudden end."""

from __future__ import annotations

import json
import os
import sqlite3
import time

import pytest
from unisep_studio.schemas import QueryBody, SeparationBody, key_of, pass_key_of, question_of
from unisep_studio.store import MAX_ATTEMPTS, Store

from unisep.errors import OptionError

FACTS = {"name": "a.wav", "suffix": ".wav", "seconds": 1.0}


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path) as store:
        yield store


class opened:
    def __init__(self, folder, quota_bytes=10_000, keep_seconds=1000.0):
        self.store = Store(folder, quota_bytes=quota_bytes, keep_seconds=keep_seconds)

    def __enter__(self):
        self.store.recover()
        return self.store

    def __exit__(self, *_):
        self.store.close()


def add_recording(store, owner="", content="sha", n_bytes=100):
    place = store.folder / "incoming" / content
    place.mkdir()
    (place / "audio.wav").write_bytes(bytes(n_bytes))
    return store.add_recording(owner, content, FACTS, place)


def add_job(store, owner="", recording="r", query="drums", state="queued", **options):
    question = question_of(SeparationBody(recording="0" * 32, query=query, options=options))
    key, pass_key = key_of(recording, question, {}), pass_key_of(recording, question)
    return store.add_job(owner, recording, question, key, pass_key, state)


def add_result(store, job, n_bytes=100, installation="now"):
    place = store.place_of_result(job.key)
    place.mkdir()
    (place / "0.wav").write_bytes(bytes(n_bytes))
    (place / "result.json").write_text(json.dumps({"installation": installation, "files": []}))
    store.add_result(job.key, installation, {"files": []})


def claimed(store, served=lambda owner: 0):
    return [job.id for job in store.claim(served)]


def test_jobs_come_in_order(store):
    first, second = add_job(store, query="a"), add_job(store, query="b", seed=1)
    assert store.waiting_before(second) == 1 and store.count_waiting("") == 2
    assert claimed(store) == [first.id] and claimed(store) == [second.id] and claimed(store) == []
    assert store.finish(first, "done") and not store.finish(first, "failed"), "a job ends once"
    assert store.job(first.id).state == "done" and store.job(first.id).finished > 0


def test_owners_take_turns(store):
    crowd = [add_job(store, "many", query=f"{number}", seed=number).id for number in range(4)]
    single = add_job(store, "one", query="x").id
    served, order, turn = {}, [], 0
    while jobs := store.claim(lambda owner: served.get(owner, 0)):
        order += [job.id for job in jobs]
        served[jobs[0].owner] = turn = turn + 1
    assert order.index(single) == 1 and [id for id in order if id != single] == crowd


def test_jobs_of_one_recording_and_model_share_a_pass(store):
    jobs = [
        add_job(store, query=["a", "b"]),
        add_job(store, query="c"),
        add_job(store, query="c"),
        add_job(store, query="d", seed=1),
    ]
    add_job(store, recording="other", query="e")
    assert claimed(store) == [jobs[0].id, jobs[1].id], (
        "the same again waits for the result; other options, another pass"
    )
    assert store.waiting_for(jobs[1].key)[0].id == jobs[2].id
    assert claimed(store) == [jobs[3].id]


def test_a_pass_has_room_for_so_many_queries(store):
    jobs = [add_job(store, query=[f"{number} {part}" for part in range(7)]) for number in range(3)]
    assert claimed(store) == [jobs[0].id, jobs[1].id]


def test_vectors_stems_and_what_failed_together_are_alone(store):
    vector = QueryBody(embedding={"vector": [1.0], "space": "s"})
    text, by_vector = add_job(store, query="a"), add_job(store, query=vector)
    excluding, stems = (
        add_job(store, query=QueryBody(text="b", exclude=[{"embedding": {"vector": [1.0], "space": "s"}}])),
        add_job(store, query=None),
    )
    for job in (text, by_vector, excluding, stems):
        assert claimed(store) == [job.id]
    store.put_back(text, alone=True)
    other = add_job(store, query="z")
    assert claimed(store) == [text.id] and claimed(store) == [other.id]


def test_equal_requests_have_one_key_however_they_are_written():
    def key(recording="0" * 32, content=None, **more):
        question = question_of(SeparationBody(recording=recording, **more))
        return key_of("sha", question, content or {})

    plain = key(query="drums")
    assert (
        plain == key(query=["drums"]) == key(query={"text": "drums"}) == key(query={"text": "drums", "name": "drums"})
    )
    assert plain == key(query="drums", options={"seed": 0, "route": "auto"}) == key(recording="1" * 32, query="drums")
    others = [
        key(query="drum"),
        key(query={"text": "drums", "name": "x"}),
        key(),
        key(stems=["drums"]),
        key(query="drums", options={"seed": 1}),
    ]
    assert len({plain, *others}) == 6
    example = {"audio": "a" * 32}
    assert key(query=example, content={"a" * 32: "x"}) == key(query={"audio": "b" * 32}, content={"b" * 32: "x"})
    assert key(query=example, content={"a" * 32: "x"}) != key(query=example, content={"a" * 32: "y"})


def test_after_a_sudden_end_nothing_is_lost_and_nothing_done_twice(tmp_path):
    with opened(tmp_path) as store:
        recording = add_recording(store)
        done, running, complete, waiting = (add_job(store, query=name, seed=seed) for seed, name in enumerate("abcd"))
        for job in (done, running, complete):
            assert claimed(store) == [job.id]
        add_result(store, done)
        store.finish(done, "done")
        place = store.place_of_result(complete.key)  # the worker was ready, and the server never knew
        place.mkdir()
        (place / "result.json").write_text(json.dumps({"installation": "now", "files": ["x"]}))
        for name in ("scratch/half", "incoming/half", "results/half", "recordings/half"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "audio.wav").write_bytes(b"x")
    with opened(tmp_path) as store:  # a sudden end leaves no less than this
        assert [store.job(job.id).state for job in (done, running, complete, waiting)] == ["done", *["queued"] * 3]
        assert store.result(complete.key, "now")["files"] == ["x"] and store.result(running.key) is None
        assert not list(tmp_path.glob("*/half"))
        assert store.recording(recording.id, "").sha256 == "sha"
        assert claimed(store) == [running.id] and store.job(running.id).attempts == 1


def test_what_is_gone_from_the_disk_is_forgotten(tmp_path):
    with opened(tmp_path) as store:
        recording, job = add_recording(store), add_job(store)
        claimed(store)
        add_result(store, job)
        store.finish(job, "done")
        (store.place_of_result(job.key) / "0.wav").write_bytes(b"cut short")
        (store.place_of_recording(recording.id) / "audio.wav").unlink()
    with opened(tmp_path) as store:
        assert store.result(job.key) is None and store.recording(recording.id, "") is None
        assert store.job(job.id) is None, "it is done again when it is asked for again"


def test_a_job_that_always_ends_the_server_is_given_up(tmp_path):
    job = None
    for _ in range(MAX_ATTEMPTS):
        with opened(tmp_path) as store:
            job = job or add_job(store)
            assert claimed(store) == [job.id]
    with opened(tmp_path) as store:
        assert store.job(job.id).attempts == MAX_ATTEMPTS


def test_the_least_recently_used_goes_first(tmp_path):
    with opened(tmp_path, quota_bytes=1000) as store:
        recordings = [add_recording(store, content=f"{number}", n_bytes=300) for number in range(3)]
        used = {recordings[0].id: 3, recordings[1].id: 1, recordings[2].id: 2}
        for id, age in used.items():
            store._execute("UPDATE recordings SET used = ? WHERE id = ?", time.time() - 100 + age, id)
        assert store.recording(recordings[1].id, "") is not None, "asking for it is use"
        assert store.make_room(350)
        assert [store.recording(one.id, "") is not None for one in recordings] == [True, True, False]
        assert not store.place_of_recording(recordings[2].id).exists()


def test_what_a_job_needs_stays(tmp_path):
    with opened(tmp_path, quota_bytes=500) as store:
        recording = add_recording(store, content="song", n_bytes=300)
        clip = add_recording(store, content="clip", n_bytes=100)
        job = add_job(store, recording=recording.id, query=QueryBody(audio=clip.id))
        assert not store.make_room(400) and store.recording(clip.id, "") and store.recording(recording.id, "")
        assert not store.forget_recording(clip.id)
        store.finish(job, "cancelled")
        assert store.make_room(400)


def test_what_is_old_goes(tmp_path):
    with opened(tmp_path, keep_seconds=50) as store:
        old, young, job = add_recording(store, content="old"), add_recording(store, content="young"), add_job(store)
        add_result(store, job)
        store.finish(job, "done")
        for table, id, column in (("recordings", old.id, "id"), ("results", job.key, "key")):
            store._execute(f"UPDATE {table} SET used = ? WHERE {column} = ?", time.time() - 60, id)
        store.make_room()
        assert store.recording(old.id, "") is None and store.recording(young.id, "")
        assert store.job(job.id) is None and not store.place_of_result(job.key).exists()


def test_owners_do_not_see_each_other(store):
    ours, theirs = add_recording(store, "us", "same"), add_recording(store, "them", "same")
    assert ours.id != theirs.id and store.recording(ours.id, "them") is None
    job = add_job(store, "us")
    assert store.job(job.id, "them") is None and store.job(job.id, "us") == job


def test_a_result_stays_as_long_as_a_job_has_it(store):
    first, second = add_job(store, "us"), add_job(store, "them")
    add_result(store, first)
    store.finish(first, "done")
    store.finish(second, "done")
    store.forget_job(first)
    assert store.result(second.key) is not None and store.result(second.key, "another installation") is None
    store.forget_job(second)
    assert store.result(second.key) is None and not store.place_of_result(second.key).exists()


def test_a_folder_has_one_server(store, tmp_path):
    with pytest.raises(OptionError, match="Another server"):
        Store(tmp_path, quota_bytes=1, keep_seconds=1)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot be used"):
        Store(tmp_path / "file", quota_bytes=1, keep_seconds=1)


def test_the_log_is_written_ahead(store):
    with sqlite3.connect(store.folder / "studio.sqlite") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert os.stat(store.folder / "results").st_mode & 0o77 == 0, "others on this machine have no business there"
