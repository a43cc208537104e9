"""The separator equals the published equations, written out here a second time and in another way.

The authors' code is no package that could be installed for a test. What stands here shares nothing with the plugin
but the names of the parameters: transforms are sums of cosines and sines, overlap-add is a loop, the network is a
list of functional calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unisep_audiosep.checkpoints import load_model
from unisep_audiosep.model import AudioSep, AudioSepConfig

State = dict[str, Tensor]
CPU = torch.device("cpu")


def transform(wave: Tensor, n_fft: int, hop: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts [frames, bins], float64, by their definition."""
    mirrored = F.pad(wave.double()[None, None], (n_fft // 2, n_fft // 2), mode="reflect")[0, 0]
    time = torch.arange(n_fft, dtype=torch.float64)
    angle = 2 * math.pi * time[:, None] * torch.arange(n_fft // 2 + 1) / n_fft
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / n_fft)
    frames = torch.stack([mirrored[at : at + n_fft] * hann for at in range(0, len(mirrored) - n_fft + 1, hop)])
    return frames @ angle.cos(), -(frames @ angle.sin())


def inverse(real: Tensor, imaginary: Tensor, n_fft: int, hop: int, n_samples: int) -> Tensor:
    """The wave [samples] of a spectrogram: every frame by its sum of waves, added, divided by the windows' energy."""
    time = torch.arange(n_fft, dtype=torch.float64)
    bins = torch.arange(n_fft // 2 + 1)
    angle = 2 * math.pi * bins[:, None] * time / n_fft
    twice = torch.full((len(bins), 1), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / n_fft)
    frames = (real @ (twice * angle.cos()) - imaginary @ (twice * angle.sin())) / n_fft
    total = torch.zeros(n_fft + hop * (len(frames) - 1), dtype=torch.float64)
    energy = torch.zeros_like(total)
    for index, frame in enumerate(frames):
        at = slice(index * hop, index * hop + n_fft)
        total[at] += frame * hann
        energy[at] += hann**2
    return (total / energy.clamp_min(1e-11))[n_fft // 2 : n_fft // 2 + n_samples]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    values = [state[f"base.{name}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values, training=False, eps=1e-5)


def act(state: State, query: Tensor, x: Tensor, name: str, place: str) -> Tensor:
    weight, bias = state[f"film.{place}.weight"].double(), state[f"film.{place}.bias"].double()
    shifted = norm(state, name, x) + (weight @ query + bias)[None, :, None, None]
    return torch.where(shifted > 0, shifted, 0.01 * shifted)


def residual(state: State, query: Tensor, x: Tensor, name: str) -> Tensor:
    place = name.replace(".", "->")
    y = act(state, query, x, f"{name}.bn1", f"{place}->beta1")
    y = F.conv2d(y, state[f"base.{name}.conv1.weight"].double(), padding=1)
    y = act(state, query, y, f"{name}.bn2", f"{place}->beta2")
    y = F.conv2d(y, state[f"base.{name}.conv2.weight"].double(), padding=1)
    way = f"base.{name}.shortcut"
    if f"{way}.weight" in state:
        x = F.conv2d(x, state[f"{way}.weight"].double(), state[f"{way}.bias"].double())
    return x + y


def maps(state: State, query: Tensor, magnitudes: Tensor) -> Tensor:
    """The three maps [3, frames, bins] for magnitudes [frames, bins]."""
    n_frames = len(magnitudes)
    x = norm(state, "bn0", magnitudes.T[None, :, :, None])[0, :, :, 0].T[None, None]
    x = F.pad(x, (0, 0, 0, math.ceil(n_frames / 32) * 32 - n_frames))[..., :-1]
    x = F.conv2d(x, state["base.pre_conv.weight"].double(), state["base.pre_conv.bias"].double())
    kept = []
    for index in range(1, 7):
        x = residual(state, query, x, f"encoder_block{index}.conv_block1")
        kept.append(x)
        x = F.avg_pool2d(x, (2, 2) if index < 6 else (1, 2))
    x = residual(state, query, x, "conv_block7a.conv_block1")
    for index in range(1, 7):
        block = f"decoder_block{index}"
        x = act(state, query, x, f"{block}.bn1", f"{block}->beta1")
        x = F.conv_transpose2d(x, state[f"base.{block}.conv1.weight"].double(), stride=(1, 2) if index == 1 else (2, 2))
        x = residual(state, query, torch.cat([x, kept.pop()], 1), f"{block}.conv_block2")
    x = F.conv2d(x, state["base.after_conv.weight"].double(), state["base.after_conv.bias"].double())
    return F.pad(x, (0, 1))[0, :, :n_frames]


def written_out(state: State, query: Tensor, wave: Tensor, n_fft: int, hop: int) -> Tensor:
    """What AudioSep makes of a wave [samples]: angles added, magnitudes scaled."""
    real, imaginary = transform(wave, n_fft, hop)
    magnitude = (real**2 + imaginary**2).clamp_min(1e-10).sqrt()
    gain, a, b = maps(state, query.double(), magnitude)
    a, b = a.tanh(), b.tanh()
    length = (a**2 + b**2).sqrt().clamp_min(1e-10)
    cosine = (real * a - imaginary * b) / (magnitude * length)
    sine = (imaginary * a + real * b) / (magnitude * length)
    loud = magnitude * gain.sigmoid()
    return inverse(loud * cosine, loud * sine, n_fft, hop, len(wave))


def music(n_samples: int, seed: int = 3) -> Tensor:
    noise = torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.05, 0.6, n_samples)


@pytest.mark.parametrize("n_samples", [400, 1280, 3001])
def test_equals_the_equations(
    checkpoint: Path, make_state: Callable[..., State], config: AudioSepConfig, n_samples: int
) -> None:
    ours, state = load_model(checkpoint, CPU, torch.float32), make_state()
    wave = music(n_samples)
    query = torch.randn(config.query_dim, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        spectrum = ours.spectrum(wave[None])
        got = ours.waveform(spectrum * ours.mask(spectrum, query), n_samples)[0]
        other = ours.waveform(spectrum * ours.mask(spectrum, -query), n_samples)[0]
    wanted = written_out(state, query, wave, config.n_fft, config.hop_samples).float()
    peak = float(wanted.abs().max())
    assert peak > 0.01
    assert float((got - wanted).abs().max()) <= 1e-5 * peak
    assert float((other - got).abs().max()) > 0.05 * peak  # the query matters


def test_every_parameter_matters(make_state: Callable[..., State], config: AudioSepConfig) -> None:
    model, wave = AudioSep(config), music(2000)
    model.load_state_dict(make_state())
    model.eval()
    query = torch.randn(config.query_dim, generator=torch.Generator().manual_seed(5)).requires_grad_()
    spectrum = model.spectrum(wave[None])
    model.waveform(spectrum * model.mask(spectrum, query), len(wave)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = AudioSep()
    assert model.config.sample_rate_hz == 32_000
    assert model.config.hop_samples == 320
    # 26,447,941 in the authors' own model, less 824,000 that no output depends on.
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_623_941
