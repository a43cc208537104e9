"""Small models of every kind that can be exported, and their files."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from unisep_film.backend import FilmBackend
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.backend import HTDemucsBackend
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_onnx.command import main as export_command
from unisep_onnx.export import Exported, as_onnx, describe
from unisep_roformer.backend import CheckpointBackend
from unisep_roformer.config import RoformerConfig
from unisep_roformer.described import Description
from unisep_roformer.model import Roformer
from unisep_spleeter.backend import SpleeterBackend
from unisep_spleeter.model import Shape, UNet

from unisep import Backend
from unisep.testing import ToyBackend

SPACE = "toy-1"
MASK = {
    "channels": 8, "depth": 2, "dconv_mode": 0, "t_layers": 2, "t_heads": 2, "nfft": 1024, "segment": "1/4",
    "t_layer_scale_init": 1.0, "use_train_segment": False,
}  # fmt: skip


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Draw every parameter a little, so that none is still 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def htdemucs() -> Backend:
    config = HTDemucsConfig(
        ("drums", "rest of it"), channels=8, depth=2, t_layers=2, t_heads=2, nfft=1024, segment=0.25
    )
    return HTDemucsBackend(drawn(HTDemucs(config)))


def film() -> Backend:
    return FilmBackend(
        drawn(FilmHTDemucs(FilmConfig(demucs=MASK, output="mask", spaces={SPACE: 6}, condition_channels=16)))
    )


def film_of_stems() -> Backend:
    shape = {**MASK, "sources": ["drums", "bass"], "use_train_segment": True}
    return FilmBackend(drawn(FilmHTDemucs(FilmConfig(demucs=shape, spaces={SPACE: 6}, condition_channels=16))))


def roformer(**options: object) -> Backend:
    shape = {"dim": 16, "depth": 1, "stereo": True, "time_transformer_depth": 1, "freq_transformer_depth": 1, "dim_head": 8,
             "heads": 2, "stft_n_fft": 256, "stft_hop_length": 56, "stft_win_length": 256}  # fmt: skip
    config = RoformerConfig(**{**shape, **options})
    training = {"instruments": ["vocals", "other"], "target_instrument": None if config.num_stems == 2 else "vocals"}
    description = Description(config=config, training=training, audio={"sample_rate": 8000, "chunk_size": 3001})
    return CheckpointBackend(drawn(Roformer(config)), description)


def band_split() -> Backend:
    return roformer(freqs_per_bands=(2, 3, 12, 48, 64), num_stems=2)


def mel_band() -> Backend:
    return roformer(num_bands=12, zero_dc=False)


def spleeter() -> Backend:
    networks = {name: drawn(UNet(Shape(filters=(2, 2, 2, 2, 2, 2)))) for name in ("vocals", "accompaniment")}
    return SpleeterBackend(networks, "sigmoid")


MODELS: dict[str, Callable[[], Backend]] = {
    function.__name__: function for function in (htdemucs, film, film_of_stems, band_split, mel_band, spleeter)
}


@cache
def exported(name: str) -> tuple[Backend, Exported]:
    """The small model of a name, and its export: made once, and the same whatever was tested before."""
    torch.manual_seed(0)
    backend = MODELS[name]()
    return backend, as_onnx(backend, describe(backend, name, SPACE, "MIT"))


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> tuple[Backend, Exported]:
    return exported(request.param)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(exported(name)[1].content)
        return path

    return write


@pytest.fixture(scope="session")
def export() -> Callable[[str], tuple[Backend, Exported]]:
    return exported


@pytest.fixture
def inexportable() -> Backend:
    return ToyBackend()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The embedded query model as the command writes it, and what the command prints: once for all tests."""
    path, printed = tmp_path_factory.mktemp("embedded") / "film.onnx", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert export_command(["htdemucs-film", "-o", str(path), "--json", "--offline"]) == 0
    return path, json.loads(printed.getvalue())
