"""Measure a newcomer's first steps, once: clone, install, separate, separate again.

    python benchmarks/first_hour.py                 # from this checkout, into a temporary folder
    python benchmarks/first_hour.py --busy          # the same, while another process keeps one core busy
    python benchmarks/first_hour.py --from https://example.org/unisep.git --json first_hour.json

Each row has the wall time and the processor time of a command with all its children. Installing includes what pip downloads,
or takes from its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEPARATE = "{venv}/bin/unisep separate examples/audio/mixture.flac -q drums -o out/"


@dataclass(frozen=True)
class Step:
    """A command of the newcomer, run in the clone but for the first one."""

    name: str
    command: str
    wall_seconds: float = 0.0
    processor_seconds: float = 0.0

    def row(self) -> str:
        """Write the step as a row of the table in docs/index.md."""
        return f"| {self.name} | {self.wall_seconds:.1f} s | {self.processor_seconds:.1f} s |"


def steps(source: str, venv: str | None) -> list[Step]:
    """List the commands; with an environment that is there already, nothing is installed."""
    separate = SEPARATE.format(venv=venv or ".venv")
    install = [] if venv else [Step("`make install`", "make install")]
    clone = Step("`git clone`", f"git clone {shlex.quote(source)} unisep && cd unisep")
    return [clone, *install, Step("first `unisep separate`", separate), Step("second `unisep separate`", separate)]


def measured(step: Step, folder: Path) -> Step:
    """Run a step in a shell; return it with its times. Exit where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(step.command, shell=True, cwd=folder, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{step.command}: exit code {process.returncode}")
    return Step(step.name, step.command, wall_seconds, usage.ru_utime + usage.ru_stime)


@contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """Keep one core busy in the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description="Measure clone, installation and first separation.")
    parser.add_argument("--from", dest="source", default=str(ROOT), help="what to clone: an address or a folder")
    parser.add_argument("--busy", action="store_true", help="keep one core busy meanwhile")
    parser.add_argument("--venv", help="use this environment and install nothing")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    venv = os.path.abspath(arguments.venv) if arguments.venv else None
    done: list[Step] = []
    with tempfile.TemporaryDirectory() as folder, busy_core(arguments.busy):
        for step in steps(arguments.source, venv):
            done.append(measured(step, Path(folder) / "unisep" if done else Path(folder)))
            print(done[-1].row(), flush=True)
    if arguments.json:
        figures = {"busy": arguments.busy, "cores": os.cpu_count(), "steps": [asdict(step) for step in done]}
        arguments.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
