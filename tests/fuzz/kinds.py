"""What is fuzzed: for each kind, good examples, and what reads them."""

from __future__ import annotations

import io
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from unisep import Embedding, files
from unisep.cli.separate import FILE_NAME, Ledger
from unisep.files.tags import Picture, Tags, write_tags
from unisep.weights.cards import parse_card

AUDIO_KINDS = {
    "pcm16.wav": ("WAV", "PCM_16", 44_100),
    "pcm24.wav": ("WAVEX", "PCM_24", 48_000),
    "float.wav": ("WAV", "FLOAT", 8_000),
    "adpcm.wav": ("WAV", "IMA_ADPCM", 22_050),
    "rf64.wav": ("RF64", "PCM_16", 44_100),
    "pcm16.flac": ("FLAC", "PCM_16", 44_100),
    "pcm24.flac": ("FLAC", "PCM_24", 96_000),
    "vorbis.ogg": ("OGG", "VORBIS", 44_100),
    "opus.opus": ("OGG", "OPUS", 48_000),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III", 44_100),
    "pcm16.aiff": ("AIFF", "PCM_16", 44_100),
    "alac.caf": ("CAF", "ALAC_16", 44_100),
    "float.caf": ("CAF", "FLOAT", 44_100),
    "pcm16.w64": ("W64", "PCM_16", 44_100),
    "pcm16.au": ("AU", "PCM_16", 44_100),
}
CARD = """
name = "toy"
summary = "a toy"
licence = "MIT"
sources = ["drums", "bass"]
sample_rate_hz = 44100
[[files]]
name = "a.safetensors"
url = "https://example.org/a.safetensors"
sha256 = "%s"
n_bytes = 123
[measured]
drums = { sdr_db = 5.5, windows = 8 }
""" % ("0123456789abcdef" * 4)


@dataclass(frozen=True)
class Kind:
    """Good bytes by file name, and a function that must read a damaged file or raise a UnisepError."""

    examples: Callable[[], Mapping[str, bytes]]
    read: Callable[[Path, random.Random], None]


@cache
def audio_examples() -> Mapping[str, bytes]:
    """A short sound in every format that libsndfile writes and people use; mono and stereo in turn."""
    examples = {}
    for index, (name, (format, subtype, rate_hz)) in enumerate(AUDIO_KINDS.items()):
        samples = np.random.default_rng(index).normal(0, 0.1, (3000, 1 + index % 2))
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate_hz, format=format, subtype=subtype)
        examples[name] = buffer.getvalue()
    return examples


def read_audio(path: Path, draw: random.Random) -> None:
    """Read in each of the ways there are; they must agree on how much there is."""
    source: Path | bytes | io.BytesIO = path
    if draw.random() < 0.1:
        source = path.read_bytes() if draw.random() < 0.5 else io.BytesIO(path.read_bytes())
    else:
        files.probe(path)
    audio = files.read(source)
    assert audio.samples.dtype == np.float32 and np.isfinite(audio.samples).all()
    n_samples = sum(block.n_samples for block in files.read_blocks(path, draw.choice((1000, 100_000))))
    assert n_samples == audio.n_samples
    assert audio.samples.size <= 4096 * path.stat().st_size, "more sound than so few bytes can hold"


@cache
def tagged_examples() -> Mapping[str, bytes]:
    """The same sounds, with tags and a picture where mutagen can put them."""
    tags = Tags({"title": ["../../a title"], "artist": ["A", "B"]}, (Picture(b"\x89PNG" * 50, "image/png"),))
    examples = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in audio_examples().items():
            path = Path(folder) / name
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # mutagen does not know all of them
                write_tags(path, path.suffix.removeprefix("."), tags)
            examples[name] = path.read_bytes()
    return examples


def separate_audio(path: Path, draw: random.Random) -> None:
    """Separated from disk to disk, tags and all; nothing is left in the folder but what is reported."""
    from unisep import Separator
    from unisep.testing import toy_plugin

    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    with toy_plugin():
        separator = Separator("toy-pan", query_backend="toy", encoder="toy", offline=True)
        query = draw.choice((None, None, path))
        format = draw.choice((None, "wav", "flac", "ogg", "mp3"))
        written: set[Path] = set()
        try:
            found = separator.separate_file(path, out, query, format=format)
            written = {*found.paths}
        finally:
            left = {file for file in path.parent.rglob("*") if file.is_file() and file != path}
            assert left == written and all(out in file.parents for file in written)
    assert all(files.read(file).n_samples > 0 for file in written)


def embedding_examples() -> Mapping[str, bytes]:
    """A vector as `unisep embed` writes it."""
    from safetensors.numpy import save

    tensors = {"embedding": np.arange(1, 65, dtype=np.float32)}
    metadata = {"space": "toy", "provenance": json.dumps({"query": "bass", "encoder": "toy"})}
    return {"a.safetensors": save(tensors, metadata=metadata), "b.safetensors": save(tensors)}


def read_embedding(path: Path, draw: random.Random) -> None:
    assert np.isfinite(Embedding.load(path).vector).all()


def read_card(path: Path, draw: random.Random) -> None:
    parse_card(path.read_bytes().decode("utf-8", errors="replace"), "fuzzed")


def ledger_examples() -> Mapping[str, bytes]:
    """The record of a batch of two."""
    line = {
        "input": "/in/a.wav",
        "sha256": "0" * 64,
        "asked": {"query": ["bass"], "provenance": {}},
        "outputs": {"bass": ["a/bass.wav", "1" * 64]},
        "details": {"gain": 1.0},
    }
    return {"ledger.jsonl": f"{json.dumps(line)}\n{json.dumps({**line, 'input': '/in/b.wav'})}\n".encode()}


def read_ledger(path: Path, draw: random.Random) -> None:
    """A damaged record never claims that something is done, and another line can be added to it."""
    out = path.parent / "ledger"
    out.mkdir(exist_ok=True)
    (out / FILE_NAME).write_bytes(path.read_bytes())
    ledger = Ledger(out)
    assert ledger.completed(path, {"query": ["bass"], "provenance": {}}) is None
    ledger.is_output(path)
    (out / "x.wav").write_bytes(b"x")
    ledger.add(path, "2" * 64, {"a": 1}, {"x": out / "x.wav"}, {})
    assert Ledger(out).is_output(out / "x.wav")


def checkpoint_examples() -> Mapping[str, bytes]:
    """A model too small to be one, in both of torch's formats and as safetensors."""
    import torch
    from demucs.htdemucs import HTDemucs
    from safetensors.torch import save

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3)}
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": '{"sources": ["a", "b"]}'}
    examples = {"m.safetensors": save(state, metadata)}
    for name, zipped in (("zip.th", True), ("old.th", False)):
        buffer = io.BytesIO()
        content = {"klass": HTDemucs, "args": (), "kwargs": {"sources": ["a"]}, "state": state}
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        examples[name] = buffer.getvalue()
    return examples


def read_checkpoint(path: Path, draw: random.Random) -> None:
    import torch
    from unisep_htdemucs.checkpoints import build_model, read_checkpoint

    build_model(read_checkpoint(path), torch.device("cpu"), torch.float32)


def query_model_examples() -> Mapping[str, bytes]:
    """The header of the embedded query model, over tensors that do not fit it."""
    from importlib.resources import files as resources

    import torch
    from safetensors import safe_open
    from safetensors.torch import save

    path = str(resources("unisep_film").joinpath("weights/unisep_film.safetensors"))
    with safe_open(path, framework="pt") as file:
        return {"film.safetensors": save({"a.weight": torch.ones(3)}, file.metadata())}


def read_query_model(path: Path, draw: random.Random) -> None:
    import torch
    from unisep_film.checkpoints import load_model

    load_model(path, torch.device("cpu"), torch.float32)


KINDS = {
    "audio": Kind(audio_examples, read_audio),
    "separation": Kind(tagged_examples, separate_audio),
    "embedding": Kind(embedding_examples, read_embedding),
    "card": Kind(lambda: {"card.toml": CARD.encode()}, read_card),
    "ledger": Kind(ledger_examples, read_ledger),
    "checkpoint": Kind(checkpoint_examples, read_checkpoint),
    "query-model": Kind(query_model_examples, read_query_model),
}
