"""Checkpoints as backends: the contract, what single-target models give, and the way through a Separator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from unisep_bandsplit.backend import load

from unisep import Audio, Backend, Separator
from unisep.errors import AudioError, WeightsError
from unisep.testing import BackendContract

CPU = torch.device("cpu")
ONE_OF_TWO = {"instruments": ["vocals", "other"], "target_instrument": "vocals"}


class TestSCNet(BackendContract):
    plugin_module = "unisep_bandsplit.plugin"
    kind: ClassVar[str] = "scnet"
    training: ClassVar[dict[str, Any] | None] = None
    changed: ClassVar[dict[str, Any]] = {}
    stays_on_device = True

    @pytest.fixture(autouse=True)
    def _taking_written(self, written: Any) -> None:
        self.written = written

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as name:
            folder = self.written(Path(name), self.kind, self.training, **self.changed)
            return load(weights=folder, device=CPU, dtype=torch.float32)


class TestSCNetOfOneTarget(TestSCNet):
    training = ONE_OF_TWO
    changed: ClassVar[dict[str, Any]] = {"sources": ["vocals"]}


class TestBandSplitRNN(TestSCNet):
    kind = "bsrnn"


def opened(folder: Path) -> Any:
    return load(weights=folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(("kind", "outputs"), [("scnet", "sources"), ("bsrnn", "stems")])
@torch.inference_mode()
def test_one_target_of_two_leaves_the_remainder(
    kind: str, outputs: str, tmp_path: Path, written: Any, music: Any
) -> None:
    backend = opened(written(tmp_path, kind, ONE_OF_TWO, **{outputs: ["vocals"]}))
    mixture = music(5000)
    sources = backend.separate(mixture).sources
    assert backend.info.sources == ("vocals", "other")
    assert torch.allclose(sources.sum(1), mixture, atol=1e-5)
    assert torch.equal(sources[:, 0], backend.model(mixture)[:, 0])


def test_only_the_stems_asked_for_are_estimated(tmp_path: Path, written: Any, music: Any) -> None:
    backend = opened(written(tmp_path, "bsrnn"))
    counts: list[str] = []
    for stem, estimator in backend.model.mask_estim.items():
        estimator.register_forward_hook(lambda *_, stem=stem: counts.append(stem))
    part = backend.for_sources(("effects", "speech"))
    assert part.info.sources == ("speech", "effects") and part.model is backend.model
    mixture = music(3000)
    assert torch.equal(part.separate(mixture).sources, backend.separate(mixture).sources[:, [0, 2]])
    assert counts[:2] == ["speech", "effects"] and len(counts) == 5


def test_the_file_says_what_stretch_is_taken_and_whether_songs_are_normalised(tmp_path: Path, written: Any) -> None:
    backend = opened(written(tmp_path, "scnet", chunk_size=7000))
    assert backend.info.normalisation == "none" and backend.info.segment_seconds == 7000 / 44100
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text() + "inference: {normalize: true, dim_t: 256}\n")
    assert opened(tmp_path).info.normalisation == "song"


def test_sources_have_the_names_of_the_instruments(tmp_path: Path, written: Any) -> None:
    folder = written(tmp_path, "scnet", {"instruments": ["kick", "snare", "toms"]})
    assert opened(folder).info.sources == ("kick", "snare", "toms")


def test_refuses_what_it_cannot_do(tmp_path: Path, written: Any, music: Any) -> None:
    backend = opened(written(tmp_path, "scnet"))
    with pytest.raises(AudioError, match="at most 6000"):
        backend.separate(music(6001))
    with pytest.raises(AudioError, match=r"\[batch, 2, samples\]"):
        backend.separate(music(100, channels=1))
    with pytest.raises(WeightsError, match="unisep models pull"):
        load(weights=None, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(("name", "kind"), [("scnet", "bsrnn"), ("bandit-plus", "scnet"), ("scnet-large", "scnet")])
def test_a_separator_takes_a_folder_under_each_name(
    name: str, kind: str, tmp_path: Path, written: Any, made: Any, music: Any, distance: Any
) -> None:
    """Without overlap, a song is the model's answer to each of its segments side by side."""
    folder, song = written(tmp_path / "model", kind), music(18_000)
    with Separator(name, weights=folder, device="cpu", overlap_fraction=0) as separator:
        parts = separator.separate(Audio(song[0].numpy(), 44_100))
    with torch.inference_mode():
        expected = torch.cat([made(kind)(piece) for piece in song.split(6000, dim=-1)], dim=-1)[0]
    for source, part in zip(expected, parts.values(), strict=True):
        assert distance(torch.from_numpy(np.array(part.samples)), source) <= 1e-4
