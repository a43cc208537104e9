"""Weights of 8 bits: half the size of 16, nearly the same answers, and refused where they are harmful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from unisep_film.checkpoints import load_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_film.saving import main
from unisep_htdemucs import eight_bit

from unisep import Separator
from unisep.errors import WeightsError

ROOT = Path(__file__).parents[3]
EMBEDDED = ROOT / "plugins" / "unisep-film" / "unisep_film" / "weights" / "unisep_film.safetensors"
NAME = "mix.weight"
SHAPE: dict[str, Any] = {
    "channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": 8000, "segment": "1",
}  # fmt: skip
CONFIG = FilmConfig(demucs=SHAPE, output="mask", spaces={"toy-1": 16}, condition_channels=16)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = FilmHTDemucs(CONFIG)
    torch.nn.init.normal_(model.mix.weight)
    return save_model(tmp_path / "small.safetensors", model, in_8_bits=True)


def test_the_embedded_weights_in_8_bits_are_half_the_size_and_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "eight.safetensors"
    main([str(EMBEDDED), str(written)])
    assert "0.52 of" in capsys.readouterr().out
    assert written.stat().st_size < 0.53 * EMBEDDED.stat().st_size
    song = ROOT / "examples" / "audio" / "mixture.flac"
    asked: dict[str, Any] = {"query": {"text": "drums", "time_range": (0, 4)}, "route": "conditioned"}
    whole, eight = (
        Separator(query_weights=weights).separate(song, **asked).target.samples for weights in (None, written)
    )
    agreement_db = 10 * torch.log10(torch.tensor((whole**2).sum() / ((whole - eight) ** 2).sum(), dtype=torch.float64))
    assert 34 < agreement_db < 60  # above it nothing would have been rounded


def test_every_number_is_within_half_a_step_of_its_row(small: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FilmHTDemucs(CONFIG)
    torch.nn.init.normal_(model.mix.weight)
    found = load_model(small).state_dict()
    for name, value in model.state_dict().items():
        if value.dim() < 2:
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)  # 16 bits
            continue
        step = value.flatten(1).abs().amax(1) / 127
        error = (found[name] - value).flatten(1).abs().amax(1)
        assert (error <= 0.501 * step + 1e-9).all(), name
        assert value[0].numel() == 1 or not value.any() or error.max() > 0, name


@pytest.mark.parametrize(
    ("harm", "form", "why"),
    [
        (lambda s: s.pop(f"{NAME}.scale8"), eight_bit.FORMAT, "whole numbers"),
        (lambda s: s[f"{NAME}.scale8"].fill_(float("nan")), eight_bit.FORMAT, "finite"),
        (lambda s: s[f"{NAME}.scale8"].fill_(float("inf")), eight_bit.FORMAT, "finite"),
        (lambda s: s[f"{NAME}.scale8"].fill_(3e38), eight_bit.FORMAT, "not finite"),
        (lambda s: s.update({f"{NAME}.scale8": torch.ones(1000)}), eight_bit.FORMAT, "are not 1 finite numbers"),
        (lambda s: s.update({f"{NAME}.scale8": torch.ones(1).int()}), eight_bit.FORMAT, "finite numbers"),
        (lambda s: s.update({NAME: torch.ones(1, 16)}), eight_bit.FORMAT, "whole numbers"),
        (lambda s: s.update({"ghost.scale8": torch.ones(3)}), eight_bit.FORMAT, "scale of nothing"),
        (lambda s: s.update({"mix.bias": torch.ones(1).to(torch.int8)}), eight_bit.FORMAT, "mix.bias"),
        (lambda s: None, "int4", "quantised as 'int4'"),
        (lambda s: None, None, "of another kind of number"),
    ],
)
def test_harmful_files_are_refused(
    small: Path, tmp_path: Path, harm: Callable[..., Any], form: str | None, why: str
) -> None:
    with safe_open(small, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != eight_bit.KEY}
    state = {name: value.clone() for name, value in load_file(small).items()}
    harm(state)
    bad = tmp_path / "bad.safetensors"
    save_file(state, bad, metadata | ({eight_bit.KEY: form} if form else {}))
    with pytest.raises(WeightsError, match=why):
        load_model(bad)


def test_whole_numbers_without_scales_are_refused(tmp_path: Path) -> None:
    good = save_model(tmp_path / "good.safetensors", FilmHTDemucs(CONFIG))
    with safe_open(good, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(good) | {NAME: torch.ones(1, 16, dtype=torch.int8)}
    save_file(state, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"another kind of number \(mix\.weight\)"):
        load_model(tmp_path / "bad.safetensors")


def test_the_command_says_what_is_wrong_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        main([str(tmp_path / "none.safetensors"), str(tmp_path / "out.safetensors")])
    assert not list(tmp_path.iterdir())
