"""An exported live model gives, hop by hop, what the original gives, and is a live backend like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn.functional import normalize
from unisep_film.causal import CausalConfig, CausalFilm
from unisep_film.causal_backend import CausalBackend
from unisep_onnx.backend import ExportedLive, load_onnx
from unisep_onnx.description import described, read
from unisep_onnx.export import Exported, as_onnx, as_torch_export, describe
from unisep_onnx.smaller import smaller

from unisep import Backend, Embedding, Separator
from unisep.errors import BackendError, WeightsError
from unisep.testing import LiveContract, noise

CPU = torch.device("cpu")
CONFIG = CausalConfig(
    spaces={"toy-1": 6}, condition_channels=8, features=8, n_first=1, n_after=2, hidden_time=8, hidden_bands=8, hidden_mask=8
)  # fmt: skip


@pytest.fixture(scope="module")
def causal() -> CausalBackend:
    torch.manual_seed(0)
    model = CausalFilm(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape)
    return CausalBackend(model)


@pytest.fixture(scope="module")
def exported(causal: CausalBackend) -> Exported:
    return as_onnx(causal, describe(causal, "causal", "toy-1", "MIT"))


@pytest.fixture(scope="module")
def file(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "causal.onnx"
    path.write_bytes(exported.content)
    return path


@pytest.mark.parametrize("n_queries", [1, 2, 4])
def test_hop_by_hop_it_gives_what_the_original_gives(causal: CausalBackend, file: Path, n_queries: int) -> None:
    loaded = load_onnx(weights=file, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, ExportedLive)
    assert (loaded.hop_samples, loaded.latency_samples) == (causal.hop_samples, causal.latency_samples)
    queries = normalize(torch.randn(n_queries, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    mixture = 0.1 * torch.randn(2, 2, 30_001, generator=torch.Generator().manual_seed(2))
    expected, given = (each.separate(mixture, queries) for each in (causal, loaded))
    assert given.sources.shape == (2, n_queries, 2, 30_001)
    assert float((given.sources - expected.sources).abs().max()) < 1e-5 * float(expected.sources.abs().max())
    assert given.presence is not None and expected.presence is not None
    torch.testing.assert_close(given.presence, expected.presence, rtol=0, atol=1e-5)


class TestExportedLive(LiveContract):
    plugin_module = "unisep_onnx.plugin"
    query_dim = 6
    n_hops = 12
    tolerance = 2e-5

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_file(cls, file: Path) -> None:
        cls.path = file

    def load_backend(self) -> Backend:
        return load_onnx(weights=self.path, device=CPU, dtype=torch.float32)


def test_a_live_file_leaves_nothing_out_and_says_so(file: Path) -> None:
    backend = load_onnx(weights=file, device=CPU, dtype=torch.float32)
    assert isinstance(backend, ExportedLive)
    with pytest.raises(BackendError, match="cannot leave a sound out"):
        backend.open(torch.eye(6)[:1], torch.eye(6)[1:2])
    with pytest.raises(BackendError, match="'causal'"):
        backend.separate(torch.randn(1, 2, 1024), torch.eye(6)[:1], torch.eye(6)[1:2])


def test_a_live_session_asks_a_file(file: Path) -> None:
    vector = Embedding(np.eye(6, dtype=np.float32)[0], "toy-1")
    song = noise(0.5, 44_100)
    with Separator(query_backend=f"onnx@{file}") as separator:
        with separator.live(vector, sample_rate_hz=44_100, channels=2, block_samples=1024) as live:
            heard = [live.push(block, wait=True) for block in np.split(song.samples[:, : 16 * 1024], 16, axis=1)]
            late = live.latency_samples
        whole = separator.separate(song, query=vector).target.samples
    found = np.concatenate([parts.target.samples for parts in heard], axis=1)
    assert late < found.shape[1]
    np.testing.assert_allclose(found[:, late:], whole[:, : found.shape[1] - late], atol=1e-5)


def test_torch_export_is_the_same_program(causal: CausalBackend, exported: Exported) -> None:
    assert as_torch_export(causal, exported.description).largest_error < 1e-5


def test_half_the_bits_keep_in_step_and_eight_are_refused(causal: CausalBackend, exported: Exported) -> None:
    assert smaller(exported, causal, "float16").agreement_db > 40
    with pytest.raises(BackendError, match="would drift"):
        smaller(exported, causal, "int8")


@pytest.mark.parametrize(("field", "reason"), [("state", "inputs are not"), ("latency_samples", "must be live")])
def test_a_file_whose_state_is_not_what_it_says_is_refused(
    exported: Exported, tmp_path: Path, field: str, reason: str
) -> None:
    wrong = {"state": exported.description.state[:-1], "latency_samples": None}[field]
    path = tmp_path / "wrong.onnx"
    description = exported.description.model_copy(update={field: wrong})
    path.write_bytes(described(onnx.load_model_from_string(exported.content), description))
    with pytest.raises(WeightsError, match=reason):
        read(path)
