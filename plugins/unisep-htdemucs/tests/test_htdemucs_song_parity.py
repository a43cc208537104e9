"""A whole song through unisep's pipeline equals the same song through demucs's own Separator."""

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
from unisep_htdemucs import plugin
from unisep_htdemucs.bags import RELEASED

from unisep import Audio, Separator
from unisep.plugins.registry import registered

Reference = Callable[..., Any]


def save_repository(folder: Path, models: list[nn.Module], definition: str = "") -> Path:
    """A folder that both demucs and our loader take for the model `htdemucs`."""
    signatures = [RELEASED["htdemucs"].signatures[0], "second"][: len(models)]
    for signature, model in zip(signatures, models, strict=True):
        args, kwargs = model._init_args_kwargs  # type: ignore[misc]
        package: dict[str, Any] = {"klass": type(model), "args": args, "kwargs": kwargs}
        torch.save(package | {"state": get_state(model, None)}, folder / f"{signature}.th")
    (folder / "htdemucs.yaml").write_text(f"models: {signatures}\n{definition}")
    return folder


def separated(folder: Path, song: Tensor) -> dict[str, Tensor]:
    """The stems of `song [channels, samples]` through unisep's own pipeline."""
    with registered(plugin, "htdemucs-under-test"):
        separator = Separator("registered:htdemucs", weights=folder, device="cpu", precision="float32")
        stems = separator.separate(Audio(song.numpy(), 44100))
    return {name: torch.from_numpy(audio.samples.copy()) for name, audio in stems.items()}


def song_of(n_samples: int) -> Tensor:
    """Swelling stereo noise that is neither centred nor of unit loudness."""
    noise = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(3))
    return 0.05 + 0.2 * noise * torch.linspace(0.2, 1.0, n_samples)


def assert_equal(folder: Path, song: Tensor) -> None:
    theirs = ReferenceSeparator("htdemucs", repo=folder, device="cpu", shifts=0, overlap=0.25)
    _, expected = theirs.separate_tensor(song.clone())
    mine = separated(folder, song)
    assert list(mine) == list(expected)
    for name, wanted in expected.items():
        assert mine[name].shape == wanted.shape == song.shape
        assert float((mine[name] - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max()), name


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


def test_one_stem_of_a_bag_equals_demucs(tmp_path: Path, reference: Reference) -> None:
    weights = "weights: [\n  [1., 1., 1., 0.],\n  [0., 0., 0., 1.],\n]"
    folder, song = save_repository(tmp_path, [reference(1), reference(2)], weights), song_of(30000)
    theirs = ReferenceSeparator("htdemucs", repo=folder, device="cpu", shifts=0, overlap=0.25)
    wanted = theirs.separate_tensor(song.clone())[1]["vocals"]
    with registered(plugin, "htdemucs-under-test"):
        separator = Separator("registered:htdemucs", weights=folder, device="cpu", precision="float32")
        stems = separator.separate(Audio(song.numpy(), 44100), stems="vocals")
    assert list(stems) == ["vocals"]
    vocals = torch.from_numpy(stems["vocals"].samples.copy())
    assert float((vocals - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
