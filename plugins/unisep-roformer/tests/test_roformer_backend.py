"""Checkpoints as backends: the contract, what single-target models give, and the way through a Separator."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from unisep_roformer.backend import CheckpointBackend, load
from unisep_roformer.checkpoints import build_model
from unisep_roformer.checkpoints import read_checkpoint as read
from unisep_roformer.config import RoformerConfig
from unisep_roformer.model import Roformer

from unisep import Audio, Backend, Separator
from unisep.errors import AudioError, BackendError, WeightsError
from unisep.testing import BackendContract

CPU = torch.device("cpu")
FOUR = ["drums", "bass", "other", "vocals"]
CHUNK = {"audio": {"chunk_size": 6000, "sample_rate": 44100}}
SIZES: dict[str, Any] = {
    "dim": 8, "depth": 1, "stereo": True, "num_stems": 4, "time_transformer_depth": 1, "freq_transformer_depth": 1,
    "dim_head": 4, "heads": 2, "stft_n_fft": 256, "stft_hop_length": 64, "stft_win_length": 256,
}  # fmt: skip
BANDS = {"band": {"freqs_per_bands": (1, 8, 40, 80)}, "mel": {"num_bands": 8, "mask_estimator_depth": 2}}


def write(folder: Path, kind: str, training: dict[str, Any], **changed: Any) -> Path:
    """A folder with a small random model."""
    import yaml

    options = {**SIZES, **BANDS[kind], **changed}
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    (folder / "model.yaml").write_text(yaml.dump({"model": options, "training": training, **CHUNK}))
    torch.save(Roformer(RoformerConfig.from_options(options)).state_dict(), folder / "model.ckpt")
    return folder


def opened(folder: Path, kind: str, training: dict[str, Any], **changed: Any) -> CheckpointBackend[RoformerConfig]:
    checkpoint = read(write(folder, kind, training, **changed))
    return CheckpointBackend(build_model(checkpoint, CPU, torch.float32), checkpoint.description)


class TestBandSplit(BackendContract):
    plugin_module = "unisep_roformer.plugin"
    kind: ClassVar[str] = "band"
    training: ClassVar[dict[str, Any]] = {"instruments": FOUR}
    changed: ClassVar[dict[str, Any]] = {}
    stays_on_device = True

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as name:
            folder = write(Path(name), self.kind, self.training, **self.changed)
            return load(weights=folder, device=CPU, dtype=torch.float32)


class TestMelBandOfOneTarget(TestBandSplit):
    kind = "mel"
    training: ClassVar[dict[str, Any]] = {"instruments": ["vocals", "other"], "target_instrument": "vocals"}
    changed: ClassVar[dict[str, Any]] = {"num_stems": 1}


@pytest.mark.parametrize("target", ["vocals", "instrumental"])
def test_one_target_of_two_leaves_the_remainder(tmp_path: Path, target: str, music: Any) -> None:
    training = {"instruments": ["vocals", "instrumental"], "target_instrument": target}
    backend = opened(tmp_path, "mel", training, num_stems=1)
    assert backend.info.sources == ("vocals", "instrumental")
    mixture = music(6000)
    sources = backend.separate(mixture).sources
    assert torch.allclose(sources.sum(1), mixture, atol=1e-6)
    expected = backend.model(mixture)[:, 0]
    assert torch.equal(sources[:, backend.info.sources.index(target)], expected)


def test_one_target_of_many_gives_only_itself(tmp_path: Path, music: Any) -> None:
    backend = opened(tmp_path, "band", {"instruments": FOUR, "target_instrument": "other"}, num_stems=1)
    assert backend.info.sources == ("other",)
    mixture = music(3000)
    assert torch.equal(backend.separate(mixture).sources, backend.model(mixture))


def test_asked_for_some_sources_only_their_masks_are_computed(tmp_path: Path, music: Any) -> None:
    backend = opened(tmp_path, "band", {"instruments": FOUR})
    part = backend.for_sources(("vocals", "drums"))
    assert part.info.sources == ("drums", "vocals") and part.model is backend.model
    counts: list[int] = []
    for estimator in backend.model.mask_estimators:
        estimator.register_forward_hook(lambda *_: counts.append(1))
    mixture = music(3000)
    found = part.separate(mixture).sources
    assert len(counts) == 2
    assert torch.equal(found, backend.separate(mixture).sources[:, [0, 3]])
    assert backend.for_sources(tuple(FOUR)) is backend


def test_songs_are_normalised_only_if_the_file_says_so(tmp_path: Path) -> None:
    backend = opened(tmp_path, "band", {"instruments": FOUR})
    assert backend.info.normalisation == "none" and backend.info.segment_seconds == 6000 / 44100
    path = tmp_path / "model.yaml"
    path.write_text(path.read_text() + "inference: {normalize: true}\n")
    assert load(weights=tmp_path, device=CPU, dtype=torch.float32).info.normalisation == "song"


def test_refuses_what_it_cannot_do(tmp_path: Path, music: Any) -> None:
    backend = opened(tmp_path, "band", {"instruments": FOUR})
    with pytest.raises(AudioError, match="at most 6000"):
        backend.separate(music(6001))
    with pytest.raises(AudioError, match=r"\[batch, 2, samples\]"):
        backend.separate(music(100, channels=1))
    with pytest.raises(BackendError, match="fixed sources"):
        backend.separate(music(100), torch.ones(1, 4))
    with pytest.raises(WeightsError, match="unisep models pull"):
        load(weights=None, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["bs-roformer", "bs-roformer-sw", "mel-band-roformer"])
def test_a_separator_takes_a_folder_under_each_name(name: str, tmp_path: Path, music: Any) -> None:
    training = {"instruments": ["vocals", "other"], "target_instrument": "vocals"}
    folder = write(tmp_path / "kim", "mel", training, num_stems=1)
    song = Audio(music(20_000)[0].numpy(), 44_100)
    with Separator(name, weights=folder, device="cpu") as separator:
        parts = separator.separate(song)
    assert list(parts) == ["vocals", "other"]
    total = sum(part.samples for part in parts.values())
    assert np.allclose(total, song.samples, atol=1e-5)
    assert float(np.abs(parts["vocals"].samples).max()) > 0


@pytest.mark.parametrize("kind", ["band", "mel"])
@pytest.mark.parametrize(
    ("instruments", "target", "stems"),
    [
        (["piano", "other"], "piano", ["piano", "other"]),
        (["no piano", "piano"], "piano", ["no piano", "piano"]),
        (["piano"], "piano", ["piano"]),
        (["piano"], None, ["piano"]),
        (["piano", "drums", "bass"], "piano", ["piano"]),
    ],
)
def test_a_checkpoint_of_one_instrument_is_a_specialist_by_the_name_of_its_stem(
    kind: str, instruments: list[str], target: str | None, stems: list[str], tmp_path: Path, music: Any
) -> None:
    folder = write(tmp_path / "piano", kind, {"instruments": instruments, "target_instrument": target}, num_stems=1)
    song = Audio(music(9_000)[0].numpy(), 44_100)
    with Separator("mel-band-roformer", weights=folder, device="cpu") as separator:
        assert list(separator.separate(song)) == stems
        answer = separator.separate(song, stems=["piano"])
        everything = separator.separate(song)
        asked = separator.separate(song, query="piano")
    assert asked.plan["piano"].backend == "mel-band-roformer"
    assert np.array_equal(asked["piano"].samples, everything["piano"].samples)
    assert list(answer) == ["piano"]
    assert float(np.abs(answer["piano"].samples).max()) > 0
    assert np.array_equal(answer["piano"].samples, everything["piano"].samples)
    assert np.allclose(answer["piano"].samples + answer.rest.samples, song.samples, atol=1e-5)
    rest = everything.rest.samples + sum(everything[name].samples for name in stems)
    assert np.allclose(rest, song.samples, atol=1e-5)


def test_a_long_song_equals_the_reference_segment_by_segment(
    tmp_path: Path, reference: Callable[..., Any], written: Any, options: Any, music: Any, distance: Any
) -> None:
    """Without overlap, the song is the model's answer to each of its segments side by side."""
    model, described = reference("mel"), {**options("mel"), "zero_dc": False}
    folder = written(tmp_path / "m", model, described, {"instruments": ["vocals", "other"]}, **CHUNK)
    song = music(18_000)
    with Separator("bs-roformer", weights=folder, device="cpu", overlap_fraction=0) as separator:
        parts = separator.separate(Audio(song[0].numpy(), 44_100))
    with torch.inference_mode():
        expected = torch.cat([model(piece) for piece in song.split(6000, dim=-1)], dim=-1)[0]
    for source, name in zip(expected, ("vocals", "other"), strict=True):
        assert distance(torch.from_numpy(np.array(parts[name].samples)), source) <= 1e-4
