"""The steps in order: from a mixture and loaded backends to estimates like the mixture's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unisep import convert
from unisep.audio import Audio
from unisep.backend import Backend
from unisep.chunks import CancelFlag
from unisep.errors import BackendError
from unisep.inference import Caller, Stepper
from unisep.options import Options
from unisep.progress import Meter
from unisep.request import span_samples
from unisep.resolve import Task
from unisep.song import Song, as_song, at_source
from unisep.spans import Span, Stretch, at_model_rate, stretches, window, with_fades
from unisep.vectors import Conditions


@dataclass(frozen=True, eq=False)
class Loaded:
    """A task whose backend is loaded and whose queries are encoded (None: fixed sources).

    on_cpu: gives the same backend on the CPU, should the device's memory run out.
    """

    task: Task
    backend: Backend
    conditions: Conditions | None = None
    on_cpu: Callable[[], Backend] | None = None


@dataclass(frozen=True, eq=False)
class Estimate:
    """One result: the audio, like the mixture's own, and its presence, 0..1 or None."""

    audio: Audio
    presence: float | None = None


def run(
    mixture: Audio, loaded: Sequence[Loaded], options: Options, meter: Meter, cancel: CancelFlag | None
) -> dict[str, Estimate]:
    """The estimates of everything that the loaded tasks want, by name.

    Raises:
        BackendError: a backend failed or broke its contract; the message names it and the time.
        Cancelled: `cancel` was set.
        QueryError: a time range outside the mixture.
    """
    passes = [_Pass(mixture, one, options, stretch) for one in loaded for stretch in _stretches(mixture, one)]
    meter.begin(sum(each.n_segments for each in passes), sum(each.seconds for each in passes))
    estimates: dict[str, Estimate] = {}
    with torch.inference_mode():
        song, owner = None, None
        for each in passes:
            if song is None or owner is not each.loaded:
                song, owner = as_song(mixture, each.loaded.backend.info, options.device), each.loaded
            estimates |= each.estimates(song, meter, cancel)
    return estimates


def _spans(mixture: Audio, loaded: Loaded) -> list[Span]:
    whole = (0, mixture.n_samples)
    ranges = [want.time_range for want in loaded.task.wants]
    return [Span(*(span_samples(r, mixture, "time_range") if r else whole)) for r in ranges]


def _stretches(mixture: Audio, loaded: Loaded) -> list[Stretch]:
    rate_hz, n_samples = mixture.sample_rate_hz, mixture.n_samples
    return stretches([with_fades(span, rate_hz, n_samples) for span in _spans(mixture, loaded)])


class _Pass:
    """One stretch of the mixture through one backend, for the results that are wanted there."""

    def __init__(self, mixture: Audio, loaded: Loaded, options: Options, stretch: Stretch) -> None:
        self.loaded = loaded
        self._mixture = mixture
        self._stretch = stretch
        self._options = options
        info, name = loaded.backend.info, loaded.task.backend.name
        rate_hz = info.sample_rate_hz
        n_model = convert.resampled_length(mixture.n_samples, mixture.sample_rate_hz, rate_hz)
        self._model_span = at_model_rate(stretch.span, mixture.sample_rate_hz, rate_hz, n_model)
        segment_samples = options.segment_samples(info.segment_seconds, rate_hz, name)
        self._stepper = Stepper(options, segment_samples, rate_hz)
        self.n_segments = self._stepper.n_segments(n_model, self._model_span)
        self.seconds = (self._model_span.stop - self._model_span.start) / rate_hz

    def estimates(self, song: Song, meter: Meter, cancel: CancelFlag | None) -> dict[str, Estimate]:
        """What this pass finds, by name."""
        caller = self._caller()
        outputs = self._stepper.separate(song.samples, self._model_span, caller, meter, cancel)
        rate_hz = self.loaded.backend.info.sample_rate_hz
        span = self._stretch.span
        found = at_source(song.restored(outputs), self._model_span, span, self._mixture, rate_hz)
        presence: Sequence[float | None] = caller.presence or [None] * len(found)
        spans, wants = _spans(self._mixture, self.loaded), self.loaded.task.wants
        return {
            wants[index].name: Estimate(self._placed(found[row], spans[index]), presence[row])
            for row, index in enumerate(self._stretch.indices)
        }

    def _caller(self) -> Caller:
        backend, name, indices = self.loaded.backend, self.loaded.task.backend.name, self._stretch.indices
        if self.loaded.conditions is None:
            sources, stems = backend.info.sources, [self.loaded.task.wants[index].stem for index in indices]
            if not set(stems) <= set(sources):
                raise BackendError(
                    f"The backend '{name}' was to give {', '.join(stems)} and gives {', '.join(sources)}. "
                    "Upgrade its plugin, or tell its author to test it with unisep.testing.BackendContract."
                )
            outputs = [sources.index(stem) for stem in stems]
            return Caller(backend, name, None, outputs, self.loaded.on_cpu)
        conditions = self.loaded.conditions.rows(list(indices)).to(self._options.device)
        return Caller(backend, name, conditions, range(len(indices)), self.loaded.on_cpu)

    def _placed(self, samples: np.ndarray, wanted: Span) -> Audio:
        """The part that is wanted, faded where it ends within the mixture, and silence around it."""
        mixture = self._mixture
        faded = with_fades(wanted, mixture.sample_rate_hz, mixture.n_samples)
        if faded == Span(0, mixture.n_samples) == wanted:
            return Audio(samples, mixture.sample_rate_hz)
        result = np.zeros_like(mixture.samples)
        first = faded.start - self._stretch.span.start
        part = samples[:, first : first + faded.stop - faded.start]
        result[:, faded.start : faded.stop] = part * window(wanted, faded)
        return Audio(result, mixture.sample_rate_hz)
