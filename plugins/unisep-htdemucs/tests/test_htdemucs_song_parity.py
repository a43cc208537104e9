"""A whole song through unisep's segments equals the same song through demucs's own Separator."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs.api import Separator as ReferenceSeparator
from demucs.states import get_state
from torch import Tensor, nn
from unisep_htdemucs.backend import load_htdemucs
from unisep_htdemucs.bags import RELEASED

from unisep.backend import Backend
from unisep.chunks import separate_chunks

Reference = Callable[..., nn.Module]


def save_repository(folder: Path, models: list[nn.Module], definition: str = "") -> Path:
    """A folder that both demucs and our loader take for the model `htdemucs`."""
    signatures = [RELEASED["htdemucs"].signatures[0], "second"][: len(models)]
    for signature, model in zip(signatures, models, strict=True):
        args, kwargs = model._init_args_kwargs  # type: ignore[misc]
        package: dict[str, Any] = {"klass": type(model), "args": args, "kwargs": kwargs}
        torch.save(package | {"state": get_state(model, None)}, folder / f"{signature}.th")
    (folder / "htdemucs.yaml").write_text(f"models: {signatures}\n{definition}")
    return folder


def separated(backend: Backend, song: Tensor) -> Tensor:
    """`song [channels, samples]` normalised as a whole, separated a segment at a time, and scaled back."""
    info = backend.info
    assert info.normalisation == "song" and info.segment_seconds is not None
    mono = song.mean(0)
    mean, std = mono.mean(), mono.std() + 1e-8
    sources = separate_chunks(
        (song - mean) / std,
        lambda segments: backend.separate(segments).sources,
        segment_samples=round(info.segment_seconds * info.sample_rate_hz),
        overlap_fraction=0.25,
    )
    return sources * std + mean


def song_of(n_samples: int) -> Tensor:
    """Swelling stereo noise that is neither centred nor of unit loudness."""
    noise = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(3))
    return 0.05 + 0.2 * noise * torch.linspace(0.2, 1.0, n_samples)


def assert_equal(folder: Path, song: Tensor) -> None:
    theirs = ReferenceSeparator("htdemucs", repo=folder, device="cpu", shifts=0, overlap=0.25)
    _, expected = theirs.separate_tensor(song.clone())
    backend = load_htdemucs(weights=folder, device=torch.device("cpu"), dtype=torch.float32)
    mine = separated(backend, song)
    assert backend.info.sources == tuple(expected)
    for stem, (name, wanted) in zip(mine, expected.items(), strict=True):
        assert stem.shape == wanted.shape == song.shape
        assert float((stem - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), name


# One segment is 13,230 samples and the next starts 9,922 after it: a short song, one that fills a segment, ones
# whose last segment is a sliver, half and almost whole, and a longer one.
@pytest.mark.parametrize("n_samples", [5000, 13230, 13231, 19845, 23000, 40000])
def test_songs_of_all_lengths_equal_demucs(tmp_path: Path, reference: Reference, n_samples: int) -> None:
    assert_equal(save_repository(tmp_path, [reference(t_layers=2)]), song_of(n_samples))


def test_six_sources_equal_demucs(tmp_path: Path, reference: Reference) -> None:
    six = reference(sources=["drums", "bass", "other", "vocals", "guitar", "piano"])
    assert_equal(save_repository(tmp_path, [six]), song_of(30000))


def test_a_bag_equals_demucs(tmp_path: Path, reference: Reference) -> None:
    weights = "weights: [\n  [1., 0., 1., 1.],\n  [0., 1., 1., 3.],\n]"
    assert_equal(save_repository(tmp_path, [reference(1), reference(2)], weights), song_of(30000))


def test_segments_as_long_as_the_released_ones_equal_demucs(tmp_path: Path, reference: Reference) -> None:
    model = reference(segment=Fraction(39, 5), nfft=4096, dconv_mode=0, bottom_channels=0, t_layers=1)
    assert_equal(save_repository(tmp_path, [model]), song_of(350_000))
