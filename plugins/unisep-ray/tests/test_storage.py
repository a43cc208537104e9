"""Files in folders of several file systems, and what is listed there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from unisep_ray import storage
from unisep_ray.recordings import Recording, recordings
from unisep_ray.storage import Folder, storing

from unisep.errors import DiskSpaceError, OptionError

OUT = Folder("/nowhere/out")


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    name = request.node.name.replace("[", "-").replace("]", "")
    if request.param == "s3":
        request.getfixturevalue("s3")
    return Folder({"local": f"{tmp_path}/a b", "memory": f"memory://{name}", "s3": f"s3://songs/{name}"}[request.param])


def test_a_file_comes_and_goes_in_one_step(folder: Folder, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"new" * 1000)
    folder.write("song [1]/vocals.wav", b"old")
    folder.put(source, "t/1")
    folder.move("t/1", "song [1]/vocals.wav")
    folder.fetch("song [1]/vocals.wav", copy)
    assert copy.read_bytes() == source.read_bytes() and folder.info("song [1]/vocals.wav")["size"] == 3000
    assert folder.info("t/1") is None and [place for place, _ in folder.walk()] == ["song [1]/vocals.wav"]
    folder.remove("song [1]/vocals.wav")
    assert folder.info("song [1]/vocals.wav") is None


def test_only_one_creates_a_file(folder: Folder) -> None:
    assert folder.create("lock", b"mine")
    assert not folder.create("lock", b"yours") and folder.read("lock") == b"mine"


def test_a_store_that_fails_for_a_while_is_asked_again(s3: Any, tmp_path: Path, quick: None) -> None:
    folder = Folder("s3://songs/faulty")
    s3.fault("503", share=0.3)
    try:
        for number in range(2):
            folder.write(f"{number}", b"x")
        assert [place for place, _ in folder.walk()] == [f"{number}" for number in range(2)]
    finally:
        s3.fault("ok")


def test_a_store_that_is_full_says_so_at_once(s3: Any, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 10_000)
    s3.fault("full")
    try:
        with pytest.raises(DiskSpaceError, match="The results: there is no room"), storing("The results"):
            Folder("s3://songs/full").put(tmp_path / "source", "x")
    finally:
        s3.fault("ok")


def test_uploads_left_behind_are_ended(s3: Any) -> None:
    folder = Folder("s3://songs/parts")
    for key in ("parts/.unisep/partial/x", "parts/others"):
        folder.fs.call_s3("create_multipart_upload", Bucket="songs", Key=key)
    folder.abort_uploads(".unisep/partial")
    assert [upload["Key"] for upload in folder.fs.list_multipart_uploads("songs")] == ["parts/others"]


def test_what_cannot_pass_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "DELAYS_SECONDS", (1000.0,))
    with pytest.raises(FileNotFoundError):
        Folder(str(tmp_path)).read("nothing")


def test_a_folder_gives_its_audio_files_but_not_the_results(tmp_path: Path) -> None:
    for name in ("b/2.wav", "a.FLAC", "notes.txt", ".hidden/x.wav", "out/a/vocals.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = recordings(str(tmp_path), Folder(f"{tmp_path}/out"))
    assert [Path(item.url).relative_to(tmp_path).as_posix() for item in listed] == ["a.FLAC", "b/2.wav"]
    with pytest.raises(OptionError, match="among the recordings"):
        list(recordings(str(tmp_path / "b"), Folder(str(tmp_path))))


ROWS: list[dict[str, Any]] = [
    {"path": "one.wav", "query": "guitar"},
    {"path": "s3://other/two.wav", "stems": "low, high", "name": "Two"},
    {"path": "/three.wav", "query": "bass", "example": "clips/lick.wav"},
]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_lists_say_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        parquet.write_table(
            pa.Table.from_pylist([dict.fromkeys(("query", "stems", "name", "example")) | r for r in ROWS]), path
        )
    elif kind == "csv":
        lines = ["path,query,stems,name,example", "one.wav,guitar,,,", 's3://other/two.wav,,"low, high",Two,']
        path.write_text("\n".join([*lines, "/three.wav,bass,,,clips/lick.wav"]))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    one, two, three = recordings(str(path), OUT)
    assert one == Recording(f"{tmp_path}/one.wav", ("guitar",))
    assert two == Recording("s3://other/two.wav", stems=("low", "high"), name="Two") and two.file_name == "Two.wav"
    assert three == Recording("/three.wav", ("bass",), example=f"{tmp_path}/clips/lick.wav")


BAD = [
    ({"path": None}, "has no path"),
    ({"path": 3}, "no text"),
    ({"path": "a\0b"}, "no text"),
    ({"path": "a.wav", "name": "../../etc/passwd"}, "no file name"),
    ({"path": "a.wav", "name": "a/b"}, "no file name"),
    ({"path": "a.wav", "query": float("nan")}, "no text"),
    ({"path": "a.wav", "query": ["guitar", {}]}, "no text"),
    ({"path": "a.wav", "query": "guitar", "stems": "low"}, "stems, or else"),
    ({"path": "/nowhere/out/a.wav"}, "in the destination"),
    ([1, 2], "no JSON object"),
]


@pytest.mark.parametrize(("row", "problem"), BAD)
def test_a_bad_row_is_a_problem_of_its_own(tmp_path: Path, row: Any, problem: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(f'{json.dumps(row)}\n{{"path": "good.wav"}}\n{{ no json')
    bad, good, torn = recordings(str(path), OUT)
    assert problem in str(bad.problem) and good.problem is None and "no JSON" in str(torn.problem)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"file\na.wav"),
        ("x.csv", b"path\n\xff\xfe\x00"),
        ("x.parquet", b"PAR1 nothing"),
        ("x.txt", b""),
        ("", b""),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / (name or "missing")
    if name:
        path.write_bytes(content)
    with pytest.raises(OptionError):
        list(recordings(str(path), OUT))


def test_a_place_that_nothing_opens_is_refused() -> None:
    with pytest.raises(OptionError, match="cannot be opened"):
        Folder("nonsense://x")


def test_a_source_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        if os.access(tmp_path, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(OptionError):
            list(recordings(f"{tmp_path}/x", OUT))
    finally:
        tmp_path.chmod(0o700)
