"""Compose what was found into what is given back: plan order, the rest, result steps, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from unisep.audio import Audio
from unisep.engine.engine import Engine, Piece, pieces
from unisep.engine.recording import BLOCK_SAMPLES, InMemory, OnDisk, Recording
from unisep.engine.timeline import Samples
from unisep.errors import FAILURES, AudioError, PluginError, UnisepError
from unisep.files.formats import Encoding, check_size
from unisep.files.tags import Tags
from unisep.files.writing import FileSet
from unisep.plugins.loading import load_function
from unisep.plugins.registry import GIVEN
from unisep.plugins.specs import ResultSpec
from unisep.progress import CancelFlag, ProgressReporter, stop_if
from unisep.routing.catalog import Extra
from unisep.routing.fixed import STEMS_BY_QUERY
from unisep.routing.types import Route
from unisep.separation import SeparatedFiles, difference


def finish(targets: dict[str, Audio], mixture: Audio, steps: Iterable[Extra[ResultSpec]]) -> dict[str, Audio]:
    """The targets after all steps, in the order they had. What the steps get is read-only.

    Raises:
        UnisepError: a step raised it, and it is passed on.
        PluginError: a step failed otherwise, or gave other names, another shape or rate, or NaN; the message names it.
    """
    for step in steps:
        targets = _after(step, targets, mixture)
    return targets


def _after(step: Extra[ResultSpec], targets: dict[str, Audio], mixture: Audio) -> dict[str, Audio]:
    function = load_function(step.spec)
    shown = MappingProxyType({name: _read_only(audio) for name, audio in targets.items()})
    try:
        returned = function(shown, _read_only(mixture))
    except UnisepError as error:
        if not isinstance(error, AudioError):  # that of a broken Audio would not say whose it is
            raise
        raise PluginError(f"{_failed(step)}: {error} {_advice(step)}") from error
    except FAILURES as error:
        raise PluginError(f"{_failed(step)}: {type(error).__name__}: {error}. {_advice(step)}") from error
    wrong = _wrong(returned, mixture, set(targets))
    if wrong:
        raise PluginError(f"{_failed(step)}: {wrong}. {_advice(step)}")
    return {name: returned[name] for name in targets}


def _wrong(returned: Any, mixture: Audio, names: set[str]) -> str:
    """What is wrong with what a step returned, or ""."""
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


def _failed(step: Extra[ResultSpec]) -> str:
    return f"The result step {step.title} failed"


def _advice(step: Extra[ResultSpec]) -> str:
    return f"To go without it: {without(step.distribution)}"


def without(distribution: str) -> str:
    """How to go without the plugins of a distribution, or without those that were given."""
    return "leave out --plugin (plugins=)" if distribution in GIVEN else f"UNISEP_PLUGINS=-{distribution}"


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
    changed = {name: samples if samples.flags.writeable else samples.copy() for name, samples in stepped.items()}
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
    """All files in their places, complete; where anything fails, none is there.

    paths: of each result, `rest` too.

    Raises:
        DiskSpaceError: there is not enough room; this is seen before anything is computed.
        AudioFileError: a folder that cannot be written to, or too much for one file of the format.
    """
    layout = recording.layout
    shape = (layout.sample_rate_hz, layout.n_channels, layout.n_samples or 0)
    check_size(encoding, *shape)
    with FileSet(paths, *shape, encoding, tags) as files:
        for block in in_blocks(recording, engine, route):
            files.write(block)
        reporter.stage("writing")
        report = files.commit(lambda: stop_if(cancel))
    return SeparatedFiles(
        {name: paths[name] for name in route.plan},
        paths[REST],
        gain=report.gain,
        encoding=encoding,
        layout=layout,
        presence_over_time=engine.presence,
        plan=route.plan,
    )
