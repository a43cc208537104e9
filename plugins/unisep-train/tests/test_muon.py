"""Muon: which parameters it takes, what its updates look like, and that a run with it can be resumed."""

from __future__ import annotations

import torch
from torch import nn
from unisep_train.trainer.muon import Muon, orthogonal

SETTINGS = {"lr": 0.01, "weight_decay": 0.0}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 2)
        self.convolution = nn.Conv2d(16, 24, 3)
        self.film_tokens = nn.Linear(16, 16)
        self.narrow = nn.Linear(16, 1)


def names_of(model: nn.Module, optimizer: Muon) -> set[str]:
    return {name for name, value in model.named_parameters() if value in optimizer.n_stacked}


def step(model: nn.Module, optimizer: Muon, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)
    optimizer.step()


def test_it_takes_the_weights_of_layers_and_leaves_films_and_narrow_ones_to_adamw() -> None:
    model = Toy()
    taken = names_of(model, Muon(model, **SETTINGS))
    assert taken == {"attention.in_proj_weight", "attention.out_proj.weight", "convolution.weight"}


def test_gates_and_bands_are_matrices_of_their_own() -> None:
    class Bands(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.ModuleDict({"lstm_time": nn.LSTM(16, 12)})
            self.per_band = nn.Parameter(torch.zeros(3, 16, 24))
            self.last = nn.ParameterList([nn.Parameter(torch.zeros(3, 16, 24))])

    model = Bands()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = Muon(model, **SETTINGS)
    assert names_of(model, optimizer) == {"lstm.lstm_time.weight_ih_l0", "lstm.lstm_time.weight_hh_l0", "per_band"}
    step(model, optimizer, 0)
    moved = {name: before[name] - value.detach() for name, value in model.named_parameters()}
    for value in (*moved["lstm.lstm_time.weight_ih_l0"].chunk(4), *moved["per_band"]):
        values = torch.linalg.svdvals(value) / (0.2 * 0.01 * max(value.shape) ** 0.5)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_singular_values_come_near_one_whatever_they_were() -> None:
    for shape in ((1, 8, 40), (2, 40, 8)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-1, 1, shape[-1])
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_an_update_has_the_size_of_one_by_adamw_and_each_projection_its_own() -> None:
    model = Toy()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    step(model, Muon(model, **SETTINGS), 0)
    moved = {name: before[name] - value.detach() for name, value in model.named_parameters()}
    assert all(float(value.abs().max()) > 0 for value in moved.values())
    for value in (moved["convolution.weight"].flatten(1), *moved["attention.in_proj_weight"].chunk(3)):
        # 0.2 lr sqrt(longer side) times singular values near 1, whatever the gradient's size.
        values = torch.linalg.svdvals(value) / (0.2 * 0.01 * max(value.shape) ** 0.5)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_a_saved_state_goes_on_as_if_it_had_never_stopped() -> None:
    straight, resumed = Toy(), Toy()
    first, second = Muon(straight, **SETTINGS), Muon(resumed, **SETTINGS)
    for seed in (1, 2):
        step(straight, first, seed)
    step(resumed, second, 1)
    again = Muon(resumed, **SETTINGS)
    again.load_state_dict(second.state_dict())
    step(resumed, again, 2)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
