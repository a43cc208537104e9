"""Network, masks and spectrograms against their equations, written a second time in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from unisep_spleeter.backend import SpleeterBackend

Array = NDArray[np.float64]


def same_convolution(x: Array, weight: Array, bias: Array, stride: int = 1, dilation: int = 1) -> Array:
    """TensorFlow's "same": as many outputs as inputs by the stride; the smaller half of the zeros is in front."""
    size = weight.shape[-1]
    reach = dilation * (size - 1) + 1
    outs = [-(-n // stride) for n in x.shape[1:]]
    zeros = [max(0, (out - 1) * stride + reach - n) for out, n in zip(outs, x.shape[1:], strict=True)]
    x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in zeros)])
    result = np.zeros((len(weight), *outs)) + bias[:, None, None]
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            taken = x[:, top : top + stride * outs[0] : stride, left : left + stride * outs[1] : stride]
            result += np.einsum("oi,itf->otf", weight[:, :, row, column], taken)
    return result


def same_transposed(x: Array, weight: Array, bias: Array) -> Array:
    """The adjoint of such a convolution of stride 2: each input is spread over 5 x 5 outputs, of which it is the second."""
    _, n_out, size, _ = weight.shape
    n_rows, n_columns = x.shape[1:]
    spread = np.zeros((n_out, 2 * n_rows + 3, 2 * n_columns + 3))
    for row in range(size):
        for column in range(size):
            spread[:, row : row + 2 * n_rows : 2, column : column + 2 * n_columns : 2] += np.einsum(
                "io,itf->otf", weight[:, :, row, column], x
            )
    return spread[:, 1:-2, 1:-2] + bias[:, None, None]


def by_equations(network: Any, x: Array) -> Array:
    """The logits of a network, layer by layer as in the published description."""
    parameters = {name: value.double().numpy() for name, value in network.state_dict().items()}
    is_elu = network.shape.activation == "elu"

    def normalise(x: Array, name: str) -> Array:
        mean, variance, gamma, beta = (
            parameters[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return gamma * (x - mean) / np.sqrt(variance + 0.001) + beta

    def activate(x: Array, slope: float) -> Array:
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)) if is_elu else slope * x)

    convolved = []
    for level in range(6):
        x = same_convolution(x, parameters[f"down.{level}.weight"], parameters[f"down.{level}.bias"], stride=2)
        convolved.append(x)
        if level < 5:
            x = activate(normalise(x, f"down_norm.{level}"), 0.2)
    for level in range(6):
        x = same_transposed(x, parameters[f"up.{level}.weight"], parameters[f"up.{level}.bias"])
        x = normalise(activate(x, 0), f"up_norm.{level}")
        if level < 5:
            x = np.concatenate([convolved[4 - level], x])
    return same_convolution(x, parameters["out.weight"], parameters["out.bias"], dilation=2)


@pytest.mark.parametrize("activation", ["relu", "elu"])
@torch.inference_mode()
def test_the_network_equals_its_equations(activation: str, network: Any) -> None:
    model = network(activation)
    magnitudes = torch.rand(2, 2, 128, 64, generator=torch.Generator().manual_seed(2)) * 3
    found = model(magnitudes)
    for one, logits in zip(magnitudes, found, strict=True):
        expected = by_equations(model, one.double().numpy())
        assert expected.std() > 0.1, "an output that is always the same shows nothing"
        assert np.abs(logits.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


class Told(torch.nn.Module):
    """Stands for a network whose logits are known: they change from bin to bin, frame to frame and channel to channel."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.logits = torch.randn(2, 512, 1024, generator=torch.Generator().manual_seed(seed))

    def forward(self, magnitudes: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(magnitudes), -1, -1, -1)


@pytest.mark.parametrize(("n_sources", "estimate"), [(2, "sigmoid"), (4, "sigmoid"), (5, "softmax")])
@pytest.mark.parametrize("n_samples", [1, 5_000, 30_720])
@torch.inference_mode()
def test_sources_equal_the_equations(n_sources: int, estimate: Any, n_samples: int, music: Any) -> None:
    """Windows of 4096 every 1024 samples, one window of zeros in front, masks of squares, nothing from bin 1024 on."""
    networks: Any = {str(index): Told(index) for index in range(n_sources)}
    mixture = music(n_samples)
    found = SpleeterBackend(networks, estimate).sources(mixture)[0].numpy()

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(4096) / 4096)
    n_frames = 4 + -(-n_samples // 1024)
    padded = np.zeros((2, 4096 + 1024 * n_frames))
    padded[:, 4096 : 4096 + n_samples] = mixture[0]
    frames = np.stack([padded[:, 1024 * index : 1024 * index + 4096] * window for index in range(n_frames)], axis=1)
    spectra = np.fft.rfft(frames)
    logits = np.stack([model.logits.numpy()[:, :n_frames] for model in networks.values()]).astype(float)
    parts = 1 / (1 + np.exp(-logits)) if estimate == "sigmoid" else np.exp(logits) / np.exp(logits).sum(0)
    estimates = parts * np.abs(spectra[..., :1024])
    masks = np.zeros((n_sources, *spectra.shape))
    masks[..., :1024] = (estimates**2 + 1e-10 / n_sources) / ((estimates**2).sum(0) + 1e-10)
    parts_in_time = np.fft.irfft(masks * spectra) * window
    expected = np.zeros((n_sources, *padded.shape))
    for index in range(n_frames):
        expected[..., 1024 * index : 1024 * index + 4096] += parts_in_time[:, :, index]
    expected = expected[..., 4096 : 4096 + n_samples] / 1.5  # what the squares of the windows add up to
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@torch.inference_mode()
def test_patches_are_separated_one_by_one(network: Any, music: Any) -> None:
    """The frames of a long recording are cut into patches of 512, of which none hears another."""
    backend = SpleeterBackend({"a": network(), "b": network(seed=1)}, "sigmoid")
    mixture = music(1024 * 600)
    whole = backend.sources(mixture)
    changed = mixture.clone()
    changed[..., 1024 * 560 :] = 0  # frames from 560 on, which are in the second patch
    n_same = 1024 * (512 - 4) - 4096
    assert torch.allclose(backend.sources(changed)[..., :n_same], whole[..., :n_same], atol=1e-6)
    assert not torch.allclose(backend.sources(changed)[..., n_same:], whole[..., n_same:], atol=1e-3)
