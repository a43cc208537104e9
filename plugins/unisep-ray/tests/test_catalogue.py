"""Catalogues on a cluster with two nodes: what dies is replaced, what is interrupted goes on."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unisep_ray import read_ledger, separate_catalogue, spread
from unisep_ray.catalogue import Summary
from unisep_ray.command import progress_line
from unisep_ray.pool import Resources
from unisep_ray.storage import Folder

from unisep import files
from unisep.audio import Audio
from unisep.cli import main
from unisep.errors import BackendError, OptionError
from unisep.testing import noise

TOYS = Path(__file__).parents[3] / "benchmarks" / "catalogue_toys.py"
TOY = {"backend": "toy", "query_backend": "toy", "encoder": "toy"}
LIGHT = {"num_cpus_per_worker": 0.5, "plugins": [str(TOYS)]}


def true_rows(destination: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the ledger by place, after a look at every file that they, and nothing else, may have made."""
    rows = {row["place"]: row for row in read_ledger(destination).to_pylist()}
    folder = Folder(destination)
    expected = {out["path"]: out["sha256"] for row in rows.values() for out in row["outputs"] or ()}
    assert {place: sha256(folder.read(place)).hexdigest() for place, _ in folder.walk()} == expected
    assert not folder.fs.find(folder.path(".unisep/partial")) and folder.info(".unisep/lease.json") is None
    return rows


def test_what_kills_workers_is_recorded_and_the_rest_is_done(
    cluster: Any, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path in songs.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    loud = noise(0.3, 22_050).samples
    files.write(
        source / "a deadly one.wav", Audio((loud / np.abs(loud).max()).astype(np.float32), 22_050), subtype="FLOAT"
    )
    options = ["--backend", "deadly", "--query-backend", "deadly", "--encoder", "toy", "--plugin", str(TOYS)]
    cluster_options = [
        "--ray",
        cluster.address,
        "--max-workers",
        "2",
        "--num-cpus-per-worker",
        "0.5",
        "--attempts",
        "2",
    ]
    out = str(tmp_path / "out")
    code = main(["catalogue", str(source), out, "-q", "guitar", "--json", *options, *cluster_options])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = true_rows(out)
    assert code == 1 and Counter(row["state"] for row in rows.values()) == {"done": 3, "failed": 2}
    deadly, broken = rows["a deadly one/stem.ext"], rows["broken/stem.ext"]
    assert deadly["error_type"] == "BackendError" and "died 2 times" in deadly["error"] and deadly["attempts"] in (2, 3)
    assert broken["error_type"] == "AudioFileError"
    assert Counter(event["event"] for event in events if event["event"] != "progress") == {
        "done": 3,
        "failed": 2,
        "end": 1,
    }
    end = events[-1]
    assert (
        end["n_workers_lost"] == deadly["attempts"]
        and end["errors"] == {"BackendError": 1, "AudioFileError": 1}
        and end["n_total"] == 5
    )


def test_an_interrupted_catalogue_goes_on_though_a_node_is_lost(cluster: Any, s3: Any, songs: Path) -> None:
    for path in songs.iterdir():
        Folder("s3://songs/masters").put(path, path.name)
    run = partial(
        separate_catalogue, "s3://songs/masters", "s3://songs/stems", "guitar", address=cluster.address,
        backend="sleepy", query_backend="sleepy", encoder="toy", **LIGHT,
    )  # fmt: skip

    def interrupt(row: Any, summary: Summary) -> None:
        if row is not None:
            with pytest.raises(OptionError, match="another driver"):
                run()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(max_workers=1, on_row=interrupt)
    assert 1 <= len(true_rows("s3://songs/stems")) < 4
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    killed = []

    def kill(row: Any, summary: Summary) -> None:
        if summary.n_workers == 2 and not killed:
            killed.append(node)
            cluster.remove_node(node, allow_graceful=False)

    summary = run(min_workers=2, max_workers=2, resume=True, on_row=kill)
    rows = true_rows("s3://songs/stems")
    assert Counter(row["state"] for row in rows.values()) == {"done": 3, "failed": 1}
    assert killed and summary.n_skipped >= 1 and summary.n_done + summary.n_failed + summary.n_skipped == 4


def held() -> int:
    return 10


def sum_of(held: int, item: int) -> int:
    if item == 7:
        raise OptionError("seven")
    return held + item


def test_items_come_back_in_their_order(cluster: Any) -> None:
    results = spread(held, sum_of, range(6), address=cluster.address, resources=Resources(n_cpus=0.5, n_max=2))
    assert list(results) == [10, 11, 12, 13, 14, 15]
    with pytest.raises(OptionError, match="seven"):
        list(spread(held, sum_of, [7], address=cluster.address, resources=Resources(n_cpus=0.5, n_max=1)))


def broken_start() -> int:
    raise OSError("no model")


def test_workers_that_do_not_start_are_an_error(cluster: Any) -> None:
    with pytest.raises(BackendError, match="no model"):
        list(spread(broken_start, sum_of, [1], address=cluster.address, resources=Resources(n_cpus=0.5, n_max=1)))
    with pytest.raises(OptionError, match="no room"):
        list(spread(held, sum_of, [1], address=cluster.address, resources=Resources(n_gpus=1)))


def test_progress_is_one_line() -> None:
    summary = Summary(n_total=10, n_done=3, n_failed=1, audio_seconds=7200, seconds=3600, n_workers=2)
    assert progress_line(summary) == "3 of 10 done, 1 failed; 2.0 h of audio an hour with 2 workers, 1:30 h left"
