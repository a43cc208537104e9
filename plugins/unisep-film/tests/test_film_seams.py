"""Where segments of the embedded model meet, nothing is heard: no step of the energy, no click."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from unisep import Separator

RECORDING = Path(__file__).parents[3] / "examples" / "audio" / "mixture.flac"
RATE_HZ = 44_100
WINDOW = RATE_HZ // 50
MOST_ADDED_DB = 0.25  # at seams, on top of what the recording itself does there
HOP_SECONDS = 1.7775
OTHER_HOP_SECONDS = 2.3391  # of segments that meet at other places


def steps_db(samples: np.ndarray, at: list[int]) -> np.ndarray:
    """By how many decibels the energy of 20 ms after each place differs from that of 20 ms before."""

    def level_db(start: int) -> float:
        return float(10 * np.log10(np.square(samples[:, start : start + WINDOW]).mean() + 1e-9))

    return np.array([abs(level_db(place) - level_db(place - WINDOW)) for place in at])


def clicks(samples: np.ndarray, at: list[int]) -> np.ndarray:
    """How sharply the waveform bends at each place, against the median around it."""
    bends = np.abs(np.diff(samples, 2, axis=1)).max(0)

    def bend(place: int) -> float:
        return float(bends[place - 4 : place + 3].max())

    around = [[bend(near) for near in range(place - 2_000, place + 2_000, 97)] for place in at]
    return np.array([bend(place) / (np.median(each) + 1e-9) for place, each in zip(at, around, strict=True)])


@cache
def separated(
    overlap_fraction: float, hop_seconds: float = HOP_SECONDS
) -> tuple[list[np.ndarray], list[int], list[int]]:
    """Two results, the places where segments begin and end within them, and places far from any."""
    segment_seconds = hop_seconds / (1 - overlap_fraction)
    separator = Separator(
        query_backend="htdemucs-film", segment_seconds=segment_seconds, overlap_fraction=overlap_fraction, offline=True
    )
    found = separator.separate(RECORDING, ["acoustic guitar", "drums"], route="conditioned")
    hop, n_segment = round(hop_seconds * RATE_HZ), round(segment_seconds * RATE_HZ)
    starts = range(hop, found.target.n_samples - n_segment, hop)
    edges = sorted({edge for start in starts for edge in (start, start + n_segment - hop)})
    elsewhere = [
        place
        for place in range(RATE_HZ, found.target.n_samples - RATE_HZ, 1_511)
        if min(abs(place - edge) for edge in edges) > 2 * WINDOW
    ]
    return [each.samples for each in found.values()], edges, elsewhere


def added_steps_db(overlap_fraction: float) -> list[np.ndarray]:
    """For each result, how much larger its steps are where its segments meet than in results of other segments."""
    results, edges, _ = separated(overlap_fraction)
    others, other_edges, _ = separated(0.25, OTHER_HOP_SECONDS)
    places = [edge for edge in edges if min(abs(edge - other) for other in other_edges) > 3 * WINDOW]
    assert len(places) >= 9
    return [steps_db(a, places) - steps_db(b, places) for a, b in zip(results, others, strict=True)]


def test_seams_are_not_heard() -> None:
    results, edges, elsewhere = separated(0.25)
    assert len(edges) >= 16
    for samples, added in zip(results, added_steps_db(0.25), strict=True):
        assert np.median(added) <= MOST_ADDED_DB
        assert np.median(clicks(samples, edges)) <= 1.25 * np.median(clicks(samples, elsewhere))
        assert clicks(samples, edges).max() <= clicks(samples, elsewhere).max()


@pytest.mark.parametrize("index", [0, 1])
def test_the_measure_hears_seams_without_a_crossfade(index: int) -> None:
    results, edges, elsewhere = separated(0.0)
    assert np.median(clicks(results[index], edges)) > 5 * np.median(clicks(results[index], elsewhere))
    assert np.median(added_steps_db(0.0)[index]) > 2 * MOST_ADDED_DB
