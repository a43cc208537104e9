"""Exported models give what the originals give, and what cannot be exported is an error that says why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from unisep_film.checkpoints import save_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_onnx import transforms
from unisep_onnx.backend import ExportedBackend, load_onnx, load_openvino, onnxruntime_network
from unisep_onnx.command import main as export_command
from unisep_onnx.description import KEY
from unisep_onnx.export import TOLERANCE, Exported, as_onnx, as_torch_export, describe, opened
from unisep_onnx.smaller import learnt, smaller

from unisep import Backend, BackendInfo, Embedding, Output, Separator
from unisep.errors import BackendError, EmbeddingError, OptionError, PluginError
from unisep.testing import BackendContract, noise

CPU = torch.device("cpu")
Export = Callable[[str], tuple[Backend, Exported]]


@pytest.mark.parametrize(("n", "hop"), [(4096, 1024), (2048, 441), (512, 128), (130, 40)])
@pytest.mark.parametrize("normalised", [False, True])
def test_transforms_of_real_numbers_are_those_of_torch(n: int, hop: int, normalised: bool) -> None:
    signal = torch.randn(2, 5 * n + 17, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(n)
    bins = torch.stft(signal, n, hop, window=window, normalized=normalised, return_complex=True)
    padded = torch.nn.functional.pad(signal[None], (n // 2, n // 2), mode="reflect")[0]
    real, imaginary = transforms.short_time(padded, n, hop, window, normalised, None)
    peak = float(bins.abs().max())
    assert float((torch.complex(real, imaginary) - bins).abs().max()) < 2e-6 * peak
    back = transforms.inverse_short_time(real, imaginary, n, hop, window, normalised, signal.shape[1])
    expected = torch.istft(bins, n, hop, window=window, normalized=normalised, length=signal.shape[1])
    assert float((back - expected).abs().max()) < 1e-5


def test_every_kind_of_model_is_the_same_under_onnxruntime(model: tuple[Backend, Exported]) -> None:
    backend, exported = model
    assert exported.largest_error < TOLERANCE and exported.agreement_db > 60
    assert b"stack_trace" not in exported.content  # nor the paths of whoever exported it
    loaded = ExportedBackend(onnxruntime_network(exported.content), exported.description)
    assert loaded.info.sources == backend.info.sources
    assert loaded.info.segment_samples == backend.info.segment_samples
    for n_batch, n_queries in ((1, 1), (3, 2)):  # sizes other than those it was traced with
        mixture = torch.randn(n_batch, 2, backend.info.segment_samples or 0, generator=torch.Generator().manual_seed(2))
        mixture[..., :700] = 0  # Spleeter leaves silence in front out
        queries = torch.eye(6)[:n_queries] if exported.description.query_dim else None
        expected, output = (each.separate(mixture, queries) for each in (backend, loaded))
        peak = float(expected.sources.abs().max())
        assert float((output.sources - expected.sources).abs().max()) < TOLERANCE * peak
        if queries is not None:
            assert output.presence is not None and expected.presence is not None
            assert float((output.presence - expected.presence).abs().max()) < 1e-4


class TestFixedSources(BackendContract):
    plugin_module = "unisep_onnx.plugin"
    tolerance = 2e-5
    model, load = "htdemucs", staticmethod(load_onnx)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_file(cls, export: Export, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.path = tmp_path_factory.mktemp("files") / "model.onnx"
        cls.path.write_bytes(export(cls.model)[1].content)

    def load_backend(self) -> Backend:
        return self.load(weights=self.path, device=CPU, dtype=torch.float32)


class TestQueries(TestFixedSources):
    query_dim = 6
    model = "film"


class TestQueriesUnderOpenVINO(TestQueries):
    tolerance = 1e-4
    load = staticmethod(load_openvino)

    def load_backend(self) -> Backend:
        pytest.importorskip("openvino", reason="openvino is not installed: pip install 'unisep-onnx[openvino]'")
        return super().load_backend()


def test_a_file_answers_as_a_backend_of_separator(written: Callable[[str], Path], export: Export) -> None:
    song = noise(1.0, 44_100)
    path = written("htdemucs")
    parts = Separator(backend=f"onnx@{path}").separate(song)
    assert list(parts) == ["drums", "rest of it"] and "onnx@" in parts.plan["drums"].backend
    total = sum(target.samples for target in parts.values()) + parts.rest.samples
    assert np.abs(total - song.samples).max() < 1e-6
    shorter = Separator(backend=f"onnx@{path}", segment_seconds=0.1).separate(song)
    assert shorter["drums"].n_samples == song.n_samples


def test_a_file_answers_queries_of_its_space(written: Callable[[str], Path], export: Export) -> None:
    song, vector = noise(1.0, 44_100), np.eye(6, dtype=np.float32)[0]
    separator = Separator(query_backend=f"onnx@{written('film')}")
    found = separator.separate(song, query=Embedding(vector, "toy-1"))
    assert found.target.n_samples == song.n_samples and 0 <= found.presence[next(iter(found))] <= 1
    with pytest.raises(EmbeddingError, match="toy-1"):
        separator.separate(song, query=Embedding(vector, "other-1"))


@pytest.mark.parametrize("name", ["film", "film_of_stems"])
def test_what_is_left_out_is_what_torch_leaves_out(name: str, export: Export, written: Callable[[str], Path]) -> None:
    original, loaded = export(name)[0], load_onnx(weights=written(name), device=CPU, dtype=torch.float32)
    mixture = torch.randn(2, 2, original.info.segment_samples or 0, generator=torch.Generator().manual_seed(3))
    queries, negatives = torch.eye(6)[:3], torch.eye(6)[3:] * torch.tensor([[1.0], [0.0], [1.0]])
    expected, given = (each.separate(mixture, queries, negatives) for each in (original, loaded))
    assert given.sources.shape == expected.sources.shape
    assert float((given.sources - expected.sources).abs().max()) < TOLERANCE * float(expected.sources.abs().max())
    assert given.presence is not None and expected.presence is not None
    torch.testing.assert_close(given.presence, expected.presence, rtol=0, atol=1e-4)
    whole = loaded.separate(mixture, queries).sources
    assert torch.allclose(given.sources[:, 1], whole[:, 1], atol=1e-6)
    assert all(given.sources[:, row].square().sum() < 0.9 * whole[:, row].square().sum() for row in (0, 2))


def test_leaving_out_without_what_it_needs_says_what_to_install(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_onnx(weights=written("film"), device=CPU, dtype=torch.float32)
    monkeypatch.setitem(sys.modules, "unisep_film.exclusion", None)
    with pytest.raises(PluginError, match="pip install unisep-film"):
        backend.separate(torch.randn(1, 2, 1000), torch.eye(6)[:1], torch.eye(6)[1:2])


def test_without_a_file_the_error_says_how_to_give_one() -> None:
    with pytest.raises(OptionError, match="onnx@"):
        Separator(backend="onnx")
    with pytest.raises(OptionError, match="export"):
        load_onnx(weights=Path("x.onnx"), device=CPU, dtype=torch.bfloat16)


def test_weights_of_ones_own_are_opened_by_name_and_file(tmp_path: Path) -> None:
    shape = {"channels": 8, "depth": 2, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 1024, "segment": "1/4"}
    model = FilmHTDemucs(FilmConfig(demucs=shape, output="mask", spaces={"clap-mini-1": 256}, condition_channels=8))
    path = save_model(tmp_path / "own.safetensors", model)
    backend, name, space, _ = opened(f"htdemucs-film@{path}")
    assert (name, space, backend.info.segment_seconds) == ("htdemucs-film", "clap-mini-1", 0.25)


def test_what_offers_no_module_is_refused(inexportable: Backend) -> None:
    with pytest.raises(BackendError, match="cannot be exported"):
        describe(inexportable, "toy", "", "MIT")


class Wrong(Backend):
    """A backend whose module gives something else than it does."""

    info = BackendInfo(sources=("a",), sample_rate_hz=8000, channels=1, segment_seconds=0.1)

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def separate(self, mixture, queries=None, negatives=None):  # type: ignore[no-untyped-def]
        return Output(mixture[:, None])

    def exportable(self) -> tuple[torch.nn.Module, None]:
        return self.module, None


class Cube(torch.nn.Module):
    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return mixture[:, None] + 1e-3


class Angles(torch.nn.Module):
    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(torch.fft.rfft(mixture)).angle()[:, None]


@pytest.mark.parametrize(
    ("module", "reason"), [(Cube(), "differs by .* of the peak"), (Angles(), "no rule|cannot be exported")]
)
def test_what_would_give_something_else_is_not_written(module: torch.nn.Module, reason: str) -> None:
    backend = Wrong(module)
    with pytest.raises(BackendError, match=reason):
        as_onnx(backend, describe(backend, "wrong", "", "MIT"))


def test_torch_export_is_the_same_program(export: Export, tmp_path: Path) -> None:
    backend, exported = export("htdemucs")
    written = as_torch_export(backend, exported.description)
    assert written.largest_error < 1e-5
    path = tmp_path / "model.pt2"
    path.write_bytes(written.content)
    facts = {KEY: ""}
    program = torch.export.load(path, extra_files=facts)
    assert json.loads(facts[KEY])["name"] == "htdemucs"
    mixture = torch.randn(1, 2, backend.info.segment_samples or 0)
    assert torch.allclose(program.module()(mixture), backend.separate(mixture).sources, atol=1e-5)


def test_half_the_bits_are_half_the_file(export: Export) -> None:
    backend, exported = export("htdemucs")
    small = smaller(exported, backend, "float16")
    assert len(small.content) < 0.8 * len(exported.content) and small.agreement_db > 50
    assert small.description.precision == "float16"


def test_eight_bits_quantise_learnt_weights_and_no_transform(export: Export, tmp_path: Path) -> None:
    backend, exported = export("film")
    recording = tmp_path / "song.wav"
    noise(0.6, 44_100).save(recording)
    small = smaller(exported, backend, "int8", [recording])
    assert small.agreement_db > 10 and len(small.content) < len(exported.content)
    nodes = onnx.load_model_from_string(exported.content).graph.node
    chosen = [node.op_type for node in nodes if node.name in learnt(onnx.load_model_from_string(exported.content))]
    products = [node.op_type for node in nodes].count("MatMul")
    assert chosen.count("Conv") >= 5 and chosen.count("MatMul") > 5
    assert products - chosen.count("MatMul") >= 12  # six of each transform, and those of attention
    loaded = ExportedBackend(onnxruntime_network(small.content), small.description)
    assert loaded.separate(torch.randn(1, 2, 500), torch.eye(6)[:1]).sources.shape == (1, 1, 2, 500)


def test_the_command_writes_what_it_says(embedded: tuple[Path, dict[str, Any]]) -> None:
    path, facts = embedded
    assert facts["n_bytes"] == path.stat().st_size and facts["largest_error"] < TOLERANCE
    assert (facts["space"], facts["segment_samples"], facts["licence"]) == ("clap-mini-1", 264_600, "CC-BY-SA-4.0")
    song = noise(2.0, 44_100)
    one = Separator(query_backend=f"onnx@{path}").separate(song, query="drums")
    other = Separator(query_backend="htdemucs-film").separate(song, query="drums", route="conditioned")
    peak = np.abs(other.target.samples).max()
    assert np.abs(one.target.samples - other.target.samples).max() < 1e-3 * peak


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nobody", "-o", "x.onnx"], PluginError),
        (["htdemucs-film", "-o", "x.onnx", "--space", "other-1"], OptionError),
        (["htdemucs-film", "-o", "x.pt2", "--format", "torch-export", "--precision", "float16"], OptionError),
        (["htdemucs-film", "-o", "x.onnx", "--precision", "int8"], OptionError),
    ],
)
def test_wrong_words_are_told_and_nothing_is_written(
    words: list[str], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        export_command([*words, "--offline"])
    assert list(tmp_path.iterdir()) == []
