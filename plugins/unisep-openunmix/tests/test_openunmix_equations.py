"""The network and the filter equal their equations, written out once more in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from unisep_openunmix.model import OpenUnmix, Shape
from unisep_openunmix.wiener import wiener

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def run_lstm(state: dict[str, Array], layer: int, suffix: str, rows: Array) -> Array:
    """One direction of one layer over `rows [t, n]`, a frame at a time."""
    w_in, w_back = state[f"lstm.weight_ih_l{layer}{suffix}"], state[f"lstm.weight_hh_l{layer}{suffix}"]
    bias = state[f"lstm.bias_ih_l{layer}{suffix}"] + state[f"lstm.bias_hh_l{layer}{suffix}"]
    output = cell = np.zeros(w_back.shape[1])
    outputs = []
    for row in rows[::-1] if suffix else rows:
        taken, kept, new, shown = np.split(w_in @ row + w_back @ output + bias, 4)
        cell = sigmoid(kept) * cell + sigmoid(taken) * np.tanh(new)
        output = sigmoid(shown) * np.tanh(cell)
        outputs.append(output)
    return np.array(outputs[::-1] if suffix else outputs)


def run_network(network: OpenUnmix, mixture: Array) -> Array:
    """The network over magnitudes `[c, f, t]`, in double precision."""
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}

    def normalised(name: str, x: Array) -> Array:
        spread = np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return (x - state[f"{name}.running_mean"]) / spread * state[f"{name}.weight"] + state[f"{name}.bias"]

    shape = network.shape
    seen = (mixture[:, : shape.n_input_bins].transpose(2, 0, 1) + state["input_mean"]) * state["input_scale"]
    x = np.tanh(normalised("bn1", seen.reshape(len(seen), -1) @ state["fc1.weight"].T))
    inner = x
    for layer in range(shape.n_layers):
        ways = ("", "_reverse") if shape.bidirectional else ("",)
        inner = np.concatenate([run_lstm(state, layer, way, inner) for way in ways], axis=1)
    x = np.maximum(normalised("bn2", np.concatenate([x, inner], axis=1) @ state["fc2.weight"].T), 0)
    x = normalised("bn3", x @ state["fc3.weight"].T).reshape(-1, shape.n_channels, shape.n_bins)
    mask = np.maximum(x * state["output_scale"] + state["output_mean"], 0)
    return mask.transpose(1, 2, 0) * mixture


@pytest.mark.parametrize(
    "changed",
    [{}, {"n_channels": 1}, {"bidirectional": False}, {"n_layers": 1}, {"n_input_bins": 65}],
    ids=lambda changed: "-".join(changed) or "plain",
)
@torch.inference_mode()
def test_the_network_equals_its_equations(
    changed: dict[str, Any], network: Callable[..., OpenUnmix], small: Shape
) -> None:
    model = network(replace(small, **changed))
    mixture = torch.rand(2, model.shape.n_channels, 65, 9, generator=torch.Generator().manual_seed(2)) * 3
    found = model(mixture)
    for item, expected in zip(found, (run_network(model, each.double().numpy()) for each in mixture), strict=True):
        assert np.abs(item.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.abs(expected).max() > 0.1


def run_wiener(magnitudes: Array, mixture: Array, iterations: int) -> Array:
    """The filter over one stretch, a bin and a frame at a time, with matrices inverted by LAPACK."""
    n, c, n_bins, n_frames = magnitudes.shape
    y = magnitudes * np.exp(1j * np.angle(mixture))
    scale = max(1.0, np.abs(mixture).max() / 10)
    x, y = mixture / scale, y / scale
    for _ in range(iterations):
        powers = (np.abs(y) ** 2).mean(axis=1)
        better = np.zeros_like(y)
        for f in range(n_bins):
            positions = []
            for j in range(n):
                outer = sum(np.outer(y[j, :, f, t], y[j, :, f, t].conj()) for t in range(n_frames))
                positions.append(outer / (1e-10 + powers[j, f].sum()))
            for t in range(n_frames):
                covariance = sum(powers[j, f, t] * positions[j] for j in range(n)) + 1e-5 * np.eye(c)
                inverse = np.linalg.inv(covariance)
                for j in range(n):
                    better[j, :, f, t] = powers[j, f, t] * positions[j] @ inverse @ x[:, f, t]
        y = better
    return y * scale


def random_spectra(n: int, c: int, loudness: float = 1.0, n_frames: int = 11) -> tuple[Array, Array]:
    """First estimates `[n, c, f, t]` and a mixture `[c, f, t]`, some of it silent."""
    random = np.random.default_rng(0)
    mixture = loudness * (random.normal(size=(c, 6, n_frames)) + 1j * random.normal(size=(c, 6, n_frames)))
    mixture[:, 2, 3:6] = 0
    return random.uniform(size=(n, c, 6, n_frames)) * np.abs(mixture), mixture


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("loudness", [1.0, 300.0])
def test_the_filter_equals_its_equations(iterations: int, channels: int, loudness: float) -> None:
    magnitudes, mixture = random_spectra(3, channels, loudness)
    expected = run_wiener(magnitudes, mixture, iterations)
    found = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture), iterations=iterations).numpy()
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


def test_each_stretch_is_filtered_for_itself() -> None:
    magnitudes, mixture = map(torch.from_numpy, random_spectra(2, 2, n_frames=25))
    found = wiener(magnitudes, mixture, stretch_frames=10)
    for start, stop in ((0, 10), (10, 20), (20, 25)):
        alone = wiener(magnitudes[..., start:stop], mixture[..., start:stop], stretch_frames=None)
        assert torch.equal(found[..., start:stop], alone)
    assert not torch.allclose(found, wiener(magnitudes, mixture), rtol=1e-3)


def test_the_sources_sum_to_the_mixture_where_there_is_sound() -> None:
    magnitudes, mixture = random_spectra(4, 2)
    total = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture)).sum(0).numpy()
    assert np.abs(total - mixture).max() <= 1e-3 * np.abs(mixture).max()


def test_sources_apart_in_space_are_told_apart_better_than_by_magnitudes() -> None:
    """Two sources at fixed positions, with true magnitudes: their phases are found from where they are."""
    random = np.random.default_rng(1)
    shape = (8, 200)
    each = [random.normal(size=shape) + 1j * random.normal(size=shape) for _ in range(2)]
    placed = np.stack([np.stack([gain * source for gain in gains]) for source, gains in
                       zip(each, ((1.0, 0.2), (0.3, 0.9)), strict=True)])  # fmt: skip
    mixture, magnitudes = placed.sum(0), np.abs(placed)

    def error(found: Array) -> float:
        return float(np.abs(found - placed).std() / np.abs(placed).std())

    by_phase = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture), iterations=0).numpy()
    filtered = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture), iterations=1).numpy()
    assert error(filtered) < 0.6 * error(by_phase)


def test_one_channel_twice_is_filtered_without_noise() -> None:
    """Both channels equal: covariances are of rank one, and single precision would drown in rounding."""
    magnitudes, mixture = random_spectra(3, 1, loudness=100.0)
    twice, estimates = np.repeat(mixture, 2, axis=0), np.repeat(magnitudes, 2, axis=1)
    found = wiener(torch.from_numpy(estimates), torch.from_numpy(twice)).to(torch.complex64).numpy()
    assert np.abs(found[:, 0] - found[:, 1]).max() <= 1e-5 * np.abs(found).max()
    single = wiener(torch.from_numpy(magnitudes), torch.from_numpy(mixture)).numpy()
    assert np.abs(found[:, :1] - single).max() <= 1e-3 * np.abs(single).max()
