"""What holds without laion-clap: listing, cards, safe reading, clips, tokens, refusals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from unisep_laion_clap import checkpoints, plugin
from unisep_laion_clap.checkpoints import find, read_state
from unisep_laion_clap.encoder import N_TOKENS, SAMPLE_RATE_HZ, WINDOW_SAMPLES, load, read_tokenizer, windows

from unisep import Audio
from unisep.errors import EncoderError, WeightsError
from unisep.weights.cards import read_card
from unisep.weights.store import WeightsStore

SPECS = {spec.name: spec for spec in plugin.unisep_encoders()}


def test_listing_loads_nothing_heavy():
    code = (
        "import sys, unisep_laion_clap.plugin as p; print(len(list(p.unisep_encoders())), "
        "[name for name in ('torch', 'numpy', 'laion_clap') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


@pytest.mark.parametrize("name", SPECS)
def test_cards_agree_with_specs(name, tmp_path):
    card, spec = read_card(SPECS[name].card), SPECS[name]
    assert (card.name, card.licence) == (name, spec.licence)
    weights, tokenizer = card.files
    assert spec.space == f"{Path(weights.name).stem}@{weights.sha256}"
    assert tokenizer.name == "tokenizer.json"
    for file in card.files:
        assert file.revision in file.url and len(file.sha256) == 64
    assert WeightsStore(offline=True, folder=tmp_path).state(card) == "missing"
    module, function = spec.load.split(":")
    assert callable(getattr(import_module(module), function))


def test_audiosep_listens_to_the_second():
    other = pytest.importorskip("unisep_audiosep.plugin")
    assert SPECS["laion-clap-speech"].space == other.SPACE


def saved(folder: Path, held: object, name: str = "music.pt") -> Path:
    torch.save(held, folder / name)
    return folder / name


STATE = {
    "module.logit_scale_a": torch.tensor(2.5),
    "module.text_branch.embeddings.position_ids": torch.arange(4),
    "module.layer.weight": torch.ones(2, 2),
}


def published(**extra: object) -> dict[str, object]:
    """What LAION's trainer saves: an epoch, the optimiser, NumPy numbers beside the parameters."""
    optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": np.float64(1e-4), "params": [0]}]}
    return {"epoch": 15, "name": "a", "state_dict": STATE, "optimizer": optimiser, "top": np.float32(0.9), **extra}


def test_a_published_checkpoint_is_read_without_its_optimiser(tmp_path):
    path = saved(tmp_path, published())
    with pytest.raises(Exception, match=r"numpy|Weights only"):
        torch.load(path, weights_only=True)  # which is why the stand-ins are there
    assert set(read_state(path)) == {"logit_scale_a", "layer.weight"}
    with pytest.raises(Exception, match=r"numpy|Weights only"):
        torch.load(path, weights_only=True)  # and they are gone again


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_file_that_names_a_function_is_refused_and_not_run(tmp_path):
    path = saved(tmp_path, published(extra=Hostile(tmp_path / "was-run")))
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_state(path)
    assert not (tmp_path / "was-run").exists()


def test_damaged_foreign_and_infinite_files_are_refused(tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"garbage")
    cases = {
        "damaged": tmp_path / "damaged.pt",
        "no checkpoint of laion-clap": saved(tmp_path, {"state_dict": {"a": torch.ones(1)}}, "other.pt"),
        "lacks": saved(tmp_path, [1, 2], "list.pt"),
        "not finite": saved(tmp_path, {"logit_scale_a": torch.tensor(torch.nan)}, "nan.pt"),
    }
    for message, path in cases.items():
        with pytest.raises(WeightsError, match=message):
            read_state(path)


def test_the_space_is_the_files_name_and_hash(tmp_path, write_tokenizer):
    path = saved(tmp_path, published())
    with pytest.raises(WeightsError, match=r"tokenizer\.json is missing"):
        find(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert find(tmp_path).space == find(path).space == f"music@{digest}"
    saved(tmp_path, published(), "second.pt")
    with pytest.raises(WeightsError, match="found 2"):
        find(tmp_path)
    with pytest.raises(WeightsError, match="unisep models pull"):
        find(None)


def test_without_laion_clap_it_says_what_to_install(tmp_path, write_tokenizer, monkeypatch):
    write_tokenizer(tmp_path / "tokenizer.json")
    saved(tmp_path, published())
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"needs the package laion-clap.*pip install"):
        load(weights=tmp_path, device=torch.device("cpu"))


def test_texts_are_cut_and_filled_to_the_length_of_training(tmp_path, write_tokenizer):
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    short, long = tokenizer.encode("a dog"), tokenizer.encode("dog " * 100)
    assert len(short.ids) == len(long.ids) == N_TOKENS
    assert short.ids[:1] == [0] and short.ids[6] == 2 and set(short.ids[7:]) == {1}
    assert sum(short.attention_mask) == 7 and sum(long.attention_mask) == N_TOKENS and long.ids[-1] == 2
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="no tokenizer"):
        read_tokenizer(tmp_path / "tokenizer.json")


def noise(seconds: float, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1) -> Audio:
    samples = np.random.default_rng(0).standard_normal((channels, round(seconds * rate_hz)))
    return Audio(samples.astype(np.float32) * 0.1, rate_hz)


def test_a_short_clip_is_repeated_then_filled_with_zeros():
    (window,) = windows(noise(3.0))
    n = 3 * SAMPLE_RATE_HZ
    assert len(window) == WINDOW_SAMPLES and window.dtype == np.float32
    assert np.array_equal(window[:n], window[n : 2 * n]) and np.array_equal(window[:n], window[2 * n : 3 * n])
    assert not window[3 * n :].any()


def test_a_long_clip_is_heard_where_it_sounds():
    clip = noise(25.0)
    assert len(windows(clip)) == 4
    paused = Audio(
        np.concatenate([clip.samples[:, : 10 * SAMPLE_RATE_HZ], np.zeros((1, 720_000), np.float32)], 1), 48_000
    )
    assert len(windows(paused)) == 2


def test_samples_are_rounded_to_16_bits_and_clipped():
    loud = Audio(np.full((1, WINDOW_SAMPLES), 3.0, np.float32), SAMPLE_RATE_HZ)
    assert float(windows(loud)[0].max()) == 1.0
    steps = windows(noise(10.0))[0] * 32767
    assert np.abs(steps - np.round(steps)).max() < 1e-2


def test_an_empty_resampling_is_still_a_window():
    assert len(windows(Audio(np.ones((2, 1), np.float32), 192_000))) == 1
