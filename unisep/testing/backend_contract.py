"""What every backend must do, as a pytest class to inherit.

    class TestMyBackend(BackendContract):
        def load_backend(self):
            return load(weights=None, device=torch.device("cpu"), dtype=torch.float32)

What a plugin does not declare is skipped.
"""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unisep.engine.chunking import SegmentPlan
from unisep.engine.overlap_add import separate_chunks
from unisep.errors import UnisepError
from unisep.plugins.backend import Backend, Output
from unisep.plugins.loading import wrong_facts
from unisep.testing import signals
from unisep.testing.contract import Contract
from unisep.testing.devices import pretended


class BackendContract(Contract):
    """Inherit, and say how the backend is loaded.

    query_dim: size of the vectors of a backend that answers queries; None for fixed sources only.
    seconds: length of the mixtures, or the backend's segment if that is shorter.
    tolerance: allowed difference, as a part of the peak, between a batch and its singles.
    chunked_equals_whole: whether each output sample depends on that sample of the mixture alone.
    stays_on_device: whether all of it is computed on the device it was loaded for, without numbers of 64 bits, which not
        all devices have. Tried on one that is only pretended, where nothing can decide by a number (`.item()`).
    """

    query_dim: int | None = None
    seconds: float = 0.5
    tolerance: float = 1e-5
    chunked_equals_whole: bool = False
    stays_on_device: bool = False

    def load_backend(self) -> Backend:
        """The backend to test; loaded once for the class."""
        raise NotImplementedError

    @property
    def backend(self) -> Backend:
        """The backend, loaded at the first use."""
        own = type(self)
        if "_loaded" not in own.__dict__:
            own._loaded = self.load_backend()  # type: ignore[attr-defined]
        return own._loaded  # type: ignore[attr-defined,no-any-return]

    def test_its_facts_can_be_right(self) -> None:
        assert wrong_facts(self.backend.info) == ""

    def test_gives_its_sources_with_the_shape_of_the_mixture(self) -> None:
        self._need_sources()
        mixture = self._mixture(2)
        n_batch, n_channels, n_samples = mixture.shape
        expected = (n_batch, len(self.backend.info.sources), n_channels, n_samples)
        assert tuple(self._separate(mixture).sources.shape) == expected

    def test_each_source_asked_for_alone_is_what_it_is_among_all(self) -> None:
        self._need_sources()
        mixture, sources = self._mixture(1), self.backend.info.sources
        if all(self.backend.for_sources((name,)) is self.backend for name in sources):
            pytest.skip("has no cheaper way for fewer sources")
        together = self._separate(mixture).sources
        for index, name in enumerate(sources):
            fewer = self.backend.for_sources((name,))
            with torch.inference_mode():
                alone = fewer.separate(mixture).sources[:, fewer.info.sources.index(name)]
            self._assert_close(together[:, index], alone, mixture)

    def test_gives_one_output_for_each_query_in_their_order(self) -> None:
        queries, mixture = self._queries(3), self._mixture(1)
        together = self._separate(mixture, queries).sources
        assert tuple(together.shape) == (1, 3, *mixture.shape[1:])
        for index in range(3):
            alone = self._separate(mixture, queries[index : index + 1]).sources
            self._assert_close(together[:, index : index + 1], alone, mixture)

    def test_presence_is_one_value_in_0_to_1_for_each_query(self) -> None:
        presence = self._separate(self._mixture(2), self._queries(3)).presence
        if presence is None:
            pytest.skip("gives no presence")
        assert tuple(presence.shape) == (2, 3)
        assert bool(((presence >= 0) & (presence <= 1)).all())

    def test_a_negative_of_zeros_leaves_out_nothing(self) -> None:
        queries, mixture = self._queries(2), self._mixture(1)
        without = self._separate(mixture, queries).sources
        zeros = self._separate(mixture, queries, torch.zeros_like(queries)).sources
        self._assert_close(zeros, without, mixture)

    def test_refuses_vectors_of_the_wrong_size(self) -> None:
        queries = self._queries(1)
        with pytest.raises(UnisepError):
            self._separate(self._mixture(1), torch.cat([queries, queries], dim=1))

    def test_silence_in_finite_out(self) -> None:
        for output in self._ways(torch.zeros_like(self._mixture(1))):
            assert bool(torch.isfinite(output.sources).all())

    def test_loud_in_finite_out(self) -> None:
        for output in self._ways(self._mixture(1) * 100):
            assert bool(torch.isfinite(output.sources).all())

    def test_takes_segments_of_any_shorter_length(self) -> None:
        for n_samples in (1, 1000, 4097):
            mixture = self._mixture(1)[..., :n_samples]
            for output in self._ways(mixture):
                assert output.sources.shape[-1] == mixture.shape[-1]
                assert bool(torch.isfinite(output.sources).all())

    def test_same_input_same_output(self) -> None:
        mixture = self._mixture(1)
        for first, second in zip(self._ways(mixture), self._ways(mixture), strict=True):
            assert torch.equal(first.sources, second.sources)

    def test_leaves_the_mixture_as_it_is(self) -> None:
        mixture = self._mixture(1)
        before = mixture.clone()
        self._ways(mixture)
        assert torch.equal(mixture, before)

    def test_a_batch_equals_its_singles(self) -> None:
        mixture = self._mixture(2)
        mixture[1] = mixture[1].flip(-1) * 0.5
        singles = [self._ways(mixture[index : index + 1]) for index in range(2)]
        for way, together in enumerate(self._ways(mixture)):
            alone = torch.cat([single[way].sources for single in singles])
            self._assert_close(together.sources, alone, mixture)

    def test_uses_no_global_randomness(self) -> None:
        before = torch.get_rng_state()
        self._ways(self._mixture(1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_chunked_equals_whole(self) -> None:
        if not self.chunked_equals_whole:
            pytest.skip("declares that samples depend on their surroundings")
        mixture = self._mixture(1)

        def call(batch: Tensor) -> Tensor:
            return self._separate(batch).sources

        segment_samples = min(1000, self.backend.info.segment_samples or 1000)
        chunked = separate_chunks(mixture[0], call, SegmentPlan(segment_samples))
        assert torch.equal(chunked, call(mixture)[0])

    def test_stays_on_its_device(self) -> None:
        if not self.stays_on_device:
            pytest.skip("does not declare that it stays on its device")
        backend, mixture = self.backend, self._mixture(2)
        with pretended() as device:
            for output in self._ways(mixture.to(device.device), device.copied(backend)):
                given = [output.sources] if output.presence is None else [output.sources, output.presence]
                assert {each.device for each in given} == {device.device}
        assert not device.waits and not device.doubles

    def _need_sources(self) -> None:
        if not self.backend.info.sources:
            pytest.skip("gives no fixed sources")

    def _queries(self, n_queries: int) -> Tensor:
        if self.query_dim is None:
            pytest.skip("answers no queries")
        vectors = torch.randn(n_queries, self.query_dim, generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.normalize(vectors, dim=1)

    def _mixture(self, n_batch: int) -> Tensor:
        info = self.backend.info
        seconds = min(self.seconds, info.segment_seconds or self.seconds)
        parts = [
            signals.mix(
                signals.noise(seconds, info.sample_rate_hz, info.channels, seed=seed),
                signals.chirp(seconds, info.sample_rate_hz, info.channels),
            )
            for seed in range(n_batch)
        ]
        return torch.stack([torch.from_numpy(part.samples) for part in parts])

    def _separate(
        self,
        mixture: Tensor,
        queries: Tensor | None = None,
        negatives: Tensor | None = None,
        backend: Backend | None = None,
    ) -> Output:
        with torch.inference_mode():
            return (backend or self.backend).separate(mixture, queries, negatives)

    def _ways(self, mixture: Tensor, backend: Backend | None = None) -> list[Output]:
        """The outputs of everything it can, or a copy of it: fixed sources, queries."""
        asked: list[Tensor | None] = [None] if self.backend.info.sources else []
        asked += [self._queries(2).to(mixture.device)] if self.query_dim else []
        return [self._separate(mixture, queries, backend=backend) for queries in asked]

    def _assert_close(self, one: Tensor, other: Tensor, mixture: Tensor) -> None:
        assert float((one - other).abs().max()) <= self.tolerance * float(mixture.abs().max())
