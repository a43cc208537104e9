"""What every backend and every query encoder must do, as pytest classes to inherit.

    class TestMyBackend(BackendContract):
        def load_backend(self):
            return load(weights=None, device=torch.device("cpu"), dtype=torch.float32)

What a plugin does not declare is skipped.
"""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar, TypeVar

import pytest
import torch
from torch import Tensor

from unisep.audio import Audio
from unisep.engine.chunking import SegmentPlan
from unisep.engine.overlap_add import separate_chunks
from unisep.errors import EncoderError, UnisepError
from unisep.live.pipeline import Pipeline
from unisep.plugins.backend import Backend, LiveBackend, Output
from unisep.plugins.encoder import QueryEncoder
from unisep.plugins.loading import wrong_facts
from unisep.plugins.plugin import Plugin, read
from unisep.plugins.specs import ModelSpec
from unisep.query.encode import Conditions
from unisep.testing import signals
from unisep.testing.devices import pretended
from unisep.weights.cards import read_card

LoadedT = TypeVar("LoadedT")


def _skip_unless(condition: object, lack: str) -> None:
    if not condition:
        pytest.skip(lack)


class Contract:
    """What both contracts share.

    If `plugin_module` names the hook module ("my_plugin.plugin"), its hooks must return specs that hold, and it must import
    without torch and numpy.
    """

    plugin_module: str = ""
    _loaded: ClassVar[object]

    def test_listing_imports_neither_torch_nor_numpy(self) -> None:
        module = self._module_name()
        code = f"import sys, {module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert done.stdout.strip() == "[]", done.stdout + done.stderr

    def test_its_hooks_return_specs_that_hold(self) -> None:
        plugin = self._plugin()
        assert plugin.state == "ok", plugin.error
        assert plugin.specs, "its hooks return nothing; do they have @hookimpl?"

    def test_its_load_strings_lead_to_modules(self) -> None:
        for spec in self._plugin().specs:
            module, _, _ = spec.load.partition(":")
            assert find_spec(module) is not None, f"'{spec.name}': there is no module {module}"

    def test_its_cards_can_be_read_and_state_a_licence(self) -> None:
        cards = [spec.card for spec in self._plugin().specs_of(ModelSpec) if spec.card]
        _skip_unless(cards, "declares no card")
        assert all(read_card(card).licence for card in cards)

    def test_same_input_same_output(self) -> None:
        for first, second in zip(self._run(), self._run(), strict=True):
            assert torch.equal(first, second)

    def test_uses_no_global_randomness(self) -> None:
        self._run()  # loads: building a model may draw
        before = torch.get_rng_state()
        self._run()
        assert torch.equal(torch.get_rng_state(), before)

    def _run(self) -> list[Tensor]:
        """Return what comes of all that it can do, for an input that is always the same."""
        raise NotImplementedError

    def _plugin(self) -> Plugin:
        module = self._module_name()
        return read(Plugin(module, "the tested plugin"), partial(import_module, module))

    def _module_name(self) -> str:
        _skip_unless(self.plugin_module, "declares no plugin_module")
        return self.plugin_module

    def _load_once(self, load: Callable[[], LoadedT]) -> LoadedT:
        """Return what `load` returns, called once for the class."""
        if "_loaded" not in vars(type(self)):
            type(self)._loaded = load()
        return type(self)._loaded  # type: ignore[return-value]


class BackendContract(Contract):
    """Inherit, and say how the backend is loaded.

    Attributes:
        query_dim: Size of the vectors of a backend that answers queries; None for fixed sources only.
        seconds: Length of the mixtures, or the backend's segment if that is shorter.
        tolerance: Allowed difference, as a part of the peak, between a batch and its singles.
        chunked_equals_whole: Whether each output sample depends on that sample of the mixture alone.
        stays_on_device: Whether all of it is computed on the device it was loaded for, without numbers of 64 bits, which
            not all devices have. Tried on one that is only pretended, where nothing can decide by a number (`.item()`).
        differentiable: Whether gradients reach the queries, as its spec declares.
    """

    query_dim: int | None = None
    seconds: float = 0.5
    tolerance: float = 1e-5
    chunked_equals_whole: bool = False
    stays_on_device: bool = False
    differentiable: bool = False

    def load_backend(self) -> Backend:
        """Return the backend to test; called once for the class."""
        raise NotImplementedError

    @property
    def backend(self) -> Backend:
        """The backend, loaded at the first use."""
        return self._load_once(self.load_backend)

    def test_its_facts_can_be_right(self) -> None:
        assert wrong_facts(self.backend.info) == ""

    def test_gives_its_sources_with_the_shape_of_the_mixture(self) -> None:
        mixture, names = self._mixture(2), self._sources()
        assert self._separate(mixture).sources.shape == (2, len(names), *mixture.shape[1:])

    def test_each_source_asked_for_alone_is_what_it_is_among_all(self) -> None:
        mixture, names = self._mixture(1), self._sources()
        views = {name: self.backend.for_sources((name,)) for name in names}
        is_cheaper = any(view is not self.backend for view in views.values())
        _skip_unless(is_cheaper, "has no cheaper way for fewer sources")
        together = self._separate(mixture).sources
        for index, (name, view) in enumerate(views.items()):
            alone = self._separate(mixture, backend=view).sources[:, view.info.sources.index(name)]
            self._assert_close(together[:, index], alone, mixture)

    def test_gives_one_output_for_each_query_in_their_order(self) -> None:
        queries, mixture = self._queries(3), self._mixture(1)
        together = self._separate(mixture, queries).sources
        assert together.shape == (1, 3, *mixture.shape[1:])
        for index in range(3):
            alone = self._separate(mixture, queries[index : index + 1]).sources
            self._assert_close(together[:, index : index + 1], alone, mixture)

    def test_presence_is_one_value_in_0_to_1_for_each_query(self) -> None:
        presence = self._separate(self._mixture(2), self._queries(3)).presence
        if presence is None:
            pytest.skip("gives no presence")
        assert presence.shape == (2, 3) and bool(((presence >= 0) & (presence <= 1)).all())

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
        self._assert_finite(torch.zeros_like(self._mixture(1)))

    def test_loud_in_finite_out(self) -> None:
        self._assert_finite(self._mixture(1) * 100)

    def test_takes_segments_of_any_shorter_length(self) -> None:
        for n_samples in (1, 1000, 4097):
            self._assert_finite(self._mixture(1)[..., :n_samples])

    def test_leaves_the_mixture_as_it_is(self) -> None:
        mixture = self._mixture(1)
        before = mixture.clone()
        self._outputs(mixture)
        assert torch.equal(mixture, before)

    def test_a_batch_equals_its_singles(self) -> None:
        mixture = self._mixture(2)
        mixture[1] = mixture[1].flip(-1) * 0.5
        singles = zip(self._outputs(mixture[:1]), self._outputs(mixture[1:]), strict=True)
        for together, (first, second) in zip(self._outputs(mixture), singles, strict=True):
            self._assert_close(together.sources, torch.cat([first.sources, second.sources]), mixture)

    def test_two_threads_get_what_one_gets(self) -> None:
        mixtures = [self._mixture(2)[index : index + 1] for index in (0, 1, 0, 1)]
        one_by_one = [self._outputs(mixture) for mixture in mixtures[:2]]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(self._outputs, mixtures))
        for index, outputs in enumerate(together):
            for output, alone in zip(outputs, one_by_one[index % 2], strict=True):
                self._assert_close(output.sources, alone.sources, mixtures[index])

    def test_chunked_equals_whole(self) -> None:
        _skip_unless(self.chunked_equals_whole, "declares that samples depend on their surroundings")
        mixture = self._mixture(1)

        def call(batch: Tensor) -> Tensor:
            return self._separate(batch).sources

        segment_samples = min(1000, self.backend.info.segment_samples or 1000)
        chunked = separate_chunks(mixture[0], call, SegmentPlan(segment_samples))
        assert torch.equal(chunked, call(mixture)[0])

    def test_stays_on_its_device(self) -> None:
        _skip_unless(self.stays_on_device, "does not declare that it stays on its device")
        backend, mixture = self.backend, self._mixture(2)
        with pretended() as device:
            for output in self._outputs(mixture.to(device.device), device.copied(backend)):
                assert output.sources.device == device.device
                assert output.presence is None or output.presence.device == device.device
        assert not device.waits and not device.doubles

    def test_gradients_reach_the_query(self) -> None:
        _skip_unless(self.differentiable, "does not declare that gradients reach the queries")
        self._separate(self._mixture(1), self._queries(1))  # what it keeps from separating must not be in the way
        query, mixture = self._queries(1).requires_grad_(), self._mixture(1)
        loss = (self.backend.separate(mixture, query).sources - mixture[:, None]).square().mean()
        (gradient,) = torch.autograd.grad(loss, [query])
        assert bool(torch.isfinite(gradient).all()) and bool(gradient.any())

    def _sources(self) -> tuple[str, ...]:
        _skip_unless(self.backend.info.sources, "gives no fixed sources")
        return self.backend.info.sources

    def _queries(self, n_queries: int) -> Tensor:
        if self.query_dim is None:
            pytest.skip("answers no queries")
        vectors = torch.randn(n_queries, self.query_dim, generator=torch.Generator().manual_seed(0))
        return torch.nn.functional.normalize(vectors, dim=1)

    def _mixture(self, n_batch: int) -> Tensor:
        info = self.backend.info
        shape = min(self.seconds, info.segment_seconds or self.seconds), info.sample_rate_hz, info.channels
        songs = [signals.mix(signals.noise(*shape, seed=seed), signals.chirp(*shape)) for seed in range(n_batch)]
        return torch.stack([torch.from_numpy(song.samples) for song in songs])

    def _separate(
        self, mixture: Tensor, queries: Tensor | None = None,
        negatives: Tensor | None = None, backend: Backend | None = None,
    ) -> Output:  # fmt: skip
        with torch.inference_mode():
            return (backend or self.backend).separate(mixture, queries, negatives)

    def _run(self) -> list[Tensor]:
        return [output.sources for output in self._outputs(self._mixture(1))]

    def _outputs(self, mixture: Tensor, backend: Backend | None = None) -> list[Output]:
        """Return the outputs of all that the backend, or a copy of it, can do: fixed sources, queries."""
        calls: list[Tensor | None] = [None] if self.backend.info.sources else []
        calls += [self._queries(2).to(mixture.device)] if self.query_dim else []
        return [self._separate(mixture, queries, backend=backend) for queries in calls]

    def _assert_finite(self, mixture: Tensor) -> None:
        for output in self._outputs(mixture):
            assert output.sources.shape[-1] == mixture.shape[-1]
            assert bool(torch.isfinite(output.sources).all())

    def _assert_close(self, one: Tensor, other: Tensor, mixture: Tensor) -> None:
        assert float((one - other).abs().max()) <= self.tolerance * float(mixture.abs().max())


class LiveContract(BackendContract):
    """Inherit for a `LiveBackend` in place of `BackendContract`. `n_hops` is how long it is tried live."""

    n_hops: int = 24

    def test_blocks_of_any_size_give_the_same(self) -> None:
        queries = Conditions(self._queries(2)) if self.query_dim else None
        recording, known = self._recording(), []
        for size in (self._live.hop_samples, 64, 500, 3000, 8192):
            pipeline = Pipeline(self._live, self._live.info.sample_rate_hz, len(recording), conditions=queries)
            parts = [torch.from_numpy(pipeline.push(block.numpy())) for block in recording.split(size, dim=1)]
            known.append(torch.cat(parts, dim=-1))
            n_known = recording.shape[1] - pipeline.lag_samples(size)
            assert known[-1].shape[-1] >= n_known > 0
            self._assert_close(known[-1][..., :n_known], known[0][..., :n_known], recording)

    def test_its_latency_is_what_it_declares(self) -> None:
        state, recording = self._live.open(self._queries(2) if self.query_dim else None), self._recording()
        live, whole = self._push(state, recording)[0], self._outputs(recording[None])[-1].sources[0]
        spectra = torch.fft.rfft(live, 2 * live.shape[-1]) * torch.fft.rfft(whole, 2 * live.shape[-1]).conj()
        assert int(torch.fft.irfft(spectra.sum((0, 1))).argmax()) == self._live.latency_samples

    def test_a_state_is_a_value_and_does_not_grow(self) -> None:
        state, sizes = self._live.open(self._queries(2) if self.query_dim else None), []
        for gain, hop in enumerate(self._recording().split(self._live.hop_samples, dim=1)):
            hop = (gain % 3) ** 9 * hop  # silence, and loud noise, too
            heard, kept = hop.clone(), copy.deepcopy(state)
            sources, after = self._push(state, heard)
            heard.zero_()  # callers use their blocks again
            assert all(torch.equal(self._push(one, hop)[0], sources) for one in (state, kept))
            assert bool(torch.isfinite(sources).all())
            state = after
            sizes.append(len(pickle.dumps(state)))
        assert sizes[-1] <= sizes[len(sizes) // 2] + 64

    @property
    def _live(self) -> LiveBackend:
        assert isinstance(self.backend, LiveBackend) and self.backend.info.normalisation == "none"
        return self.backend

    def _recording(self) -> Tensor:
        info, n_samples = self._live.info, self.n_hops * self._live.hop_samples
        return torch.from_numpy(
            signals.noise(n_samples / info.sample_rate_hz, info.sample_rate_hz, info.channels).samples
        )

    @torch.inference_mode()
    def _push(self, state: object, block: Tensor) -> tuple[Tensor, object]:
        return self._live.push(state, block)


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
        assert isinstance(self.encoder.space, str) and self.encoder.space

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
        _skip_unless(self.encodes_text, "declares no text")
        with torch.inference_mode():
            return self.encoder.encode_text(list(texts))

    def _encode_audio(self, *clips: Audio) -> Tensor:
        _skip_unless(self.encodes_audio, "declares no audio")
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
