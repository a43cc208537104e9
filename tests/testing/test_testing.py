from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unisep import Audio, Backend, BackendInfo, Output, QueryEncoder
from unisep.errors import UnisepError
from unisep.testing import BackendContract, EncoderContract, pretended, signals, toy
from unisep.testing.toy import N_BANDS, ToyBackend, ToyEncoder, ToyPanBackend


class TestToyBackend(BackendContract):
    query_dim = N_BANDS
    stays_on_device = True
    differentiable = True

    def load_backend(self) -> Backend:
        return ToyBackend()


class TestToyPanBackend(BackendContract):
    chunked_equals_whole = True
    stays_on_device = True

    def load_backend(self) -> Backend:
        return ToyPanBackend()


class TestToyEncoder(EncoderContract):
    def load_encoder(self) -> QueryEncoder:
        return ToyEncoder()


class TestTextAlone(EncoderContract):
    encodes_audio = False

    def load_encoder(self) -> QueryEncoder:
        return TextAlone()


class TestClipsAlone(EncoderContract):
    encodes_text = False

    def load_encoder(self) -> QueryEncoder:
        return ClipsAlone()


class TextAlone(QueryEncoder):
    space, dim = toy.SPACE, N_BANDS
    encode_text = ToyEncoder.encode_text


class ClipsAlone(QueryEncoder):
    space, dim = toy.SPACE, N_BANDS
    encode_audio = ToyEncoder.encode_audio


class Broken(Backend):
    """Gives the one source that `answer` makes of the mixture and the number of the call."""

    info = BackendInfo(sources=("a",), sample_rate_hz=8_000, channels=1)

    def __init__(self, answer: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        self.answer = answer
        self.n_calls = 0

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.n_calls += 1
        return Output(self.answer(mixture, self.n_calls)[:, None])


def broken(answer: Callable[[torch.Tensor, int], torch.Tensor]) -> BackendContract:
    class Tried(BackendContract):
        chunked_equals_whole = stays_on_device = True

        def load_backend(self) -> Backend:
            return Broken(answer)

    return Tried()


@pytest.mark.parametrize(
    ("test", "answer"),
    [
        ("leaves_the_mixture_as_it_is", lambda x, _: x.add_(1)),
        ("gives_its_sources_with_the_shape_of_the_mixture", lambda x, _: x[0]),
        ("silence_in_finite_out", lambda x, _: x / x.abs().max()),
        ("same_input_same_output", lambda x, n_calls: x * n_calls),
        ("a_batch_equals_its_singles", lambda x, _: x - x.mean(0)),
        ("uses_no_global_randomness", lambda x, _: x + 0 * torch.rand(1)),
        ("chunked_equals_whole", lambda x, _: x * torch.linspace(0, 1, x.shape[-1])),
        ("stays_on_its_device", lambda x, _: x.to("cpu")),
        ("stays_on_its_device", lambda x, _: x.double().float()),
        ("stays_on_its_device", lambda x, _: x.cpu().to(x.device)),
        ("stays_on_its_device", lambda x, _: x * x[x > 0].shape[0]),
        ("stays_on_its_device", lambda x, _: x * float(x.abs().max())),
    ],
)
def test_the_backend_contract_catches(test: str, answer: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    with pytest.raises(AssertionError):
        getattr(broken(answer), f"test_{test}")()


@pytest.mark.parametrize("share", [torch.Tensor.detach, lambda share: share * torch.nan, lambda share: share * 0])
def test_the_backend_contract_catches_gradients_that_do_not_reach_the_query(
    share: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    class Asked(Backend):
        info = Ordinary.info

        def separate(
            self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
        ) -> Output:
            assert queries is not None
            return Output(mixture[:, None] * share(queries.mean(1))[:, None, None])

    class Tried(BackendContract):
        query_dim, differentiable = 3, True

        def load_backend(self) -> Backend:
            return Asked()

    with pytest.raises((AssertionError, RuntimeError)):
        Tried().test_gradients_reach_the_query()


def test_the_backend_contract_catches_what_is_on_another_device() -> None:
    with pytest.raises(RuntimeError, match="at least two devices"):
        broken(lambda x, _: x * torch.ones(x.shape[-1])).test_stays_on_its_device()


class Ordinary(Backend):
    """What is no reason to be refused: locks, a device kept, constants made on the way, attention by keywords."""

    info = BackendInfo(sources=("a",), sample_rate_hz=8_000, channels=1, segment_seconds=0.05)

    def __init__(self) -> None:
        self.device, self.lock, self.random = torch.device("cpu"), threading.Lock(), torch.Generator()
        self.file = open(__file__, encoding="utf-8")  # noqa: SIM115

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.check_input(mixture, queries, negatives)
        gain = torch.ones(1, device=self.device) * mixture.new_tensor([0.5]) * torch.tensor(2.0, device=mixture.device)
        x = mixture[..., None].expand(*mixture.shape, 4)
        key, mask = x[:, :1], torch.zeros(x.shape[-2], x.shape[-2], device=mixture.device)
        F.scaled_dot_product_attention(query=x, key=key, value=key, attn_mask=mask, enable_gqa=True)
        return Output((mixture * gain)[:, None])


class TestOrdinary(BackendContract):
    chunked_equals_whole = stays_on_device = True

    def load_backend(self) -> Backend:
        return Ordinary()


@pytest.mark.parametrize(("size", "place"), [(7, "meta"), (8, "cpu")])
def test_a_mask_must_fit_and_be_there(size: int, place: str) -> None:
    with pretended() as device:
        x = torch.zeros(1, 2, 8, 4, device=device.device)
        assert F.scaled_dot_product_attention(x, x, x, torch.zeros(8, 8, device="meta")).shape == x.shape
        with pytest.raises(RuntimeError):
            F.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(8, size, device=place))


@torch.no_grad()
def test_a_pretended_device_counts_steps_bytes_and_waits() -> None:
    model = torch.nn.Linear(1_000, 1_000, bias=False)
    with pretended() as device:
        there = device.copied(model)
        assert there.weight.device == device.device and model.weight.device.type == "cpu"
        assert device.peak_bytes == 4_000_000 and device.n_steps == 0
        x = torch.zeros(500, 1_000, device=device.device)
        for _ in range(3):
            x = there(x).relu_()  # what came before is free again
        x.view(1_000, 500)[:10].sum().cpu()
        assert device.peak_bytes == 4_000_000 + 2 * 2_000_000
        assert device.n_steps == 8  # zeros, three times two, and the sum
        assert device.waits == ["aten._to_copy.default"] and not device.doubles
        half = device.copied(model, torch.float16)
        assert half(x.half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("bands", "test"),
    [
        (lambda text: torch.full((4,), 3.0), "test_texts_become_unit_vectors_in_their_order"),
        (lambda text: torch.ones(4), "test_different_texts_differ"),
        (lambda text: torch.rand(4), "test_same_input_same_output"),
    ],
)
def test_the_encoder_contract_catches(bands: object, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unnormalised(ToyEncoder):
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.stack([bands(text) for text in texts])  # type: ignore[operator]

    class Tried(EncoderContract):
        def load_encoder(self) -> QueryEncoder:
            return Unnormalised()

    with pytest.raises(AssertionError):
        getattr(Tried(), test)()


PLUGIN = """
from unisep import BackendSpec, hookimpl
@hookimpl
def unisep_backends():
    return [BackendSpec(name="mine", load="{load}", summary="", stems=("a",), card="{card}")]
"""


class Lying(ToyPanBackend):
    """Says that it gives one channel alone, and gives the other."""

    def for_sources(self, names: tuple[str, ...]) -> Backend:
        other = Lying()
        other.info = BackendInfo(
            sources=tuple(reversed(self.info.sources)), sample_rate_hz=44_100, channels=2, segment_seconds=0.5
        )
        return other


def test_the_contract_catches_a_source_that_differs_when_alone() -> None:
    class Tried(BackendContract):
        def load_backend(self) -> Backend:
            return Lying()

    with pytest.raises(AssertionError):
        Tried().test_each_source_asked_for_alone_is_what_it_is_among_all()


CHECKS = (
    "test_listing_imports_neither_torch_nor_numpy",
    "test_its_hooks_return_specs_that_hold",
    "test_its_load_strings_lead_to_modules",
    "test_its_cards_can_be_read_and_state_a_licence",
)


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        (PLUGIN.format(load="json:loads", card=""), {"card": "skipped"}),
        ("import numpy\n" + PLUGIN.format(load="json:loads", card=""), {"listing": "failed", "card": "skipped"}),
        (PLUGIN.format(load="json", card=""), {"hooks": "failed", "card": "skipped"}),
        (PLUGIN.format(load="no_such_module:f", card=""), {"load": "failed", "card": "skipped"}),
        (PLUGIN.format(load="json:loads", card="json:nowhere.toml"), {"card": "failed"}),
        (PLUGIN.replace("@hookimpl", "").format(load="", card=""), {"hooks": "failed", "card": "skipped"}),
    ],
)
def test_the_contract_catches_what_is_wrong_with_the_plugin(
    code: str, caught: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tried_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tried_plugin", raising=False)

    class Tried(BackendContract):
        plugin_module = "tried_plugin"

    found = {}
    for check in CHECKS:
        word = next(word for word in ("listing", "hooks", "load", "card") if word in check)
        try:
            getattr(Tried(), check)()
        except pytest.skip.Exception:
            found[word] = "skipped"
        except (AssertionError, UnisepError):
            found[word] = "failed"
    assert found == caught


def test_a_heavy_hook_module_is_caught() -> None:
    class Tried(EncoderContract):
        plugin_module = "unisep.testing.toy"

    with pytest.raises(AssertionError):
        Tried().test_listing_imports_neither_torch_nor_numpy()


def test_the_toy_bands_sum_to_the_mixture_and_hold_what_they_should() -> None:
    mixture = signals.mix(signals.tone(100, 0.9), signals.tone(8_000, 0.9))
    low, high = ToyBackend().separate(torch.from_numpy(mixture.samples)[None]).sources[0].numpy()
    assert np.abs(low + high - mixture.samples).max() < 1e-5
    inside = slice(2_000, -2_000)
    assert np.abs(low - signals.tone(100, 0.9).samples)[:, inside].max() < 0.01
    assert np.abs(high - signals.tone(8_000, 0.9).samples)[:, inside].max() < 0.01


def test_the_toy_encoder_hears_what_it_reads() -> None:
    encoder = ToyEncoder()
    words = encoder.encode_text(["bass", "hi-hat"])
    clips = encoder.encode_audio([signals.tone(80), signals.tone(9_000)])
    assert (words @ clips.T).argmax(1).tolist() == [0, 1]
    assert (words @ clips.T).diagonal().min() > 0.95


def test_signals_are_deterministic_and_shaped_as_asked() -> None:
    for make in (signals.silence, signals.tone, signals.chirp, signals.clicks, signals.noise):
        audio = make(seconds=0.25, sample_rate_hz=8_000, channels=1)
        assert isinstance(audio, Audio)
        assert audio.samples.shape == (1, 2_000)
        assert np.array_equal(audio.samples, make(seconds=0.25, sample_rate_hz=8_000, channels=1).samples)
    assert signals.clicks(4, 1.0).samples.sum() == pytest.approx(2 * 4 * 0.9)
    assert not np.array_equal(signals.noise(seed=1).samples, signals.noise(seed=2).samples)


def test_the_kit_imports_pytest_only_for_the_contracts() -> None:
    code = (
        "import sys, unisep.testing as t; t.toy_plugin; before = 'pytest' in sys.modules;"
        "t.BackendContract; print(before, 'pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_toy_backend_refuses_vectors_of_another_size() -> None:
    with pytest.raises(toy.EmbeddingError, match="have 4 values, this one has 3"):
        ToyBackend().separate(torch.zeros(1, 2, 100), torch.ones(1, 3))
