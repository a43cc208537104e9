"""Backends beside HT Demucs in one run: processor time and peak memory; and what three of them give of a real excerpt.

    python benchmarks/backends.py                                       # those with weights here; minutes
    python benchmarks/backends.py --backends scnet bs-roformer umxhq    # of published sizes, random parameters
    PYTHONPATH=.venv/peers/weights python benchmarks/backends.py        # Spleeter's weights of `make test-weights`

Processor time is that of one thread for a recording of noise, all through a `Separator`, alternating, so that ratios mean
something on a busy machine; the query model is asked one question. HT Demucs and all in `weights.PUBLISHED` have their
published sizes and random parameters, which cost what trained ones cost. Memory is the most that a process of its own
held that does the same once, torch included. The excerpt is that of the MUSDB18 test set which the package stempeg
ships: energy of the stem over energy of the error, in dB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import RATE_HZ, agreement_db, clock, machine, median_of, most_held_mib, noise, paired_rounds, ratio_of
from weights import PUBLISHED, RELEASED, TINY, save_published, save_weights

from unisep import Audio, Separator

SPLEETER, QUERY_MODEL, DEMUCS = "spleeter-2stems", "htdemucs-film", "htdemucs"
Run = Callable[[Audio], object]


def opened(name: str, weights: Path | None) -> Run:
    """Return what separates by the backend `name`; without `weights`, by those that are installed or were downloaded."""
    if name == QUERY_MODEL:
        asked = Separator(query_backend=name, device="cpu", precision="float32", offline=True)
        return lambda audio: asked.separate(audio, query="electric guitar", route="conditioned")
    return Separator(name, weights=weights, device="cpu", precision="float32", offline=True).separate


def peak_memory_mib(name: str, weights: Path | None, seconds: float) -> float:
    """Return the most memory that a process of its own held which separates noise once."""
    words = ["--only", name, "--seconds", str(seconds), *(["--weights", str(weights)] if weights else [])]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def excerpt_db(weights: Path | None) -> dict[str, dict[str, float]]:
    """Return the SDR on stempeg's excerpt of Spleeter, and of the query model before and behind it."""
    import stempeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stems, rate_hz = stempeg.read_stems(stempeg.example_stem_path())
    mixture, drums, bass, _, vocals = stems.transpose(0, 2, 1).astype("float32")
    song, truth = Audio(mixture, rate_hz), {"drums": drums, "bass": bass, "vocals": vocals}
    spleeter = Separator(SPLEETER, weights=weights, device="cpu", offline=True).separate(song, stems="vocals")
    with Separator(query_backend=QUERY_MODEL, device="cpu", offline=True) as one:
        asked = one.separate(song, query=list(truth), route="conditioned")
        behind = one.separate(spleeter.rest, query=["drums", "bass"], route="conditioned")
    return {
        name: {stem: round(agreement_db(audio.samples, truth[stem]), 2) for stem, audio in parts.items()}
        for name, parts in {SPLEETER: spleeter, QUERY_MODEL: asked, f"{QUERY_MODEL} without vocals": behind}.items()
    }


def compare(places: dict[str, Path | None], seconds: float, n_rounds: int) -> dict[str, Any]:
    """Return times real time, ratios to HT Demucs, and peak memory."""
    song, loaded = Audio(noise(seconds), RATE_HZ), {name: opened(name, weights) for name, weights in places.items()}
    for run in loaded.values():
        run(Audio(noise(1.0), RATE_HZ))
    runs = {name: (lambda run=run: run(song)) for name, run in loaded.items()}
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
    parser.add_argument("--backends", nargs="*", default=[SPLEETER, "deepfilternet3", QUERY_MODEL])
    parser.add_argument("--weights", type=Path, help="of Spleeter, an archive or folder; else installed or downloaded")
    parser.add_argument("--seconds", type=float, default=20.0, help="of noise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small HT Demucs and no excerpt, to try the script")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        opened(options.only, options.weights)(Audio(noise(options.seconds), RATE_HZ))
        print(most_held_mib())
        return
    with tempfile.TemporaryDirectory() as folder:
        places: dict[str, Path | None] = {DEMUCS: save_weights(Path(folder), TINY if options.tiny else RELEASED)}
        for name in options.backends:
            random = save_published(Path(folder) / name, name) if name in PUBLISHED else None
            places[name] = options.weights if name == SPLEETER else random
        figures = {"machine": machine("cpu", ("torch", "unisep")), "seconds": options.seconds}
        figures["backends"] = compare(places, options.seconds, options.rounds)
    figures["excerpt_sdr_db"] = {} if options.tiny or SPLEETER not in options.backends else excerpt_db(options.weights)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
