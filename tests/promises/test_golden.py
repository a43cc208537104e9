"""Golden results: what unisep gave for a set of calls on the day they were recorded, to the bit.

`golden.npz` holds for each call a digest of every result and a thin copy of its samples. On a machine whose processor
and torch are those of the recording the digests must be equal; elsewhere the copies must be within 1e-5 of the call's peak
(1.5e-6 was seen).

    python tests/promises/test_golden.py [NAME ...]    # records them anew; do so only when results are meant to change
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from unisep import Audio, Embedding, Separator, Statistics
from unisep.testing import chirp, mix, noise, tone, toy_plugin

GOLDEN = Path(__file__).with_name("golden.npz")
EVERY = 89  # one sample in so many is kept, for other machines
TOLERANCE = 1e-5
Results = dict[str, NDArray[np.float32]]
Call = Callable[[], Results]


def song(seconds: float = 2.5, rate_hz: int = 44_100, channels: int = 2) -> Audio:
    shape = {"seconds": seconds, "sample_rate_hz": rate_hz, "channels": channels}
    return mix(noise(**shape), tone(220, **shape), chirp(**shape))


def clip() -> Audio:
    return mix(tone(6_000, 0.5), noise(0.5, seed=7, deviation=0.02))


def vector(space: str, dim: int) -> Embedding:
    values = np.random.default_rng(3).standard_normal(dim)
    return Embedding(values / np.linalg.norm(values), space)


def toy(query: Any, audio: Audio | None = None, **options: Any) -> Call:
    """A call of the toy backend, which only filters: what differs comes from the signal path."""

    def call() -> Results:
        with toy_plugin(), Separator(query_backend="toy", encoder="toy", **options) as separator:
            return samples_of(separator.separate(audio or song(), query, route="conditioned"))

    return call


def film(query: Any, **options: Any) -> Call:
    """A call of the embedded query model."""

    def call() -> Results:
        chosen = {"query_backend": "htdemucs-film", "encoder": "clap-mini", "offline": True} | options
        with Separator(precision="float32", segment_seconds=2.0, **chosen) as separator:
            return samples_of(separator.separate(song(), query, route="conditioned"))

    return call


def samples_of(separation: Any) -> Results:
    found = {name: audio.samples for name, audio in separation.items()}
    presence = {name: value for name, value in separation.presence.items() if value is not None}
    values = np.array([presence[name] for name in sorted(presence)], np.float32)
    return {**found, "rest": separation.rest.samples, "presence": values}


def htdemucs() -> Results:
    """Fixed stems of HT Demucs with seeded parameters, the LayerScales far from zero."""
    from unisep_htdemucs.config import HTDemucsConfig
    from unisep_htdemucs.model import HTDemucs

    shape = {
        "sources": ["drums", "bass", "other", "vocals"], "channels": 8, "nfft": 2048, "depth": 4, "bottom_channels": 32,
        "t_layers": 3, "t_heads": 4, "dconv_mode": 3, "segment": 1.5,
    }  # fmt: skip
    torch.manual_seed(11)
    model = HTDemucs(HTDemucsConfig.from_kwargs(shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.25, 0.75)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "model.safetensors")
        metadata = {"klass": "demucs.htdemucs.HTDemucs", "kwargs": json.dumps(shape)}
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights, metadata)
        with Separator("htdemucs", weights=weights, precision="float32", shifts=2, seed=4) as separator:
            return samples_of(separator.separate(song(rate_hz=48_000)))


def ensemble() -> Results:
    definition = """
domain = "spectrogram"
[[members]]
backend = "toy"
weights = { near = 2.0, far = 1.0 }
stems = { near = "low", far = "high" }
[[members]]
backend = "toy-pan"
weights = { near = 1.0, far = 0.5 }
stems = { near = "left", far = "right" }
"""
    with tempfile.TemporaryDirectory() as folder, toy_plugin():
        path = Path(folder, "both.toml")
        path.write_text(definition)
        with Separator(f"ensemble@{path}", offline=True) as separator:
            return samples_of(separator.separate(song()))


def files() -> Results:
    """Disk to disk in 24 bits at 48 kHz, one of two results in a time range."""
    with tempfile.TemporaryDirectory() as folder, toy_plugin():
        place = Path(folder, "song.wav")
        soundfile.write(place, song(rate_hz=48_000).samples.T, 48_000, subtype="PCM_24")
        with Separator(query_backend="toy", encoder="toy", overlap_fraction=0.4) as separator:
            query = ["guitar", {"text": "hi hat", "name": "hat", "time_range": (0.5, 1.5)}]
            written = separator.separate_file(place, Path(folder, "out"), query, route="conditioned")
            read = {path.stem: soundfile.read(path, dtype="float32")[0].T for path in written.paths}
    return read


def stream() -> Results:
    """The stems of left and right, in blocks of odd sizes, at another rate than the model's."""
    audio = song(rate_hz=32_000)
    edges = [0, 100, 5_000, 5_001, 40_000, audio.n_samples]
    blocks = [audio.samples[:, a:b] for a, b in itertools.pairwise(edges)]
    with toy_plugin(), Separator("toy-pan") as separator:
        parts = list(separator.stream(blocks, sample_rate_hz=32_000, statistics=Statistics.of(audio)))
    names = (*parts[0], "rest")
    pieces = {name: [part.rest if name == "rest" else part[name] for part in parts] for name in names}
    return {name: np.concatenate([piece.samples for piece in some], axis=1) for name, some in pieces.items()}


CALLS: dict[str, Call] = {
    "text": toy("guitar"),
    "example": toy(clip()),
    "vector": toy(vector("toy-bands-1", 4)),
    "multi-modal": toy({"text": "voice", "audio": clip(), "weights": {"text": 0.3, "audio": 0.7}}),
    "exclude": toy({"text": ("guitar", "hat"), "exclude": ["hat", clip()]}),
    "time range, 48 kHz": toy({"text": "low", "time_range": (0.7, 1.9)}, song(rate_hz=48_000)),
    "several, shifted, mono": toy(["kick", "voice", "hat"], song(channels=1), shifts=3, seed=2),
    "fixed stems": htdemucs,
    "ensemble": ensemble,
    "files": files,
    "stream": stream,
    "model, text": film("electric guitar"),
    "model, example": film(clip()),
    "model, vector": film(vector("clap-mini-1", 256)),
    "model, everything": film(
        [
            {"text": "drums", "audio": clip(), "exclude": "hi-hat", "time_range": (0.4, 2.1), "name": "one"},
            {"text": "bass", "example_range": (1.0, 1.6), "name": "other"},
        ]
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in another order are other bits."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_the_recording(name):
    machine, digests, copies = recorded()
    results = CALLS[name]()
    assert {f"{name}/{key}" for key in results} == {key for key in copies if key.startswith(f"{name}/")}
    peak = max(np.abs(known).max(initial=0) for key, known in copies.items() if key.startswith(f"{name}/"))
    for key, values in results.items():
        known = copies[f"{name}/{key}"]
        thin = thinned(values)
        assert thin.shape == known.shape
        assert np.abs(thin - known).max(initial=0) <= TOLERANCE * max(1e-3, peak), key
    if machine == this_machine():
        assert {key: digest(values) for key, values in results.items()} == digests[name]


def test_results_are_not_silence():
    _, _, copies = recorded()
    silent = [key for key, values in copies.items() if values.size > 100 and np.abs(values).max() < 1e-4]
    assert not [key for key in silent if not key.endswith("/rest")]


@cache
def recorded() -> tuple[str, Mapping[str, Mapping[str, str]], Mapping[str, NDArray[np.float32]]]:
    with np.load(GOLDEN) as file:
        said = json.loads(str(file["said"]))
        return said["machine"], said["digests"], {key: file[key] for key in file.files if key != "said"}


def thinned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values[..., ::EVERY] if values.ndim > 1 else values


def digest(values: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def this_machine() -> str:
    """What decides the order of sums: processor, its instructions, torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    told = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join([*told, torch.__version__, np.__version__]).encode()).hexdigest()


def record(names: list[str]) -> None:
    """Record the calls of these names anew, without any all of them; those that stay must be of this machine."""
    torch.set_num_threads(1)
    machine, digests, copies = recorded() if names else (this_machine(), {}, {})
    assert machine == this_machine(), "this machine would give other digests: record all of them"
    results = {name: CALLS[name]() for name in names or CALLS}
    digests = {**digests, **{name: {key: digest(v) for key, v in values.items()} for name, values in results.items()}}
    copies = {key: values for key, values in copies.items() if key.split("/")[0] not in results}
    copies |= {f"{name}/{key}": thinned(v) for name, values in results.items() for key, v in values.items()}
    np.savez_compressed(GOLDEN, said=json.dumps({"machine": machine, "digests": digests}), **copies)
    print(f"{len(copies)} results in {GOLDEN}, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    record(sys.argv[1:])
