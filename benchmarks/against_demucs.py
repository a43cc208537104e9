"""unisep against demucs 4.1.0, on the same weights and audio, in one process, interleaved.

    python benchmarks/against_demucs.py                               # a segment: a minute or two
    python benchmarks/against_demucs.py --loads segment song folder   # all of it: half an hour on two cores
    python benchmarks/against_demucs.py --cpu-time --json figures.json

A *segment* is the model alone, on 7.8 s; a *song* of four minutes goes through both programs' separators (25 % overlap, no
shifts); a *folder* of files is separated from disk to disk, loading and writing included. The weights are random: speed does
not depend on their values; LayerScales are drawn from 0.25-0.75, so that agreement means something. Every round runs everyone
once, and a ratio is the median of the rounds' ratios, which a busy machine disturbs least. On a CPU, onnxruntime and OpenVINO
compute the same segment, from the file of `unisep export`.

`of_the_limit` is the arithmetic of the segments over what a large matrix product did in the same precision between the same
rounds: what is left up to 1 went into everything that is no product, and into products of small shapes.
`peak_memory_mib` is the most that a process of its own held, which loads torch and does the load once.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from competitors import (
    DTYPES,
    LOADS,
    QUERY,
    REFERENCE,
    RUNTIMES,
    Scene,
    auto_precision,
    competitors,
    precision_of,
    precisions,
)
from measuring import (
    RATE_HZ,
    agreement_db,
    clock,
    machine,
    median_of,
    most_held_mib,
    paired_rounds,
    product_flops_per_second,
    ratio_of,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from unisep_htdemucs.backend import HTDemucsBackend, load_htdemucs
from weights import RELEASED, TINY, save_weights

COLUMNS = ("times_real_time", "ratio_to_demucs", "of_the_limit", "agreement_db", "peak_memory_mib")


def segment_flops(scene: Scene) -> float:
    """Count the operations of the products and convolutions of the model for one segment.

    Counted with gradients and plain attention, where all of them are operators that torch's counter knows.
    """
    backend = load_htdemucs(weights=scene.weights, device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(backend, HTDemucsBackend)
    mixture = torch.zeros(1, 2, round(scene.segment_seconds * RATE_HZ))
    with FlopCounterMode(display=False) as counter, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        backend.model(mixture)
    return float(counter.get_total_flops())


def n_segments(load: str, scene: Scene) -> int:
    """Return how many segments at 25 % overlap a load is for demucs."""
    if load == "segment":
        return 1
    step_seconds = 0.75 * scene.segment_seconds
    if load == "song":
        return math.ceil(scene.song_seconds / step_seconds)
    return scene.n_files * math.ceil(scene.file_seconds / step_seconds)


def measure(load: str, scene: Scene, n_rounds: int, cpu_time: bool, memory: bool) -> dict[str, Any]:
    """Measure what everyone does with one load."""
    now, runs = clock(cpu_time), competitors(load, scene)
    outputs = {name: run() for name, run in runs.items()}  # also warms up
    limits: dict[str, float] = dict.fromkeys(precisions(scene.device), 0.0)
    rounds = []
    for _ in range(n_rounds):
        for name in limits:
            limits[name] = max(limits[name], product_flops_per_second(DTYPES[name], scene.device, now))
        rounds += paired_rounds(runs, 1, now)
    flops, reference = segment_flops(scene) * n_segments(load, scene), outputs[REFERENCE]
    results: dict[str, dict[str, float]] = {}
    for name in runs:
        seconds, sources = median_of(rounds, name), outputs[name]
        results[name] = {
            "times_real_time": scene.seconds(load) / seconds,
            "ratio_to_demucs": ratio_of(rounds, name, REFERENCE),
        }
        if name != QUERY:
            results[name]["of_the_limit"] = flops / limits[precision_of(name)] / seconds
        if name != REFERENCE and sources is not None and reference is not None:
            results[name]["agreement_db"] = agreement_db(sources, reference)
        if memory and name not in RUNTIMES:  # their export alone would hold more
            results[name]["peak_memory_mib"] = peak_memory_mib(name, load, scene)
    facts = {"seconds": scene.seconds(load), "rounds": n_rounds, "clock": "processor" if cpu_time else "wall"}
    products = {name: value / 1e9 for name, value in limits.items()}
    return {**facts, "gflop": flops / 1e9, "product_gflop_per_second": products, "results": results}


def peak_memory_mib(name: str, load: str, scene: Scene) -> float:
    """Return the most memory that a process of its own held, which does the load once as `name` does."""
    fields = {**asdict(scene), "weights": str(scene.weights), "place": str(scene.place)}
    command = [sys.executable, __file__, "--only", name, "--loads", load, "--scene", json.dumps(fields)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_only(name: str, load: str, scene: Scene) -> None:
    """Do the load once as `name` does and print the most memory that was held, in MiB."""
    competitors(load, scene, name)[name]()
    print(most_held_mib())


def parse(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=["segment"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--song-seconds", type=float, default=240.0)
    parser.add_argument("--files", type=int, default=4, help="in the folder")
    parser.add_argument("--file-seconds", type=float, default=12.0)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for busy machines")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--tiny", action="store_true", help="a model too small to mean anything, to try this out")
    parser.add_argument("--threads", type=int, help="of torch; its own choice without")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def table(load: str, figures: dict[str, Any]) -> str:
    """Return the figures of one load as a table."""
    products = ", ".join(f"{name} {value:.0f}" for name, value in figures["product_gflop_per_second"].items())
    lines = [
        f"{load}: {figures['seconds']:g} s of audio, {figures['rounds']} rounds, {figures['clock']} time; "
        f"{figures['gflop']:.0f} GFLOP; largest product, GFLOP/s: {products}",
        f"{'':20}" + "".join(f"{column:>17}" for column in COLUMNS),
    ]
    for name, values in figures["results"].items():
        cells = (f"{values[column]:17.2f}" if column in values else f"{'':17}" for column in COLUMNS)
        lines.append(f"{name:20}" + "".join(cells))
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.only:
        paths = {key: Path(arguments.scene[key]) for key in ("weights", "place")}
        run_only(arguments.only, arguments.loads[0], Scene(**{**arguments.scene, **paths}))
        return
    with tempfile.TemporaryDirectory() as name:
        shape = TINY if arguments.tiny else RELEASED
        scene = Scene(
            Path(name), Path(name), arguments.device, float(shape["segment"]), arguments.song_seconds,
            arguments.files, arguments.file_seconds,
        )  # fmt: skip
        save_weights(scene.weights, shape)
        figures: dict[str, Any] = {"machine": machine(arguments.device), "loads": {}}
        figures["auto_precision"] = auto_precision(arguments.device)
        print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
        for load in arguments.loads:
            place = scene.place / load
            place.mkdir()
            here = replace(scene, place=place)
            started = time.monotonic()
            figures["loads"][load] = measure(load, here, arguments.rounds, arguments.cpu_time, not arguments.no_memory)
            print(f"\n{table(load, figures['loads'][load])}\n({time.monotonic() - started:.0f} s)", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
