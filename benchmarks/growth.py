"""How time and memory grow with length, number of queries, batch and threads: one JSON, one picture.

    python benchmarks/growth.py --json docs/growth.json --draw docs/growth.png      # about five minutes on two cores
    python benchmarks/growth.py --from docs/growth.json --draw docs/growth.png      # draws only

Each point is a process of its own, which runs once to warm up and then takes the better of two runs; its memory is the most
it ever held, libraries and model included. HT Demucs has random weights of the released size, its query model FiLM layers
around it; "embedded" is the query model that ships.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import RATE_HZ, clock, machine, most_held_mib, noise, seconds_of
from torch import Tensor
from weights import RELEASED, TINY, save_weights

Run = Callable[[], object]
AXES = {
    "length": "seconds of audio",
    "queries": "queries in one call",
    "batch": "segments at once",
    "threads": "threads",
}
MODELS = {"embedded": "embedded query model", "htdemucs": "HT Demucs", "film": "HT Demucs with queries"}
VALUES: dict[tuple[str, str], tuple[int, ...]] = {
    ("length", "embedded"): (6, 24, 96),
    ("length", "htdemucs"): (6, 24),
    ("queries", "embedded"): (1, 2, 4, 8),
    ("queries", "film"): (1, 2, 4),
    ("batch", "embedded"): (1, 2, 4),
    ("batch", "htdemucs"): (1, 2),
    ("threads", "embedded"): (1, 2),
    ("threads", "htdemucs"): (1, 2),
}


@dataclass(frozen=True)
class Point:
    """One measurement: `value` is along the axis; all else is 1, a segment, or torch's choice of threads."""

    axis: str
    model: str
    value: int
    tiny: bool = False

    def of(self, axis: str) -> int:
        """Return the value along `axis`: 1 on all but its own."""
        return self.value if axis == self.axis else 1


def run_of(point: Point, folder: Path) -> Run:
    """Return what is measured at a point."""
    if point.axis == "length":
        return _from_disk_to_disk(point, folder)
    backend: Any = _embedded() if point.model == "embedded" else _htdemucs(point, folder)
    n_samples = round(float(backend.info.segment_seconds) * RATE_HZ)
    mixture = torch.stack([torch.from_numpy(noise(1 + n_samples / RATE_HZ, i)) for i in range(point.of("batch"))])
    queries: Tensor | None = None
    if point.model != "htdemucs":
        dims = next(iter(backend.model.config.spaces.values()))
        generator = torch.Generator().manual_seed(0)
        queries = torch.nn.functional.normalize(torch.randn(point.of("queries"), dims, generator=generator))
    return lambda: backend.separate(mixture[..., :n_samples], queries)


def _from_disk_to_disk(point: Point, folder: Path) -> Run:
    import soundfile

    from unisep import Separator

    song = folder / "song.wav"
    soundfile.write(song, noise(point.value).T, RATE_HZ, subtype="FLOAT")
    if point.model == "embedded":
        separator = Separator(offline=True)
        return lambda: separator.separate_file(song, folder, query="electric guitar", route="conditioned")
    save_weights(folder, TINY if point.tiny else RELEASED)
    separator = Separator("htdemucs", weights=folder, offline=True)
    return lambda: separator.separate_file(song, folder)


def _embedded() -> Any:
    import unisep_film
    from unisep_film.backend import WEIGHTS_FILE, load

    file = Path(str(unisep_film.__file__)).parent / "weights" / WEIGHTS_FILE
    return load(weights=file, device=torch.device("cpu"), dtype=torch.float32)


def _htdemucs(point: Point, folder: Path) -> Any:
    from unisep_film.backend import FilmBackend
    from unisep_film.checkpoints import from_htdemucs
    from unisep_htdemucs.backend import load_htdemucs

    save_weights(folder, TINY if point.tiny else RELEASED)
    backend: Any = load_htdemucs(weights=folder, device=torch.device("cpu"), dtype=torch.float32)
    if point.model == "htdemucs":
        return backend
    return FilmBackend(from_htdemucs(backend.model, {"some space": 512}).eval())


def measured(point: Point) -> dict[str, float]:
    """Measure seconds and peak memory of a point, in this process."""
    if point.axis == "threads":
        torch.set_num_threads(point.value)
    with tempfile.TemporaryDirectory() as name:
        run, now = run_of(point, Path(name)), clock(cpu_time=False)
        if point.axis != "length":
            run()  # a first run makes buffers; a long one does not notice
        seconds = min(seconds_of(run, now) for _ in range(1 if point.axis == "length" else 2))
    return {"seconds": seconds, "peak_memory_mib": most_held_mib()}


def measured_apart(point: Point) -> dict[str, float]:
    """Measure seconds and peak memory of a point, in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(vars(point))]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    figures: dict[str, float] = json.loads(lines[-1])
    return figures


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw time above memory, a column an axis, a line a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    figure, places = pyplot.subplots(2, len(AXES), figsize=(12, 5.4), sharex="col", layout="constrained")
    for (upper, lower), axis in zip(places.T, AXES, strict=True):
        points = [point for point in figures["points"] if point["axis"] == axis]
        for colour, (model, name) in zip(("tab:blue", "tab:orange", "tab:green"), MODELS.items(), strict=True):
            line = sorted((p["value"], p["seconds"], p["peak_memory_mib"]) for p in points if p["model"] == model)
            values, seconds, mib = zip(*line, strict=True) if line else ((), (), ())
            upper.plot(values, seconds, color=colour, marker="o", label=name)
            lower.plot(values, [n_mib / 1024 for n_mib in mib], color=colour, marker="o")
        ticks = sorted({point["value"] for point in points})
        upper.set(xscale="log", yscale="log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter("{x:g}")
        upper.yaxis.set_minor_locator(NullLocator())
        lower.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        lower.set_xticks([], minor=True)
        lower.set_xlabel(AXES[axis])
        lower.set_ylim(0, 1.15 * lower.get_ylim()[1])
        for place in (upper, lower):
            place.margins(x=0.1)
            place.grid(alpha=0.3)
    places[0, 0].set_ylabel("time in s")
    places[1, 0].set_ylabel("peak memory in GiB")
    figure.legend(*places[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=90)


def main(words: list[str] | None = None) -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--from", type=Path, dest="source", help="draw these figures instead of measuring")
    parser.add_argument("--draw", type=Path, help="write the picture here")
    parser.add_argument("--tiny", action="store_true", help="small models and two values an axis, to try this out")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.point:
        print(json.dumps(measured(Point(**arguments.point))))
        return
    if arguments.source:
        figures = json.loads(arguments.source.read_text(encoding="utf-8"))
    else:
        figures = {"machine": machine("cpu"), "points": []}
        for (axis, model), values in VALUES.items():
            for value in values[:2] if arguments.tiny else values:
                point = measured_apart(Point(axis, model, value, arguments.tiny))
                figures["points"].append({"axis": axis, "model": model, "value": value, **point})
                print(f"{axis:8} {model:9} {value:4d}  {point['seconds']:8.2f} s  "
                      f"{point['peak_memory_mib']:6.0f} MiB", flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.draw:
        draw(figures, arguments.draw)


if __name__ == "__main__":
    main()
