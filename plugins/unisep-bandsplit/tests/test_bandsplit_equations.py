"""Both models against their papers' equations, written out a second time with plain sums and loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    """Over the last axis: (x - mean) / sqrt(variance + 1e-5), with gain and bias."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[name + ".weight"] + state[name + ".bias"]


def group_norm(x: Tensor, state: State, name: str) -> Tensor:
    """Over all axes of a row `[rows, channels, ...]`, gain and bias for each channel."""
    axes = tuple(range(1, x.ndim))
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    gain, bias = state[name + ".weight"].view(shape), state[name + ".bias"].view(shape)
    return (x - mean) / (variance + 1e-5).sqrt() * gain + bias


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def lstm_step(given: Tensor, known: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (given + known).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_step(given: Tensor, known: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    (r, z, n), (hr, hz, hn) = given.chunk(3, -1), known.chunk(3, -1)
    update = (z + hz).sigmoid()
    hidden = (1 - update) * (n + (r + hr).sigmoid() * hn).tanh() + update * hidden
    return hidden, hidden


def recurrent(x: Tensor, state: State, name: str, kind: str) -> Tensor:
    """Both directions over the steps of `x [rows, steps, features]`, side by side."""
    outputs = []
    for suffix in ("", "_reverse"):
        w, u = state[f"{name}.weight_ih_l0{suffix}"], state[f"{name}.weight_hh_l0{suffix}"]
        b, c = state[f"{name}.bias_ih_l0{suffix}"], state[f"{name}.bias_hh_l0{suffix}"]
        hidden = memory = x.new_zeros(len(x), u.shape[1])
        steps = range(x.shape[1])
        collected: dict[int, Tensor] = {}
        for t in steps if not suffix else reversed(steps):
            step = lstm_step if kind == "LSTM" else gru_step
            hidden, memory = step(x[:, t] @ w.T + b, hidden @ u.T + c, memory)
            collected[t] = hidden
        outputs.append(torch.stack([collected[t] for t in steps], dim=1))
    return torch.cat(outputs, dim=-1)


def spectrum_of(signal: Tensor, n_fft: int, hop: int, window: Tensor, mode: str) -> Tensor:
    """Frames of `signal [rows, samples]` around each hop, windowed, in bins `[rows, bins, frames]`."""
    padded = F.pad(signal[:, None], (n_fft // 2, n_fft // 2), mode=mode)[:, 0]
    frames = padded.unfold(-1, n_fft, hop) * window
    return torch.fft.rfft(frames, dim=-1).transpose(1, 2)


def signal_of(spectrum: Tensor, n_fft: int, hop: int, window: Tensor, n_samples: int) -> Tensor:
    """The inverse of `spectrum_of`: frames added up, divided by the sum of squared windows."""
    frames = torch.fft.irfft(spectrum.transpose(1, 2), n=n_fft, dim=-1) * window
    total = torch.zeros(len(spectrum), n_fft + hop * (frames.shape[1] - 1), dtype=frames.dtype)
    weight = torch.zeros_like(total)
    for index in range(frames.shape[1]):
        total[:, index * hop : index * hop + n_fft] += frames[:, index]
        weight[:, index * hop : index * hop + n_fft] += window**2
    middle = slice(n_fft // 2, n_fft // 2 + n_samples)
    return total[:, middle] / weight[:, middle]


def bsrnn(mixture: Tensor, state: State, options: dict[str, Any], bands: list[tuple[int, int]]) -> Tensor:
    """Band-Split RNN of one channel `[samples]`: sources `[n, samples]`."""
    n_fft, hop = options["n_fft"], options["hop_length"]
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(n_fft, dtype=torch.float64) / n_fft)
    scale = (window**2).sum().sqrt()
    x = spectrum_of(mixture[None], n_fft, hop, window, "constant")[0] / scale
    z = []
    for k, (start, end) in enumerate(bands):
        values = torch.cat([x[start:end].real, x[start:end].imag]).T  # [frames, 2 bins]
        name = f"band_split.norm_fc_modules.{k}"
        z.append(linear(layer_norm(values, state, name + ".norm"), state, name + ".fc"))
    z = torch.stack(z)  # [bands, frames, features]
    for index in range(2 * options["n_sqm_modules"]):
        name = f"tf_model.seqband.{index}"
        rows = z.transpose(0, 1) if index % 2 else z
        added = recurrent(layer_norm(rows, state, name + ".norm"), state, name + ".rnn", options["rnn_type"])
        added = linear(added, state, name + ".fc")
        z = z + (added.transpose(0, 1) if index % 2 else added)
    sources = []
    for stem in options["stems"]:
        mask = torch.zeros_like(x)
        count = torch.zeros(len(x), 1, dtype=torch.float64)
        for k, (start, end) in enumerate(bands):
            name = f"mask_estim.{stem}.norm_mlp.{k}"
            hidden = linear(layer_norm(z[k], state, name + ".norm"), state, name + ".hidden.0").tanh()
            value, gate = linear(hidden, state, name + ".output.0").chunk(2, -1)
            parts = (value * gate.sigmoid()).T  # [bins times two, frames]
            mask[start:end] += torch.complex(parts[0::2], parts[1::2])
            count[start:end] += 1
        sources.append(signal_of((x * mask / count * scale)[None], n_fft, hop, window, len(mixture))[0])
    return torch.stack(sources)


@pytest.mark.parametrize(
    "changed",
    [{}, {"rnn_type": "LSTM"}, {"band_specs": "musdb:bass", "n_fft": 2048, "win_length": 2048, "hop_length": 512}],
)
@torch.inference_mode()
def test_bsrnn_equals_its_equations(
    changed: dict[str, Any], made: Any, options: Any, music: Any, distance: Any
) -> None:
    chosen = {**options("bsrnn"), **changed}
    model = made("bsrnn", **changed)
    state = {name: value.double() for name, value in model.state_dict().items()}
    mixture = music(2500)
    sources = model(mixture)[0]
    for channel in range(2):
        expected = bsrnn(mixture[0, channel].double(), state, chosen, model.bands)
        assert distance(sources[:, channel].double(), expected) <= 1e-4


def convolutions(band: Tensor, state: State, name: str, depth: int) -> Tensor:
    """The convolution module on `[channels, bins, frames]`: each bin is a row."""
    x = band.transpose(0, 1)
    for index in range(depth):
        layer = f"{name}.layers.{index}"
        weights = [(state[f"{layer}.{i}.weight"], state[f"{layer}.{i}.bias"]) for i in (1, 3, 6)]
        h = F.conv1d(group_norm(x, state, f"{layer}.0"), *weights[0], padding=1)
        value, gate = h.chunk(2, dim=1)
        h = F.conv1d(value * gate.sigmoid(), *weights[1], padding=1, groups=value.shape[1])
        h = group_norm(h, state, f"{layer}.4")
        x = x + F.conv1d(h * h.sigmoid(), *weights[2])
    return x.transpose(0, 1)


def split_sizes(n_bins: int, shares: list[float]) -> list[int]:
    first, second = math.ceil(n_bins * shares[0]), math.ceil(n_bins * (shares[0] + shares[1]))
    return [first, second - first, n_bins - second]


def thinned(band: Tensor, state: State, name: str, stride: int, kernel: int) -> Tensor:
    """One value for each stride of bins: the weighted sum of the `kernel` bins from there on, silence at both ends."""
    extra = kernel - 1 if stride == 1 else (stride - band.shape[1] % stride) % stride
    padded = F.pad(band, (0, 0, extra // 2, extra - extra // 2))
    weight, bias = state[name + ".weight"][..., 0], state[name + ".bias"]
    starts = range(0, padded.shape[1] - kernel + 1, stride)
    sums = [torch.einsum("oik,ikt->ot", weight, padded[:, s : s + kernel]) + bias[:, None] for s in starts]
    return torch.stack(sums, dim=1)


def thickened(band: Tensor, state: State, name: str, stride: int, n_bins: int) -> Tensor:
    """Each value spread over `kernel` bins from its stride on; the middle `n_bins` of it."""
    weight, bias = state[name + ".weight"][..., 0], state[name + ".bias"]
    kernel = weight.shape[2]
    total = bias[:, None, None].repeat(1, stride * (band.shape[1] - 1) + kernel, band.shape[2])
    for index in range(band.shape[1]):
        total[:, stride * index : stride * index + kernel] += torch.einsum("iok,it->okt", weight, band[:, index])
    start = (total.shape[1] - n_bins) // 2
    return total[:, start : start + n_bins]


def dual_path(x: Tensor, state: State, name: str) -> Tensor:
    """`[channels, bins, frames]`: over the bins of each frame, then over the frames of each bin."""
    for index, (there, back) in enumerate((((2, 1, 0), (2, 1, 0)), ((1, 2, 0), (2, 0, 1)))):
        rows = group_norm(x[None], state, f"{name}.norm_layers.{index}")[0].permute(there)
        added = recurrent(rows, state, f"{name}.lstm_layers.{index}", "LSTM")
        x = x + linear(added, state, f"{name}.linear_layers.{index}").permute(back)
    return x


def scnet(mixture: Tensor, state: State, options: dict[str, Any]) -> Tensor:
    """SCNet of one mixture `[channels, samples]`: sources `[n, channels, samples]`."""
    n_fft, hop, n_samples = options["nfft"], options["hop_size"], mixture.shape[-1]
    ones = torch.ones(n_fft, dtype=torch.float64)
    n_hops = n_samples // hop + 1
    n_hops += 1 - n_hops % 2
    padded = F.pad(mixture, (0, n_hops * hop - n_samples))
    spectrum = spectrum_of(padded, n_fft, hop, ones, "reflect") / math.sqrt(n_fft)
    x = torch.stack([spectrum.real, spectrum.imag], dim=1).flatten(0, 1)
    skips, sizes = [], []
    rows = list(zip(options["band_stride"], options["band_kernel"], options["conv_depths"], strict=True))
    for level in range(len(options["dims"]) - 1):
        wide = split_sizes(x.shape[1], options["band_SR"])
        bands = []
        for index, (band, (stride, kernel, depth)) in enumerate(zip(x.split(wide, dim=1), rows, strict=True)):
            sparse = thinned(band, state, f"encoder.{level}.SDlayer.convs.{index}", stride, kernel)
            sparse = convolutions(sparse, state, f"encoder.{level}.conv_modules.{index}", depth)
            bands.append(sparse * 0.5 * (1 + torch.erf(sparse / math.sqrt(2))))
        skips.append(torch.cat(bands, dim=1))
        sizes.append((wide, [band.shape[1] for band in bands]))
        name = f"encoder.{level}.globalconv"
        x = F.conv2d(skips[-1], state[name + ".weight"], state[name + ".bias"], padding=1)
    for index in range(options["num_dplayer"]):
        x = dual_path(x, state, f"separation_net.dp_modules.{index}")
        if index % 2:
            half = len(x) // 2
            x = torch.fft.irfft(torch.complex(x[:half], x[half:]), dim=-1, norm="ortho")
        else:
            over_frames = torch.fft.rfft(x, dim=-1, norm="ortho")
            x = torch.cat([over_frames.real, over_frames.imag])
    for level in range(len(sizes)):
        name, skip, (wide, sparse_sizes) = f"decoder.{level}", skips.pop(), sizes[-1 - level]
        both = (x + skip).repeat(2, 1, 1)
        value, gate = F.conv2d(both, state[name + ".0.conv.weight"], state[name + ".0.conv.bias"], padding=1).chunk(2)
        parts = enumerate(zip((value * gate.sigmoid()).split(sparse_sizes, dim=1), rows, wide, strict=True))
        x = torch.cat([thickened(b, state, f"{name}.1.convtrs.{i}", row[0], n) for i, (b, row, n) in parts], dim=1)
    bins = torch.complex(x[0::2], x[1::2]) * math.sqrt(n_fft)
    return signal_of(bins, n_fft, hop, ones, n_samples).unflatten(0, (-1, len(mixture)))


@pytest.mark.parametrize(
    ("n_samples", "changed"),
    [
        (1000, {}),
        (1024, {"band_SR": [0.23, 0.37, 0.4], "band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "dims": [4, 8]}),
        (1500, {"num_dplayer": 4, "expand": 2, "band_kernel": [5, 4, 16], "nfft": 512, "win_size": 512}),
    ],
)
@torch.inference_mode()
def test_scnet_equals_its_equations(
    n_samples: int, changed: dict[str, Any], made: Any, options: Any, music: Any, distance: Any
) -> None:
    model = made("scnet", **changed)
    state = {name: value.double() for name, value in model.state_dict().items()}
    mixture = music(n_samples)
    expected = scnet(mixture[0].double(), state, {**options("scnet"), **changed})
    assert distance(model(mixture)[0].double(), expected) <= 1e-4


@pytest.mark.parametrize("kind", ["scnet", "bsrnn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_stays_near_and_finite(
    kind: str, dtype: torch.dtype, made: Any, music: Any, distance: Any
) -> None:
    model, mixture = made(kind), music(2000)
    full = model(mixture)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    half = model(mixture)
    assert half.dtype == torch.float32
    assert 0 < distance(half, full) < (0.1 if dtype == torch.bfloat16 else 0.02)
    assert bool(model(mixture * 0).isfinite().all())
