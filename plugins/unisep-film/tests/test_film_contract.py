"""FiLM HT Demucs keeps the contract of unisep's backends, small or as it ships."""

from __future__ import annotations

from pathlib import Path

import torch
from unisep_film.backend import FilmBackend, load
from unisep_film.checkpoints import from_htdemucs
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs

from unisep.testing import BackendContract
from unisep.weights.cards import read_card
from unisep.weights.store import WeightsStore

CARD = "unisep_film:cards/htdemucs-film.toml"


class TestMask(BackendContract):
    query_dim = 6
    plugin_module = "unisep_film.plugin"
    stays_on_device = True
    differentiable = True

    def load_backend(self) -> FilmBackend:
        torch.manual_seed(0)
        config = FilmConfig(
            demucs={"channels": 8, "dconv_mode": 0, "t_layers": 2, "t_heads": 2, "nfft": 2048, "segment": "1/2",
                    "t_layer_scale_init": 1.0, "use_train_segment": False},
            output="mask", spaces={"toy-1": 6}, condition_channels=16,
        )  # fmt: skip
        model = FilmHTDemucs(config).eval()
        for parameter in model.film_tokens.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return FilmBackend(model)


class TestFromHTDemucs(BackendContract):
    query_dim = 6
    stays_on_device = True

    def load_backend(self) -> FilmBackend:
        torch.manual_seed(0)
        config = HTDemucsConfig(("drums", "rest"), channels=8, t_layers=2, t_heads=2, segment=0.5)
        return FilmBackend(from_htdemucs(HTDemucs(config), {"toy-1": 6}).eval())


class TestEmbedded(BackendContract):
    query_dim = 256
    stays_on_device = True
    differentiable = True

    def load_backend(self) -> FilmBackend:
        folder = WeightsStore(offline=True).ensure(read_card(CARD))
        backend = load(weights=folder, device=torch.device("cpu"), dtype=torch.float32)
        assert isinstance(backend, FilmBackend)
        return backend


def test_the_embedded_weights_are_those_of_the_card_and_small_enough() -> None:
    card = read_card(CARD)
    assert [check.state for check in WeightsStore(offline=True).verify(card)] == ["ok"]
    assert card.n_bytes <= 24_000_000
    assert Path(card.files[0].resource).suffix == ".safetensors"
    assert card.measured["text"], "the card states what was measured"
