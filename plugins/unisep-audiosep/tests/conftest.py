"""Small checkpoints in the published form: all of its names, few of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unisep_audiosep.model import AudioSep, AudioSepConfig

SMALL = AudioSepConfig(widths=(4, 6, 8, 8, 10, 8, 8), query_dim=16, n_fft=256)


def telling_state(config: AudioSepConfig = SMALL, seed: int = 0) -> dict[str, Tensor]:
    """Parameters that all matter: norms far from one, shifts far from zero."""
    generator = torch.Generator().manual_seed(seed)
    state = AudioSep(config).state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.dim() > 1:
            noise = torch.randn(value.shape, generator=generator)
            state[name] = noise * (1.5 / value[0].numel() ** 0.5)
        else:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.3, 0.3)
            state[name] = torch.empty(value.shape).uniform_(low, high, generator=generator)
    return state


def published(state: dict[str, Tensor]) -> dict[str, Any]:
    """The whole of a published file around `state`: fixed layers, layers without effect, a CLAP, an optimiser."""
    own = {f"ss_model.{name}": value for name, value in state.items()}
    for name in ("stft.conv_real.weight", "istft.ola_window"):
        own[f"ss_model.base.{name}"] = torch.ones(2)
    for index in range(1, 7):
        block = f"decoder_block{index}"
        n_maps = state[f"base.{block}.bn1.weight"].shape[0]
        for name in ("weight", "bias", "running_mean", "running_var"):
            own[f"ss_model.base.{block}.bn2.{name}"] = torch.ones(n_maps)
        own[f"ss_model.film.{block}->beta2.weight"] = torch.ones(n_maps, 16)
        own[f"ss_model.film.{block}->beta2.bias"] = torch.ones(n_maps)
    own["query_encoder.model.logit_scale_a"] = torch.ones(())
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": own,
        "optimizer_states": [{"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": 1e-3}]}],
        "callbacks": {},
    }


@pytest.fixture
def config() -> AudioSepConfig:
    return SMALL


@pytest.fixture
def make_state() -> Callable[..., dict[str, Tensor]]:
    return telling_state


@pytest.fixture
def make_published() -> Callable[..., dict[str, Any]]:
    return published


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "audiosep_base_4M_steps.ckpt"
    torch.save(published(telling_state()), path)
    return path
