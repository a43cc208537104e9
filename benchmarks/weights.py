"""Models of published sizes with random parameters, saved as their publishers save them: speed does not depend on values."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import yaml
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.states import get_state
from torch import nn
from unisep_bandsplit.bsrnn import BandSplitRNN
from unisep_bandsplit.config import BSRNNConfig, SCNetConfig
from unisep_bandsplit.scnet import SCNet
from unisep_demucs_classic.demucs_v2 import DemucsV2, DemucsV2Shape
from unisep_openunmix.model import OpenUnmix, Shape
from unisep_roformer.config import RoformerConfig
from unisep_roformer.described import ModelConfig
from unisep_roformer.model import Roformer

SIGNATURE = "955717e8"
STEMS = ("drums", "bass", "other", "vocals")
RELEASED: dict[str, Any] = {
    "bottom_channels": 512, "segment": Fraction(39, 5), "t_heads": 8, "t_layers": 5, "t_hidden_scale": 4.0,
    "dconv_mode": 3,
}  # fmt: skip
TINY: dict[str, Any] = {
    "channels": 8, "bottom_channels": 16, "nfft": 1024, "depth": 3, "segment": Fraction(1), "t_heads": 2,
    "t_layers": 2, "dconv_mode": 3,
}  # fmt: skip


def save_weights(folder: Path, shape: dict[str, Any]) -> Path:
    """Save an HT Demucs of this shape where demucs and unisep look for `htdemucs`, and return its file.

    LayerScales are drawn from 0.25-0.75: at their initial value the transformer would hardly count, and neither
    would its rounding in the agreement.
    """
    torch.manual_seed(0)
    kwargs = {"sources": list(STEMS), **shape}
    model = HTDemucs(**kwargs).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("scale"):
                parameter.uniform_(0.25, 0.75, generator=generator)
    path = _save_package(folder / f"{SIGNATURE}.th", model, kwargs)
    (folder / "htdemucs.yaml").write_text(f"models: ['{SIGNATURE}']\n")
    return path


def _save_package(path: Path, model: nn.Module, kwargs: dict[str, Any]) -> Path:
    torch.save({"klass": type(model), "args": (), "kwargs": kwargs, "state": get_state(model, None)}, path)
    return path


def _hdemucs(folder: Path) -> Path:
    kwargs = {"sources": list(STEMS), "segment": 44}
    return _save_package(folder / "hdemucs.th", HDemucs(**kwargs), kwargs)


def _demucs_v2(folder: Path) -> Path:
    torch.save(DemucsV2(DemucsV2Shape()).state_dict(), folder / "demucs.th")
    return folder / "demucs.th"


def _open_unmix(folder: Path) -> Path:
    for stem in STEMS:
        torch.save(OpenUnmix(Shape(2049, 1487, 2, 512, 3, True)).state_dict(), folder / f"{stem}.pth")
    framing = {"sample_rate": 44_100, "nfft": 4096, "nhop": 1024, "nb_channels": 2}
    (folder / "separator.json").write_text(json.dumps(framing))
    return folder


def _described(
    make: Callable[[Any], nn.Module], config: ModelConfig, stems: tuple[str, ...], chunk_samples: int
) -> Callable[[Path], Path]:
    """Return what saves a model as the community's checkpoints are, beside a YAML file that describes it."""

    def save(folder: Path) -> Path:
        audio = {"chunk_size": chunk_samples, "num_channels": 2, "sample_rate": 44_100}
        training = {"instruments": list(stems), "target_instrument": None}
        described = {"audio": audio, "model": config.model_dump(mode="json"), "training": training}
        (folder / "config.yaml").write_text(yaml.dump(described))
        torch.save(make(config).state_dict(), folder / "model.ckpt")
        return folder

    return save


# Sizes as the plugins' cards state them, and segments as the published files do.
_BANDIT = ("speech", "music", "effects")
_BANDIT_CONFIG = BSRNNConfig(stems=_BANDIT, band_specs="musical", n_bands=64, n_sqm_modules=8, rnn_type="GRU")
_ROFORMER_CONFIG = RoformerConfig(
    dim=384,
    depth=8,
    stereo=True,
    num_stems=4,
    time_transformer_depth=1,
    freq_transformer_depth=1,
    mlp_expansion_factor=2,
)
PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "scnet": _described(SCNet, SCNetConfig(sources=STEMS), STEMS, 485_100),
    "bandit-plus": _described(BandSplitRNN, _BANDIT_CONFIG, _BANDIT, 264_600),
    "bs-roformer": _described(Roformer, _ROFORMER_CONFIG, STEMS, 485_100),
    "umxhq": _open_unmix,
    "hdemucs_mmi": _hdemucs,
    "demucs": _demucs_v2,
}


def save_published(folder: Path, name: str) -> Path:
    """Save a model of the sizes of the backend `name` in a new folder, and return what it takes as weights."""
    torch.manual_seed(0)
    folder.mkdir()
    return PUBLISHED[name](folder)
