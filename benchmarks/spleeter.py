"""Spleeter beside HT Demucs in one run: speed and peak memory; and its vocals on a real excerpt beside the query model's.

    PYTHONPATH=.venv/peers/weights python benchmarks/spleeter.py        # after `make test-weights`; a few minutes
    python benchmarks/spleeter.py --weights 2stems.tar.gz --seconds 120 --rounds 5

Speed is processor time for a recording of noise, all through a `Separator`, alternating, so that ratios mean something
on a busy machine. HT Demucs has its published sizes and random parameters, which cost what trained ones cost. Memory is
the most that a process of its own held that does the same once, torch included. Vocals are those of the excerpt of
the MUSDB18 test set that the package stempeg ships: energy of the stem over energy of the error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import RATE_HZ, agreement_db, clock, machine, median_of, most_held_mib, noise, paired_rounds, ratio_of
from weights import RELEASED, TINY, save_weights

from unisep import Audio, Separator

SPLEETER, DEMUCS = "spleeter-2stems", "htdemucs"


def separator(name: str, weights: Path | None) -> Separator:
    """Return a Separator of the backend `name`; without `weights`, of those that are installed or were downloaded."""
    return Separator(name, weights=weights, device="cpu", precision="float32", offline=True)


def run_only(name: str, weights: Path | None, seconds: float) -> None:
    """Separate noise once and print the most memory that was held, in MiB."""
    with separator(name, weights) as one:
        one.separate(Audio(noise(seconds), RATE_HZ))
    print(most_held_mib())


def peak_memory_mib(name: str, weights: Path | None, seconds: float) -> float:
    """Return the most memory that a process of its own held for that."""
    words = ["--only", name, "--seconds", str(seconds), *(["--weights", str(weights)] if weights else [])]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def excerpt_vocals_db(weights: Path | None) -> dict[str, float]:
    """Return the SDR of vocals on stempeg's excerpt, by Spleeter and by the embedded query model."""
    import stempeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stems, rate_hz = stempeg.read_stems(stempeg.example_stem_path())
    mixture, *_, vocals = stems.transpose(0, 2, 1).astype("float32")
    song = Audio(mixture, rate_hz)
    with separator(SPLEETER, weights) as one:
        ours = one.separate(song)["vocals"]
    with Separator(device="cpu", offline=True) as one:
        asked = one.separate(song, query="vocals", route="conditioned").target
    return {
        name: round(agreement_db(found.samples, vocals), 2)
        for name, found in ((SPLEETER, ours), ("query model", asked))
    }


def compare(places: dict[str, Path | None], seconds: float, n_rounds: int) -> dict[str, Any]:
    """Return times real time, ratios to HT Demucs, and peak memory."""
    song = Audio(noise(seconds), RATE_HZ)
    loaded = {name: separator(name, weights) for name, weights in places.items()}
    runs: dict[str, Callable[[], object]] = {name: partial(one.separate, song) for name, one in loaded.items()}
    for run in runs.values():
        run()
    rounds = paired_rounds(runs, n_rounds, clock(cpu_time=True))
    memory = {name: peak_memory_mib(name, weights, seconds) for name, weights in places.items()}
    return {
        name: {
            "times_real_time_per_core": round(seconds / median_of(rounds, name), 2),
            "times_as_fast_as_htdemucs": round(ratio_of(rounds, name, DEMUCS), 2),
            "peak_memory_mib": round(memory[name]),
            "memory_of_htdemucs": round(memory[name] / memory[DEMUCS], 2),
        }
        for name in places
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="an archive or folder; without, what is installed or downloaded")
    parser.add_argument("--seconds", type=float, default=40.0, help="of noise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small HT Demucs, to try the script")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        run_only(arguments.only, arguments.weights, arguments.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        random = save_weights(Path(folder), TINY if arguments.tiny else RELEASED)
        places = {SPLEETER: arguments.weights, DEMUCS: random}
        figures = {"machine": machine("cpu", ("torch", "unisep")), "seconds": arguments.seconds}
        figures["backends"] = compare(places, arguments.seconds, arguments.rounds)
    figures["vocals_sdr_db"] = {} if arguments.tiny else excerpt_vocals_db(arguments.weights)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
