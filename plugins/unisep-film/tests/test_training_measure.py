"""A run is measured with the encoder it was trained with, and released with its card."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from unisep_film.checkpoints import load_model
from unisep_film.config import FilmConfig
from unisep_film.training import corpus, measure
from unisep_film.training.mix_config import MixConfig
from unisep_film.training.recipe import Recipe
from unisep_film.training.run import Run

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
        return torch.nn.functional.normalize(
            torch.tensor([[*map(float, text.encode()[:3])] for text in texts])
        )

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
    corpus.build(tmp_path, tmp_path / "store", RATE_HZ)
    return tmp_path / "store"


def test_a_run_is_measured_and_released_with_its_own_encoder(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, package = tmp_path / "run", tmp_path / "package"
    run.mkdir()
    (run / "recipe.json").write_text(RECIPE.model_dump_json())
    Run(RECIPE, run).save()
    for name in ("weights", "cards"):
        (package / name).mkdir(parents=True)
    (package / "cards" / measure.CARD).write_text('summary = "toy"\n\n[[files]]\n')
    asked = [str(store), str(run), "--ask", "text", "audio"]
    with pytest.raises(SystemExit, match=r"256 values of the space 'clap-mini-1'.*toy-3"):
        measure.main(asked)
    capsys.readouterr()
    measure.main([*asked, "--encoder", f"{__name__}:load", "--release", str(package)])
    said = capsys.readouterr().out
    assert said.count("single: piano") == 2 and said.count('"ask"') == 2
    card = tomllib.loads((package / "cards" / measure.CARD).read_text())
    assert card["summary"] == "toy" and card["measured"]["training"]["n_steps"] == 0
    assert load_model(package / "weights" / card["files"][0]["name"]).config == RECIPE.model
