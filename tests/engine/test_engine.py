from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Progress
from unisep.engine.device import Options
from unisep.engine.engine import Engine, LoadedTask, pieces
from unisep.engine.recording import InMemory
from unisep.engine.runner import BackendRunner
from unisep.engine.timeline import FADE_SECONDS, Span, at_model_rate, gains, stretches
from unisep.errors import BackendError, Cancelled, OptionError, QueryError
from unisep.progress import ProgressReporter
from unisep.query.encode import Conditions
from unisep.routing.catalog import CatalogEntry
from unisep.routing.types import BackendTask, Target
from unisep.testing import ToyBackend, ToyPanBackend, mix, noise, silence, tone

CPU = torch.device("cpu")
RATE = 8_000


class Mean(Backend):
    """Its one output depends on the whole segment; it keeps what it was given."""

    def __init__(self, **facts: object) -> None:
        given = {"sources": ("a", "b"), "sample_rate_hz": RATE, "channels": 2, "segment_seconds": 0.5, **facts}
        self.info = BackendInfo(**given)  # type: ignore[arg-type]
        self.batches: list[torch.Tensor] = []

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.batches.append(mixture.clone())
        first = mixture * mixture.abs().mean()
        return Output(torch.stack([first, mixture - first], dim=1))


def loaded(backend: Backend, *targets: Target, conditions: Conditions | None = None) -> LoadedTask:
    spec = BackendSpec(name="tried", load="m:f", summary="", stems=backend.info.sources)
    stems = tuple(Target(stem, stem=stem) for stem in backend.info.sources)
    return LoadedTask(BackendTask(CatalogEntry(spec, "dist", "none"), targets or stems), backend, conditions)


class Estimate(NamedTuple):
    audio: Audio
    presence: float | None


def run(
    mixture: Audio,
    tasks: Sequence[LoadedTask],
    options: Options,
    reporter: ProgressReporter,
    cancel: threading.Event | None,
) -> dict[str, Estimate]:
    recording = InMemory(mixture)
    engine = Engine(tasks, recording.layout, options, recording.statistics, reporter.step, cancel)
    engine.announce(reporter)
    found = [piece.targets for piece in pieces(recording.blocks(), engine)]
    return {
        name: Estimate(
            Audio(np.concatenate([each[name] for each in found], axis=1), mixture.sample_rate_hz),
            max((each.presence for each in presence), default=None),
        )
        for name, presence in engine.presence.items()
    }


def separated(mixture: Audio, *tasks: LoadedTask, **options: object) -> dict[str, Estimate]:
    chosen = Options(CPU, **options)  # type: ignore[arg-type]
    return run(mixture, tasks, chosen, ProgressReporter(), None)


def peak(samples: np.ndarray) -> float:
    return float(np.abs(samples).max())


def song(seconds: float = 2.0, rate_hz: int = RATE, channels: int = 2) -> Audio:
    return mix(noise(seconds, rate_hz, channels), tone(300, seconds, rate_hz, channels))


def test_chunked_equals_whole_for_a_backend_without_context() -> None:
    mixture = noise(1.7)
    found = separated(mixture, loaded(ToyPanBackend()))
    assert np.array_equal(found["left"].audio.samples[0], mixture.samples[0])
    assert not found["left"].audio.samples[1].any()
    assert np.array_equal(found["right"].audio.samples[1], mixture.samples[1])


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_results_are_like_the_input(rate_hz: int, channels: int) -> None:
    mixture = tone(440, 0.3, rate_hz, channels)
    found = separated(mixture, loaded(ToyBackend()))
    for estimate in found.values():
        assert estimate.audio.sample_rate_hz == rate_hz
        assert estimate.audio.samples.shape == mixture.samples.shape
        assert estimate.audio.samples.dtype == np.float32
    middle = slice(rate_hz // 20, -rate_hz // 20)
    assert peak((found["low"].audio.samples - mixture.samples)[:, middle]) < 0.01
    assert peak(found["high"].audio.samples[:, middle]) < 0.01


@pytest.mark.parametrize("n_samples", [1, 2, 100, 3_999, 4_000, 4_001])
def test_any_length_works(n_samples: int) -> None:
    mixture = Audio(song().samples[:, :n_samples], RATE)
    for normalisation in ("none", "song"):
        found = separated(mixture, loaded(Mean(normalisation=normalisation)))
        assert found["a"].audio.n_samples == n_samples


def test_mono_backends_serve_stereo_and_the_other_way() -> None:
    stereo, mono = song(), song(channels=1)
    assert separated(stereo, loaded(Mean(channels=1)))["a"].audio.n_channels == 2
    backend = Mean()
    assert separated(mono, loaded(backend))["a"].audio.n_channels == 1
    assert torch.equal(backend.batches[0][0, 0], backend.batches[0][0, 1])


def test_a_song_is_normalised_as_a_whole_and_put_back() -> None:
    mixture = Audio(song().samples * 3 + 0.25, RATE)
    backend = Mean(normalisation="song", segment_seconds=None)
    found = separated(mixture, loaded(backend))
    seen = backend.batches[0][0]
    assert float(seen.mean(0).mean()) == pytest.approx(0, abs=1e-5)
    assert float(seen.mean(0).std()) == pytest.approx(1, abs=1e-5)
    mono = torch.from_numpy(mixture.samples).mean(0)
    expected = (seen * seen.abs().mean()) * mono.std() + mono.mean()
    assert np.allclose(found["a"].audio.samples, expected.numpy(), atol=1e-5)


def test_what_lies_beyond_a_normalised_song_is_heard_as_silence() -> None:
    mixture, backend = Audio(song(0.9).samples + 0.5, RATE), Mean(normalisation="song")
    separated(mixture, loaded(backend), shifts=1, seed=1)
    heard = np.concatenate([batch[0].numpy() for batch in (backend.batches[0], backend.batches[-1])], axis=1)
    beyond = (heard == 0).all(axis=0)
    assert beyond[0] and beyond[-1] and 100 < beyond.sum() < heard.shape[1] / 2


def test_a_silent_song_stays_silent() -> None:
    found = separated(silence(0.7, RATE), loaded(Mean(normalisation="song")))
    assert not found["a"].audio.samples.any()


def test_only_the_wanted_range_is_computed_and_equals_the_full_run() -> None:
    mixture = song(8.0)
    full_backend, backend = Mean(normalisation="song"), Mean(normalisation="song")
    full = separated(mixture, loaded(full_backend))["a"].audio.samples
    part = separated(mixture, loaded(backend, Target("a", stem="a", time_range=(3.0, 4.0))))["a"].audio.samples
    n_fade = round(FADE_SECONDS * RATE)
    inside = slice(3 * RATE + n_fade, 4 * RATE - n_fade)
    assert np.array_equal(part[:, inside], full[:, inside])
    assert not part[:, : 3 * RATE].any() and not part[:, 4 * RATE :].any(), "the fades lie inside the range"
    assert part[:, 3 * RATE].any() and (np.abs(part) <= np.abs(full)).all()
    assert len(backend.batches) < len(full_backend.batches) / 3


@pytest.mark.parametrize("rate_hz", [1_000, 2_000, 11_025])
def test_a_range_through_the_resampler_equals_the_full_run(rate_hz: int) -> None:
    mixture = song(4.0, rate_hz=rate_hz)
    full = separated(mixture, loaded(Mean()))["a"].audio.samples
    part = separated(mixture, loaded(Mean(), Target("a", stem="a", time_range=(1.3, 2.1))))["a"].audio.samples
    inside = slice(round(1.31 * rate_hz), round(2.09 * rate_hz))
    assert not part[:, : round(1.3 * rate_hz)].any() and not part[:, round(2.1 * rate_hz) :].any()
    assert peak(part[:, inside] - full[:, inside]) < 1e-5 * peak(full)


@pytest.mark.parametrize("stop", [99, math.inf])
def test_a_range_beyond_the_edges_is_not_faded_there(stop: float, caplog: pytest.LogCaptureFixture) -> None:
    mixture = song(2.0)
    full = separated(mixture, loaded(Mean()))["a"].audio.samples
    with caplog.at_level("INFO"):
        part = separated(mixture, loaded(Mean(), Target("a", stem="a", time_range=(0, stop))))["a"].audio.samples
    assert np.array_equal(part, full)
    said = "a: a time to 99 s is asked for, and the recording ends at 2.000 s."
    assert [record.getMessage() for record in caplog.records] == ([said] if stop == 99 else [])


def test_a_range_of_one_sample_is_no_less_than_that() -> None:
    mixture = song(1.0)
    full = separated(mixture, loaded(Mean()))["a"].audio.samples
    span = (0.5, 0.5 + 1 / RATE)
    part = separated(mixture, loaded(Mean(), Target("a", stem="a", time_range=span)))["a"].audio.samples
    assert np.flatnonzero(part[0]).tolist() == [RATE // 2] and part[0, RATE // 2] == full[0, RATE // 2]


def test_fades_are_smooth() -> None:
    mixture = tone(300, 2.0, RATE)
    wanted = Target("left", stem="left", time_range=(0.5, 1.0))
    backend = ToyPanBackend()
    found = separated(mixture, loaded(backend, wanted))["left"].audio.samples[0]
    steps = np.abs(np.diff(found))
    assert steps.max() <= np.abs(np.diff(mixture.samples[0])).max() * 1.1


@pytest.mark.parametrize(
    ("level", "advice"), [(1e30, "level of the recording is too high: its peak is 1e\\+30"), (1.0, "precision=")]
)
def test_what_overflows_is_laid_to_the_level_where_it_is_to_blame(level: float, advice: str) -> None:
    class Overflowing(Mean):
        def separate(self, mixture: torch.Tensor, *_: torch.Tensor | None) -> Output:
            return Output(torch.stack([mixture * 1e38, mixture], dim=1) * 1e9)

    runner = BackendRunner(Overflowing(), "overflowing", None, [0])
    with pytest.raises(BackendError, match=f"NaN or infinity at 0.0 s.*{advice}"):
        runner.run(torch.full((1, 2, 100), level), [Span(0, 100)])


def test_a_range_beyond_the_end_is_refused() -> None:
    with pytest.raises(QueryError, match=r"time_range=\(30, 60\).*2\.000 s long"):
        separated(song(), loaded(Mean(), Target("a", stem="a", time_range=(30, 60))))


def test_all_queries_go_in_one_call_and_come_back_in_order() -> None:
    class Counting(ToyBackend):
        n_calls = 0

        def separate(
            self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
        ) -> Output:
            self.n_calls += 1
            return super().separate(mixture, queries, negatives)

    backend = Counting()
    targets = [Target(name) for name in ("b0", "b1", "b2", "b3")]
    found = separated(song(0.9, 44_100), loaded(backend, *targets, conditions=Conditions(torch.eye(4))))
    assert backend.n_calls == 2
    assert list(found) == ["b0", "b1", "b2", "b3"]
    total = sum(estimate.audio.samples for estimate in found.values())
    assert peak(total - song(0.9, 44_100).samples) < 1e-5
    presence = [estimate.presence for estimate in found.values()]
    assert presence[1] == max(presence)  # type: ignore[type-var]


def test_many_queries_go_in_groups_so_that_few_outputs_are_held(caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    class Noting(ToyBackend):
        def separate(
            self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
        ) -> Output:
            assert queries is not None
            sizes.append(len(queries))
            return super().separate(mixture, queries, negatives)

    vectors = torch.eye(4)[torch.arange(40) % 4]
    targets = [Target(f"t{n}") for n in range(40)]
    with caplog.at_level("INFO"):
        found = separated(song(0.9, 44_100), loaded(Noting(), *targets, conditions=Conditions(vectors)))
    assert sizes == [16, 16, 16, 16, 8, 8] and list(found) == [target.name for target in targets]
    assert "40 results at once: time and memory grow with their number." in caplog.messages
    for number, estimate in enumerate(found.values()):
        assert np.array_equal(estimate.audio.samples, found[f"t{number % 4}"].audio.samples)


def test_presence_is_that_of_the_segment_where_the_sound_is_surest() -> None:
    class Unsure(Mean):
        def separate(
            self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
        ) -> Output:
            output = super().separate(mixture, queries, negatives)
            level = [0.2, 0.9, 0.1][min(len(self.batches), 3) - 1]
            return Output(output.sources, torch.tensor([[level, 1 - level]]))

    found = separated(song(), loaded(Unsure()))
    assert found["a"].presence == pytest.approx(0.9)
    assert found["b"].presence == pytest.approx(0.9)


def test_queries_with_ranges_apart_are_computed_apart() -> None:
    targets = [Target("x", time_range=(0, 0.4)), Target("y", time_range=(3, 3.4)), Target("z", time_range=(0.3, 0.6))]
    found = separated(song(4.0, 44_100), loaded(ToyBackend(), *targets, conditions=Conditions(torch.eye(4)[[0, 1, 0]])))
    assert set(found) == {"x", "y", "z"}
    alone = separated(song(4.0, 44_100), loaded(ToyBackend(), targets[1], conditions=Conditions(torch.eye(4)[[1]])))
    assert np.allclose(found["y"].audio.samples, alone["y"].audio.samples, atol=1e-6)


def test_shifts_are_seeded_and_leave_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    first = separated(song(), loaded(Mean()), shifts=2, seed=5)["a"].audio.samples
    again = separated(song(), loaded(Mean()), shifts=2, seed=5)["a"].audio.samples
    other = separated(song(), loaded(Mean()), shifts=2, seed=6)["a"].audio.samples
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_shifts_change_nothing_for_a_backend_without_context() -> None:
    mixture = noise(0.9)
    found = separated(mixture, loaded(ToyPanBackend()), shifts=3)
    assert peak(found["left"].audio.samples[0] - mixture.samples[0]) < 1e-6


def test_a_range_with_shifts_equals_the_full_run() -> None:
    full = separated(song(4.0), loaded(Mean()), shifts=2)["a"].audio.samples
    part = separated(song(4.0), loaded(Mean(), Target("a", stem="a", time_range=(1, 2))), shifts=2)["a"].audio.samples
    n_fade = round(FADE_SECONDS * RATE)
    inside = slice(RATE + n_fade, 2 * RATE - n_fade)
    assert np.array_equal(part[:, inside], full[:, inside])


def test_segments_can_be_shorter_but_not_longer_than_the_backend_takes() -> None:
    backend = Mean()
    separated(song(), loaded(backend), segment_seconds=0.25)
    assert backend.batches[0].shape == (1, 2, RATE // 4)
    with pytest.raises(OptionError, match=r"'tried' takes at most 0\.5 s at once"):
        separated(song(), loaded(Mean()), segment_seconds=0.6)


class Faulty(Mean):
    """Fails in the way that `how` names, from its third segment on."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        output = super().separate(mixture, queries, negatives)
        if len(self.batches) < 3:
            return output
        faults = {
            "nan": lambda: Output(output.sources * float("nan")),
            "infinity": lambda: Output(output.sources / 0),
            "length": lambda: Output(output.sources[..., :-1]),
            "count": lambda: Output(output.sources[:, :1]),
            "type": lambda: output.sources,
            "presence": lambda: Output(output.sources, torch.full((1, 2), 1.5)),
            "presence nan": lambda: Output(output.sources, torch.full((1, 2), float("nan"))),
            "presence shape": lambda: Output(output.sources, torch.ones(2)),
            "raise": lambda: [][0],
            "memory": self.out_of_memory,
        }
        return faults[self.how]()  # type: ignore[no-any-return]

    def out_of_memory(self) -> Output:
        raise torch.OutOfMemoryError("no memory left")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"'tried' returned NaN or infinity at 0\.8 s"),
        ("infinity", r"'tried' returned NaN or infinity at 0\.8 s"),
        ("length", r"returned sources \(1, 2, 2, 3999\)"),
        ("count", r"returned sources \(1, 1, 2, 4000\)"),
        ("type", "returned Tensor, not an Output"),
        ("presence", "of values in 0..1 was expected"),
        ("presence nan", "of values in 0..1 was expected"),
        ("presence shape", "of values in 0..1 was expected"),
        ("raise", r"'tried' failed at 0\.8 s: IndexError"),
        ("memory", r"failed at 0\.8 s.*shorter segment_seconds"),
    ],
)
def test_a_backend_that_breaks_its_promise_is_named_with_the_time(how: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        separated(song(), loaded(Faulty(how)))


def test_a_stem_that_the_backend_does_not_give_is_named() -> None:
    with pytest.raises(BackendError, match="'tried' was to give vocals and gives a, b"):
        separated(song(), loaded(Mean(), Target("vocals", stem="vocals")))


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[Progress] = []
    run(song(), [loaded(Mean()), loaded(Mean())], Options(CPU), ProgressReporter(seen.append), None)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert seen[-1].seconds_total == seen[-1].seconds_done == pytest.approx(4.0)
    assert seen[0].eta_seconds is None
    assert seen[-1].eta_seconds == 0
    assert {progress.stage for progress in seen} == {"separating"}


def test_cancelling_stops_before_the_next_segment() -> None:
    cancel, backend = threading.Event(), Mean()

    def after_two(progress: Progress) -> None:
        if progress.fraction > 0.2:
            cancel.set()

    with pytest.raises(Cancelled):
        run(song(8.0), [loaded(backend)], Options(CPU), ProgressReporter(after_two), cancel)
    assert len(backend.batches) < 7


def test_inputs_are_left_alone_even_if_they_cannot_be_written() -> None:
    samples = song().samples
    before = samples.copy()
    samples.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separated(Audio(samples, RATE), loaded(Mean(normalisation="song")))
        separated(Audio(samples, RATE), loaded(Mean()))
    assert np.array_equal(samples, before)


def test_spans_are_merged_and_fade_inside_their_ends() -> None:
    assert [span for span, _ in stretches([Span(5, 9), Span(0, 5)])] == [Span(0, 9)]
    span = Span(90, 210)
    curve = gains(span, span, 10)
    assert curve[:10].tolist() == sorted(curve[:10])
    assert curve[110:].tolist() == sorted(curve[110:], reverse=True)
    assert (curve[10:110] == 1).all()
    assert 0 < curve[0] < 0.05
    parts = [gains(span, Span(at, at + 8), 10) for at in range(90, 210, 8)]
    assert np.array_equal(np.concatenate(parts), curve)
    assert (gains(Span(0, 100), Span(0, 90), 10) == 1).all(), "what starts with the recording begins at 1"
    assert at_model_rate(Span(441, 882), 44_100, 48_000).start % 160 == 0


@pytest.mark.parametrize(
    "options",
    [
        {"overlap_fraction": 0.6},
        {"overlap_fraction": -0.1},
        {"overlap_fraction": float("nan")},
        {"overlap_fraction": "much"},
        {"segment_seconds": 0},
        {"segment_seconds": float("inf")},
        {"shifts": -1},
        {"shifts": 1.5},
        {"seed": -3},
        {"seed": True},
    ],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Options(CPU, **options)
