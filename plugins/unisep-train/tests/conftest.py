"""Material that several tests share: songs of tones in a store, an encoder as a plugin would bring it, the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from unisep_train.__main__ import main
from unisep_train.data import corpus
from unisep_train.mixing.queries import TextAudioEncoder, load_encoder

RATE_HZ = 8000
HZ = {"kick drum": 100, "synth bass": 220, "lead vocal": 700, "piano": 1300}
ENCODER_MODULE = """
import zlib
import numpy as np
import torch
from torch.nn.functional import normalize
from unisep import QueryEncoder


class HashEncoder(QueryEncoder):
    '''Gives every text a random vector of its own, and clips vectors of their spectra.'''

    space = "toy-1"
    dim = 16

    def encode_text(self, texts):
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return normalize(torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(s)) for s in seeds]), dim=-1)

    def encode_audio(self, clips):
        bins = [np.abs(np.fft.rfft(clip.samples[0], 1022)).reshape(16, 32).sum(1) + 1e-6 for clip in clips]
        return normalize(torch.from_numpy(np.stack(bins)).float(), dim=-1)


def load(*, weights, device):
    return HashEncoder()
"""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two songs of four tones in noise."""
    folder, time = tmp_path_factory.mktemp("songs"), np.arange(3 * RATE_HZ) / RATE_HZ
    rng = np.random.default_rng(0)
    for song in ("one", "two"):
        (folder / song).mkdir()
        for label, hz in HZ.items():
            sound = 0.3 * np.sin(2 * np.pi * hz * time) + 0.02 * rng.standard_normal(time.size)
            soundfile.write(folder / song / f"{label}.wav", sound, RATE_HZ)
    out = tmp_path_factory.mktemp("store")
    corpus.build(folder, out, rate_hz=RATE_HZ)
    return str(out)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "hash_encoder.py").write_text(ENCODER_MODULE)
    return folder


@pytest.fixture
def encoder(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextAudioEncoder]:
    monkeypatch.syspath_prepend(str(encoder_folder))
    yield TextAudioEncoder(lambda: load_encoder("hash_encoder:load", None, {"toy-1": 16}))
    sys.modules.pop("hash_encoder", None)


@pytest.fixture
def command() -> Callable[..., str]:
    """Run a command; give what it ends with: nothing, or the sentence that says why not."""

    def run(*words: object) -> str:
        try:
            main([str(word) for word in words])
        except SystemExit as stopped:
            return str(stopped.code)
        return ""

    return run
