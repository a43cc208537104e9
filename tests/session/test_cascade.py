"""Cascades in sound: what is taken out, that targets and the rest add up, and that all ways give the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unisep import Audio, BackendSpec, EncoderSpec, Separator, files, hookimpl
from unisep.plugins.backend import Backend, BackendInfo, Output
from unisep.plugins.encoder import QueryEncoder
from unisep.routing import catalog as catalogs

RATE_HZ = 8_000


class Left(Backend):
    """Takes the left channel for the vocals."""

    info = BackendInfo(sources=("vocals",), sample_rate_hz=RATE_HZ, channels=2, segment_seconds=0.5)

    def separate(self, mixture, queries=None, negatives=None) -> Output:
        left = mixture.clone()
        left[:, 1] = 0
        return Output(left[:, None])


class Half(Backend):
    """Gives half of what it hears; for words of five letters only where nothing is on the left."""

    info = BackendInfo(sources=(), sample_rate_hz=RATE_HZ, channels=2, segment_seconds=0.4)

    def separate(self, mixture, queries=None, negatives=None) -> Output:
        is_shy = (queries[:, 1] / queries[:, 0]).round() == 5
        hears_left = mixture[:, 0].abs().amax(-1) > 0
        gains = torch.where(is_shy[None] & hears_left[:, None], 0.0, 0.5)
        return Output(gains[..., None, None] * mixture[:, None])


class Letters(QueryEncoder):
    space, dim = "words", 2

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.tensor([[1.0, len(text)] for text in texts]), dim=-1)


def load_left(**_: object) -> Backend:
    return Left()


def load_half(**_: object) -> Backend:
    return Half()


def load_letters(**_: object) -> QueryEncoder:
    return Letters()


class Plugin:
    @staticmethod
    @hookimpl
    def unisep_backends() -> list[BackendSpec]:
        here = __name__
        return [
            BackendSpec(name="left", load=f"{here}:load_left", summary="", stems=("vocals",)),
            BackendSpec(name="half", load=f"{here}:load_half", summary="", spaces=("words",)),
        ]

    @staticmethod
    @hookimpl
    def unisep_encoders() -> list[EncoderSpec]:
        return [EncoderSpec(name="letters", load=f"{__name__}:load_letters", space="words", modalities={"text"})]


@pytest.fixture
def separator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Separator]:
    monkeypatch.setenv("UNISEP_PLUGINS", "-*")

    def build(*arguments: object) -> catalogs.Catalog:
        return replace(catalogs.build_catalog(*arguments), quality=lambda card: {"without vocals": 1.0})

    monkeypatch.setattr("unisep.session.models.build_catalog", build)
    with Separator(plugins=Plugin()) as one:
        yield one


@pytest.fixture(scope="module")
def song() -> Audio:
    noise = np.random.default_rng(3).standard_normal((2, 3 * RATE_HZ + 77)).astype(np.float32)
    return Audio(noise / 8, RATE_HZ)


def test_the_query_model_hears_the_recording_without_vocals(separator: Separator, song: Audio) -> None:
    result = separator.separate(song, ["piano", "vocals", "violin"])
    np.testing.assert_allclose(result["vocals"].samples, song.samples * [[1], [0]], atol=1e-6)
    np.testing.assert_allclose(result["piano"].samples, song.samples * [[0], [0.5]], atol=1e-6)
    np.testing.assert_allclose(result["violin"].samples, song.samples / 2, atol=1e-6)
    total = sum(audio.samples.astype(np.float64) for audio in result.values()) + result.rest.samples
    np.testing.assert_allclose(total, song.samples, atol=1e-6)
    assert set(result) == {"piano", "vocals", "violin"} == set(result.presence_over_time)


def test_a_file_and_a_stream_give_the_same_bits(separator: Separator, song: Audio, tmp_path: Path) -> None:
    whole = separator.separate(song, ["piano", "vocals"])
    song.save(tmp_path / "song.wav", subtype="FLOAT")
    written = separator.separate_file(tmp_path / "song.wav", tmp_path / "out", ["piano", "vocals"])
    stream = separator.stream(np.array_split(song.samples, 23, axis=1), ["piano", "vocals"], sample_rate_hz=RATE_HZ)
    parts = list(stream)
    for name in whole:
        np.testing.assert_array_equal(files.read(written[name]).samples, whole[name].samples)
        joined = np.concatenate([part[name].samples for part in parts], axis=1)
        np.testing.assert_array_equal(joined, whole[name].samples)
    assert stream.delay_samples >= 0.9 * RATE_HZ  # both segments


def test_time_ranges_are_kept(separator: Separator, song: Audio) -> None:
    found = separator.separate(song, {"text": "piano", "time_range": (1, 2)})["piano"].samples
    inside = found[:, RATE_HZ + 100 : 2 * RATE_HZ - 100]
    np.testing.assert_allclose(inside, song.samples[:, RATE_HZ + 100 : 2 * RATE_HZ - 100] * [[0], [0.5]], atol=1e-6)
    assert not found[:, :RATE_HZ].any() and not found[:, 2 * RATE_HZ :].any()


def test_it_can_be_switched_off(separator: Separator, song: Audio) -> None:
    assert not Separator(plugins=Plugin(), cascade="off").separate(song, "piano").target.samples.any()
