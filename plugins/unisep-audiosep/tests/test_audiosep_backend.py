"""Stereo, exclusion, several queries, and AudioSep behind a Separator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_audiosep import plugin
from unisep_audiosep.backend import LEAST_GAIN, AudioSepBackend, load, without

from unisep import Audio, Embedding, Separator
from unisep.errors import AudioError, BackendError, EmbeddingError

CPU = torch.device("cpu")


@pytest.fixture
def backend(checkpoint: Path) -> AudioSepBackend:
    return load(weights=checkpoint, device=CPU, dtype=torch.float32)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def queries(n: int, seed: int = 9) -> Tensor:
    return torch.nn.functional.normalize(noise(n, 16, seed=seed), dim=1)


def test_each_channel_is_separated_by_itself(backend):
    mixture, asked = noise(1, 2, 3000), queries(1)
    both = backend.separate(mixture, asked).sources[0, 0]
    for channel in range(2):
        twice = mixture[:, channel : channel + 1].expand(-1, 2, -1)
        alone = backend.separate(twice, asked).sources[0, 0]
        assert torch.equal(alone[0], alone[1])
        assert torch.allclose(both[channel], alone[channel], atol=1e-5)


def test_what_is_on_one_side_stays_there(backend):
    mixture = noise(1, 2, 3000)
    mixture[:, 1] = 0
    target = backend.separate(mixture, queries(1)).sources[0, 0]
    assert float(target[0].abs().max()) > 0.01
    assert not target[1].any()


def test_two_equal_channels_cost_one(backend):
    seen = []
    spectrum = backend.model.spectrum
    backend.model.spectrum = lambda mono: seen.append(len(mono)) or spectrum(mono)
    backend.separate(noise(1, 1, 3000).expand(-1, 2, -1), queries(1))
    backend.separate(noise(1, 2, 3000), queries(1))
    assert seen == [1, 2]


def test_presence_is_not_claimed(backend):
    assert backend.separate(noise(1, 2, 3000), queries(2)).presence is None


def test_no_queries_no_targets(backend):
    assert backend.separate(noise(3, 2, 500), torch.empty(0, 16)).sources.shape == (3, 0, 2, 500)


def test_what_is_excluded_loses_and_nothing_else_changes(backend):
    mixture, asked = noise(1, 2, 3000), queries(2)
    plain = backend.separate(mixture, asked).sources
    negatives = torch.stack([torch.zeros(16), asked[1]])
    less = backend.separate(mixture, asked, negatives).sources
    assert torch.equal(less[:, 0], plain[:, 0])
    ratio = float(less[:, 1].square().sum() / plain[:, 1].square().sum())
    assert ratio == pytest.approx(LEAST_GAIN**2, rel=0.1)  # the target itself was excluded


def test_exclusion_keeps_bins_in_which_the_excluded_is_silent():
    target = torch.tensor([[1 + 1j, 2.0 + 0j, 3.0 + 0j]])
    excluded = torch.tensor([[0j, 1.0 + 0j, 9.0 + 0j]])
    left = without(target, excluded)
    assert torch.allclose(left, torch.tensor([[1 + 1j, 1.0 + 0j, 0.3 + 0j]]))


@pytest.mark.parametrize(
    ("mixture", "asked", "negatives", "error"),
    [
        (noise(1, 2, 100), None, None, BackendError),
        (noise(1, 1, 100), queries(1), None, AudioError),
        (noise(1, 2, 0), queries(1), None, AudioError),
        (noise(1, 2, 100), noise(1, 15), None, EmbeddingError),
        (noise(1, 2, 100), queries(2), queries(1), EmbeddingError),
        (noise(1, 2, 100), queries(1), noise(1, 4), EmbeddingError),
    ],
)
def test_refuses_what_it_cannot_do(backend, mixture, asked, negatives, error):
    with pytest.raises(error):
        backend.separate(mixture, asked, negatives)


def test_half_precision_weights_work_in_floats_outside_the_network(checkpoint):
    rough = load(weights=checkpoint, device=CPU, dtype=torch.bfloat16)
    exact = load(weights=checkpoint, device=CPU, dtype=torch.float32)
    mixture, asked = noise(1, 2, 4000), queries(1)
    a, b = rough.separate(mixture, asked).sources, exact.separate(mixture, asked).sources
    assert a.dtype == torch.float32
    assert float((a - b).norm() / b.norm()) < 0.2


def vector(row: Tensor) -> Embedding:
    return Embedding(row.numpy(), space=plugin.SPACE)


def test_answers_a_separator_with_vectors_of_its_space(checkpoint):
    recording = Audio(noise(2, 22_050, seed=4).numpy(), 44_100)
    separator = Separator(query_backend="audiosep", query_weights=checkpoint, device="cpu")
    parts = separator.separate(recording, query=vector(queries(1)[0]), route="conditioned")
    assert parts.target.samples.shape == recording.samples.shape
    assert float(np.abs(parts.target.samples).max()) > 0.001
    assert np.abs(parts.target.samples[0] - parts.target.samples[1]).max() > 0.001
    assert np.allclose(parts.target.samples + parts.rest.samples, recording.samples, atol=1e-6)
    assert parts.plan[next(iter(parts))].backend == "audiosep"


def test_another_space_is_refused(checkpoint):
    strange = Embedding(queries(1)[0].numpy(), space="some-other-space")
    with pytest.raises(EmbeddingError, match="some-other-space"):
        Separator(query_backend="audiosep", query_weights=checkpoint, device="cpu").separate(
            Audio(noise(2, 1000).numpy(), 44_100), query=strange, route="conditioned"
        )
