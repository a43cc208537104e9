"""What the routes of a running server do."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from unisep_studio import Client, StudioError

from unisep import Audio, Query, Separator, files, plugins
from unisep.errors import Cancelled, PluginError, QueryError
from unisep.testing import noise, tone

TOYS = Path(__file__).parents[3] / "benchmarks" / "studio_toys.py"
TOY = {"backend": "paced", "query_backend": "paced", "encoder": "toy"}
GATED = {"backend": "gated", "query_backend": "gated", "encoder": "toy", "route": "conditioned"}


def events(http, id, **headers):
    """Return all events of a job: number and content."""
    with http.stream("GET", f"/v1/separations/{id}/events", headers=headers) as response:
        text = response.read().decode()
    return [(int(number), json.loads(data)) for number, data in re.findall(r"id: (\d+)\ndata: (.*)\n\n", text)]


def samples(http, url):
    response = http.get(url)
    assert response.status_code == 200, response.text
    return files.read(response.content).samples


@pytest.fixture
def separator():
    with plugins.using(TOYS):
        yield Separator(**TOY)


# recordings


def test_an_upload_is_decoded_and_described(http, song):
    answer = http.upload(song, "../../strange/my song.WAV")
    audio = files.read(song)
    assert answer["name"] == "my song.WAV" and answer["seconds"] == 3 and answer["format"] == "wav"
    assert (answer["sample_rate_hz"], answer["n_channels"], answer["n_samples"]) == (22_050, 2, audio.n_samples)
    peaks = answer["peaks"]
    assert peaks["level"] == 0 and len(peaks["peaks"]) == -(-audio.n_samples // 256)
    assert peaks["peaks"][1] == pytest.approx(
        [audio.samples[:, 256:512].min(), audio.samples[:, 256:512].max()], abs=1e-4
    )
    assert http.get(f"/v1/recordings/{answer['id']}").json() == answer
    assert http.upload(song)["id"] == answer["id"], "what is here already is not kept twice"


def test_peaks_come_by_level_and_part(http, recording, song):
    audio = files.read(song).samples
    path = f"/v1/recordings/{recording}/peaks"
    coarse = http.get(path, params={"level": 2}).json()
    assert coarse["samples_per_peak"] == 4096
    assert coarse["peaks"] == pytest.approx(
        np.array(
            [(audio[:, i : i + 4096].min(), audio[:, i : i + 4096].max()) for i in range(0, audio.shape[1], 4096)]
        ),
        abs=1e-4,
    )
    part = http.get(path, params={"level": 1, "start": 2000, "stop": 5000}).json()
    assert part["start"] == 1024 and part["peaks"] == http.get(path, params={"level": 1}).json()["peaks"][1:5]
    beyond = http.get(path, params={"start": 10**9}).json()
    assert beyond["peaks"] == []
    assert http.get(path, params={"level": 13}).status_code == 422


def test_audio_comes_in_ranges_and_formats(http, recording, song):
    path, content = f"/v1/recordings/{recording}/audio", song.read_bytes()
    whole = http.get(path)
    assert whole.content == content and whole.headers["accept-ranges"] == "bytes"
    for asked, start, stop in [("0-99", 0, 100), ("100-", 100, len(content)), ("-7", len(content) - 7, len(content))]:
        part = http.get(path, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    beyond = http.get(path, headers={"Range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(content)}"
    assert http.get(path, headers={"Range": "bytes=5-1"}).status_code == 200, "what is no range counts as none"
    stale = http.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert stale.status_code == 200
    assert http.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = http.head(path)
    assert head.headers["content-length"] == str(len(content)) and not head.content
    flac = http.get(path, params={"format": "flac"})
    assert files.probe(flac.content).subtype == "PCM_24" and flac.headers["content-type"] == "audio/flac"


@pytest.mark.parametrize(
    ("content", "type_name"), [(b"no audio at all", "AudioFileError"), (b"RIFF\xff\xff\0\0WAVEfmt ", "AudioFileError")]
)
def test_what_is_no_audio_is_refused_and_not_kept(http, server, content, type_name):
    before = sorted((server.data / "recordings").iterdir())
    response = http.post("/v1/recordings", files={"file": ("broken.wav", content)})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (422, type_name)
    assert "'broken.wav'" in error["message"] and str(server.data) not in error["message"], (
        "places on the server's disk are its own matter"
    )
    assert sorted((server.data / "recordings").iterdir()) == before and not any((server.data / "incoming").iterdir())


def test_uploads_are_held_to_size_and_length(http, place):
    large = http.post("/v1/recordings", files={"file": ("a.wav", bytes(6_000_000))})
    assert large.status_code == 413
    pieces = (
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n",
        *(bytes(2**20) for _ in range(6)),
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert http.post("/v1/recordings", content=iter(pieces), headers=headers).status_code == 413, (
        "without a length ahead"
    )
    path = files.write(place / "long.flac", Audio(np.zeros((1, 8_000 * 61), np.float32), 8_000))
    long = http.post("/v1/recordings", files={"file": ("long.flac", path.read_bytes())})
    assert long.status_code == 422 and "1 minutes" in long.json()["error"]["message"]


def test_a_recording_can_be_deleted_once_nothing_needs_it(http, place, gate):
    recording = http.upload(files.write(place / "gone.wav", tone(seconds=0.5)))["id"]
    job = http.ask(recording, "drums", options=GATED)["id"]
    assert http.delete(f"/v1/recordings/{recording}").status_code == 409
    gate.unlink()
    http.ended(job)
    assert http.delete(f"/v1/recordings/{recording}").status_code == 204
    assert http.get(f"/v1/recordings/{recording}").status_code == 404
    assert http.state(job)["state"] == "done", "results stay"


# separations


def test_results_are_those_of_a_separator(http, recording, song, separator):
    expected = separator.separate(song, query=["drums", "voice"], route="conditioned")
    now = http.ended(http.ask(recording, ["drums", "voice"], options={**TOY, "route": "conditioned"})["id"])
    assert now["state"] == "done" and now["progress"] == 1 and now["error"] is None
    assert [(entry["name"], entry["kind"]) for entry in now["files"]] == [
        ("drums", "target"), ("voice", "target"), ("rest", "rest"),
    ]  # fmt: skip
    for entry in now["files"]:
        wanted = expected.rest if entry["name"] == "rest" else expected[entry["name"]]
        np.testing.assert_array_equal(samples(http, entry["url"]), wanted.samples)
        assert entry["peak"] == pytest.approx(abs(wanted.samples).max())
    assert now["presence"] == pytest.approx(dict(expected.presence))
    assert now["plan"] == expected.plan.to_json()
    assert now["presence_over_time"]["drums"] == [list(part) for part in expected.presence_over_time["drums"]]


def test_the_client_gives_what_a_separator_gives(server, song, separator, place):
    clip = files.write(place / "lick.wav", tone(3_000, 0.5, 22_050))
    query = ["drums", clip, {"text": "voice", "exclude": ["kick", clip], "time_range": (1, None), "name": "late"}]
    expected, told = separator.separate(song, query=query, route="conditioned"), []
    with Client(server.url) as client:
        got = client.separate(song, query, on_progress=told.append, route="conditioned", **TOY)
    assert list(got) == list(expected) == ["drums", "lick", "late"]
    for name, audio in {**expected, "rest": expected.rest}.items():
        np.testing.assert_array_equal((got.rest if name == "rest" else got[name]).samples, audio.samples)
    assert got.plan == expected.plan and got.presence == expected.presence
    assert got.presence_over_time == expected.presence_over_time and got.source_name == expected.source_name
    assert told[-1].stage == "done" and all(progress.seconds_total == 3 for progress in told)


def test_the_client_takes_arrays_stems_and_vectors(server, separator):
    array = noise(1.0, 44_100).samples
    with Client(server.url) as client:
        stems = client.separate(array, sample_rate_hz=44_100, stems="low", backend="paced")
        vector = client.embed("drums", query_backend="paced", encoder="toy")
        by_vector = client.separate(Audio(array, 44_100), vector, **TOY)
    np.testing.assert_array_equal(
        stems["low"].samples, separator.separate(array, sample_rate_hz=44_100, stems="low")["low"].samples
    )
    np.testing.assert_array_equal(vector.vector, separator.embed("drums").vector)
    assert vector.space == "toy-bands-1" and vector.provenance == separator.embed("drums").provenance
    expected = separator.separate(Audio(array, 44_100), vector).target
    np.testing.assert_array_equal(by_vector.target.samples, expected.samples)


def test_the_client_raises_what_a_separator_raises(server, song, gate):
    with Client(server.url) as client:
        with pytest.raises(QueryError, match="reserved"):
            client.separate(song, Query(text="a", name="rest"))
        with pytest.raises(PluginError, match="nobody"):
            client.separate(song, "drums", backend="nobody")

        class Stop:
            n_asked = 0

            def is_set(self):
                self.n_asked += 1
                return self.n_asked > 2

        with pytest.raises(Cancelled):
            client.separate(song, "bass", cancel=Stop(), **GATED)
    with Client("http://127.0.0.1:9") as client, pytest.raises(StudioError, match="unisep serve"):
        client.upload(song)


def test_the_same_request_is_answered_at_once(http, server, recording, place):
    first = http.ended(http.ask(recording, [{"text": "guitar"}, "hat"])["id"])
    calls = (place / "calls").read_text()
    again = http.ask(recording, ["guitar", {"text": "hat", "name": "hat"}])
    assert again["state"] == "done" and again["id"] != first["id"]
    assert [entry["name"] for entry in again["files"]] == [entry["name"] for entry in first["files"]]
    assert (place / "calls").read_text() == calls
    assert http.ask(recording, ["guitar"])["state"] == "queued"


def test_files_come_in_formats_with_one_gain_and_as_an_archive(http, recording):
    now = http.ended(http.ask(recording, {"text": "drums", "name": "../a/b ♫"})["id"])
    url = next(entry["url"] for entry in now["files"] if entry["kind"] == "target")
    exact = samples(http, url)
    flac, rest = (
        samples(http, f"{url}?format=flac"),
        samples(http, f"/v1/separations/{now['id']}/files/rest?format=flac"),
    )
    gain = 1 / max(1.0, max(entry["peak"] for entry in now["files"]))
    assert abs(flac - gain * exact).max() < 2e-7
    assert abs(rest).max() <= 1
    mp3 = http.get(f"{url}?format=mp3")
    assert files.probe(mp3.content).format == "mp3" and mp3.headers["content-type"] == "audio/mpeg"
    assert http.get(f"{url}?format=exe").status_code == 422
    archive = http.get(f"/v1/separations/{now['id']}/archive?format=flac")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert sorted(names) == ["_a_b ♫.flac", "rest.flac"] and not any("/" in name for name in names)
        np.testing.assert_array_equal(files.read(opened.read("_a_b ♫.flac")).samples, flac)
    assert archive.headers["content-disposition"].endswith("song.zip")
    peaks = http.get(url.replace("/files/", "/peaks/"), params={"level": 3}).json()
    assert max(high for _, high in peaks["peaks"]) == pytest.approx(exact.max(), abs=1e-4)


def test_events_tell_all_and_go_on_where_they_were_left(http, recording, gate):
    job = http.ask(recording, "voice", options=GATED)["id"]
    with http.stream("GET", f"/v1/separations/{job}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        first = int(next(line for line in lines if line.startswith("id: "))[4:])
    gate.unlink()
    rest = events(http, job, **{"Last-Event-ID": str(first)})
    numbers, states = [number for number, _ in rest], [event["state"] for _, event in rest]
    assert numbers == sorted(set(numbers)) and numbers[0] > first
    assert states[-1] == "done" and set(states[:-1]) <= {"queued", "running"}
    fractions = [event["progress"] for _, event in rest]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    (last,) = events(http, job)
    assert last[1]["state"] == "done" and last[0] <= numbers[-1]
    done = http.get(f"/v1/separations/{job}/events", headers={"Last-Event-ID": str(numbers[-1])})
    assert done.status_code == 204, "a browser does not come again after that"


def test_cancelling_ends_within_a_segment_and_frees_the_disk(http, server, recording, gate):
    running = http.ask(recording, "cancel me", options=GATED)["id"]
    http.until(lambda: http.state(running)["stage"] == "separating")
    waiting = http.ask(recording, "and me", options={**GATED, "seed": 1})["id"]
    before = set((server.data / "results").iterdir())
    for id in (waiting, running):
        answer = http.delete(f"/v1/separations/{id}")
        assert answer.status_code == 200 and answer.json()["state"] == "cancelled"
    gate.unlink()
    http.until(lambda: not any(path.is_dir() for path in (server.data / "scratch").iterdir()))
    assert set((server.data / "results").iterdir()) == before
    assert http.state(running)["state"] == "cancelled" and http.state(running)["files"] == []
    assert [event["state"] for _, event in events(http, running)] == ["cancelled"]
    assert http.delete(f"/v1/separations/{running}").status_code == 200
    assert http.get(f"/v1/separations/{running}").status_code == 404


def test_deleting_what_is_done_frees_the_disk_once_nobody_has_it(http, server, recording):
    first = http.ended(http.ask(recording, "delete me")["id"])
    second = http.ask(recording, "delete me")
    places = set((server.data / "results").iterdir())
    http.delete(f"/v1/separations/{first['id']}")
    assert set((server.data / "results").iterdir()) == places
    http.delete(f"/v1/separations/{second['id']}")
    assert len(places - set((server.data / "results").iterdir())) == 1


def test_jobs_that_wait_together_share_a_pass(http, recording, song, separator, place, gate):
    blocker = http.ask(recording, "blocker", options=GATED)["id"]
    http.until(lambda: http.state(blocker)["stage"] == "separating")
    questions = ["shared one", ["shared one", "shared two"], {"text": "shared two", "time_range": [1, 2]}]
    jobs = [http.ask(recording, question, options={**TOY, "route": "conditioned"})["id"] for question in questions]
    assert [http.state(id)["waiting_before"] for id in jobs] == [0, 1, 2]
    n_calls = len((place / "calls").read_text().splitlines())
    gate.unlink()
    results = [http.ended(id) for id in jobs]
    calls = [line for line in (place / "calls").read_text().splitlines()[n_calls:] if line.startswith("paced")]
    assert set(calls) <= {"paced 2", "paced 3"} and "paced 3" in calls, "each different query once, in one pass"
    for question, now in zip(questions, results, strict=True):
        query = question if isinstance(question, str | list) else {**question, "time_range": (1, 2)}
        expected = separator.separate(song, query=query, route="conditioned")
        assert [entry["name"] for entry in now["files"]] == [*expected, "rest"]
        for entry in now["files"]:
            wanted = expected.rest if entry["name"] == "rest" else expected[entry["name"]]
            np.testing.assert_allclose(samples(http, entry["url"]), wanted.samples, atol=1e-6)


def test_a_job_that_ends_its_worker_fails_alone(http, server, recording, gate):
    blocker = http.ask(recording, "blocker two", options=GATED)["id"]
    http.until(lambda: http.state(blocker)["stage"] == "separating")
    crashing = http.ask(recording, "drums", options={**TOY, "query_backend": "crashing", "route": "conditioned"})["id"]
    others = [http.ask(recording, f"survivor {number}", options={**TOY, "seed": number})["id"] for number in range(2)]
    gate.unlink()
    failed = http.ended(crashing)
    assert failed["state"] == "failed" and failed["error"]["type"] == "WorkerCrashed"
    assert "SIGKILL" in failed["error"]["message"]
    assert [http.ended(id)["state"] for id in others] == ["done", "done"]
    assert http.get("/healthz").json() == {"ok": True, "workers": 1}


def test_a_bad_query_fails_alone(http, recording, gate):
    blocker = http.ask(recording, "blocker three", options=GATED)["id"]
    http.until(lambda: http.state(blocker)["stage"] == "separating")
    options = {**TOY, "route": "conditioned"}
    bad = http.ask(recording, {"text": "late", "time_range": [50, 60]}, options=options)["id"]
    good = http.ask(recording, "on time", options=options)["id"]
    gate.unlink()
    error = http.ended(bad)["error"]
    assert error["type"] == "QueryError" and http.ended(good)["state"] == "done"


@pytest.mark.parametrize(
    ("more", "status", "type_name"),
    [
        ({"query": []}, 422, "RequestError"),
        ({"query": {}}, 422, "QueryError"),
        ({"query": " "}, 422, "QueryError"),
        ({"query": {"text": "a", "name": "rest"}}, 422, "QueryError"),
        ({"query": ["a", "a"]}, 422, "QueryError"),
        ({"query": ["a"] * 17}, 422, "RequestError"),
        ({"query": {"text": "a", "txt": "b"}}, 422, "RequestError"),
        ({"query": {"audio": "../../etc/passwd"}}, 422, "RequestError"),
        ({"query": {"audio": "0" * 32}}, 404, "NotFound"),
        ({"query": {"text": "a", "exclude": {"audio": "0" * 32}}}, 404, "NotFound"),
        ({"query": {"text": "a", "time_range": [5, 1]}}, 422, "QueryError"),
        ({"query": {"embedding": {"vector": [0, 0], "space": "x"}}}, 422, "EmbeddingError"),
        ({"query": "a", "stems": ["low"]}, 422, "RequestError"),
        ({"options": {"backend": "ensemble@/etc/passwd"}}, 422, "RequestError"),
        ({"options": {"weights": "/etc/passwd"}}, 422, "RequestError"),
        ({"recording": "0" * 32}, 404, "NotFound"),
    ],
)
def test_wrong_requests_are_refused_at_once(http, recording, more, status, type_name):
    answer = http.ask(**{"recording": recording, "status": status, **more})
    assert answer["error"]["type"] == type_name and answer["error"]["message"]


# the rest


def test_it_says_what_there_is_to_ask_for(http):
    by_name = {model["name"]: model for model in http.get("/v1/models").json()}
    assert by_name["paced"]["stems"] == ["low", "high"] and by_name["paced"]["answers_queries"]
    assert by_name["toy"]["kind"] == "encoder"
    concepts = {concept["name"]: concept for concept in http.get("/v1/concepts").json()}
    assert "singing voice" in concepts["vocals"]["wordings"] and len(concepts) > 300


def test_it_says_what_would_be_better_after_a_download(http):
    answer = http.get("/v1/recommendations", params={"text": "singing voice"})
    assert answer.status_code == 200 and answer.json() == [], "of the toys, none is to be downloaded"
    assert http.get("/v1/recommendations", params={"text": " "}).status_code == 422
    assert http.get("/v1/recommendations").status_code == 422


def test_figures_are_those_of_prometheus(http, recording):
    http.ended(http.ask(recording, "figures")["id"])
    text = http.get("/metrics").text
    pattern = r'(# TYPE [a-z_]+ (gauge|counter)|[a-z_]+(\{[a-z]+="\w+"\})? [0-9.e+]+)'
    assert all(re.fullmatch(pattern, line) for line in text.splitlines())
    assert 'unisep_jobs{state="done"}' in text and 'unisep_responses_total{code="202"}' in text


def test_the_reference_needs_nothing_from_elsewhere(http):
    described = http.get("/openapi.json").json()
    assert described["paths"]["/v1/separations"]["post"]["responses"]["202"]
    assert "audio" in described["components"]["schemas"]["QueryBody"]["properties"]
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in re.sub(r"(?<=[<&])[^>]*", "", page.text) and "<script" not in page.text
    assert all(path in page.text for path in described["paths"])
    assert http.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_answers_are_refusals_in_json(http):
    for method, path, status in [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/v1/recordings/x", 422),
    ]:
        response = http.request(method, path)
        assert response.status_code == status and response.json()["error"]["message"]
    missing = http.get(f"/v1/separations/{'0' * 32}/files/drums")
    assert missing.status_code == 404 and "0000" in missing.json()["error"]["message"]


def test_lists_of_files_name_what_there_is(http, recording):
    now = http.ended(http.ask(recording, "listed")["id"])
    for name in ("0.wav", "result.json", "../../studio.sqlite", "%2e%2e%2fresult.json", "listed%2f..%2flisted"):
        answer = http.get(f"/v1/separations/{now['id']}/files/{name}")
        assert answer.status_code in (404, 422), name  # of some, the client itself takes out the dots


def test_paths_on_the_disk_are_nobodys_business(http, server, recording):
    now = http.ended(http.ask(recording, "private")["id"])
    texts = [
        http.get(path).text for path in (f"/v1/separations/{now['id']}", f"/v1/recordings/{recording}", "/metrics")
    ]
    assert not any(str(Path(server.data).parent) in text for text in texts)
