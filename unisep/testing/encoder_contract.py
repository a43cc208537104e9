"""What every encoder must do, as a pytest class to inherit.

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

    encodes_text, encodes_audio: what it declares. tolerance: allowed difference between a batch and
    its singles, for vectors of length 1.
    """

    encodes_text: bool = True
    encodes_audio: bool = True
    tolerance: float = 1e-5
    texts: tuple[str, ...] = ("electric guitar", "drums", "a choir of frogs, far away")

    def load_encoder(self) -> QueryEncoder:
        """The encoder to test; loaded once for the class."""
        raise NotImplementedError

    @property
    def encoder(self) -> QueryEncoder:
        """The encoder, loaded at the first use."""
        own = type(self)
        if "_loaded" not in own.__dict__:
            own._loaded = self.load_encoder()  # type: ignore[attr-defined]
        return own._loaded  # type: ignore[attr-defined,no-any-return]

    def test_names_its_space(self) -> None:
        assert isinstance(self.encoder.space, str)
        assert self.encoder.space

    def test_texts_become_unit_vectors_in_their_order(self) -> None:
        vectors = self._texts(list(self.texts))
        self._assert_unit(vectors, len(self.texts))
        for text, vector in zip(self.texts, vectors, strict=True):
            assert float((self._texts([text])[0] - vector).abs().max()) <= self.tolerance

    def test_different_texts_differ(self) -> None:
        first, second = self._texts(list(self.texts[:2]))
        assert float((first - second).abs().max()) > 1e-3

    def test_clips_become_unit_vectors_in_their_order(self) -> None:
        clips = self._clips()
        vectors = self._audio(clips)
        self._assert_unit(vectors, len(clips))
        for clip, vector in zip(clips, vectors, strict=True):
            assert float((self._audio([clip])[0] - vector).abs().max()) <= self.tolerance

    def test_takes_clips_of_any_rate_channels_and_length(self) -> None:
        shapes = [(0.001, 44_100, 1), (0.3, 8_000, 1), (1.0, 96_000, 2), (12.0, 16_000, 1)]
        for seconds, rate_hz, channels in shapes:
            self._assert_unit(self._audio([signals.noise(seconds, rate_hz, channels)]), 1)

    def test_silence_in_finite_out(self) -> None:
        assert bool(torch.isfinite(self._audio([signals.silence(0.5)])).all())

    def test_leaves_clips_as_they_are(self) -> None:
        clip = signals.noise(0.5)
        before = clip.samples.copy()
        self._audio([clip])
        assert (clip.samples == before).all()

    def test_same_input_same_output(self) -> None:
        if self.encodes_text:
            assert torch.equal(self._texts(["drums"]), self._texts(["drums"]))
        if self.encodes_audio:
            clip = signals.noise(0.5)
            assert torch.equal(self._audio([clip]), self._audio([clip]))

    def test_uses_no_global_randomness(self) -> None:
        before = torch.get_rng_state()
        if self.encodes_text:
            self._texts(["drums"])
        if self.encodes_audio:
            self._audio([signals.noise(0.5)])
        assert torch.equal(torch.get_rng_state(), before)

    def test_says_what_it_does_not_encode(self) -> None:
        if not self.encodes_text:
            with pytest.raises(EncoderError):
                self.encoder.encode_text(["drums"])
        if not self.encodes_audio:
            with pytest.raises(EncoderError):
                self.encoder.encode_audio([signals.noise(0.5)])

    def _texts(self, texts: list[str]) -> Tensor:
        if not self.encodes_text:
            pytest.skip("declares no text")
        with torch.inference_mode():
            return self.encoder.encode_text(texts)

    def _audio(self, clips: list[Audio]) -> Tensor:
        if not self.encodes_audio:
            pytest.skip("declares no audio")
        with torch.inference_mode():
            return self.encoder.encode_audio(clips)

    def _clips(self) -> list[Audio]:
        return [signals.tone(110, 0.7), signals.noise(0.4, seed=1), signals.chirp(0.5, 48_000, 1)]

    def _assert_unit(self, vectors: Tensor, n_vectors: int) -> None:
        assert tuple(vectors.shape) == (n_vectors, self.encoder.dim)
        lengths = torch.linalg.vector_norm(vectors.float(), dim=1)
        assert float((lengths - 1).abs().max()) < 1e-3
