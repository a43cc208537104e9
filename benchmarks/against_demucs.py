"""Seconds of audio separated per second: unisep against demucs 4.1.0, on the same weights in the same run.

    python benchmarks/against_demucs.py [--seconds 30] [--rounds 5] [--json]

The weights are random (speed does not depend on their values; LayerScales are drawn from 0.25-0.75 so that the
agreement of the two means something), saved once and loaded by both. Both separate the same stereo noise with
segments of 7.8 s, 25 % overlap and no shifts, one after the other in every round; the ratio is the median of the
rounds' ratios, which a busy machine disturbs least. The query model, if its weights are here, is measured
beside them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demucs.api import Separator as Demucs
from demucs.htdemucs import HTDemucs
from demucs.states import get_state
from numpy.typing import NDArray

from unisep import Audio, Separator
from unisep.errors import UnisepError

RATE_HZ = 44_100
SIGNATURE = "955717e8"
STEMS = ["drums", "bass", "other", "vocals"]


def save_weights(folder: Path) -> None:
    """A model of the released size with random parameters, where both look for `htdemucs`."""
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"sources": STEMS, "bottom_channels": 512, "segment": Fraction(39, 5)}
    kwargs |= {"t_heads": 8, "t_layers": 5, "t_hidden_scale": 4.0, "dconv_mode": 3}
    model = HTDemucs(**kwargs).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("scale"):
                parameter.uniform_(0.25, 0.75, generator=generator)
    package = {"klass": HTDemucs, "args": (), "kwargs": kwargs, "state": get_state(model, None)}
    torch.save(package, folder / f"{SIGNATURE}.th")
    (folder / "htdemucs.yaml").write_text(f"models: ['{SIGNATURE}']\n")


def timed(run: Callable[[], object]) -> float:
    """Wall seconds of one call, finished on the accelerator too."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def agreement_db(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Energy of what both gave over the energy of their difference, in decibels."""
    difference = float(np.sum((ours.astype(np.float64) - theirs) ** 2))
    return 10 * float(np.log10(np.sum(theirs.astype(np.float64) ** 2) / max(difference, 1e-30)))


def competitors(folder: Path, song: NDArray[np.float32], device: str) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; each call separates the whole song into four stems, or by one query."""
    theirs = Demucs("htdemucs", repo=folder, device=device, shifts=0, overlap=0.25)
    float32 = Separator("htdemucs", weights=folder, device=device, offline=True)
    bfloat16 = Separator("htdemucs", weights=folder, device=device, precision="bfloat16", offline=True)
    audio = Audio(song, RATE_HZ)
    runs: dict[str, Callable[[], Any]] = {
        "demucs": lambda: theirs.separate_tensor(torch.from_numpy(song.copy()))[1],
        "unisep float32": lambda: float32.separate(audio),
        "unisep bfloat16": lambda: bfloat16.separate(audio),
    }
    query = Separator(device=device, offline=True)
    try:
        query.separate(Audio(song[:, :RATE_HZ], RATE_HZ), query="electric guitar", route="conditioned")
        runs["unisep text query"] = lambda: query.separate(
            audio, query="electric guitar", route="conditioned"
        )
    except UnisepError as error:
        print(f"The query model is left out: {error}")
    return runs


def measure(seconds: float, n_rounds: int, device: str) -> dict[str, Any]:
    """Speeds, ratios to demucs and agreement with it."""
    song = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE_HZ))).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_weights(folder)
        runs = competitors(folder, song, device)
        outputs = {name: run() for name, run in runs.items()}  # also warms up
        rounds = [{name: timed(run) for name, run in runs.items()} for _ in range(n_rounds)]
    expected = np.stack([outputs["demucs"][stem].cpu().numpy() for stem in STEMS])
    results = {}
    for name, output in outputs.items():
        results[name] = {
            "times_real_time": seconds / statistics.median(each[name] for each in rounds),
            "ratio_to_demucs": statistics.median(each["demucs"] / each[name] for each in rounds),
        }
        if name in ("unisep float32", "unisep bfloat16"):
            ours = np.stack([output[stem].samples for stem in STEMS])
            results[name]["agreement_db"] = agreement_db(ours, expected)
    return {"machine": machine(device), "seconds": seconds, "rounds": n_rounds, "results": results}


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {name: metadata.version(name) for name in ("torch", "demucs", "unisep")}
    name = (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else platform.processor() or platform.machine()
    )
    return {"device": device, "name": name, "threads": torch.get_num_threads(), **versions}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="unisep against demucs on the same weights.")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the song")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.rounds, arguments.device)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    print(f"{'':20}{'x real time':>12}{'x demucs':>10}{'agreement':>12}   ({arguments.rounds} rounds)")
    for name, values in figures["results"].items():
        agreement = f"{values['agreement_db']:9.1f} dB" if "agreement_db" in values else ""
        print(f"{name:20}{values['times_real_time']:12.2f}{values['ratio_to_demucs']:10.2f}{agreement:>12}")


if __name__ == "__main__":
    main()
