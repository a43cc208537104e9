"""What the plugin tells before any model is loaded, and that its cards say the same."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from unisep_bandsplit import plugin
from unisep_bandsplit.bsrnn import BandSplitRNN
from unisep_bandsplit.config import BSRNNConfig, SCNetConfig
from unisep_bandsplit.scnet import SCNet

from unisep.weights.cards import read_card

SPECS = {spec.name: spec for spec in plugin.unisep_backends()}
FOUR = ("drums", "bass", "other", "vocals")
LARGE = {"sources": FOUR, "dims": (4, 64, 128, 256)}
SHAPES: dict[str, SCNetConfig | BSRNNConfig] = {
    "scnet": SCNetConfig(sources=FOUR),
    "scnet-large": SCNetConfig(**LARGE, band_SR=(0.225, 0.372, 0.403)),
    "scnet-xl-ihf": SCNetConfig(
        **LARGE, band_SR=(0.23, 0.37, 0.4), band_stride=(1, 4, 4), band_kernel=(3, 4, 4), conv_depths=(3, 3, 3), num_dplayer=8
    ),
    "bandit-plus": BSRNNConfig(
        stems=("speech", "music", "effects"), band_specs="musical", n_bands=64, n_sqm_modules=8, rnn_type="GRU"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SPECS))
def test_cards_agree_with_specs(name: str) -> None:
    spec = SPECS[name]
    card = read_card(spec.card)
    assert card.name == name and card.sources == spec.stems and card.licence == spec.licence
    assert card.sample_rate_hz == 44_100 and "icence" in card.notes
    assert sorted(file.name.rpartition(".")[2] for file in card.files) in (["ckpt", "yaml"], ["chpt", "yaml"])
    assert {figure.stem for figure in card.quality} == set(spec.stems)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_models_that_cards_describe_have_the_parameters_and_fill_the_files(name: str) -> None:
    config, card = SHAPES[name], read_card(SPECS[name].card)
    with torch.device("meta"):
        model = SCNet(config) if isinstance(config, SCNetConfig) else BandSplitRNN(config)
    tensors = model.state_dict().values()
    assert sum(tensor.numel() for tensor in tensors) == card.n_parameters
    size = card.files[0].n_bytes
    if size:  # four bytes a number, and a few hundred a tensor for its name and place
        assert 0 < size - 4 * card.n_parameters < 450 * len(tensors)


def test_every_name_loads_by_the_same_function() -> None:
    loads = {spec.load for spec in SPECS.values()}
    assert len(loads) == 1
    module, function = loads.pop().split(":")
    assert callable(getattr(import_module(module), function))
