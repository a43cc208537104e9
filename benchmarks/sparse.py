"""Sparse HT Demucs: sizes of the paper's grid, memory and time beside dense attention, and how far the two agree.

    python benchmarks/sparse.py --sizes                             # parameters of the grid, a second
    python benchmarks/sparse.py --json docs/sparse.json --draw docs/sparse.png
    python benchmarks/sparse.py --parts real_time --seconds 40      # the grid on noise: many minutes on two cores
    python benchmarks/sparse.py --from docs/sparse.json --draw docs/sparse.png      # draws only

The grid is that of Rouard, Massa and Defossez (2022): length of a segment, layers of the transformer, its width. Memory and
time of a pass (and with `--training` of a step forth and back) are for one segment, random weights, each in a process of its
own: the most it held beyond what it held before the pass, and the second pass by the clock. Agreement is the energy of the
dense output over that of the difference to it, of the query model that ships, never trained for sparse attention, on the
example mixture; `attention_db` is that of the attention alone, on equal input, the median of its layers.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from growth import _embedded
from measuring import RATE_HZ, agreement_db, clock, machine, most_held_mib, noise, seconds_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.transformer import Attention

ROOT = Path(__file__).parents[1]
SECONDS, LAYERS, WIDTHS = (3.4, 7.8, 12.2), (5, 7), (384, 512)
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
PARTS = ("cost", "agreement", "real_time")
KINDS = {"dense": 0.0, "sparse": 0.9}
HELD = "dense, scores held"  # as without fused kernels: what a step of training keeps grows with every pair
TINY = {"channels": 8, "nfft": 1024, "depth": 3, "t_heads": 2}


def config_of(seconds: float, layers: int, width: int, sparsity: float = 0.0, tiny: bool = False) -> HTDemucsConfig:
    """Return a model of the paper's grid; 384 is the width that the encoders give by themselves."""
    shape: dict[str, Any] = {"bottom_channels": 0 if width == 384 else width, "t_layers": layers, "segment": seconds}
    if sparsity:
        shape |= {
            "t_sparse_self_attn": True,
            "t_sparse_cross_attn": True,
            "t_auto_sparsity": True,
            "t_sparsity": sparsity,
        }
    return HTDemucsConfig(("drums", "bass", "other", "vocals"), **shape | (TINY if tiny else {}))


def sizes() -> list[dict[str, float]]:
    """Count the parameters of the grid, without making any."""
    rows: list[dict[str, float]] = []
    for layers in LAYERS:
        for width in WIDTHS:
            with torch.device("meta"):
                model = HTDemucs(config_of(7.8, layers, width))
            n_parameters = sum(parameter.numel() for parameter in model.parameters())
            rows += [{"seconds": s, "layers": layers, "width": width, "parameters": n_parameters} for s in SECONDS]
    return sorted(rows, key=lambda row: row["seconds"])


def cost(seconds: float, layers: int, width: int, kind: str, training: bool, tiny: bool) -> dict[str, float]:
    """Measure one pass over a segment in this process."""
    torch.manual_seed(0)
    model = HTDemucs(config_of(seconds, layers, width, KINDS.get(kind, 0.0), tiny)).train(training)
    mixture = torch.from_numpy(noise(seconds))[None]

    def step() -> None:
        with torch.set_grad_enabled(training), sdpa_kernel(SDPBackend.MATH) if kind == HELD else nullcontext():
            sources = model(mixture)
        if training:
            sources.square().mean().backward()
            model.zero_grad(set_to_none=True)

    before = most_held_mib()
    step()
    return {"seconds": seconds_of(step, clock(cpu_time=False)), "memory_mib": most_held_mib() - before}


def cost_apart(*arguments: float | str) -> dict[str, float]:
    """Measure one pass over a segment in a process of its own; nothing where the memory of this machine ends it."""
    command = [sys.executable, __file__, "--point", json.dumps(arguments)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode == -signal.SIGKILL:
        return {}
    process.check_returncode()
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return figures


@torch.inference_mode()
def agreement() -> list[dict[str, float]]:
    """Measure how far the embedded query model with sparse attention is from itself with dense attention."""
    from unisep import Separator, files

    mixture = torch.from_numpy(files.read(ROOT / "examples" / "audio" / "mixture.flac").samples[:, : 6 * RATE_HZ])[None]
    query = torch.from_numpy(Separator(offline=True).embed("electric guitar").vector)[None]
    backend, rows, decibels = _embedded(), [], []
    modules = [module for module in backend.model.modules() if isinstance(module, Attention)]
    dense = backend.separate(mixture, query).sources.numpy()

    def compare(module: Attention, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        sparsity, module.sparsity = module.sparsity, 0.0
        decibels.append(agreement_db(out.numpy(), module.forward(*given).numpy()))
        module.sparsity = sparsity

    for module in modules:
        module.register_forward_hook(compare)
    for sparsity in SPARSITIES:
        decibels.clear()
        for module in modules:
            module.sparsity = sparsity
        db = agreement_db(backend.separate(mixture, query).sources.numpy(), dense)
        rows.append({"sparsity": sparsity, "db": db, "attention_db": statistics.median(decibels)})
    return rows


@torch.inference_mode()
def real_time(seconds: float, layers: int, width: int, sparsity: float, length: float, tiny: bool) -> float:
    """Return seconds of work for each second of noise, in segments that overlap by a quarter."""
    torch.manual_seed(0)
    model = HTDemucs(config_of(seconds, layers, width, sparsity, tiny)).eval()
    mixture, n_samples = torch.from_numpy(noise(length))[None], model.config.segment_samples
    starts = range(0, mixture.shape[-1], n_samples * 3 // 4)

    def work() -> None:
        for start in starts:
            model(mixture[..., start : start + n_samples])

    model(mixture[..., :n_samples])
    return seconds_of(work, clock(cpu_time=False)) / length


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that were asked for."""
    figures: dict[str, Any] = {"machine": machine("cpu", ("torch", "unisep")), "sizes": sizes()}
    layers, width = arguments.shape
    if "cost" in arguments.parts:
        figures["cost"] = []
        for seconds in arguments.segments:
            passes = [(kind, False) for kind in KINDS] + [(kind, True) for kind in (*KINDS, HELD)] * arguments.training
            for kind, training in passes:
                point = cost_apart(seconds, layers, width, kind, training, arguments.tiny)
                row = {"segment_seconds": seconds, "layers": layers, "width": width, "attention": kind}
                figures["cost"].append(row | {"training": training} | point)
                print(json.dumps(figures["cost"][-1]), flush=True)
    if "agreement" in arguments.parts:
        figures["agreement"] = agreement()
        print(json.dumps(figures["agreement"]), flush=True)
    if "real_time" in arguments.parts:
        figures["real_time"] = []
        for size in figures["sizes"]:
            grid_point = (size["seconds"], int(size["layers"]), int(size["width"]))
            for kind, sparsity in KINDS.items():
                factor = real_time(*grid_point, sparsity, arguments.seconds, arguments.tiny)
                figures["real_time"].append(size | {"attention": kind, "factor": factor})
                print(json.dumps(figures["real_time"][-1]), flush=True)
    return figures


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw memory and time over the length of a segment, and agreement over sparsity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, time, agrees) = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for kind in (*KINDS, HELD):
        for training, dashes in ((False, "-"), (True, "--")):
            rows = [
                r
                for r in figures.get("cost", [])
                if (r["attention"], r["training"]) == (kind, training) and "seconds" in r
            ]
            if not rows:
                continue
            lengths, label = [row["segment_seconds"] for row in rows], kind + ", training" * training
            memory.plot(lengths, [row["memory_mib"] / 1024 for row in rows], dashes, marker="o", label=label)
            time.plot(lengths, [row["seconds"] for row in rows], dashes, marker="o", label=label)
    rows = figures.get("agreement", [])
    agrees.plot([row["sparsity"] for row in rows], [row["attention_db"] for row in rows], marker="o")
    memory.set(xlabel="segment in s", ylabel="memory of a pass in GiB", ylim=(0, None))
    time.set(xlabel="segment in s", ylabel="time of a pass in s", ylim=(0, None))
    agrees.set(xlabel="sparsity", ylabel="agreement of attention in dB")
    for place in (memory, time, agrees):
        place.grid(alpha=0.3)
    if figures.get("cost"):
        figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=90)


def main(words: list[str] | None = None) -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", action="store_true", help="only count the parameters of the grid, as JSON")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:2])
    parser.add_argument("--segments", nargs="+", type=float, default=[*SECONDS, 24.0], help="lengths for the cost")
    parser.add_argument(
        "--shape", nargs=2, type=int, default=[7, 512], metavar=("LAYERS", "WIDTH"), help="for the cost"
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="of noise for the real-time factors")
    parser.add_argument("--training", action="store_true", help="measure steps forth and back, too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--from", type=Path, dest="source", help="draw these figures instead of measuring")
    parser.add_argument("--draw", type=Path, help="write the picture here")
    parser.add_argument("--tiny", action="store_true", help="small models, to try this out")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.point:
        print(json.dumps(cost(*arguments.point)))
        return
    if arguments.sizes:
        print(json.dumps(sizes(), indent=1))
        return
    source = arguments.source
    figures = json.loads(source.read_text(encoding="utf-8")) if source else measured(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.draw:
        draw(figures, arguments.draw)


if __name__ == "__main__":
    main()
