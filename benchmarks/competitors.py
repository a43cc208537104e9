"""Who is measured, and with what to do: a segment, a song, or a folder of files; all on the same weights and audio."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from demucs.api import Separator as Demucs
from measuring import RATE_HZ, noise
from numpy.typing import NDArray
from torch import Tensor
from unisep_htdemucs.backend import HTDemucsBackend, load_htdemucs
from unisep_onnx.backend import ExportedBackend, onnxruntime_network, openvino_network
from unisep_onnx.export import Exported, as_onnx, describe
from weights import STEMS

from unisep import Audio, Separator
from unisep.cli import main as command_line
from unisep.engine.device import Precision, cpu_computes_bfloat16

Sources = NDArray[np.float32]
Run = Callable[[], Sources | None]
Maker = Callable[[], Run]
LOADS = ("segment", "song", "folder")
REFERENCE, QUERY = "demucs", "unisep text query"
RUNTIMES = {"onnxruntime": onnxruntime_network, "openvino": openvino_network}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Scene:
    """What is separated where: `weights` is a folder that holds `htdemucs`, `place` is for files that are written."""

    weights: Path
    place: Path
    device: str
    segment_seconds: float
    song_seconds: float
    n_files: int
    file_seconds: float

    def seconds(self, load: str) -> float:
        """Return how much audio a load is."""
        return {"segment": self.segment_seconds, "song": self.song_seconds,
                "folder": self.n_files * self.file_seconds}[load]  # fmt: skip


def precisions(device: str) -> list[str]:
    """List float32 and the faster types that the device computes in."""
    if device != "cpu":
        return list(DTYPES)
    return ["float32", "bfloat16"] if cpu_computes_bfloat16() else ["float32"]


def precision_of(name: str) -> str:
    """Return the precision of a competitor of ours; float32 for the others."""
    return next((precision for precision in DTYPES if name == f"unisep {precision}"), "float32")


def competitors(load: str, scene: Scene, only: str = "") -> dict[str, Run]:
    """Return everyone who can do `load` here, by name, or `only` one of them, the others not even loaded.

    A call does the load once, and returns the four sources if it is one song.
    """
    makers = {"segment": _segment, "song": _song, "folder": _folder}[load](scene)
    return {name: make() for name, make in makers.items() if only in ("", name)}


def _segment(scene: Scene) -> dict[str, Maker]:
    mixture = _mixture(scene)

    def demucs() -> Run:
        return partial(_of_model, _demucs(scene).model.models[0].eval().to(scene.device), mixture)

    def unisep(precision: str) -> Run:
        backend = _backend(scene, precision)
        return partial(_of_model, lambda x: backend.separate(x).sources, mixture)

    def exported(runtime: str) -> Run:
        file = _exported(scene)
        backend = ExportedBackend(RUNTIMES[runtime](file.content, torch.get_num_threads()), file.description)
        return partial(_of_model, lambda x: backend.separate(x).sources, mixture)

    others = RUNTIMES if scene.device == "cpu" else ()
    return {REFERENCE: demucs, **_ours(scene, unisep), **{name: partial(exported, name) for name in others}}


@cache
def _exported(scene: Scene) -> Exported:
    backend = _backend(scene, "float32")
    return as_onnx(backend, describe(backend, "htdemucs", "", "not stated"))


def _song(scene: Scene) -> dict[str, Maker]:
    song = noise(scene.song_seconds)
    audio = Audio(song, RATE_HZ)

    def demucs() -> Run:
        separator = _demucs(scene)

        def run() -> Sources:
            sources = separator.separate_tensor(torch.from_numpy(song.copy()))[1]
            return np.stack([sources[stem].cpu().numpy() for stem in STEMS])

        return run

    def unisep(precision: str) -> Run:
        options: dict[str, Any] = {"weights": scene.weights, "device": scene.device, "offline": True}
        separator = Separator("htdemucs", precision=precision, **options)

        def run() -> Sources:
            separation = separator.separate(audio)
            return np.stack([separation[stem].samples for stem in STEMS])

        return run

    def query() -> Run:
        separator = Separator(device=scene.device, offline=True)

        def run() -> None:
            separator.separate(audio, query="electric guitar", route="conditioned")

        return run

    return {REFERENCE: demucs, **_ours(scene, unisep), QUERY: query}


def _folder(scene: Scene) -> dict[str, Maker]:
    """Separate a batch of files, models loaded and results written: demucs in a loop, unisep by its command line."""
    files = [scene.place / f"{index}.wav" for index in range(scene.n_files)]
    for index, file in enumerate(files):
        soundfile.write(file, noise(scene.file_seconds, index).T, RATE_HZ, subtype="FLOAT")

    def demucs() -> None:
        separator = _demucs(scene)
        for file in files:
            for stem, samples in separator.separate_audio_file(file)[1].items():
                soundfile.write(scene.place / f"{file.stem} {stem}.wav", samples.cpu().numpy().T, RATE_HZ)

    def unisep(precision: str) -> None:
        options = ["--backend", "htdemucs", "--weights", str(scene.weights), "--precision", precision]
        places = ["--device", scene.device, "--offline", "-o", str(scene.place / precision)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status = command_line(["separate", *map(str, files), *options, *places])
        if status:
            raise SystemExit(f"unisep separate ended with {status}")

    return {REFERENCE: lambda: demucs, **_ours(scene, lambda precision: partial(unisep, precision))}


def _ours(scene: Scene, make: Callable[[str], Run]) -> dict[str, Maker]:
    return {f"unisep {precision}": partial(make, precision) for precision in precisions(scene.device)}


@torch.inference_mode()
def _of_model(model: Callable[[Tensor], Tensor], mixture: Tensor) -> Sources:
    sources: Sources = model(mixture)[0].float().cpu().numpy()
    return sources


def _mixture(scene: Scene) -> Tensor:
    return torch.from_numpy(noise(scene.segment_seconds))[None].to(scene.device)


def _backend(scene: Scene, precision: str) -> HTDemucsBackend:
    device = torch.device(scene.device)
    backend = load_htdemucs(weights=scene.weights, device=device, dtype=DTYPES[precision])
    assert isinstance(backend, HTDemucsBackend)
    return backend


def _demucs(scene: Scene) -> Any:
    return Demucs("htdemucs", repo=scene.weights, device=scene.device, shifts=0, overlap=0.25)


def auto_precision(device: str) -> str:
    """Return what `precision="auto"` means for HT Demucs here."""
    from unisep_htdemucs.plugin import unisep_backends

    spec = next(iter(unisep_backends()))
    return str(Precision("auto", torch.device(device)).dtype_for(spec)).removeprefix("torch.")
