"""A run is measured with the encoder it was trained with, and released with its card."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from unisep_film.backend import WEIGHTS_FILE
from unisep_film.checkpoints import load_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_train.data import corpus
from unisep_train.data.store import Store
from unisep_train.measuring import measure
from unisep_train.measuring.cards import write_table
from unisep_train.measuring.measure import Figures, grouped
from unisep_train.measuring.validation import validation_items
from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks.query_model import QueryModelRun, Recipe

from unisep import QueryEncoder

RATE_HZ = 8000
SHAPE: dict[str, Any] = {
    "channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
    "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1",
}  # fmt: skip
RECIPE = Recipe(
    model=FilmConfig(demucs=SHAPE, output="mask", spaces={"toy-3": 3}, condition_channels=16),
    mix=MixConfig(segment_seconds=0.5, batch=4), n_steps=2,
)  # fmt: skip


class FirstLetters(QueryEncoder):
    """Vectors of three numbers: the first letters of texts, the lengths of clips."""

    space = "toy-3"
    dim = 3

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor([[*map(float, text.encode()[:3])] for text in texts]))

    def encode_audio(self, clips: Any) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor([[1.0, clip.seconds, 0.0] for clip in clips]))


def load(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    return FirstLetters()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng, lines = np.random.default_rng(0), []
    for split in ("train", "valid"):
        for label in ("piano", "violin", "dog bark"):
            path = f"{split} {label}.wav"
            soundfile.write(tmp_path / path, 0.1 * rng.standard_normal(7 * RATE_HZ), RATE_HZ)
            lines.append({"path": path, "kind": "solo", "label": label, "split": split})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus.build(tmp_path, tmp_path / "store", rate_hz=RATE_HZ)
    return tmp_path / "store"


CARD = measure.EMBEDDED_AS[measure.FilmHTDemucs][1]


def test_a_run_is_measured_and_released_with_its_own_encoder(
    store: Path, tmp_path: Path, command: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, package = tmp_path / "run", tmp_path / "package"
    QueryModelRun(RECIPE.kept_in(run), run).save()
    for name in ("weights", "cards"):
        (package / name).mkdir(parents=True)
    (package / "cards" / CARD).write_text('summary = "toy"\n\n[[files]]\n')
    page = tmp_path / "README.md"
    page.write_text("# Toy\n\n<!-- figures of htdemucs-film -->\nold\n<!-- end -->\n\nMore.\n")
    words = ["measure", store, run, "--ask", "text", "audio"]
    shipped = package / "weights" / WEIGHTS_FILE
    shipped.write_bytes(b"the old ones")
    for more, why in (
        (["--release", package], "256 values"),
        (["--release", package, "--groups", "single"], "all groups"),
        (["--release", tmp_path], "no card"),
    ):
        assert why in command(*words, *more)
        assert [path.name for path in shipped.parent.iterdir()] == [WEIGHTS_FILE]
        assert shipped.read_bytes() == b"the old ones"
    assert "holds no run" in command("measure", store, tmp_path / "none")
    assert re.search(r"256 values of the space 'clap-mini-1'.*toy-3", command(*words))
    capsys.readouterr()
    assert not command(*words, "--encoder", f"{__name__}:load", "--release", package)
    said = capsys.readouterr().out
    assert said.count("single: piano") == 2 and said.count('"ask"') == 2
    assert "old" not in page.read_text() and page.read_text().endswith("<!-- end -->\n\nMore.\n")
    card = tomllib.loads((package / "cards" / CARD).read_text())
    assert card["summary"] == "toy" and card["measured"]["training"]["n_steps"] == 0
    assert load_model(package / "weights" / card["files"][0]["name"]).config == RECIPE.model
    assert not command(*words, "--encoder", f"{__name__}:load", "--release", tmp_path / "my.safetensors")
    assert load_model(tmp_path / "my.safetensors").config == RECIPE.model
    assert not list(tmp_path.glob("*.measured"))
    words[2] = tmp_path / "my.safetensors"  # finished weights: what the card says of training stays
    (package / "cards" / CARD).write_text('summary = "toy"\n\n[[files]]\n\n[measured.training]\nn_steps = 7\n')
    assert not command(*words, "--encoder", f"{__name__}:load", "--release", package)
    again = tomllib.loads((package / "cards" / CARD).read_text())
    assert again["measured"]["training"] == {"n_steps": 7}
    assert [file["name"] for file in again["files"]] == [WEIGHTS_FILE] and again["measured"]["text"] == card[
        "measured"
    ]["text"]


def test_the_table_of_a_page_says_what_the_card_says(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- figures of toy -->\nold\n<!-- end -->\n")
    of_song = {"n_windows": 8, "si_sdr_gain_db": 6.88, "sdr_db": 8.36, "mixture_sdr_db": 2.43, "presence": 0.9}
    rows = {"all: voices": of_song, "song: drums": of_song, "remix: hi-hat": of_song, "single: coins": of_song}
    absent = {"absent": {"n_windows": 39, "level_db": -65.97, "presence": 0.3}, "presence_auc": {"value": 0.96}}
    write_table(page, "toy", {"text": rows | absent, "audio": absent})
    write_table(page, "other", {"text": {}})
    assert page.read_text().splitlines() == [
        "<!-- figures of toy -->", "",
        "| | windows | by text | by example | the mixture |", "|---|---:|---:|---:|---:|",
        "| voices | 8 | 6.9 (8.4) | | 2.4 |", "| drums | 8 | 6.9 (8.4) | | 2.4 |",
        "| hi-hat (remixed) | 8 | 6.9 (8.4) | | 2.4 |",
        "| level of what is not there | 39 | -66 | -66 | |", "| presence, ROC-AUC | | 0.96 | 0.96 | |",
        "", "<!-- end -->",
    ]  # fmt: skip


@pytest.mark.parametrize(("output", "channels"), [("mask", 1), ("spectrogram", 2)])
def test_mono_models_and_short_segments_are_measured_on_what_they_take(store: Path, output: str, channels: int) -> None:
    shape = SHAPE | {"audio_channels": channels, "use_train_segment": True}
    config = FilmConfig(demucs=shape, output=output, spaces={"toy-3": 3}, condition_channels=16)
    model = FilmHTDemucs(config).eval()
    windows = measure.windows_for(model)
    assert windows.segment_seconds == (6.0 if output == "mask" else 1.0)
    items = list(validation_items(Store(store), windows))
    encoder = TextAudioEncoder(FirstLetters)
    figures = measure.measure(model, items, encoder, RATE_HZ, "audio")
    assert len(figures) == len(items) == 3 and all(np.isfinite(row.sdr_db) for row in figures)


def test_windows_without_anything_beside_the_target_are_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.ones(8 * RATE_HZ), RATE_HZ)
    lines = [{"path": "a.wav", "label": "speech", "split": "valid"}]
    soundfile.write(tmp_path / "b.wav", np.ones(8 * RATE_HZ), RATE_HZ)
    lines.append({"path": "b.wav", "label": "speech", "split": "train"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus.build(tmp_path, tmp_path / "store", rate_hz=RATE_HZ)
    assert list(validation_items(Store(tmp_path / "store"))) == []


def test_figures_are_grouped_and_presence_is_ranked() -> None:
    rows = [
        Figures("drums", "song", "song", 3.0, 2.0, 0.0, -3.0, 0.9),
        Figures("drums", "song", "song", 5.0, 4.0, 0.0, -3.0, 0.4),
        Figures("violin", "absent", "song", 0.0, 0.0, 0.0, -40.0, 0.5),
        Figures("oboe", "single", "notes", 1.0, 2.0, 0.0, -3.0, 0.9),
    ]
    table = grouped(rows)
    names = ["all: instruments", "all: stems of songs", "song: drums", "absent", "single: oboe", "presence_auc"]
    assert list(table) == names
    assert table["all: stems of songs"]["si_sdr_gain_db"] == table["song: drums"]["si_sdr_gain_db"] == 4.0
    assert table["all: instruments"]["n_windows"] == 1
    assert table["absent"] == {"n_windows": 1, "level_db": -40.0, "presence": 0.5}
    assert grouped(rows[:3])["presence_auc"] == {"value": 0.5}
    assert "presence_auc" not in grouped(rows[:2])
