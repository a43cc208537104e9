"""Checkpoints are written as demucs reads them, or in 8 bits, which this plugin reads back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs.hf import load_safetensors_model
from demucs.states import get_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from unisep_htdemucs import eight_bit
from unisep_htdemucs.checkpoints import CLASS, build_model, read_checkpoint
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import main, save_checkpoint

from unisep.errors import OptionError, WeightsError

CPU = torch.device("cpu")
Music = Callable[..., Tensor]
Ours = Callable[..., HTDemucs]


@pytest.fixture
def model(reference: Callable[..., Any], ours: Ours) -> HTDemucs:
    return ours(reference())


def loaded(path: Path) -> HTDemucs:
    return build_model(read_checkpoint(path), CPU, torch.float32)


def agreement_db(found: Tensor, expected: Tensor) -> float:
    return 10 * float(torch.log10(expected.square().sum() / (found - expected).square().sum()))


@torch.inference_mode()
def test_what_is_saved_is_what_is_read_here_and_by_demucs(
    tmp_path: Path, model: HTDemucs, music: Music, distance: Callable[..., float]
) -> None:
    path = save_checkpoint(tmp_path / "abcdef01.safetensors", model.config, model.state_dict())
    mixture = music(13230)
    assert torch.equal(loaded(path)(mixture), model(mixture))
    assert loaded(path).config == model.config
    assert distance(load_safetensors_model(path).eval()(mixture), model(mixture)) <= 1e-4


@torch.inference_mode()
def test_eight_bits_are_a_quarter_of_the_size_and_agree(
    tmp_path: Path, reference: Callable[..., Any], model: HTDemucs, music: Music, capsys: Any
) -> None:
    whole, small = tmp_path / "m.th", tmp_path / "small.safetensors"
    published = reference()
    args, kwargs = published._init_args_kwargs
    torch.save({"klass": type(published), "args": args, "kwargs": kwargs, "state": get_state(published, None)}, whole)
    main([str(whole), str(small), "--bits", "8"])
    assert str(small) in capsys.readouterr().out
    n_numbers = sum(value.numel() for value in model.state_dict().values())
    assert sum(value.nbytes for value in load_file(small).values()) < 1.3 * n_numbers
    mixture = music(13230)
    assert 30 < agreement_db(loaded(small)(mixture), model(mixture)) < 80


@torch.inference_mode()
def test_sixteen_bits(tmp_path: Path, model: HTDemucs, music: Music) -> None:
    path = save_checkpoint(tmp_path / "half.safetensors", model.config, model.state_dict(), 16)
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}
    assert agreement_db(loaded(path)(music(9000)), model(music(9000))) > 50


def test_every_number_is_within_half_a_step_of_its_row() -> None:
    state = {
        "weight": torch.randn(5, 3, 2) * torch.tensor([1e-6, 1.0, 30.0, 0.0, 1e4])[:, None, None],
        "bias": torch.randn(4),
    }
    found = eight_bit.dequantised(Path("x"), eight_bit.FORMAT, eight_bit.quantised(state))
    step = state["weight"].flatten(1).abs().amax(1) / 127
    error = (found["weight"] - state["weight"]).flatten(1).abs().amax(1)
    assert (error <= 0.5001 * step + 1e-30).all() and torch.equal(found["bias"], state["bias"])


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda state: state.pop("freq_emb.embedding.weight.scale8"), "whole numbers with scales"),
        (lambda state: state["freq_emb.embedding.weight.scale8"].fill_(float("nan")), "finite"),
        (lambda state: state["freq_emb.embedding.weight.scale8"].fill_(float("inf")), "finite"),
        (lambda state: state.update({"freq_emb.embedding.weight.scale8": torch.ones(3)}), "finite numbers"),
        (lambda state: state.update({"freq_emb.embedding.weight.scale8": torch.ones(1, 1)}), "finite numbers"),
        (lambda state: state.update({"ghost.scale8": torch.ones(3)}), "scale of nothing"),
        (lambda state: state.update({"freq_emb.embedding.weight": torch.ones(2, 2)}), "whole numbers"),
        (lambda state: state.pop("freq_emb.embedding.weight"), "scale of nothing"),
    ],
)
def test_harmful_scales_are_refused(tmp_path: Path, model: HTDemucs, harm: Callable[..., Any], why: str) -> None:
    good = save_checkpoint(tmp_path / "good.safetensors", model.config, model.state_dict(), 8)
    state = {name: value.clone() for name, value in load_file(good).items()}
    harm(state)
    bad = tmp_path / "bad.safetensors"
    metadata = {"klass": CLASS, "args": "[]", "kwargs": '{"sources": ["a"]}', eight_bit.KEY: eight_bit.FORMAT}
    save_file(state, bad, metadata=metadata)
    with pytest.raises(WeightsError, match=why):
        read_checkpoint(bad)


def test_another_form_and_other_bits_are_refused(tmp_path: Path, model: HTDemucs) -> None:
    metadata = {"klass": CLASS, "args": "[]", "kwargs": "{}", eight_bit.KEY: "int4"}
    save_file({"x": torch.ones(1)}, tmp_path / "four.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match="int4"):
        read_checkpoint(tmp_path / "four.safetensors")
    for name, bits in (("a.safetensors", 4), ("a.th", 8)):
        with pytest.raises(OptionError, match="8, 16 or 32 bits"):
            save_checkpoint(tmp_path / name, model.config, model.state_dict(), bits)
    assert not list(tmp_path.glob("a.*"))
