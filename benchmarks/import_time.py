"""How long `import unisep` takes, against bare Python and against the two libraries it cannot do without.

    python benchmarks/import_time.py

Each is a fresh process, in turn with the others, so that a busy moment hits all alike. Prints medians in
milliseconds and, for each, what it takes beyond bare Python, as the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "bare python": "pass",
    "import pluggy": "import pluggy",
    "import unisep": "import unisep",
    "unisep --help": "from unisep.cli import main; main(['--help'])",
    "unisep plugins": "from unisep.cli import main; main(['plugins'])",
    "from unisep import Separator": "from unisep import Separator",
    "import torch": "import torch",
}


def milliseconds(code: str) -> float:
    """Return the wall time of one fresh process that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1e3


def measure(n_rounds: int) -> dict[str, dict[str, float]]:
    """Return median milliseconds of every program, and of what it takes beyond bare Python in the same round."""
    for code in PROGRAMS.values():
        milliseconds(code)  # compiled modules and the disk's cache are warm from here on
    rounds = [{name: milliseconds(code) for name, code in PROGRAMS.items()} for _ in range(n_rounds)]
    return {
        name: {
            "milliseconds": statistics.median(times[name] for times in rounds),
            "beyond_bare_python": statistics.median(times[name] - times["bare python"] for times in rounds),
        }
        for name in PROGRAMS
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Import time of unisep.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{'':30}{'median':>10}{'beyond bare python':>22}   ({arguments.rounds} rounds)")
    for name, values in figures.items():
        print(f"{name:30}{values['milliseconds']:7.0f} ms{values['beyond_bare_python']:19.0f} ms")


if __name__ == "__main__":
    main()
