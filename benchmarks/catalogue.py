"""Catalogues on one machine: what faults leave, what they cost, and how work grows with workers.

    python benchmarks/catalogue.py faults --recordings 300     # nodes killed, a store that fails, bad inputs
    python benchmarks/catalogue.py throughput                  # against `unisep separate` on the same cores
    python benchmarks/catalogue.py memory                      # peaks with 100 and with 1,000 recordings
    python benchmarks/catalogue.py scaling                     # 1, 2 and 4 workers of a backend that sleeps
    python benchmarks/catalogue.py cost --speed 20             # what a million songs take, by formula

Needs unisep-ray[test] and Linux. Everything runs in a temporary folder with toy backends, on a Ray cluster that is started
for it and on moto's S3 server behind a front that fails (`catalogue_s3.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from unisep import files
from unisep.audio import Audio
from unisep.testing import chirp, mix, noise

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from catalogue_s3 import Store, store  # noqa: E402

TOYS = HERE / "catalogue_toys.py"
RATE_HZ = 22_050


def toy(name: str) -> dict[str, Any]:
    """Return the options for a toy backend."""
    return {"backend": name, "query_backend": name, "encoder": "toy", "plugins": [str(TOYS)]}


def song(path: Path, seed: int, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> Path:
    """Write a recording of its own for each seed."""
    sound = mix(chirp(seconds, rate_hz), noise(seconds, rate_hz, seed=seed))
    quiet = sound.samples * (0.5 / np.abs(sound.samples).max())  # far from the peak that is deadly
    return files.write(path, Audio(quiet, rate_hz))


@contextmanager
def cluster(*nodes: int) -> Iterator[Any]:
    """Open a `with` block with a Ray cluster of a head without workers, and nodes with so many cores each."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="300", OMP_NUM_THREADS="1")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    ray_cluster: Any = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
    ray_cluster.nodes = [added_node(ray_cluster, n_cores) for n_cores in nodes]
    try:
        yield ray_cluster
    finally:
        ray.shutdown()
        ray_cluster.shutdown()


def added_node(ray_cluster: Any, n_cores: int, n_tries: int = 5) -> Any:
    """Return a node that is added to a cluster. On a busy machine it may take longer than the half minute that Ray waits."""
    for _ in range(n_tries - 1):
        with suppress(Exception):
            return ray_cluster.add_node(num_cpus=n_cores, object_store_memory=100 * 2**20)
    return ray_cluster.add_node(num_cpus=n_cores, object_store_memory=100 * 2**20)


# faults


def faults(n_recordings: int, seed: int = 0) -> dict[str, Any]:
    """Separate a catalogue while everything fails, and look at every row and file afterwards."""
    from unisep_ray import separate_catalogue

    with store() as s3, cluster(1, 1) as nodes, tempfile.TemporaryDirectory() as folder:
        expected = upload_catalogue(Path(folder), n_recordings, seed)
        trouble = Trouble(s3, nodes, seed)
        options: dict[str, Any] = {**toy("deadly"), "address": nodes.address, "attempts": 3}
        trouble.start()
        started = time.monotonic()
        runs = [
            separate_catalogue(
                "s3://songs/in", "s3://songs/out", "guitar", max_workers=2, on_row=trouble.seen, **options
            )
        ]
        trouble.stop()
        under_fault = check("s3://songs/out", expected)
        runs.append(
            separate_catalogue("s3://songs/in", "s3://songs/out", "guitar", max_workers=2, retry="failed", **options)
        )
        after = check("s3://songs/out", expected)
        return {
            "recordings": len(expected), "harms": trouble.log, "workers_lost": [run.n_workers_lost for run in runs],
            "under_fault": under_fault, "after_retry": after,
            "all_good_done": after["states"]["done"] == len(expected) - after["n_bad"], "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip


def upload_catalogue(folder: Path, n_recordings: int, seed: int) -> dict[str, bool]:
    """Put recordings into the store: of 20 one is damaged, and two in all kill who reads them. Return which are good."""
    from unisep_ray.storage import Folder

    expected, place, rng = {}, Folder("s3://songs/in"), random.Random(seed)
    for number in range(n_recordings):
        name, is_good = f"{number:04d}.wav", number % 20 != 7 and number not in (11, n_recordings // 2)
        path = song(folder / name, number)
        if number % 20 == 7:
            content = path.read_bytes()
            path.write_bytes(rng.choice([b"", b"RIFF", content[: len(content) // 2], rng.randbytes(2000)]))
        elif not is_good:
            loud = noise(0.3, RATE_HZ, seed=number).samples
            files.write(path, Audio((loud / np.abs(loud).max()).astype(np.float32), RATE_HZ))
        place.put(path, name)
        expected[name] = is_good
    return expected


class Trouble(threading.Thread):
    """Kills nodes and has the store fail, at random times, until it is stopped."""

    def __init__(self, s3: Store, nodes: Any, seed: int) -> None:
        super().__init__(daemon=True)
        self._s3, self._nodes, self._rng = s3, nodes, random.Random(seed)
        self._stopped, self.log, self._n_rows = threading.Event(), Counter[str](), 0

    def seen(self, row: Any, summary: Any) -> None:
        """Take note that work goes on."""
        self._n_rows += row is not None

    def run(self) -> None:
        """Do one harm after the other."""
        while not self._stopped.wait(self._rng.uniform(2.0, 8.0)):
            if self._n_rows:
                harm = self._rng.choice([self._kill, self._restart, self._busy, self._slow, self._full])
                self.log[harm.__name__.strip("_")] += 1
                harm()
                self._s3.fault("ok")

    def stop(self) -> None:
        """Leave everything in order."""
        self._stopped.set()
        self.join()
        self._s3.fault("ok")

    def _kill(self) -> None:
        node = self._rng.choice(self._nodes.nodes)  # from this thread, which Ray's hooks at exit would not allow
        self._nodes.nodes.remove(node)
        self._nodes.remove_node(node, allow_graceful=False)
        self._nodes.nodes.append(added_node(self._nodes, 1))

    def _restart(self) -> None:
        self._s3.restart(self._rng.uniform(0.5, 3.0))

    def _busy(self) -> None:
        self._s3.fault("503", share=0.5)
        time.sleep(3.0)

    def _slow(self) -> None:
        self._s3.fault("slow", share=0.5)
        time.sleep(3.0)

    def _full(self) -> None:
        self._s3.fault("full")
        time.sleep(2.0)


def check(destination: str, expected: dict[str, bool]) -> dict[str, Any]:
    """Compare the ledger with what was put in and with every file that is there; raise AssertionError for any difference."""
    from unisep_ray import read_ledger
    from unisep_ray.storage import Folder

    rows = read_ledger(destination).to_pylist()
    names = Counter(row["recording"].rpartition("/")[2] for row in rows)
    assert set(names) == set(expected) and set(names.values()) == {1}, "not one row each"
    assert all(row["state"] == "done" or (row["error_type"] and row["error"]) for row in rows)
    done_but_bad = [row["recording"] for row in rows if row["state"] == "done" and not expected[row["recording"][-8:]]]
    folder = Folder(destination)
    hashes = {place: sha256(folder.read(place)).hexdigest() for place, _ in folder.walk()}
    recorded = [(output["path"], output["sha256"]) for row in rows for output in row["outputs"] or ()]
    assert len(recorded) == len(dict(recorded)), "a file is in two rows"
    missing = {path for path, digest in recorded if hashes.get(path) != digest}
    assert not missing, f"the ledger is not true of {sorted(missing)[:5]}"
    assert not folder.fs.find(folder.path(".unisep/partial")) and not folder.fs.list_multipart_uploads("songs")
    return {
        "states": dict(Counter(row["state"] for row in rows)), "n_bad": sum(not good for good in expected.values()),
        "errors": dict(Counter(row["error_type"] for row in rows if row["error_type"])), "files": len(hashes),
        "files_without_row": len(set(hashes) - set(dict(recorded))), "done_but_bad": done_but_bad,
        "good_but_failed": [row["error"] for row in rows if row["state"] == "failed" and expected[row["recording"][-8:]]],
    }  # fmt: skip


# figures


def throughput(n_recordings: int, seconds: float, backend: str = "toy", n_rounds: int = 3) -> dict[str, Any]:
    """Compare a catalogue with one worker to a `unisep separate` over the same files with the same one thread.

    "wall" is the ratio by the clock; "cpu" that of processor time, of worker and driver, which other work on the machine
    does not change; medians of the rounds.
    """
    from unisep_ray import separate_catalogue

    with tempfile.TemporaryDirectory() as name, cluster(1) as nodes:
        folder = Path(name)
        (folder / "in").mkdir()
        for number in range(n_recordings):
            song(folder / "in" / f"{number:04d}.wav", number, seconds, 44_100)
        rounds = []
        for number in range(n_rounds):
            out, loop = folder / f"out{number}", folder / f"loop{number}"
            marks: list[tuple[float, float]] = []

            def mark(row: Any, summary: Any, marks: list[tuple[float, float]] = marks) -> None:
                if row is not None:
                    marks.append((time.monotonic(), time.process_time() + sum(map(cpu_seconds, workers(os.getpid())))))

            separate_catalogue(
                folder / "in", out, "guitar", address=nodes.address, max_workers=1, on_row=mark, **toy(backend)
            )
            ours, theirs = a_recording(marks), alone(folder / "in", loop, backend)
            rounds.append(
                {"wall": theirs[0] / ours[0], "cpu": theirs[1] / ours[1], "overhead_ms": 1e3 * (ours[1] - theirs[1])}
            )
            for path in loop.rglob("*.wav"):
                assert path.read_bytes() == (out / path.relative_to(loop)).read_bytes()
        medians = {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
        return {"recordings": n_recordings, "seconds_each": seconds, **medians, "rounds": rounds}


def a_recording(marks: list[Any]) -> tuple[float, float]:
    """Return the seconds by the clock, and of the processor, for each recording but the first two."""
    (wall, cpu), (wall_end, cpu_end) = marks[1], marks[-1]
    return (wall_end - wall) / (len(marks) - 2), (cpu_end - cpu) / (len(marks) - 2)


def workers(root: int) -> list[int]:
    """Return the processes of workers that come from the process `root`."""
    pids = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if line.read_bytes().startswith(b"ray::"):
                raylet = parent_of(int(line.parent.name))
                pids += [int(line.parent.name)] if parent_of(raylet) == root else []
    return pids


def parent_of(pid: int) -> int:
    """Return the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_ALONE = """
import sys, time, json
from pathlib import Path
from unisep import cli
import unisep.cli.separate as separate
marks = []
class Timed(separate._Batch):
    def run(self, index):
        result = super().run(index)
        marks.append((time.monotonic(), time.process_time()))
        return result
separate._Batch = Timed
code = cli.main(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps(marks))
sys.exit(code)
"""


def alone(source: Path, out: Path, backend: str) -> tuple[float, float]:
    """Return what a recording takes with `unisep separate`, without its start and the first two."""
    marks = out.with_suffix(".json")
    options = [
        "--backend",
        backend,
        "--query-backend",
        backend,
        "--encoder",
        "toy",
        "--plugin",
        str(TOYS),
        "-j",
        "1",
        "--quiet",
    ]
    command = [
        sys.executable,
        "-c",
        _ALONE,
        str(marks),
        "separate",
        str(source),
        "-o",
        str(out),
        "-q",
        "guitar",
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return a_recording(json.loads(marks.read_text()))


def memory(n_few: int, n_many: int) -> dict[str, Any]:
    """Return the peaks of the driver and of the worker, and what lay in temporary folders, of few and of many recordings."""
    figures = {}
    with tempfile.TemporaryDirectory() as name, cluster(1) as nodes:
        folder = Path(name)
        (folder / "in").mkdir()
        first = song(folder / "first.wav", 0, 0.1)
        for number in range(n_many):
            (folder / "in" / f"{number:05d}.wav").symlink_to(first)
        for count in (n_few, n_many):
            listed = folder / f"{count}.csv"
            listed.write_text("path\n" + "\n".join(f"in/{number:05d}.wav" for number in range(count)))
            command = [sys.executable, __file__, "one", str(listed), str(folder / f"out{count}"), nodes.address]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[count] = json.loads(done.stdout.splitlines()[-1])
    growth = {name: figures[n_many][name] / figures[n_few][name] for name in ("driver_mb", "worker_mb")}
    return {"peaks": figures, "growth": growth}


def one(source: str, destination: str, address: str) -> dict[str, Any]:
    """Run one catalogue, and return the peaks of its driver and worker, in MB, and files in the worker's folder."""
    import resource

    from unisep_ray import separate_catalogue

    peaks = {"worker_mb": 0.0, "scratch_mb": 0.0}

    def look(row: Any, summary: Any) -> None:
        for pid in workers(os.getppid()):
            lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
            peaks["worker_mb"] = max(
                peaks["worker_mb"], *(int(words[1]) / 1024 for words in lines if words[0] == "VmHWM:")
            )
            files_there = Path(tempfile.gettempdir()).glob(f"unisep-catalogue-*-{pid}-*/**/*.wav")
            with suppress(FileNotFoundError):
                peaks["scratch_mb"] = max(peaks["scratch_mb"], sum(path.stat().st_size for path in files_there) / 1e6)

    started = time.monotonic()
    summary = separate_catalogue(
        source,
        destination,
        "guitar",
        address=address,
        max_workers=1,
        on_row=look,
        filename="{track}/{stem}.{ext}",
        **toy("toy"),
    )
    driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"driver_mb": driver_mb, **peaks, "done": summary.n_done, "seconds": time.monotonic() - started}


def scaling(n_each: int, sleep_seconds: float = 5.0, counts: tuple[int, ...] = (1, 2, 4)) -> dict[str, Any]:
    """Return how many recordings a second 1, 2 and 4 workers of a backend that sleeps finish, once all are ready."""
    from unisep_ray import separate_catalogue

    rates: dict[int, float] = {}
    os.environ["CATALOGUE_TOYS_SLEEP"] = str(sleep_seconds)
    with tempfile.TemporaryDirectory() as name, cluster(*[1] * max(counts)) as nodes:
        folder = Path(name)
        for count in counts:
            source = folder / f"in{count}"
            source.mkdir()
            for number in range(n_each * count):
                song(source / f"{number:04d}.wav", number, 0.3)
            marks: list[float] = []

            def mark(row: Any, summary: Any, marks: list[float] = marks) -> None:
                if row is not None:
                    marks.append(time.monotonic())

            separate_catalogue(
                source, folder / f"out{count}", "guitar", address=nodes.address, min_workers=count, max_workers=count,
                on_row=mark, **toy("sleepy"),
            )  # fmt: skip
            rates[count] = (len(marks) - count) / (marks[-1] - marks[count - 1])  # from the end of the first of each
    return {
        "sleep_seconds": sleep_seconds,
        "rates": rates,
        "of_linear": {count: rate / count / rates[1] for count, rate in rates.items()},
    }


def cost(
    speed: float, song_seconds: float, overhead_seconds: float, price: float, n_stems: int, n_songs: int = 1_000_000
) -> dict[str, float]:
    """Return what a catalogue takes: hours of a worker, its price, and what is read and written.

    hours = songs x (song / speed + overhead) / 3600, where `speed` is how many seconds of audio a worker separates in one.
    """
    hours = n_songs * (song_seconds / speed + overhead_seconds) / 3600
    megabytes = song_seconds * 44_100 * 2 * 2 * 0.6 / 1e6  # flac takes about 0.6 of 16 bits
    requests = n_songs * (2 + 4 * (n_stems + 1))  # head, get; put, copy, delete, and a look, for each file
    return {
        "worker_hours": hours, "price": hours * price, "read_tb": n_songs * megabytes / 1e6,
        "written_tb": n_songs * megabytes * (n_stems + 1) / 1e6, "requests_million": requests / 1e6,
    }  # fmt: skip


def main() -> None:
    """Run what is asked for, and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["faults", "throughput", "memory", "scaling", "cost", "one"])
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--recordings", type=int)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a recording (throughput), or of sleep (scaling)")
    parser.add_argument("--backend", default="toy", help="toy (throughput)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--speed", type=float, default=20.0, help="seconds of audio that a worker separates in one (cost)"
    )
    parser.add_argument("--song", type=float, default=240.0, help="seconds of a song (cost)")
    parser.add_argument("--overhead", type=float, default=0.1, help="seconds for a song beside separating (cost)")
    parser.add_argument("--price", type=float, default=0.05, help="of a worker's hour (cost)")
    arguments = parser.parse_args()
    n_recordings = arguments.recordings
    runs: dict[str, Callable[[], Any]] = {
        "faults": lambda: faults(n_recordings or 300, arguments.seed),
        "throughput": lambda: throughput(n_recordings or 20, arguments.seconds, arguments.backend),
        "memory": lambda: memory((n_recordings or 1000) // 10, n_recordings or 1000),
        "scaling": lambda: scaling(n_recordings or 6, arguments.seconds),
        "cost": lambda: cost(arguments.speed, arguments.song, arguments.overhead, arguments.price, 1),
        "one": partial(one, *arguments.places),
    }
    print(json.dumps(runs[arguments.what](), default=str))


if __name__ == "__main__":
    main()
