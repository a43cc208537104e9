"""The ledger of a destination, and the lease on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from unisep_ray import ledger as ledgers
from unisep_ray import read_ledger
from unisep_ray.ledger import Lease, Ledger
from unisep_ray.storage import Folder

from unisep.errors import DiskSpaceError, OptionError


def until(holds: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def row(place: str, **values: Any) -> dict[str, Any]:
    output = {"name": "vocals", "path": f"{place}.wav", "sha256": "0", "length": 1, "presence": None}
    return {"recording": f"in/{place}", "place": place, "state": "done", "outputs": [output], **values}


def states(folder: Path) -> dict[str, str]:
    table = read_ledger(str(folder))
    return dict(zip(table["place"].to_pylist(), table["state"].to_pylist(), strict=True))


def test_rows_are_written_in_parts_and_found_again(tmp_path: Path) -> None:
    ledger = Ledger(Folder(str(tmp_path)))
    for number, name in enumerate("abcde"):
        ledger.add(row(name, gain=0.5))
        if number % 2:
            ledger.flush()
    assert len(states(tmp_path)) == 4  # the fifth waits
    ledger.close()
    assert len(list(tmp_path.glob(".unisep/ledger/*.parquet"))) == 3 and not list(tmp_path.glob(".unisep/partial/*"))
    former = Ledger(Folder(str(tmp_path))).former("c")
    assert former is not None and former["gain"] == 0.5 and former["outputs"] == row("c")["outputs"]
    assert Ledger(Folder(str(tmp_path))).former("x") is None


def test_a_later_row_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    first = Ledger(Folder(str(tmp_path)))
    for place, state in (("a", "failed"), ("b", "done")):
        first.add(row(place, state=state))
    first.close()
    second = Ledger(Folder(str(tmp_path)))
    second.add(row("a"))
    second.flush()
    assert states(tmp_path) == {"a": "done", "b": "done"}  # a driver that died here has left both rows, and one counts
    second.close()
    parts = sorted(tmp_path.glob(".unisep/ledger/*.parquet"))
    import pyarrow.parquet as parquet

    assert [parquet.read_table(part)["place"].to_pylist() for part in parts] == [["b"], ["a"]]


def test_a_ledger_of_nothing_has_no_rows(tmp_path: Path) -> None:
    assert read_ledger(f"{tmp_path}/nothing").num_rows == 0


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_second_driver_is_refused_until_the_first_ends(place: str, tmp_path: Path, request: Any) -> None:
    if place == "s3":
        request.getfixturevalue("s3")
    folder = Folder("s3://songs/lease" if place == "s3" else str(tmp_path))
    lease = Lease(folder)
    with pytest.raises(OptionError, match="belongs to another driver: process"):
        Lease(folder)
    lease.release()
    Lease(folder).release()


def test_a_lease_ends_with_its_process_or_its_time(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / ledgers._LEASE
    path.parent.mkdir()
    holder = json.loads(Lease(Folder(f"{tmp_path}/other"))._content())
    path.write_text(json.dumps({**holder, "pid": dead.pid, "expires": time.time() + 1000}))
    Lease(Folder(str(tmp_path))).release()
    path.write_text(json.dumps({**holder, "host": "elsewhere", "expires": time.time() + 1000}))
    with pytest.raises(OptionError, match="on elsewhere"):
        Lease(Folder(str(tmp_path)))
    path.write_text(json.dumps({**holder, "host": "elsewhere", "expires": time.time() - 1}))
    Lease(Folder(str(tmp_path))).release()
    assert not path.exists()


def test_a_driver_notices_that_another_has_taken_over(tmp_path: Path) -> None:
    lease = Lease(Folder(str(tmp_path)), seconds=0.2)
    lease.check()
    path = tmp_path / ledgers._LEASE
    until(lambda: json.loads(path.read_text())["expires"] > time.time() + 0.1)  # it is renewed
    path.write_text(json.dumps({"id": "x", "host": "elsewhere", "pid": 1, "expires": time.time() + 1000}))

    def is_told() -> bool:
        try:
            lease.check()
        except OptionError:
            return True
        return False

    until(is_told)
    lease.release()
    assert json.loads(path.read_text())["id"] == "x"


def test_a_place_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot be written"):
        Lease(Folder(f"{tmp_path}/file/below"))


def test_rows_wait_while_a_place_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    folder, calls = Folder(str(tmp_path)), []

    def full(path: str, content: bytes) -> None:
        calls.append(path)
        raise OSError(28, "No space left on device")

    ledger = Ledger(folder)
    ledger.add(row("a"))
    with monkeypatch.context() as patch:
        patch.setattr(folder.fs, "pipe_file", full)
        patch.setattr(ledgers, "_SECONDS", 0.0)
        ledger.flush_if_due()
        assert len(calls) == 1
        with pytest.raises(DiskSpaceError, match="ledger"):
            ledger.close()
        assert len(calls) == 5  # at the end there is no later: room is waited for
    ledger.close()
    assert states(tmp_path) == {"a": "done"}
