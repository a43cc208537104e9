"""Digital silence is not computed: its results are exactly silent, and nothing else changes by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Query, Separator, files, hookimpl, plugins
from unisep.ensemble.definition import Ensemble
from unisep.testing import noise
from unisep.testing.toy import SPACE, toy_plugin

RATE_HZ = 8_000
IS_SILENT = "unisep.engine.runner.is_silent"
SEGMENT_SECONDS = 1.0
calls: list[Tensor] = []


class Never(Backend):
    """Two sources, never silent: whatever it hears, it adds a hum; with presence for queries where it is asked to."""

    def __init__(
        self,
        answers: bool,
        normalisation: str = "song",
        segment_seconds: float | None = SEGMENT_SECONDS,
        says_presence: bool | None = None,
    ) -> None:
        self.says_presence = answers if says_presence is None else says_presence
        self.info = BackendInfo(
            sources=() if answers else ("half", "whole"), sample_rate_hz=RATE_HZ, channels=2,
            segment_seconds=segment_seconds, normalisation=normalisation,  # type: ignore[arg-type]
        )  # fmt: skip

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        calls.extend(mixture)
        n = 2 if queries is None else queries.shape[0]
        hum = 0.1 * torch.sin(torch.arange(mixture.shape[-1]) / 7)
        gains = torch.arange(1, n + 1) / 2
        sources = mixture[:, None] * gains[:, None, None] + hum
        return Output(sources, torch.full((mixture.shape[0], n), 0.75) if self.says_presence else None)


made: dict[str, object] = {}


def load_fixed(*, weights: object, device: object, dtype: object) -> Backend:
    return Never(answers=False, **made)  # type: ignore[arg-type]


def load_asked(*, weights: object, device: object, dtype: object) -> Backend:
    return Never(answers=True, **made)  # type: ignore[arg-type]


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        names = {"stems": ("half", "whole")}
        return [
            BackendSpec(name="never", load=f"{__name__}:load_fixed", summary="", **names),
            BackendSpec(name="never-asked", load=f"{__name__}:load_asked", summary="", spaces=(SPACE,)),
        ]


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    calls.clear()
    made.clear()
    with toy_plugin(), plugins.registered(Hooks(), "never"):
        yield


def song(*parts: tuple[str, float]) -> Audio:
    """Sound and silence, one after the other, of so many seconds each; the sound has an offset, as recordings have."""
    each = [
        noise(seconds, RATE_HZ, channels=2).samples + 0.02
        if kind == "sound"
        else np.zeros((2, round(seconds * RATE_HZ)), dtype=np.float32)
        for kind, seconds in parts
    ]
    return Audio(np.concatenate(each, axis=1), RATE_HZ)


GAP = (("sound", 2.0), ("silence", 4.0), ("sound", 2.0))


def seconds(first: float, last: float) -> slice:
    return slice(round(first * RATE_HZ), round(last * RATE_HZ))


@pytest.mark.parametrize("normalisation", ["song", "none"])
def test_a_silent_middle_is_skipped_and_the_rest_is_as_before(
    monkeypatch: pytest.MonkeyPatch, normalisation: str
) -> None:
    made["normalisation"] = normalisation
    gap = song(*GAP)
    skipped = Separator("never").separate(gap)
    n_skipped = len(calls)
    monkeypatch.setattr(IS_SILENT, lambda samples: False)
    computed = Separator("never").separate(gap)
    assert len(calls) - n_skipped == n_skipped + 4  # hops of 0.75 s: from 2.25, 3, 3.75 and 4.5 s on
    for name in ("half", "whole"):
        mine, all_of_it = skipped[name].samples, computed[name].samples
        assert not mine[:, seconds(2.5, 5.25)].any(), "silence is exactly silent"
        assert np.abs(all_of_it[:, seconds(2.5, 5.25)]).max() > 0.005
        for heard in (seconds(0, 2.25), seconds(5.5, 8.0)):  # what no silent segment touches
            assert np.array_equal(mine[:, heard], all_of_it[:, heard])


@pytest.mark.parametrize("options", [{}, {"shifts": 2}, {"overlap_fraction": 0.0}])
def test_disk_and_memory_agree(tmp_path: Path, options: dict[str, float]) -> None:
    gap = song(*GAP)
    soundfile.write(tmp_path / "gap.wav", gap.samples.T, RATE_HZ, subtype="FLOAT")
    separator = Separator("never", **options)  # type: ignore[arg-type]
    in_memory = separator.separate(tmp_path / "gap.wav")
    written = separator.separate_file(tmp_path / "gap.wav", tmp_path / "out")
    for name, path in written.items():
        expected = in_memory.rest if name == "rest" else in_memory[name]
        assert np.array_equal(files.read(path).samples, expected.samples)
    assert not in_memory["half"].samples[:, seconds(3.1, 4.9)].any()


@pytest.mark.parametrize("n_block", [100, 3_000, 40_000])
def test_a_stream_skips_too(n_block: int) -> None:
    made["normalisation"] = "none"
    gap = song(*GAP)
    blocks = [gap.samples[:, start : start + n_block] for start in range(0, gap.n_samples, n_block)]
    parts = list(Separator("never").stream(blocks, sample_rate_hz=RATE_HZ))
    n_streamed = len(calls)
    whole = Separator("never").separate(gap)
    assert n_streamed == len(calls) - n_streamed
    joined = np.concatenate([part["whole"].samples for part in parts], axis=1)
    assert np.array_equal(joined, whole["whole"].samples)


@pytest.mark.parametrize("n_block", [100, 3_000, 40_000])
@pytest.mark.parametrize("n_silent", [0.8, 0.95])
def test_a_silent_start_under_shifts_is_skipped_however_it_arrives(n_block: int, n_silent: float) -> None:
    """A shifted segment may begin before the recording, so that a start shorter than a segment fills it."""
    made["normalisation"] = "none"
    late = song(("silence", n_silent), ("sound", 2.0))
    blocks = [late.samples[:, start : start + n_block] for start in range(0, late.n_samples, n_block)]
    parts = list(Separator("never", shifts=2, seed=1).stream(blocks, sample_rate_hz=RATE_HZ))
    n_streamed = len(calls)
    whole = Separator("never", shifts=2, seed=1).separate(late)
    assert n_streamed == len(calls) - n_streamed and all(heard.any() for heard in calls)
    joined = np.concatenate([part["whole"].samples for part in parts], axis=1)
    assert np.array_equal(joined, whole["whole"].samples)


def test_in_a_time_range_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = song(*GAP)
    separator = Separator(query_backend="never-asked", encoder="toy")
    query = Query(text="one", time_range=(1.0, 7.0))
    part = separator.separate(gap, query=query, route="conditioned")
    n_part = len(calls)
    assert all(np.ptp(heard.numpy()) > 0 for heard in calls), "a silent segment is constant once it is normalised"
    whole = separator.separate(gap, query="one", route="conditioned")
    inside = seconds(1.1, 6.9)
    assert np.array_equal(part.target.samples[:, inside], whole.target.samples[:, inside])
    calls.clear()
    monkeypatch.setattr(IS_SILENT, lambda samples: False)
    separator.separate(gap, query=query, route="conditioned")
    assert len(calls) == n_part + 4


def test_a_silent_segment_goes_to_no_member_of_an_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = song(*GAP)
    ensemble = Ensemble(members=({"backend": "never"}, {"backend": "never"}))
    skipped = Separator(ensemble).separate(gap)["whole"].samples
    n_skipped = len(calls)
    monkeypatch.setattr(IS_SILENT, lambda samples: False)
    computed = Separator(ensemble).separate(gap)["whole"].samples
    assert len(calls) - n_skipped == n_skipped + 2 * 4
    assert not skipped[:, seconds(2.5, 5.25)].any()
    for heard in (seconds(0, 2.25), seconds(5.5, 8.0)):
        assert np.array_equal(skipped[:, heard], computed[:, heard])


def test_in_a_batch_only_what_sounds_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = song(*GAP)
    one_by_one = Separator("never").separate(gap)
    n_alone = len(calls)
    monkeypatch.setattr("unisep.engine.device.Options.n_at_once", property(lambda self: 4))
    in_batches = Separator("never").separate(gap)
    assert len(calls) == 2 * n_alone
    assert np.array_equal(in_batches["whole"].samples, one_by_one["whole"].samples)


def test_one_channel_that_sounds_is_no_silence() -> None:
    half = song(("sound", 2.0), ("silence", 2.0))
    half.samples[1, 20_000] = 1e-30
    Separator("never").separate(half)
    assert len(calls) == 4  # from 0, 0.75, 1.5 and, for one sample, 2.25 s on; not from 3 and 3.75 s on


def parsed(audio: Audio) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    separator = Separator(query_backend="never-asked", encoder="toy")
    found = separator.separate(audio, query=["one", "two"], route="conditioned")
    over_time = {name: [each.presence for each in said] for name, said in found.presence_over_time.items()}
    return dict(found.presence), over_time


@pytest.mark.parametrize("n_at_once", [1, 4])
def test_presence_of_silence_is_zero(monkeypatch: pytest.MonkeyPatch, n_at_once: int) -> None:
    monkeypatch.setattr("unisep.engine.device.Options.n_at_once", property(lambda self: n_at_once))
    found, over_time = parsed(song(*GAP))
    assert found == {"one": 0.75, "two": 0.75}
    assert over_time["one"] == over_time["two"] == [0.75] * 3 + [0.0] * 4 + [0.75] * 4


@pytest.mark.parametrize("options", [{}, {"shifts": 2, "seed": 1}])
def test_presence_is_in_seconds_and_in_order(options: dict[str, int]) -> None:
    separator = Separator(query_backend="never-asked", encoder="toy", **options)  # type: ignore[arg-type]
    entries = separator.separate(song(("sound", 2.0)), query="one", route="conditioned").presence_over_time["one"]
    assert [entry[:2] for entry in entries] == sorted(entry[:2] for entry in entries)
    assert entries[0].start_seconds == 0.0 and entries[-1].stop_seconds == 2.0
    if not options:
        assert entries == ((0.0, 1.0, 0.75), (0.75, 1.75, 0.75), (1.5, 2.0, 0.75))


@pytest.mark.parametrize("says_presence", [True, False])
@pytest.mark.parametrize("query", [None, "one"])
def test_silence_is_absence_only_where_the_backend_says_presence(says_presence: bool, query: str | None) -> None:
    """A silent start is computed by nobody: only later it is known what the backend says."""
    made["says_presence"] = says_presence
    late = song(("silence", 2.0), ("sound", 0.5))
    separator = Separator("never", query_backend="never-asked", encoder="toy")
    result = separator.separate(late, query=query, route="conditioned" if query else "fixed")
    values = [entry.presence for entry in next(iter(result.presence_over_time.values()))]
    assert values == ([0.0, 0.0, 0.75, 0.75] if says_presence else [])


def test_a_silent_recording_calls_nobody() -> None:
    silent = song(("silence", 3.0))
    found, over_time = parsed(silent)
    assert found == {"one": 0.0, "two": 0.0} and set(over_time["one"]) == {0.0}
    stems = Separator("never").separate(silent)
    assert not calls
    assert not any(stems[name].samples.any() for name in stems) and not stems.rest.samples.any()
    assert set(stems.presence.values()) == {None}


@pytest.mark.parametrize(("parts", "n_calls"), [((("silence", 3.0),), 0), (GAP, 1)])
def test_a_backend_that_takes_any_length(parts: tuple[tuple[str, float], ...], n_calls: int) -> None:
    made["segment_seconds"] = None
    Separator("never").separate(song(*parts))
    assert len(calls) == n_calls


def test_weights_of_ones_own_are_checked_all_the_same(tmp_path: Path) -> None:
    from unisep.errors import WeightsError

    with pytest.raises(WeightsError, match="no such file"):
        Separator("never", weights=tmp_path / "none.pt")
