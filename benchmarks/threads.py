"""What workers gain: whole commands with one and two of them, beside demucs with and without -j 2, idle and busy.

    python benchmarks/threads.py --seconds 60 --rounds 3
    python benchmarks/threads.py --seconds 60 --rounds 3 --busy --json busy.json

Each round runs every command once, in turn. With `--busy` another process keeps one core busy all the time. Prints medians of
wall and processor seconds, and how many times faster than real time that is. HT Demucs has random weights, demucs the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import soundfile
from first_hour import busy_core
from measuring import RATE_HZ, machine, noise
from weights import RELEASED, TINY, save_weights

QUERIES = ("electric guitar", "drums", "female vocals", "bass guitar")


def commands(song: Path, weights: Path, place: Path, threads: Sequence[str]) -> dict[str, list[str]]:
    """Return the commands to time, by name; the thread setting "default" is none."""
    rows: dict[str, list[str]] = {}
    for number in ("1", "2"):
        rows[f"demucs -j {number}"] = [
            "demucs", str(song), "-n", "htdemucs", "--repo", str(weights), "--shifts", "0", "-d", "cpu",
            "-o", str(place / "demucs"), *(["-j", number] if number != "1" else []),
        ]  # fmt: skip
    ours = ["unisep", "separate", str(song), "--device", "cpu", "--offline", "--quiet"]
    kinds = {
        "stems, HT Demucs": ["--backend", "htdemucs", "--weights", str(weights), "--precision", "float32"],
        "1 query": ["-q", QUERIES[0], "--route", "conditioned"],
        "4 queries": [word for query in QUERIES for word in ("-q", query)] + ["--route", "conditioned"],
    }
    for kind, options in kinds.items():
        for number in threads:
            chosen = [] if number == "default" else ["--threads", number]
            rows[f"unisep, {kind}, threads {number}"] = [
                *ours,
                *options,
                *chosen,
                "-o",
                str(place / f"{kind} {number}"),
            ]
    return rows


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command of this environment and return its wall and processor seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", nargs="+", default=["1", "2", "default"])
    parser.add_argument("--only", default="", help="commands whose name holds this")
    parser.add_argument("--busy", action="store_true", help="while another process keeps one core busy")
    parser.add_argument("--tiny", action="store_true", help="a model too small for the figures to mean anything")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, busy_core(arguments.busy):
        place = Path(folder)
        (place / "weights").mkdir()
        save_weights(place / "weights", TINY if arguments.tiny else RELEASED)
        soundfile.write(place / "song.wav", noise(arguments.seconds).T, RATE_HZ, subtype="FLOAT")
        rows = commands(place / "song.wav", place / "weights", place, arguments.threads)
        rows = {name: command for name, command in rows.items() if arguments.only in name}
        rounds = [{name: timed(command) for name, command in rows.items()} for _ in range(arguments.rounds)]
    results = {}
    for name in rows:
        wall, processor = (statistics.median(one[name][index] for one in rounds) for index in (0, 1))
        results[name] = {
            "wall_seconds": wall, "processor_seconds": processor, "times_real_time": arguments.seconds / wall,
        }  # fmt: skip
        print(f"{name:45} {wall:7.1f} s  {processor:7.1f} s processor  {arguments.seconds / wall:6.1f} x real time")
    if arguments.json:
        figures = {"machine": machine("cpu"), "busy": arguments.busy, "seconds": arguments.seconds, "results": results}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
