"""The causal model: what comes live is what it gives offline, and neither hears the future."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from unisep_film.causal import HOP_SAMPLES, LATENCY_SAMPLES, WINDOW_SAMPLES, CausalConfig, CausalFilm, running_mean
from unisep_film.causal_backend import CausalBackend, load
from unisep_film.checkpoints import CAUSAL_FORMAT, load_model, read_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.film import FiLM
from unisep_film.model import FilmHTDemucs

from unisep import Audio, LiveBackend, Separator
from unisep.errors import EmbeddingError, OptionError, WeightsError
from unisep.testing import LiveContract

CPU = torch.device("cpu")
SPACES = {"clap-mini-1": 256, "toy-1": 8}
SMALL = CausalConfig(
    spaces=SPACES, condition_channels=16, features=8, n_first=1, n_after=2, hidden_time=8, hidden_bands=8, hidden_mask=8
)


def make_model(config: CausalConfig = SMALL, seed: int = 0) -> CausalFilm:
    """A model that hears queries: FiLMs are drawn at random, since new ones change nothing."""
    torch.manual_seed(seed)
    model = CausalFilm(config).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, FiLM):
            for layer in (module.scale, module.shift):
                layer.weight.normal_(0, 0.2)
    for layer in model.head.last:
        layer.mul_(20)
    return model


@pytest.fixture(scope="module")
def model() -> CausalFilm:
    return make_model()


def queries(n: int, dim: int = 256) -> Tensor:
    return normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(3)), dim=1)


def sound(n_samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(seed))


class TestCausal(LiveContract):
    plugin_module = "unisep_film.plugin"
    query_dim = 256
    n_hops = 12
    stays_on_device = True

    def load_backend(self) -> LiveBackend:
        return CausalBackend(make_model())


@pytest.mark.parametrize("block_samples", [64, 1_000, 1_024, 8_192])
def test_live_equals_offline(model: CausalFilm, tmp_path: Path, block_samples: int) -> None:
    path = save_model(tmp_path / "causal.safetensors", model, torch.float32)
    samples = sound(40_960).numpy()
    text, example = "drums", Audio(sound(44_100, 1).numpy(), 44_100)
    with Separator(query_backend="film-causal", query_weights=path, device="cpu") as separator:
        asked = [{"text": text}, {"audio": example, "name": "clip"}, {"text": text, "exclude": "bass", "name": "both"}]
        whole = separator.separate(samples, asked, sample_rate_hz=44_100, route="conditioned")
        n_blocks = samples.shape[1] // block_samples
        with separator.live(
            asked, sample_rate_hz=44_100, block_samples=block_samples, margin_blocks=0, route="conditioned"
        ) as live:
            blocks = np.split(samples[:, : n_blocks * block_samples], n_blocks, axis=1)
            parts = [live.push(block, wait=True) for block in blocks]
            assert live.algorithmic_latency_samples <= LATENCY_SAMPLES + HOP_SAMPLES < 0.0921 * 44_100
            for name in ("drums", "clip", "both"):
                out = np.concatenate([part[name].samples for part in parts], axis=1)[:, live.latency_samples :]
                expected = whole[name].samples[:, : out.shape[1]]
                assert out.shape[1] > 20_000 and np.abs(expected).max() > 0.01
                assert np.abs(out - expected).max() <= 1e-5 * np.abs(samples).max()
        assert np.abs(whole["drums"].samples - whole["both"].samples).max() >= 0


def test_the_past_hears_nothing_of_the_future(model: CausalFilm) -> None:
    first, conditions = sound(30_000), model.conditions(queries(1), "clap-mini-1")[None]
    second = first.clone()
    second[:, 15_000:] = sound(15_000, 7)
    one, other = (model(each[None], conditions)[0][0, 0] for each in (first, second))
    sure = 15_000 - WINDOW_SAMPLES
    assert torch.equal(one[:, :sure], other[:, :sure])
    assert float((one - other)[:, 15_000:].abs().max()) > 1e-3


def test_a_new_model_lets_everything_through_whatever_is_asked() -> None:
    torch.manual_seed(0)
    model = CausalFilm(SMALL).eval()
    with torch.no_grad():
        for layer in model.head.last:
            layer.zero_()
        mixture = sound(20_000)[None]
        targets, logits = model(mixture, model.conditions(queries(2), "clap-mini-1")[None])
    spectrum = torch.fft.rfft(targets[0, 0] - mixture[0])
    assert float(spectrum[..., : -WINDOW_SAMPLES // 2].abs().max()) < 0.1 and targets.shape == (1, 2, 2, 20_000)
    assert logits.shape == (1, 2)


def test_a_batch_and_several_queries_are_what_each_is_alone(model: CausalFilm) -> None:
    mixtures = torch.stack([sound(9_000), sound(9_000, 1)])
    conditions = model.conditions(queries(3), "clap-mini-1").expand(2, -1, -1)
    together, logits = model(mixtures, conditions)
    for item in range(2):
        for query in range(3):
            alone, logit = model(mixtures[item : item + 1], conditions[:1, query : query + 1])
            assert torch.allclose(together[item, query], alone[0, 0], atol=1e-6)
            assert torch.allclose(logits[item, query], logit[0, 0], atol=1e-5)


def test_running_means_in_pieces_are_those_of_the_whole() -> None:
    values = torch.rand(50, 2, 3, dtype=torch.float32)
    whole, *_ = running_mean(values, torch.zeros(2, 3), torch.zeros(2, 1))
    ages = 0.99 ** torch.arange(50)[:, None, None]
    expected = [(values[: t + 1].flip(0) * ages[: t + 1]).sum(0) / ages[: t + 1].sum() for t in range(50)]
    assert torch.allclose(whole, torch.stack(expected), atol=1e-6)
    total, weight, pieces = torch.zeros(2, 3), torch.zeros(2, 1), []
    for part in values.split([1, 20, 29]):
        mean, total, weight = running_mean(part, total, weight)
        pieces.append(mean)
    assert torch.allclose(torch.cat(pieces), whole, atol=1e-6)


def test_the_default_shape_keeps_its_promises(tmp_path: Path) -> None:
    model = CausalFilm(CausalConfig(spaces={"clap-mini-1": 256}))
    assert sum(value.numel() for value in model.parameters()) < 4_000_000
    assert save_model(tmp_path / "causal.safetensors", model).stat().st_size <= 8_000_000


def test_files_say_what_they_hold(model: CausalFilm, tmp_path: Path) -> None:
    path = save_model(tmp_path / "causal.safetensors", model, torch.float32)
    read = read_model(path).requires_grad_(False)
    assert isinstance(read, CausalFilm) and read.config == SMALL
    conditions = model.conditions(queries(1), "clap-mini-1")[None]
    torch.testing.assert_close(
        read(sound(5_000)[None], conditions)[0], model(sound(5_000)[None], conditions)[0], atol=1e-6, rtol=0
    )
    with pytest.raises(WeightsError, match="film-causal"):
        load_model(path)
    shape = {"channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048}
    other = FilmHTDemucs(FilmConfig(demucs=shape, output="mask", spaces=SPACES, condition_channels=16))
    with pytest.raises(WeightsError, match="not causal"):
        load(weights=save_model(tmp_path / "other.safetensors", other), device=CPU, dtype=torch.float32)
    with pytest.raises(WeightsError, match="needs weights"):
        load(weights=None, device=CPU, dtype=torch.float32)
    with pytest.raises(OptionError, match="float32"):
        load(weights=path, device=CPU, dtype=torch.bfloat16)
    for text in ("{}", '{"spaces": {"a": 1}, "features": 0}', '{"spaces": {"a": 1}, "n_first": 99999}', "no json"):
        with pytest.raises(WeightsError, match="causal"):
            CausalConfig.from_json(text)
    assert CAUSAL_FORMAT in path.read_bytes()[:2000].decode("latin-1")


def test_spaces_and_sizes_of_vectors(model: CausalFilm) -> None:
    backend = CausalBackend(model)
    toy = backend.for_space("toy-1")
    assert toy.separate(sound(3_000)[None], queries(2, 8)).sources.shape == (1, 2, 2, 3_000)
    with pytest.raises(EmbeddingError):
        backend.for_space("unknown")
    for wrong in (None, queries(1, 8), queries(1)[0]):
        with pytest.raises(EmbeddingError, match="256"):
            backend.open(wrong)


def test_what_is_excluded_is_taken_from_its_target_alone(model: CausalFilm) -> None:
    backend, mixture, asked = CausalBackend(model), sound(20_000)[None], queries(3)
    plain = backend.separate(mixture, asked)
    negatives = torch.stack([torch.zeros(256), asked[1], asked[2]])
    negatives[2] = queries(4)[3]
    less = backend.separate(mixture, asked, negatives)
    assert torch.allclose(less.sources[:, 0], plain.sources[:, 0], atol=1e-6)
    assert torch.allclose(less.sources[:, 1], 0.1 * plain.sources[:, 1], atol=1e-5), "the sound itself: 20 dB less"
    energies = [float(output.sources[0, 2].square().sum()) for output in (plain, less)]
    assert 0.01 * energies[0] < energies[1] < 0.99 * energies[0]
    assert less.presence is not None and torch.allclose(less.presence, plain.presence, atol=1e-6)


def test_it_answers_live_and_otherwise_only_by_name() -> None:
    audio = Audio(sound(44_100).numpy(), 44_100)
    with Separator(device="cpu", offline=True) as separator:
        assert separator.separate(audio, query="electric guitar").plan["electric guitar"].backend == "htdemucs-film"
        with separator.live("electric guitar", sample_rate_hz=44_100) as live:
            assert live.plan["electric guitar"].backend == "film-causal"
            assert np.isfinite(live.push(np.zeros((2, 512), np.float32), wait=True).rest.samples).all()
    with Separator(query_backend="film-causal", device="cpu", offline=True) as separator:
        result = separator.separate(audio, query="electric guitar")
    assert np.allclose(result.target.samples + result.rest.samples, audio.samples, atol=1e-6)


def test_a_state_can_be_gone_back_to(model: CausalFilm) -> None:
    backend = CausalBackend(model)
    _, state = backend.push(backend.open(queries(1)), sound(4_096))
    kept, block = copy.deepcopy(state), sound(2_048, 5)
    first, _ = backend.push(state, block)
    again, _ = backend.push(kept, block)
    assert torch.equal(first, again)
