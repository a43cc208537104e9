"""Exported models: size, speed in one run, agreement, and what fewer bits cost in SDR on songs that nobody trained on.

python benchmarks/exported.py --calibrate examples/audio/mixture.flac --corpus CORPUS
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from measuring import agreement_db, clock, paired_rounds, ratio_of
from torch import Tensor
from unisep_onnx.backend import ExportedBackend, onnxruntime_network, openvino_network
from unisep_onnx.export import Exported, as_onnx, describe, opened
from unisep_onnx.smaller import learnt, segments, smaller

from unisep import Backend, files
from unisep.engine.resample import to_model
from unisep.progress import ProgressReporter
from unisep.session.models import ModelPool, Precision, WeightsStore

SONGS = ("eif-sodium", "lmms-capdan-reggaetry", "lmms-oglsdl-pptrip")  # kept out of training
_LEAST_RMS_DB = -40.0


def dynamic(exported: Exported) -> bytes:
    """Return the file with the products of learnt weights in 8 bits, ranges measured as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_model_from_string(exported.content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        quantize_dynamic(
            model, path, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_quantize=learnt(model), per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return path.read_bytes()


def windows(corpus: Path, length: int, most: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, mixture and target `[channels, samples]`: of each label of each song the window where it is loudest."""
    songs: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for line in (corpus / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["song"] in SONGS:
            audio = files.read(corpus / row["path"])
            songs[row["song"]][row["label"]].append(to_model(audio.samples, audio.sample_rate_hz, 44_100, 2))
    found = []
    for stems in songs.values():
        n_samples = min(part.shape[1] for parts in stems.values() for part in parts)
        sums = {label: np.sum([part[:, :n_samples] for part in parts], axis=0) for label, parts in stems.items()}
        whole = np.sum(list(sums.values()), axis=0)
        for label, stem in sums.items():
            starts = range(0, n_samples - length + 1, length)
            levels = [float(np.square(stem[:, start : start + length]).mean()) for start in starts]
            start = starts[int(np.argmax(levels))]
            part = slice(start, start + length)
            level_db = 10 * np.log10(np.square(stem[:, part]).mean() + 1e-12)
            if level_db > _LEAST_RMS_DB:
                found.append((label, torch.from_numpy(whole[:, part]), torch.from_numpy(stem[:, part]), level_db))
    for label, mixture, target, _ in sorted(found, key=lambda item: -item[3])[:most]:
        yield label, mixture, target


def sdr_db(target: Tensor, estimate: Tensor) -> float:
    """Return the energy of the target over that of the error, in dB."""
    return agreement_db(estimate.numpy(), target.numpy())


def variants(model: str, recordings: list[Path]) -> tuple[dict[str, Backend], dict[str, int], list[dict[str, Tensor]]]:
    """Return the model in torch and as every file, the files' bytes, and inputs cut from the recordings."""
    backend, name, space, licence = opened(model, offline=True)
    exported = as_onnx(backend, describe(backend, name, space, licence))
    contents = {"float32": exported.content, "8 bits, as it runs": dynamic(exported)}
    for precision in ("float16", "int8"):
        contents[precision] = smaller(exported, backend, precision, recordings).content
    backends: dict[str, Backend] = {"torch": backend}
    for label, content in contents.items():
        backends[label] = ExportedBackend(onnxruntime_network(content), exported.description)
    backends["OpenVINO float32"] = ExportedBackend(openvino_network(exported.content), exported.description)
    sizes = {label: len(content) for label, content in contents.items()}
    return backends, sizes, segments(exported.description, recordings)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="htdemucs-film")
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backends, sizes, inputs = variants(arguments.model, arguments.calibrate)
    one = {name: value[:1] for name, value in inputs[0].items()}
    runs: dict[str, Callable[[], Any]] = {
        label: partial(each.separate, *one.values()) for label, each in backends.items()
    }
    rounds = paired_rounds(runs, arguments.rounds, clock(cpu_time=True))
    reference = runs["torch"]().sources.numpy()
    for label in backends:
        agreement = agreement_db(runs[label]().sources.numpy(), reference)
        print(
            f"{label}: {sizes.get(label, 0) / 1e6:.1f} MB, {ratio_of(rounds, label, 'torch'):.2f} times torch, {agreement:.1f} dB"
        )
    if arguments.corpus:
        losses(backends, arguments.corpus, arguments.windows)


def losses(backends: dict[str, Backend], corpus: Path, most: int) -> None:
    """Print the SDR of each, and what it loses to torch, over windows of the songs."""
    backend = backends["torch"]
    pool = ModelPool(WeightsStore(offline=True), Precision("float32", torch.device("cpu")))
    encoder = pool.encoder(pool.catalog().encoder("clap-mini"), ProgressReporter())
    figures: dict[str, list[float]] = {label: [] for label in backends}
    for label, mixture, target in windows(corpus, backend.info.segment_samples or 0, most):
        vector = encoder.encode_text([label])
        for name, each in backends.items():
            figures[name].append(sdr_db(target, each.separate(mixture[None], vector).sources[0, 0]))
        print(label, *(f"{name}: {values[-1]:.2f}" for name, values in figures.items()), flush=True)
    for name, values in figures.items():
        lost = np.subtract(figures["torch"], values)
        print(f"{name}: SDR {np.mean(values):.2f} dB, lost {lost.mean():.2f} dB in the mean, {lost.max():.2f} at most")


if __name__ == "__main__":
    main()
