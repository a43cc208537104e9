"""Compose what was found into what is given back: plan order, the rest, result steps, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from unisep.audio import Audio, Samples, difference
from unisep.engine.engine import Engine, Piece, pieces
from unisep.engine.recording import BLOCK_SAMPLES, InMemory, OnDisk, Recording
from unisep.errors import FAILURES, AudioError, PluginError, UnisepError, arg
from unisep.files.formats import Encoding, check_size
from unisep.files.tags import Tags
from unisep.files.writing import FileSet
from unisep.plugins.loading import load_function
from unisep.plugins.registry import GIVEN
from unisep.plugins.specs import ResultSpec
from unisep.progress import CancelFlag, ProgressReporter, stop_if
from unisep.routing.catalog import Extension
from unisep.routing.fixed import STEMS_BY_QUERY
from unisep.routing.types import Route
from unisep.separation import SeparatedFiles, leaves_nothing

REST = "rest"


def compose(piece: Piece, route: Route) -> dict[str, Samples]:
    """Return the targets of a piece in the order of the plan, and last what is left of the mixture, as `rest`."""
    results = dict(piece.targets)
    if route.remainder:
        results[route.remainder] = difference(piece.mixture, results.values())
    targets = {name: results[name] for name in route.plan}
    if route.remainder and len(targets) == len(STEMS_BY_QUERY):
        return {**targets, REST: np.zeros_like(piece.mixture)}
    return {**targets, REST: difference(piece.mixture, targets.values())}


def compose_whole(recording: InMemory, engine: Engine, route: Route) -> dict[str, Samples]:
    """Return whole targets `[channels, samples]` in the order of the plan, and `rest`, after the steps of plugins."""
    layout = recording.layout
    results: dict[str, Samples] = {}
    n_done = 0
    for piece in pieces(recording.blocks(), engine):
        n_next = n_done + piece.mixture.shape[1]
        for name, samples in compose(piece, route).items():
            if name not in results:
                results[name] = np.empty((layout.n_channels, layout.n_samples or 0), dtype=np.float32)
            results[name][:, n_done:n_next] = samples
        n_done = n_next
    if not route.steps:
        return results
    targets = {name: Audio(samples, layout.sample_rate_hz) for name, samples in results.items() if name != REST}
    for step in route.steps:
        targets = run_step(step, targets, recording.audio)
    changed = {name: _writeable(audio.samples) for name, audio in targets.items()}
    return {**changed, REST: difference(recording.audio.samples, changed.values())}


def compose_blocks(recording: Recording, engine: Engine, route: Route) -> Iterator[dict[str, Samples]]:
    """Yield the same in blocks, as they come; held as a whole only where a step of a plugin needs that."""
    if not route.steps:
        for piece in pieces(recording.blocks(), engine):
            yield compose(piece, route)
        return
    audio = Audio(np.concatenate(list(recording.blocks()), axis=1), recording.layout.sample_rate_hz)
    results = compose_whole(InMemory(audio), engine, route)
    for start in range(0, audio.n_samples, BLOCK_SAMPLES):
        yield {name: samples[:, start : start + BLOCK_SAMPLES] for name, samples in results.items()}


def write_results(
    recording: OnDisk,
    engine: Engine,
    route: Route,
    paths: Mapping[str, Path],
    encoding: Encoding,
    tags: Tags | None,
    reporter: ProgressReporter,
    cancel: CancelFlag | None,
) -> SeparatedFiles:
    """Write a file for each result, and for `rest`, to `paths`, complete; where anything fails, none is there.

    Raises:
        DiskSpaceError: there is not enough room; this is seen before anything is computed.
        AudioFileError: a folder that cannot be written to, or too much for one file of the format.
    """
    layout = recording.layout
    shape = (layout.sample_rate_hz, layout.n_channels, layout.n_samples or 0)
    check_size(encoding, *shape)
    with FileSet(paths, *shape, encoding, tags) as files:
        for block in compose_blocks(recording, engine, route):
            files.write(block)
        has_rest = not leaves_nothing(route.plan, files.peaks)
        if not has_rest:
            files.leave_out(REST)
        reporter.stage("writing")
        report = files.commit(lambda: stop_if(cancel))
    return SeparatedFiles(
        {name: paths[name] for name in route.plan},
        paths[REST] if has_rest else None,
        gain=report.gain,
        encoding=encoding,
        layout=layout,
        presence_over_time=engine.presence,
        plan=route.plan,
    )


def without(distribution: str) -> str:
    """Return how to go without the plugins of a distribution, or without those that were given."""
    return f"leave out {arg('plugins')}" if distribution in GIVEN else f"UNISEP_PLUGINS=-{distribution}"


def run_step(step: Extension[ResultSpec], targets: dict[str, Audio], mixture: Audio) -> dict[str, Audio]:
    """Return the targets after one step of a plugin, held to its promise: same names, shape and rate.

    Raises:
        UnisepError: the step raised it, and it is passed on.
        PluginError: the step failed otherwise, or broke its promise; the message names it.
    """
    what, advice = f"The result step {step.title} failed", f"To go without it: {without(step.distribution)}"
    function = load_function(step.spec)
    shown = MappingProxyType({name: _read_only(audio) for name, audio in targets.items()})
    try:
        returned = function(shown, _read_only(mixture))
    except AudioError as error:  # would not say whose audio is broken
        raise PluginError(f"{what}: {error} {advice}") from error
    except UnisepError:
        raise
    except FAILURES as error:
        raise PluginError(f"{what}: {type(error).__name__}: {error}. {advice}") from error
    if wrong := _wrong_results(returned, mixture, set(targets)):
        raise PluginError(f"{what}: {wrong}. {advice}")
    return {name: returned[name] for name in targets}


def _wrong_results(returned: Any, mixture: Audio, names: set[str]) -> str:
    """Say what is wrong with what a step returned, or ""."""
    if not isinstance(returned, Mapping) or not all(isinstance(audio, Audio) for audio in returned.values()):
        return f"it returned {type(returned).__name__}, not a mapping of names to Audio"
    if set(returned) != names:
        return f"it returned {', '.join(map(str, returned)) or 'nothing'}, and was given {', '.join(sorted(names))}"
    for name, audio in returned.items():
        if audio.samples.shape != mixture.samples.shape or audio.sample_rate_hz != mixture.sample_rate_hz:
            return f"'{name}' came back as {audio}, and the recording is {mixture}"
    return ""


def _read_only(audio: Audio) -> Audio:
    samples = audio.samples.view()
    samples.flags.writeable = False
    return Audio(samples, audio.sample_rate_hz)


def _writeable(samples: Samples) -> Samples:
    """Return the samples, or a copy: a step may give back what it was shown."""
    return samples if samples.flags.writeable else samples.copy()
