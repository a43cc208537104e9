"""What every query encoder must do, as a pytest class to inherit.

    class TestMyEncoder(EncoderContract):
        def load_encoder(self):
            return load(weights=None, device=torch.device("cpu"))

What a plugin does not declare is skipped.
"""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unisep.audio import Audio
from unisep.errors import EncoderError
from unisep.plugins.encoder import QueryEncoder
from unisep.testing import signals
from unisep.testing.contract import Contract


class EncoderContract(Contract):
    """Inherit, and say how the encoder is loaded.

    Attributes:
        encodes_text: Whether it takes texts.
        encodes_audio: Whether it takes clips.
        tolerance: Allowed difference between a batch and its singles, for vectors of length 1.
        texts: What it is tried with.
    """

    encodes_text: bool = True
    encodes_audio: bool = True
    tolerance: float = 1e-5
    texts: tuple[str, ...] = ("electric guitar", "drums", "a choir of frogs, far away")

    def load_encoder(self) -> QueryEncoder:
        """Return the encoder to test; called once for the class."""
        raise NotImplementedError

    @property
    def encoder(self) -> QueryEncoder:
        """The encoder, loaded at the first use."""
        return self._load_once(self.load_encoder)

    def test_names_its_space(self) -> None:
        assert isinstance(self.encoder.space, str)
        assert self.encoder.space

    def test_texts_become_unit_vectors_in_their_order(self) -> None:
        vectors = self._encode_text(*self.texts)
        self._assert_unit(vectors, len(self.texts))
        for text, vector in zip(self.texts, vectors, strict=True):
            self._assert_close(self._encode_text(text)[0], vector)

    def test_different_texts_differ(self) -> None:
        first, second = self._encode_text(*self.texts[:2])
        assert float((first - second).abs().max()) > 1e-3

    def test_clips_become_unit_vectors_in_their_order(self) -> None:
        clips = [signals.tone(110, 0.7), signals.noise(0.4, seed=1), signals.chirp(0.5, 48_000, 1)]
        vectors = self._encode_audio(*clips)
        self._assert_unit(vectors, len(clips))
        for clip, vector in zip(clips, vectors, strict=True):
            self._assert_close(self._encode_audio(clip)[0], vector)

    def test_takes_clips_of_any_rate_channels_and_length(self) -> None:
        for seconds, rate_hz, n_channels in ((0.001, 44_100, 1), (0.3, 8_000, 1), (1.0, 96_000, 2), (12.0, 16_000, 1)):
            self._assert_unit(self._encode_audio(signals.noise(seconds, rate_hz, n_channels)), 1)

    def test_silence_in_finite_out(self) -> None:
        assert bool(torch.isfinite(self._encode_audio(signals.silence(0.5))).all())

    def test_leaves_clips_as_they_are(self) -> None:
        clip = signals.noise(0.5)
        before = clip.samples.copy()
        self._encode_audio(clip)
        assert (clip.samples == before).all()

    def test_says_what_it_does_not_encode(self) -> None:
        if not self.encodes_text:
            with pytest.raises(EncoderError):
                self.encoder.encode_text(["drums"])
        if not self.encodes_audio:
            with pytest.raises(EncoderError):
                self.encoder.encode_audio([signals.noise(0.5)])

    def _encode_text(self, *texts: str) -> Tensor:
        if not self.encodes_text:
            pytest.skip("declares no text")
        with torch.inference_mode():
            return self.encoder.encode_text(list(texts))

    def _encode_audio(self, *clips: Audio) -> Tensor:
        if not self.encodes_audio:
            pytest.skip("declares no audio")
        with torch.inference_mode():
            return self.encoder.encode_audio(list(clips))

    def _run(self) -> list[Tensor]:
        texts = [self._encode_text("drums")] if self.encodes_text else []
        return texts + ([self._encode_audio(signals.noise(0.5))] if self.encodes_audio else [])

    def _assert_unit(self, vectors: Tensor, n_vectors: int) -> None:
        assert tuple(vectors.shape) == (n_vectors, self.encoder.dim)
        lengths = torch.linalg.vector_norm(vectors.float(), dim=1)
        assert float((lengths - 1).abs().max()) < 1e-3

    def _assert_close(self, one: Tensor, other: Tensor) -> None:
        assert float((one - other).abs().max()) <= self.tolerance
