"""From what was found to what is given back: targets in the order of the plan, and the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unisep.audio import Audio
from unisep.buffers import Samples
from unisep.finishing import finish
from unisep.pipeline import Engine, Piece, pieces
from unisep.recording import BLOCK_SAMPLES, InMemory, Recording
from unisep.resolve import STEMS_BY_QUERY, Route
from unisep.separation import difference

REST = "rest"


def composed(piece: Piece, route: Route) -> dict[str, Samples]:
    """The targets of a piece in the order of the plan, and last what is left of the mixture, as `rest`."""
    found = dict(piece.found)
    if route.remainder:
        found[route.remainder] = difference(piece.mixture, found.values())
    targets = {name: found[name] for name in route.plan}
    if route.remainder and len(targets) == len(STEMS_BY_QUERY):
        return {**targets, REST: np.zeros_like(piece.mixture)}
    return {**targets, REST: difference(piece.mixture, targets.values())}


def whole(recording: InMemory, engine: Engine, route: Route) -> dict[str, Samples]:
    """Whole targets [channels, samples] in the order of the plan, and `rest`, after the steps of plugins."""
    layout, rate_hz = recording.layout, recording.layout.sample_rate_hz
    found: dict[str, Samples] = {}
    n_done = 0
    for piece in pieces(recording.blocks(), engine):
        n_next = n_done + piece.mixture.shape[1]
        for name, samples in composed(piece, route).items():
            if name not in found:
                found[name] = np.empty((layout.n_channels, layout.n_samples or 0), dtype=np.float32)
            found[name][:, n_done:n_next] = samples
        n_done = n_next
    if not route.steps:
        return found
    targets = {name: Audio(samples, rate_hz) for name, samples in found.items() if name != REST}
    stepped = {name: audio.samples for name, audio in finish(targets, recording.audio, route.steps).items()}
    # a step may give back what it was shown, which is read-only
    changed = {
        name: samples if samples.flags.writeable else samples.copy() for name, samples in stepped.items()
    }
    return {**changed, REST: difference(recording.audio.samples, changed.values())}


def in_blocks(recording: Recording, engine: Engine, route: Route) -> Iterator[dict[str, Samples]]:
    """The same in blocks, as they come; held as a whole only where a step of a plugin needs that."""
    if not route.steps:
        for piece in pieces(recording.blocks(), engine):
            yield composed(piece, route)
        return
    audio = Audio(np.concatenate(list(recording.blocks()), axis=1), recording.layout.sample_rate_hz)
    found = whole(InMemory(audio), engine, route)
    for start in range(0, audio.n_samples, BLOCK_SAMPLES):
        yield {name: samples[:, start : start + BLOCK_SAMPLES] for name, samples in found.items()}
