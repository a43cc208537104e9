"""Feeds damaged files to unisep, in a process that may take little memory, and says what came of each.

    python worker.py KIND SEED FIRST LAST FOLDER

Prints one JSON line before and one after each input. An input depends on kind, seed and number only. What
is read lies in FOLDER, so that it is still there should the process not survive it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import traceback
import warnings
from pathlib import Path

from kinds import KINDS, Kind
from mutations import damaged

from unisep.errors import UnisepError

EXTRA_BYTES = {"separation": 1536 * 2**20}
USUAL_EXTRA_BYTES = 512 * 2**20
MAX_FILE_BYTES = 512 * 2**20


def main(kind_name: str, seed: int, first: int, last: int, folder: Path) -> None:
    kind = KINDS[kind_name]
    examples = dict(kind.examples())
    _warm_up(kind, examples, folder)
    _limit(EXTRA_BYTES.get(kind_name, USUAL_EXTRA_BYTES))
    for number in range(first, last):
        draw = random.Random(f"{kind_name} {seed} {number}")
        name = draw.choice(sorted(examples))
        path = folder / name
        path.write_bytes(damaged(examples[name], list(examples.values()), draw))
        print(json.dumps({"number": number, "file": str(path)}), flush=True)
        print(json.dumps({"number": number, **_outcome(kind, path, draw)}), flush=True)
        path.unlink()


def _outcome(kind: Kind, path: Path, draw: random.Random) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path, draw)
    except UnisepError as error:
        return {"outcome": type(error).__name__}
    except BaseException:
        return {"outcome": "bug", "traceback": traceback.format_exc()}
    return {"outcome": "read"}


def _warm_up(kind: Kind, examples: dict[str, bytes], folder: Path) -> None:
    """Read every good example, so that all modules are loaded before memory is limited."""
    for name, content in examples.items():
        path = folder / name
        path.write_bytes(content)
        outcome = _outcome(kind, path, random.Random(0))
        assert outcome["outcome"] != "bug", outcome["traceback"]
        path.unlink()


def _limit(extra_bytes: int) -> None:
    """Nothing; allows this much more memory than is used now, and no large files."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (n_pages * os.sysconf("SC_PAGE_SIZE") + extra_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES,) * 2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
