"""HT Demucs by other runtimes, where they are installed: onnxruntime and OpenVINO on an ONNX export of the same weights.

The transforms stay in torch, since neither runtime has complex numbers: what is exported are the encoders, the
cross-transformer and the decoders. The export needs the packages onnx and onnxscript.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from unisep_htdemucs.model import Encoded, HTDemucs
from unisep_htdemucs.spectrogram import spectrogram

RUNTIMES = ("onnxruntime", "openvino")
Run = Callable[[], Tensor]
Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class BetweenTransforms(nn.Module):
    """HT Demucs from normalised spectrogram and waveform to the normalised ones of its sources."""

    def __init__(self, model: HTDemucs) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x [b, (c r), f, t]` and `xt [b, c, l]` to parts `[b, s, (c r), f, t]` and waves `[b, s, c, l]`."""
        model, unused = self.model, x.new_zeros(1)
        skips, skips_t, n_freqs, lengths_t = [], [], [], []
        for index, (layer, layer_t) in enumerate(zip(model.encoder, model.tencoder, strict=True)):
            n_freqs.append(x.shape[2])
            lengths_t.append(xt.shape[-1])
            x, xt = layer(x), layer_t(xt)
            if index == 0 and model.freq_emb is not None:
                x = x + model.config.freq_emb * model.freq_emb()[:, :, None]
            skips.append(x)
            skips_t.append(xt)
        encoded = Encoded(x, xt, tuple(skips), tuple(skips_t), tuple(n_freqs), tuple(lengths_t),
                          unused, unused, unused, unused, unused, 0)  # fmt: skip
        return model.decode_branches(*model.bottleneck(x, xt), encoded)


def installed() -> list[str]:
    """List the runtimes that can be measured here; say on stderr which are left out."""
    exports = find_spec("onnx") and find_spec("onnxscript")
    names = [name for name in RUNTIMES if exports and find_spec(name)]
    for name in sorted(set(RUNTIMES) - set(names)):
        print(f"{name} is left out: it, onnx or onnxscript is not installed.", file=sys.stderr)
    return names


def segment_runs(model: HTDemucs, mixture: Tensor, folder: Path) -> dict[str, Run]:
    """Return one segment's run by each runtime that is installed."""
    names = installed()
    if not names:
        return {}
    file, x = folder / "network.onnx", normalised(model, mixture)
    program = torch.onnx.export(BetweenTransforms(model).eval(), (x.x, x.xt), dynamo=True,
                                input_names=["x", "xt"], output_names=["parts", "waves"])  # fmt: skip
    assert program is not None
    program.save(file)
    return {name: partial(separated, model, _OPENED[name](file), mixture) for name in names}


@torch.no_grad()
def separated(model: HTDemucs, network: Network, mixture: Tensor) -> Tensor:
    """Separate one segment, with `network` between the transforms of `model`."""
    entering = normalised(model, mixture)
    return model.combine(*network(entering.x, entering.xt), entering)


def normalised(model: HTDemucs, mixture: Tensor) -> Encoded:
    """Return what enters the first encoder layers as `x` and `xt`, and what the last step needs."""
    bins = spectrogram(mixture, model.config.nfft)
    parts = rearrange(torch.view_as_real(bins), "b c f t r -> b (c r) f t").contiguous()
    std, mean = torch.std_mean(parts, dim=(1, 2, 3), keepdim=True)
    std_t, mean_t = torch.std_mean(mixture, dim=(1, 2), keepdim=True)
    x, xt = (parts - mean) / (1e-5 + std), (mixture - mean_t) / (1e-5 + std_t)
    return Encoded(x, xt, (), (), (), (), mean, std, mean_t, std_t, bins, mixture.shape[-1])


def _onnxruntime(file: Path) -> Network:
    package: Any = import_module("onnxruntime")
    options = package.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = package.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def network(x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        parts, waves = session.run(None, {"x": x.numpy(), "xt": xt.numpy()})
        return torch.from_numpy(parts), torch.from_numpy(waves)

    return network


def _openvino(file: Path) -> Network:
    package: Any = import_module("openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = package.Core().compile_model(str(file), "CPU", {**options, "NUM_STREAMS": 1})

    def network(x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model({"x": x.numpy(), "xt": xt.numpy()})
        return torch.from_numpy(outputs["parts"]), torch.from_numpy(outputs["waves"])

    return network


_OPENED = {"onnxruntime": _onnxruntime, "openvino": _openvino}
