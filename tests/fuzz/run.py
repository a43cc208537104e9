"""Feeds unisep thousands of damaged files, and fails for anything but a clean answer or an error of its own.

    python tests/fuzz/run.py                 # more than 10,000 inputs, some minutes
    python tests/fuzz/run.py --quick         # a few hundred, some seconds
    python tests/fuzz/run.py --only audio --seed 7 --first 123 --count 1

Each kind is read in a process of its own that may take half a gigabyte more than it begins with. A crash,
a hang, an error that is not unisep's, and memory that a header only claimed to need are failures; what
was read is then kept. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

COUNTS = {
    "audio": 8000,
    "separation": 600,
    "embedding": 800,
    "card": 800,
    "ledger": 500,
    "checkpoint": 400,
    "query-model": 200,
}
QUICK_COUNTS = {"audio": 300, "embedding": 80, "card": 80, "ledger": 40}
PATIENCE_SECONDS = 90.0


@dataclass
class Outcome:
    """How often what came of the inputs of one kind, and what went wrong."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)


def fuzz(kind: str, seed: int, first: int, last: int, folder: Path) -> Outcome:
    """What came of the inputs `first` to `last`; after a crash or a hang it goes on with the next one."""
    outcome = Outcome()
    while first < last:
        started = _feed(kind, seed, first, last, folder, outcome)
        first = last if started is None else started + 1
    return outcome


def _feed(kind: str, seed: int, first: int, last: int, folder: Path, outcome: Outcome) -> int | None:
    """The number of the input that ended the process, or None when all were read."""
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), kind]
    process = subprocess.Popen(
        [*command, str(seed), str(first), str(last), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    open_file, number = "", first - 1
    with process:
        watch = _watched(process)
        for line in process.stdout:
            watch.cancel()
            said = json.loads(line)
            open_file, number = said.get("file", ""), said["number"]
            if "outcome" in said:
                outcome.counts[said["outcome"]] += 1
            if said.get("outcome") == "bug":
                outcome.failures.append(f"{kind} {number} (seed {seed}): {said['traceback']}")
            watch = _watched(process)
        watch.cancel()
    if process.returncode == 0:
        return None
    how = "hung" if process.returncode == -signal.SIGKILL else f"ended with {process.returncode}"
    kept = _kept(open_file, f"{kind}-{seed}-{number}")
    outcome.failures.append(f"{kind} {number} (seed {seed}): the process {how}; the input is kept as {kept}")
    return max(first, number)


def _watched(process: subprocess.Popen[str]) -> threading.Timer:
    watch = threading.Timer(PATIENCE_SECONDS, process.kill)
    watch.daemon = True
    watch.start()
    return watch


def _kept(path: str, name: str) -> str:
    if not path or not Path(path).is_file():
        return "nothing"
    kept = Path(tempfile.gettempdir()) / f"unisep-fuzz-{name}{Path(path).suffix}"
    kept.write_bytes(Path(path).read_bytes())
    return str(kept)


def main() -> int:
    """0 if every input of every kind was read or refused as it should be, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=sorted(COUNTS), help="one kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, help="inputs of each kind")
    asked = parser.parse_args()
    counts = QUICK_COUNTS if asked.quick else COUNTS
    failures, n_inputs = [], 0
    with tempfile.TemporaryDirectory(prefix="unisep-fuzz-") as folder:
        for kind in [asked.only] if asked.only else list(counts):
            count = asked.count or counts[kind]
            outcome = fuzz(kind, asked.seed, asked.first, asked.first + count, Path(folder))
            told = ", ".join(f"{n} {what}" for what, n in sorted(outcome.counts.items()))
            print(f"{kind}: {told}; {len(outcome.failures)} failures", flush=True)
            failures += outcome.failures
            n_inputs += outcome.counts.total()
    print(f"{n_inputs} inputs, {len(failures)} failures")
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
