"""What a worker does with one recording, without a cluster."""

from __future__ import annotations

import json
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unisep_ray import storage
from unisep_ray.catalogue import separate_catalogue
from unisep_ray.recordings import Recording, recordings
from unisep_ray.station import SCRATCH, Job, Station
from unisep_ray.storage import Folder

from unisep.cli import main
from unisep.cli.questions import deciding_options
from unisep.errors import OptionError
from unisep.plugins.registry import using
from unisep.query.parsed import parse_queries

TOYS = Path(__file__).parents[3] / "benchmarks" / "catalogue_toys.py"
TOY = {"backend": "toy", "query_backend": "toy", "encoder": "toy"}


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    with using(TOYS):
        yield


def station(out: str, query: Any = "guitar", retries: bool = False, **writing: Any) -> Station:
    parsed = None if query is None else parse_queries(query)
    question = {"query": parsed, "stems": None, "route": "auto"}
    return Station(
        Job(Folder(out), TOY, question, writing, deciding_options(Namespace(**TOY, **writing), parsed), 2, retries)
    )


def files_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".unisep" not in path.name]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "asked", [["-q", "guitar", "-q", "Bass=low"], [], ["-q", "bass", "--format", "flac", "--headroom", "3"]]
)
def test_results_are_those_of_separate_byte_for_byte(songs: Path, tmp_path: Path, asked: list[str]) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TOY.items()]
    main(["separate", str(songs), "-o", str(tmp_path / "one"), "-j", "1", "--quiet", *asked, *options])
    query = [{"text": "guitar"}, {"text": "low", "name": "Bass"}] if "Bass=low" in asked else "bass" if asked else None
    writing = {"format": "flac", "headroom_db": 3.0} if "flac" in asked else {}
    worker = station(str(tmp_path / "two"), query, **writing)
    rows = [worker.separate(recording, None) for recording in recordings(str(songs), Folder(str(tmp_path / "two")))]
    assert sorted(row["state"] for row in rows) == ["done"] * 3 + ["failed"]
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one") != {}
    assert not list(Path(tempfile.gettempdir()).glob(f"{SCRATCH}{os.getpid()}-*"))


def test_a_store_gets_what_a_folder_gets(s3: Any, songs: Path, tmp_path: Path) -> None:
    source, store = songs / "song 0.wav", Folder("s3://songs/in/album")
    store.put(source, source.name)
    row = station("s3://songs/station").separate(Recording(f"{store}/{source.name}"), None)
    local = station(str(tmp_path)).separate(Recording(str(source)), None)
    assert row["state"] == "done" and row["outputs"] == local["outputs"] and row["request"] == local["request"]
    assert {output["path"] for output in row["outputs"]} == {"song 0/guitar.wav", "song 0/rest.wav"}
    assert [place for place, _ in Folder("s3://songs/station").walk()] == ["song 0/guitar.wav", "song 0/rest.wav"]
    assert row["length"] == source.stat().st_size and len(row["etag"]) == 32


def test_what_is_done_is_skipped_until_something_differs(songs: Path, tmp_path: Path) -> None:
    recording, worker = Recording(str(songs / "song 0.wav")), station(str(tmp_path / "out"))
    done = worker.separate(recording, None)
    assert worker.separate(recording, done)["state"] == "skipped"
    assert worker.separate(recording, {**done, "etag": "other"})["state"] == "done"
    assert station(str(tmp_path / "out"), "bass").separate(recording, done)["state"] == "done"
    (tmp_path / "out" / done["outputs"][0]["path"]).unlink()
    assert worker.separate(recording, done)["state"] == "done"
    assert (tmp_path / "out" / done["outputs"][0]["path"]).exists()


def test_what_failed_is_left_unless_it_is_to_be_tried_again(songs: Path, tmp_path: Path) -> None:
    recording = Recording(str(songs / "broken.wav"))
    failed = station(str(tmp_path)).separate(recording, None)
    assert failed["state"] == "failed" and failed["error_type"] == "AudioFileError"
    assert str(songs / "broken.wav") in failed["error"] and "catalogue-" not in failed["error"]
    assert station(str(tmp_path)).separate(recording, failed)["state"] == "skipped"
    assert station(str(tmp_path), retries=True).separate(recording, failed)["state"] == "failed"


@pytest.mark.parametrize(
    ("recording", "error_type"),
    [
        (Recording("/nowhere.wav"), "AudioFileError"),
        (Recording("nonsense://x.wav"), "OptionError"),
        (Recording("x", problem=OptionError("no")), "OptionError"),
        (Recording("SONG", stems=("nothing",)), "OptionError"),
        (Recording("SONG", query=("a", "b"), example="/clip.wav"), "OptionError"),
        (Recording("SONG", query=(" ",)), "QueryError"),
        (Recording("SONG", example="/nowhere.wav"), "AudioFileError"),
    ],
)
def test_errors_are_rows(songs: Path, tmp_path: Path, recording: Recording, error_type: str) -> None:
    url = recording.url.replace("SONG", str(songs / "song 0.wav"))
    row = station(str(tmp_path)).separate(Recording(**{**vars(recording), "url": url}), None)
    assert (row["state"], row["error_type"]) == ("failed", error_type) and row["error"]
    assert not files_in(tmp_path)


def test_rows_ask_for_themselves(songs: Path, tmp_path: Path) -> None:
    worker, song = station(str(tmp_path), filename="{stem}.{ext}"), str(songs / "song 0.wav")
    worker.separate(Recording(song, ("bass", "drums")), None)
    worker.separate(Recording(song, stems=("high",)), None)
    worker.separate(Recording(song, ("guitar",), example=str(songs / "song 1.wav")), None)
    worker.separate(Recording(song, example=str(songs / "song 2.wav")), None)
    assert set(files_in(tmp_path)) == {f"{name}.wav" for name in ("bass", "drums", "high", "guitar", "song 2", "rest")}


def test_a_store_that_fails_midway_holds_nothing(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move, calls = Folder.move, []

    def failing(self: Folder, source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        move(self, source, target)

    monkeypatch.setattr(Folder, "move", failing)
    row = station(str(tmp_path)).separate(Recording(str(songs / "song 0.wav")), None)
    assert row["error_type"] == "DiskSpaceError" and len(calls) == 2 and not files_in(tmp_path)


def test_a_recording_cut_short_on_the_way_is_an_error(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "DELAYS_SECONDS", ())
    monkeypatch.setattr(Folder, "fetch", lambda self, place, file: file.write_bytes(b"RIFF"))
    row = station(str(tmp_path)).separate(Recording(str(songs / "song 0.wav")), None)
    assert row["error_type"] == "AudioFileError" and "4 of" in row["error"]


@pytest.mark.parametrize(
    "options",
    [{"retry": "all"}, {"min_workers": 0}, {"min_workers": 3, "max_workers": 2}, {"attempts": 0}, {"filename": "x"},
     {"num_gpus_per_worker": float("nan")}, {"format": "nothing"}],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_begins(songs: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        separate_catalogue(songs, tmp_path / "out", "guitar", **TOY, **options)
    assert type(caught.value).__module__ == "unisep.errors" and not (tmp_path / "out").exists()


def test_a_ledger_is_not_written_over(songs: Path, tmp_path: Path) -> None:
    from unisep_ray.ledger import Ledger

    ledger = Ledger(Folder(str(tmp_path / "out")))
    ledger.add({"place": "x", "state": "done", "recording": "x"})
    ledger.close()
    with pytest.raises(OptionError, match="--resume"):
        separate_catalogue(songs, tmp_path / "out", "guitar", **TOY)
    assert not (tmp_path / "out/.unisep/lease.json").exists()


def test_plans_are_told(songs: Path, tmp_path: Path) -> None:
    row = station(str(tmp_path)).separate(Recording(str(songs / "song 0.wav")), None)
    assert json.loads(row["plan"])["guitar"]["backend"] == "toy" and 0 <= row["outputs"][0]["presence"] <= 1
