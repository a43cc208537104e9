"""Seconds of audio separated per second: unisep against demucs 4.1.0, on the same weights in the same run.

    python benchmarks/against_demucs.py [--seconds 30] [--rounds 5] [--json]

The weights are random (speed does not depend on their values; LayerScales are drawn from 0.25-0.75 so that the
agreement of the two means something), saved once and loaded by both. Both separate the same stereo noise with
segments of 7.8 s, 25 % overlap and no shifts, one after the other in every round; the ratio is the median of the
rounds' ratios, which a busy machine disturbs least. The query model, if its weights are here, is measured
beside them.

`of_the_limit` is the arithmetic of the model over what a large matrix product did in the same precision and the
same rounds: what is left up to 1 went into everything that is no product, and into products of small shapes.
`peak_memory_mib` is the most that a process of its own held, which loads torch and separates one segment at most.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demucs.api import Separator as Demucs
from demucs.htdemucs import HTDemucs
from demucs.states import get_state
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from unisep import Audio, Separator
from unisep.errors import UnisepError

RATE_HZ = 44_100
SIGNATURE = "955717e8"
STEMS = ["drums", "bass", "other", "vocals"]
DTYPES = {"demucs": torch.float32, "unisep float32": torch.float32, "unisep bfloat16": torch.bfloat16}


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


def product_flops_per_second(dtype: torch.dtype, device: str) -> float:
    """Operations a second of a large matrix product, by the fastest of the routes that torch has."""
    n = 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    routes: list[Callable[[], object]] = [lambda: a @ b]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        routes.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    seconds = [timed(route) for route in routes for _ in range(3)]
    return 2 * n**3 / min(seconds)


def segment_flops(folder: Path) -> float:
    """Operations of the products and convolutions of demucs's model for one segment."""
    model = Demucs("htdemucs", repo=folder, device="cpu").model.models[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 2, round(7.8 * RATE_HZ)))
    return float(counter.get_total_flops())


def peak_memory_mib(name: str, seconds: float, device: str) -> float:
    """The most memory that a process of its own held, which separates once as `name` does."""
    command = [sys.executable, __file__, "--only", name, "--seconds", str(seconds), "--device", device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_only(name: str, seconds: float, device: str) -> None:
    """Separate once as `name` does and print the most memory that was held, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder))
        competitors(Path(folder), noise(seconds), device, name)[name]()
    print(most_held_mib())


def most_held_mib() -> float:
    """The most memory this program held so far; where Linux tells, without what its parent held before the start."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    held_kib = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return float(held_kib[0] if held_kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def noise(seconds: float) -> NDArray[np.float32]:
    """The stereo song that all separate."""
    return np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE_HZ))).astype(np.float32)


def competitors(
    folder: Path, song: NDArray[np.float32], device: str, only: str = ""
) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; each call separates the whole song into four stems, or by one query."""
    audio = Audio(song, RATE_HZ)
    runs: dict[str, Callable[[], Any]] = {}
    if only in ("", "demucs"):
        theirs = Demucs("htdemucs", repo=folder, device=device, shifts=0, overlap=0.25)
        runs["demucs"] = lambda: theirs.separate_tensor(torch.from_numpy(song.copy()))[1]
    for precision in ("float32", "bfloat16"):
        if only in ("", f"unisep {precision}"):
            separator = Separator(
                "htdemucs", weights=folder, device=device, precision=precision, offline=True
            )
            runs[f"unisep {precision}"] = partial(separator.separate, audio)
    if only in ("", "unisep text query"):
        query = Separator(device=device, offline=True)
        ask = partial(query.separate, query="electric guitar", route="conditioned")
        try:
            ask(Audio(song[:, :RATE_HZ], RATE_HZ))
            runs["unisep text query"] = partial(ask, audio)
        except UnisepError as error:
            print(f"The query model is left out: {error}", file=sys.stderr)
    return runs


def measure(seconds: float, n_rounds: int, device: str) -> dict[str, Any]:
    """Speeds, ratios to demucs and agreement with it."""
    song = noise(seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_weights(folder)
        runs = competitors(folder, song, device)
        flops = segment_flops(folder) * n_segments(seconds)
        outputs = {name: run() for name, run in runs.items()}  # also warms up
        rounds, limits = [], []
        for _ in range(n_rounds):
            limits.append({dtype: product_flops_per_second(dtype, device) for dtype in DTYPES.values()})
            rounds.append({name: timed(run) for name, run in runs.items()})
    best = {dtype: max(each[dtype] for each in limits) for dtype in DTYPES.values()}
    expected = np.stack([outputs["demucs"][stem].cpu().numpy() for stem in STEMS])
    results: dict[str, dict[str, float]] = {}
    for name, output in outputs.items():
        taken = statistics.median(each[name] for each in rounds)
        results[name] = {
            "times_real_time": seconds / taken,
            "ratio_to_demucs": statistics.median(each["demucs"] / each[name] for each in rounds),
            "peak_memory_mib": peak_memory_mib(name, min(seconds, 7.8), device),
        }
        if name in DTYPES:
            results[name]["of_the_limit"] = flops / best[DTYPES[name]] / taken
        if name.startswith("unisep") and name in DTYPES:
            ours = np.stack([output[stem].samples for stem in STEMS])
            results[name]["agreement_db"] = agreement_db(ours, expected)
    products = {str(dtype): value / 1e9 for dtype, value in best.items()}
    facts = {
        "seconds": seconds,
        "rounds": n_rounds,
        "gflop": flops / 1e9,
        "product_gflop_per_second": products,
    }
    return {"machine": machine(device), **facts, "results": results}


def n_segments(seconds: float) -> int:
    """How many segments of 7.8 s at 25 % overlap cover a song."""
    return math.ceil(seconds / (0.75 * 7.8))


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
    parser.add_argument("--only", default="", help="print the peak memory of one competitor, in MiB")
    arguments = parser.parse_args()
    if arguments.only:
        run_only(arguments.only, arguments.seconds, arguments.device)
        return
    figures = measure(arguments.seconds, arguments.rounds, arguments.device)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    print(f"Largest product, GFLOP/s: {figures['product_gflop_per_second']}; {arguments.rounds} rounds")
    columns = ("times_real_time", "ratio_to_demucs", "of_the_limit", "agreement_db", "peak_memory_mib")
    print(f"{'':20}" + "".join(f"{column:>17}" for column in columns))
    for name, values in figures["results"].items():
        cells = (f"{values[column]:17.2f}" if column in values else f"{'':17}" for column in columns)
        print(f"{name:20}" + "".join(cells))


if __name__ == "__main__":
    main()
