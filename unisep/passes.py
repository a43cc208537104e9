"""One part of the recording through one backend, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisep.backend import Backend
from unisep.buffers import Samples
from unisep.cancelling import CancelFlag
from unisep.convert import StreamResampler, with_channels
from unisep.errors import BackendError
from unisep.inference import Caller
from unisep.lanes import Lane
from unisep.options import Options
from unisep.recording import ENDLESS, Layout, Statistics
from unisep.resolve import Task
from unisep.scale import Scale, by_segment
from unisep.segments import Segment, heard
from unisep.silence import Silence
from unisep.spans import Span, Stretch, at_model_rate
from unisep.stepping import Stepper, Steps
from unisep.targets import Presence
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

    def steps(self, span: Span, source_rate_hz: int, options: Options) -> Steps:
        """How the backend goes through `span` of a recording at `source_rate_hz`.

        Raises OptionError for segments that the backend does not take.
        """
        info, name = self.backend.info, self.task.backend.name
        rate_hz = info.sample_rate_hz
        segment_samples = options.segment_samples(info, name)
        return Steps(at_model_rate(span, source_rate_hz, rate_hz), segment_samples, rate_hz, options)


class Pass:
    """Brings the results that are wanted in one stretch of the recording, each into its lane.

    Give blocks [channels, samples] of the recording from its beginning to `push`, then call `finish`.
    statistics: of the recording; None where they are not known, and each segment has its own scale.
    """

    def __init__(
        self,
        loaded: Loaded,
        stretch: Stretch,
        wanted: Sequence[Span],
        layout: Layout,
        options: Options,
        statistics: Statistics | None,
        on_segment: Callable[[], None],
        cancel: CancelFlag | None,
    ) -> None:
        info, rate_hz, n_channels = loaded.backend.info, layout.sample_rate_hz, layout.n_channels
        wants = [loaded.task.wants[index] for index in stretch.indices]
        self.lanes = {
            want.name: Lane(wanted[index], stretch.span.start, rate_hz, n_channels)
            for want, index in zip(wants, stretch.indices, strict=True)
        }
        self._info = info
        self._n_channels = n_channels
        self.steps = loaded.steps(stretch.span, rate_hz, options)
        self._caller = _caller(loaded, stretch.indices, options)
        normalises = info.normalisation == "song"
        self._scale = Scale.of(statistics) if normalises and statistics is not None else Scale()
        each_its_own = normalises and statistics is None
        self._call = by_segment(self._caller) if each_its_own else self._scale.restoring(self._caller)
        self._silence = Silence(self.steps.segment_samples or ENDLESS)
        self._stepper = Stepper(self._called, self.steps, on_segment, cancel)
        self._to_model = StreamResampler(rate_hz, info.sample_rate_hz, info.channels)
        self._to_source = StreamResampler(info.sample_rate_hz, rate_hz, len(wants) * n_channels)
        self._n_to_skip = stretch.span.start - self.steps.span.start * rate_hz // info.sample_rate_hz
        self._n_to_find = self.steps.span.stop - self.steps.span.start

    @property
    def presence(self) -> dict[str, tuple[Presence, ...]]:
        """How surely each result is there, in the segments where it is wanted; empty where the backend does not say."""
        rate_hz = self._info.sample_rate_hz
        found = [
            (max(0, segment.start) / rate_hz, segment.stop / rate_hz, values)
            for segment, values in self._caller.presence_by_segment
        ]
        return {
            name: tuple(
                Presence(start, stop, values[row]) for start, stop, values in found if lane.wants(start, stop)
            )
            for row, (name, lane) in enumerate(self.lanes.items())
        }

    def forget_presence_before(self, seconds: float) -> None:
        """Nothing; drops what was said of segments that ended before this time."""
        self._caller.forget_before(seconds * self._info.sample_rate_hz)

    def push(self, block: Samples) -> None:
        """Nothing; takes the next block of the recording."""
        if self._n_to_find:
            self._separate(self._to_model.push(with_channels(block, self._info.channels)))

    def finish(self) -> None:
        """Nothing; the recording has ended."""
        if self._n_to_find:
            self._separate(self._to_model.finish())
            self._give(self._stepper.finish())
        if self._n_to_find:  # not all of the stretch was in the recording
            self._n_to_find = 0
            self._put(self._to_source.finish())

    def _called(self, batch: Tensor, segments: list[Segment]) -> Tensor:
        """The outputs of a batch on the recording's scale; only what is not digital silence is computed."""
        sounding = [not self._silence.covers(heard(segment, batch.shape[-1])) for segment in segments]
        if all(sounding):
            self._caller.begin(segments)
            return self._call(batch)
        silent = [segment for segment, sounds in zip(segments, sounding, strict=True) if not sounds]
        parts = torch.tensor(sounding, device=batch.device)
        nothing = self._caller.silence(batch[~parts], silent)
        if not any(sounding):
            return nothing
        self._caller.begin([segment for segment, sounds in zip(segments, sounding, strict=True) if sounds])
        found = self._call(batch[parts])
        outputs = found.new_zeros(batch.shape[0], *found.shape[1:])
        outputs[parts] = found
        return outputs

    def _separate(self, samples: Samples) -> None:
        if samples.shape[-1]:
            self._silence.push(samples)
            self._give(self._stepper.push(self._scale.normalised(samples)))

    def _give(self, outputs: Samples | None) -> None:
        """Bring outputs [n, channels, samples] at the model's rate back to the recording's."""
        if outputs is None:
            return
        restored = with_channels(outputs, self._n_channels)
        n_samples = outputs.shape[-1]
        self._put(self._to_source.push(restored.reshape(-1, n_samples)))
        self._n_to_find -= n_samples
        # What is computed next touches no earlier sample, but may begin a segment before and hear half of one more.
        n_heard = 2 * (self.steps.segment_samples or ENDLESS)
        self._silence.forget_before(self.steps.span.stop - self._n_to_find - n_heard)
        if not self._n_to_find:
            self._put(self._to_source.finish())

    def _put(self, samples: Samples) -> None:
        """Put samples [n * channels, samples] into the lanes, without those before the stretch."""
        n_skipped = min(self._n_to_skip, samples.shape[-1])
        self._n_to_skip -= n_skipped
        per_result = samples[:, n_skipped:].reshape(len(self.lanes), self._n_channels, -1)
        for lane, part in zip(self.lanes.values(), per_result, strict=True):
            lane.put(part)


def _caller(loaded: Loaded, indices: Sequence[int], options: Options) -> Caller:
    backend, name = loaded.backend, loaded.task.backend.name
    if loaded.conditions is not None:
        conditions = loaded.conditions.rows(list(indices)).to(options.device)
        return Caller(backend, name, conditions, range(len(indices)), loaded.on_cpu)
    sources, stems = backend.info.sources, [loaded.task.wants[index].stem for index in indices]
    if not set(stems) <= set(sources):
        raise BackendError(
            f"The backend '{name}' was to give {', '.join(stems)} and gives {', '.join(sources)}. "
            "Upgrade its plugin, or tell its author to test it with unisep.testing.BackendContract."
        )
    return Caller(backend, name, None, [sources.index(stem) for stem in stems], loaded.on_cpu)
