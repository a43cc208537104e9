"""Streams: blocks of any size in, results in step a fixed delay later, bit for bit those of the whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from unisep import (
    Audio,
    Backend,
    BackendInfo,
    BackendSpec,
    Output,
    Query,
    Separation,
    Separator,
    Statistics,
    Stream,
    hookimpl,
    plugins,
)
from unisep.errors import AudioError, Cancelled, OptionError, QueryError
from unisep.testing import mix, noise, tone, toy_plugin

RATE_HZ = 44_100


class Normalised(Backend):
    """Its outputs depend on the level at which it hears the recording."""

    def __init__(self, segment_seconds: float | None = 0.5) -> None:
        self.info = BackendInfo(
            sources=("a", "b"), sample_rate_hz=8_000, channels=2, segment_seconds=segment_seconds, normalisation="song"
        )

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        return Output(torch.stack([mixture.tanh(), mixture - mixture.tanh()], dim=1))


def load_normalised(**_: object) -> Backend:
    return Normalised()


def load_endless(**_: object) -> Backend:
    return Normalised(None)


class Plugin:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [
            BackendSpec(name=name, load=f"{__name__}:load_{name}", summary="", stems=("a", "b"))
            for name in ("normalised", "endless")
        ]


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with toy_plugin(), plugins.registered(Plugin(), "normalised"):
        yield


def toy(**options: object) -> Separator:
    return Separator("toy", query_backend="toy", encoder="toy", offline=True, **options)  # type: ignore[arg-type]


def song(seconds: float = 4.3, rate_hz: int = RATE_HZ, channels: int = 2) -> Audio:
    return mix(noise(seconds, rate_hz, channels), tone(220, seconds, rate_hz, channels))


def in_blocks(audio: Audio, sizes: list[int]) -> Iterator[np.ndarray]:
    start = n = 0
    while start < audio.n_samples:
        yield audio.samples[:, start : start + sizes[n % len(sizes)]]
        start, n = start + sizes[n % len(sizes)], n + 1


def joined(results: list[Separation], name: str) -> np.ndarray:
    return np.concatenate([(each.rest if name == "rest" else each[name]).samples for each in results], axis=1)


SIZES = {"odd": [4_099], "mixed": [1, 700, 30_001, 13], "larger than a segment": [99_000], "all at once": [10**6]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_a_stream_gives_the_bits_of_the_whole(sizes: list[int]) -> None:
    queries = ["bass", {"text": "hat", "time_range": (1.0, 2.0)}, {"text": "voice", "exclude": "hat", "name": "v"}]
    whole = toy().separate(song(), queries)
    results = list(toy().stream(in_blocks(song(), sizes), queries, sample_rate_hz=RATE_HZ))
    for name in (*whole, "rest"):
        expected = whole.rest if name == "rest" else whole[name]
        assert np.array_equal(joined(results, name), expected.samples), name


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_and_the_delay_is_as_stated(rate_hz: int, channels: int) -> None:
    audio = song(3.1, rate_hz, channels)
    whole = toy(shifts=2).separate(audio, ["bass", "low"])
    n_in = n_out = 0
    fed: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        nonlocal n_in
        for block in in_blocks(audio, [997]):
            fed.append(block.shape[1])
            n_in += block.shape[1]
            yield block

    stream = toy(shifts=2).stream(blocks(), ["bass", "low"], sample_rate_hz=rate_hz)
    results = []
    for result in stream:
        results.append(result)
        n_out += result.target.n_samples
        assert result.target.sample_rate_hz == rate_hz
        if n_in < audio.n_samples:
            assert n_out == n_in - stream.delay_samples
            assert result.target.n_samples <= fed[-1]
    assert n_out == audio.n_samples
    assert 1.0 < stream.delay_seconds < 1.6
    assert np.array_equal(joined(results, "bass"), whole["bass"].samples)
    assert np.array_equal(joined(results, "rest"), whole.rest.samples)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_with_the_statistics_of_the_song_it_equals_the_whole(rate_hz: int, caplog: pytest.LogCaptureFixture) -> None:
    audio = Audio(song(3.0, rate_hz).samples * np.linspace(0.01, 1, 3 * rate_hz, dtype=np.float32) + 0.1, rate_hz)
    separator = Separator("normalised")
    stream = separator.stream(in_blocks(audio, [1_000]), sample_rate_hz=rate_hz, statistics=Statistics.of(audio))
    assert not caplog.messages
    assert stream.scale_of == "song"
    assert np.array_equal(joined(list(stream), "a"), separator.separate(audio)["a"].samples)


def test_without_statistics_each_segment_is_normalised_by_itself_and_it_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    audio = Audio(song(3.0, 8_000).samples * np.repeat([0.001, 1.0], 12_000).astype(np.float32), 8_000)
    separator = Separator("normalised")
    separator.stream([], sample_rate_hz=8_000)
    stream = separator.stream(in_blocks(audio, [1_000]), sample_rate_hz=8_000)
    (message,) = caplog.messages
    assert "normalised by itself" in message and "statistics=Statistics.of" in message
    assert stream.scale_of == "segment"
    by_segment, whole = joined(list(stream), "a"), separator.separate(audio)["a"].samples
    quiet = slice(0, 8_000)
    loudness = [
        float(np.abs(found[:, quiet]).mean() / np.abs(audio.samples[:, quiet]).mean()) for found in (by_segment, whole)
    ]
    assert loudness[0] < 0.8 < 0.99 < loudness[1]  # tanh bends what is heard loud, and leaves what is heard soft
    assert toy().stream([], sample_rate_hz=8_000).scale_of == "none"


def test_presence_is_that_of_the_segments_a_result_lies_in() -> None:
    audio = Audio(song(6.0).samples * np.repeat([0.0, 1.0], 3 * RATE_HZ).astype(np.float32), RATE_HZ)
    whole = toy().separate(audio, "bass").presence_over_time["bass"]
    results = list(toy().stream(in_blocks(audio, [RATE_HZ // 2]), "bass", sample_rate_hz=RATE_HZ))
    start = 0.0
    for result in results:
        stop = start + result.target.seconds
        there = [each for each in whole if each.stop_seconds > start and each.start_seconds < stop]
        assert list(result.presence_over_time["bass"]) == there
        assert result.presence["bass"] == max(each.presence for each in there)
        start = stop
    assert results[0].presence["bass"] == 0 < results[-1].presence["bass"]


def test_buffers_may_be_used_again() -> None:
    buffer = np.empty((2, 512), dtype=np.float32)

    def blocks() -> Iterator[np.ndarray]:
        for block in in_blocks(song(2.0), [512]):
            buffer[:, : block.shape[1]] = block
            yield buffer[:, : block.shape[1]]

    results = list(toy().stream(blocks(), "bass", sample_rate_hz=RATE_HZ))
    assert np.array_equal(joined(results, "bass"), toy().separate(song(2.0), "bass").target.samples)


def test_blocks_may_be_audio_mono_arrays_or_empty() -> None:
    mono = song(1.5, channels=1)
    blocks = [mono.samples[0, :1_000], np.zeros((1, 0)), Audio(mono.samples[:, 1_000:], RATE_HZ)]
    results = list(toy().stream(blocks, "bass", sample_rate_hz=RATE_HZ))
    assert np.array_equal(joined(results, "bass"), toy().separate(mono, "bass").target.samples)
    assert list(toy().stream([], "bass", sample_rate_hz=RATE_HZ)) == []


def test_blocks_that_do_not_fit_are_refused() -> None:
    for blocks, said in (
        ([np.zeros((2, 9)), np.zeros(9)], "channels"),
        ([Audio(np.zeros(9), 8_000)], "8000 Hz"),
        ([np.full(9, np.nan)], "NaN"),
        ([np.array(0.5)], "samples"),
    ):
        with pytest.raises(AudioError, match=said):
            list(toy().stream(blocks, "bass", sample_rate_hz=RATE_HZ))
    with pytest.raises(AudioError):
        toy().stream([], "bass", sample_rate_hz=0)


@pytest.mark.parametrize("blocks", [np.zeros((2, 44_100)), torch.zeros(100), noise(0.1), None, "song.wav", b"", 3])
def test_what_is_no_sequence_of_blocks_is_refused_at_once(blocks: object) -> None:
    with pytest.raises(AudioError, match="takes blocks of audio one after the other"):
        toy().stream(blocks, "bass", sample_rate_hz=44_100)  # type: ignore[arg-type]


def test_statistics_of_another_kind_are_refused_at_once() -> None:
    with pytest.raises(OptionError, match=r"statistics=3: give Statistics\.of"):
        toy().stream([], "bass", sample_rate_hz=44_100, statistics=3)  # type: ignore[arg-type]


def test_a_range_without_a_sample_is_refused() -> None:
    query = {"text": "bass", "time_range": (0.5, 0.500001)}
    with pytest.raises(QueryError, match="holds none of the audio"):
        list(toy().stream([noise(1.0).samples], query, sample_rate_hz=44_100))


def test_what_needs_the_whole_recording_is_refused_at_once() -> None:
    with pytest.raises(QueryError, match="cannot hear in advance"):
        toy().stream([], {"example_range": (0, 1)}, sample_rate_hz=RATE_HZ)
    with pytest.raises(OptionError, match="segment_seconds"):
        Separator("endless").stream([], sample_rate_hz=RATE_HZ, statistics=Statistics(0.0, 1.0))
    cut = Separator("endless", segment_seconds=0.5).stream([], sample_rate_hz=8_000, statistics=Statistics(0, 1))
    assert cut.delay_seconds == pytest.approx(0.5, abs=0.01)
    clip = {"audio": tone(90, 0.3), "example_range": (0.1, 0.2)}
    assert isinstance(toy().stream([], clip, sample_rate_hz=RATE_HZ), Stream)


def test_the_plan_is_known_at_once_and_the_query_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from unisep.testing import ToyEncoder

    n_calls, encode = [], ToyEncoder.encode_text
    monkeypatch.setattr(ToyEncoder, "encode_text", lambda self, texts: n_calls.append(1) or encode(self, texts))
    stream = toy().stream(in_blocks(song(), [10_000]), Query(text="bass"), sample_rate_hz=RATE_HZ)
    assert stream.plan["bass"].encoder == "toy"
    assert n_calls == [1]
    list(stream)
    assert n_calls == [1]


def test_cancelling_and_global_state() -> None:
    cancel = threading.Event()
    stream = toy().stream(in_blocks(song(), [10_000]), "bass", sample_rate_hz=RATE_HZ, cancel=cancel)
    next(stream)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    cancel.set()
    with pytest.raises(Cancelled):
        next(stream)


def test_a_stream_that_goes_on_holds_no_more() -> None:
    from unisep.engine.timeline import SampleQueue

    queues: list[SampleQueue] = []

    def blocks() -> Iterator[np.ndarray]:
        block = noise(1.0, 8_000).samples
        for _ in range(60):
            yield block

    init = SampleQueue.__init__

    def kept(self: SampleQueue) -> None:
        init(self)
        queues.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleQueue, "__init__", kept)
        stream = toy().stream(blocks(), ["bass", {"text": "hat", "time_range": (1, 2)}], sample_rate_hz=8_000)
        sizes, n_presence = [], []
        for result in stream:
            sizes.append(sum(queue.n_samples for queue in queues))
            n_presence.append(len(result.presence_over_time["bass"]))
    assert max(sizes[40:]) <= max(sizes[:20])
    assert max(n_presence) <= 6


def test_statistics_are_the_same_wherever_the_recording_lies(tmp_path: object) -> None:
    from unisep import files

    audio = song(7.0, channels=1)
    path = files.write(tmp_path / "song.wav", audio)  # type: ignore[operator]
    measured = Statistics.of(audio)
    assert Statistics.of(path) == Statistics.of(str(path)) == Statistics.of(audio.samples[0]) == measured
    exact = audio.samples.astype(np.float64)
    assert measured.mean == pytest.approx(exact.mean(), abs=1e-12)
    assert measured.deviation == pytest.approx(exact.std(ddof=1), rel=1e-12)
    with pytest.raises(AudioError, match="deviation"):
        Statistics(0.0, -1.0)
