"""Peak memory of `separate_file`, from disk to disk, for recordings of different lengths.

    python benchmarks/memory.py                              # 5, 20 and 80 minutes, left and right as "stems"
    python benchmarks/memory.py --minutes 480 --stems left   # eight hours: 5 GB of input, 20 GB of results
    python benchmarks/memory.py --minutes 5 80 --query "electric guitar" --backend htdemucs-film

Each length is a fresh process, and what counts is the most memory that it ever held (VmHWM of Linux, or
`getrusage`). The backend `toy-pan` costs next to nothing, so that what is seen is the engine. Recordings are
noise, 16 bit stereo at 44.1 kHz, made before and removed after; results are float wav. Prints megabytes,
and by how much the largest is above the smallest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from unisep import files
from unisep.files.formats import Encoding

RATE_HZ = 44_100
TOY = "toy-pan"
_CHILD = """
import json, sys
from contextlib import nullcontext
from unisep import Separator
from unisep.testing import toy_plugin
path, out, backend, query, stems = json.loads(sys.argv[1])
with toy_plugin() if backend.startswith("toy") else nullcontext():
    chosen = {"query_backend": backend} if query else {"backend": backend}
    options = {"query": query, "stems": stems, "format": "wav", "subtype": "FLOAT"}
    files = Separator(**chosen, offline=True).separate_file(path, out, **options)
try:
    status = open("/proc/self/status").read()
    n_bytes = 1024 * int(status.split("VmHWM:")[1].split()[0])
except OSError:
    import resource
    n_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"peak_bytes": n_bytes, "n_samples": files.layout.n_samples, "results": list(map(str, files.paths))}))
"""


def write_recording(path: Path, seconds: float, rate_hz: int = RATE_HZ) -> Path:
    """Write a recording of noise, a minute at a time, and return its path."""
    generator, n_samples = np.random.default_rng(0), round(seconds * rate_hz)
    block = generator.normal(0, 0.1, (2, min(n_samples, 60 * rate_hz))).astype(np.float32)
    with files.PartialFile(path, rate_hz, 2, Encoding("wav", "PCM_16"), n_samples) as file:
        for start in range(0, n_samples, block.shape[1]):
            file.write(block[:, : n_samples - start])
        return file.commit()


def peak_bytes(
    seconds: float, folder: Path, backend: str = TOY, query: str | None = None, stems: list[str] | None = None
) -> int:
    """Return the most memory that a process held which separates a recording; results are checked and removed."""
    path = write_recording(folder / "recording.wav", seconds)
    arguments = json.dumps([str(path), str(folder / "out"), backend, query, stems])
    child = subprocess.run([sys.executable, "-c", _CHILD, arguments], check=True, capture_output=True, text=True)
    answer = json.loads(child.stdout.splitlines()[-1])
    for result in map(Path, answer["results"]):
        assert files.probe(result).n_samples == answer["n_samples"] == round(seconds * RATE_HZ)
        result.unlink()
    path.unlink()
    return int(answer["peak_bytes"])


def measure(minutes: list[float], folder: Path, *how: Any) -> dict[str, Any]:
    """Return megabytes for each length, and by what fraction the largest is above the smallest."""
    peaks = {length: peak_bytes(length * 60, folder, *how) for length in minutes}
    growth = max(peaks.values()) / min(peaks.values()) - 1
    return {"megabytes": {length: round(peak / 1e6, 1) for length, peak in peaks.items()}, "growth": round(growth, 4)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Peak memory of separations from disk to disk.")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 20, 80])
    parser.add_argument("--backend", default=TOY)
    parser.add_argument("--query", help="what to ask a query backend for; without, its fixed stems")
    parser.add_argument("--stems", nargs="+", help="which of the fixed stems to write; all without")
    parser.add_argument("--folder", type=Path, help="where the recording and the results go for the while")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        how = (arguments.backend, arguments.query, arguments.stems)
        figures = measure(arguments.minutes, Path(folder), *how)
    if arguments.json:
        print(json.dumps(figures))
        return
    for minutes, megabytes in figures["megabytes"].items():
        print(f"{minutes:8g} min {megabytes:10.1f} MB")
    print(f"the largest is {figures['growth']:.1%} above the smallest")


if __name__ == "__main__":
    main()
