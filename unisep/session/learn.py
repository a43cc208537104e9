"""Learn a sound: tune the query vector alone, through a frozen backend, on mixtures made of clips of the sound.

The clips are halved. A vector is tuned on each half, beginning with the plain example (the mean of the clips' vectors), and
tried on mixtures of the other half: so the gain that is reported is one on clips left out. The answer is the mean of both at
their best stage; where none is clearly better than the plain example, it is that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from unisep.audio import Audio, AudioLike
from unisep.engine.cpu import Workers, keeping_freed_memory
from unisep.engine.device import Options
from unisep.engine.resample import to_model
from unisep.engine.runner import no_scale, segment_scale
from unisep.errors import FAILURES, BackendError, OptionError, QueryError, UnisepError, arg
from unisep.files.reading import open_audio
from unisep.plugins.backend import Backend, BackendInfo
from unisep.progress import ProgressReporter
from unisep.query.query import Embedding, Query
from unisep.session.prepare import Preparer
from unisep.session.stream import refuse_excerpt

MAX_CLIPS, LEAST_SECONDS = 10, 0.1
WINDOW_SECONDS, N_WINDOWS, N_TESTS = 1.5, 12, 12  # mixtures of each half: to tune on, to try with
N_PASSES, N_AT_ONCE = 2, 4  # over the windows, so many to a step
STEP, MOMENTUM = 0.08, 0.6  # of unit vectors; the step shrinks to nothing
LEAST_GAIN_DB = 1.0  # on clips left out
TARGET_OVER_REST_DB, LEVEL_DB = (-6.0, 6.0), (-28.0, -16.0)
_FLOOR = 1e-3  # an error 30 dB below the target is good enough

Clips = AudioLike | Sequence[AudioLike] | None
Pair = tuple[Tensor, Tensor]  # a mixture [1, channels, samples], and the sound in it
Random = np.random.Generator
Signal = NDArray[Any]  # [channels, samples]


def opened_clips(role: str, sounds: Clips, sample_rate_hz: float | None) -> list[Audio]:
    """Open the clips of a sound, or of what it is not. Raises AudioError or QueryError for what teaches nothing."""
    items = [] if sounds is None else list(sounds) if isinstance(sounds, list | tuple) else [sounds]
    clips = [open_audio(item, sample_rate_hz).audio for item in items]
    for number, clip in enumerate(clips, 1):
        if clip.seconds < LEAST_SECONDS or not clip.samples.any():
            complaint = f"Clip {number} of {arg(role)} is silent, or shorter than {LEAST_SECONDS} s."
            raise QueryError(f"{complaint} Leave it out, or give another.")
    return clips


def learn_sound(
    preparer: Preparer, options: Options, clips: list[Audio], others: list[Audio], name: str, reporter: ProgressReporter
) -> Embedding:
    """Return the vector that finds the sound of the clips best, or their plain example; its provenance says which."""
    if not 1 <= len(clips) <= MAX_CLIPS:
        raise QueryError(f"A sound is learnt from 1 to {MAX_CLIPS} clips, not {len(clips)}. Take those that differ.")
    request = preparer.requested([Query(audio=clip) for clip in clips], None, None, "conditioned")
    entry = preparer.route(request).tasks[0].backend
    if not entry.spec.differentiable:
        advice = f"Take a backend whose spec does, such as {arg('query_backend', 'htdemucs-film')}."
        raise OptionError(f"Nothing can be learnt through '{entry.name}', which declares no gradients. {advice}")
    loaded = preparer.encoded(preparer.prepare(request, reporter), refuse_excerpt, reporter)[0]
    assert loaded.conditions is not None
    plain, listener = normalize(loaded.conditions.queries.mean(0), dim=0), Listener(loaded.backend, options)
    reporter.begin(2 * N_PASSES * N_WINDOWS // N_AT_ONCE, sum(clip.seconds for clip in clips), "learning")
    with keeping_freed_memory():
        halves = lessons(clips, others, loaded.backend.info, options.seed)
        tuned = [listener.tuned(plain, pairs, tests, reporter.step) for pairs, tests in halves]
    gain_db, best = torch.cat([gains_db for _, gains_db in tuned], dim=1).mean(1).max(0)
    vector, report = normalize(tuned[0][0][best] + tuned[1][0][best], dim=0), f"{gain_db:+.1f} dB on clips left out"
    if not others:
        vector = normalize(vector + plain, dim=0)  # half of the way: other sounds are not like those made by rule
    if gain_db < LEAST_GAIN_DB:
        vector, report = plain, f"{report}, which is too little: the plain example was kept"
        preparer.say(f"Nothing better than the plain example was learnt: {report}.")
    reporter.stage("done")
    encoder = loaded.task.targets[0].encoder
    provenance = {
        "query": name, "encoder": encoder.name if encoder else "none", "backend": entry.name,
        "learnt": report, "clips": str(len(clips)), "others": str(len(others)), "seed": str(options.seed),
    }  # fmt: skip
    return Embedding(vector, loaded.task.space, provenance)


def lessons(
    clips: list[Audio], others: list[Audio], info: BackendInfo, seed: int
) -> list[tuple[list[Pair], list[Pair]]]:
    """Return for each half of the clips mixtures of it to tune on, and mixtures of the other half to try it with."""
    random, rate_hz = np.random.default_rng(seed), info.sample_rate_hz
    n_samples = round(min(WINDOW_SECONDS, info.segment_seconds or WINDOW_SECONDS) * rate_hz)

    def pair(clip: Signal, rests: list[Signal]) -> Pair:
        target = _window(clip, n_samples, random)
        other = rests[random.integers(len(rests))] if rests else background(random, rate_hz, info.channels, n_samples)
        rest = _window(other, n_samples, random) if rests else other
        rest = rest * _level(target) / _level(rest) * 10 ** (-random.uniform(*TARGET_OVER_REST_DB) / 20)
        gain = 10 ** (random.uniform(*LEVEL_DB) / 20) / _level(target + rest)
        mixture, sound = (torch.from_numpy((gain * part).astype(np.float32))[None] for part in (target + rest, target))
        return mixture, sound

    def pairs(half: int, n_pairs: int) -> list[Pair]:
        return [pair(sounds[half][index % len(sounds[half])], rests[half]) for index in range(n_pairs)]

    sounds, rests = _halves(clips, info), _halves(others, info) if others else [[], []]
    return [(pairs(half, N_WINDOWS), pairs(1 - half, N_TESTS)) for half in (0, 1)]


def _halves(clips: list[Audio], info: BackendInfo) -> list[list[Signal]]:
    """Return two halves of the clips, as the backend takes them; of one clip its beginning and its end, equally loud."""
    arrays = [to_model(clip.samples, clip.sample_rate_hz, info.sample_rate_hz, info.channels) for clip in clips]
    if len(arrays) == 1:
        arrays = np.split(arrays[0], [max(1, _point(arrays[0], 0.5))], axis=1)
    return [arrays[::2], arrays[1::2]]


def _window(clip: Signal, n_samples: int, random: Random) -> Signal:
    """Return a window of the clip around a point that is drawn by energy; a short clip has silence around it."""
    n_missing = max(0, n_samples - clip.shape[1])
    clip = np.pad(clip, [(0, 0), (n_missing, n_missing)])
    start = _point(clip, random.random()) - random.integers(n_samples)
    return clip[:, max(0, min(start, clip.shape[1] - n_samples)) :][:, :n_samples]


def _point(samples: Signal, share: float) -> int:
    """Return the sample up to which this share of the energy lies."""
    energy = np.cumsum(np.square(samples, dtype=np.float64).sum(0))
    return int(np.searchsorted(energy, share * energy[-1]))


def _level(samples: Signal) -> float:
    """Return the root of the mean energy, never 0."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) + 1e-9


def background(random: Random, rate_hz: int, channels: int, n_samples: int) -> Signal:
    """Make one to four sounds by rule, together `[channels, n_samples]`: melodies, chords, beats, and bands of noise."""
    mixture = np.zeros((channels, n_samples))
    for _ in range(random.integers(1, 5)):
        make = _notes if random.random() < 0.6 else _noise
        sound = make(random, np.arange(n_samples) / rate_hz, random.choice([0.125, 0.25, 0.5, 1.0]))
        share, gain = random.uniform(0.5, 1.0), 10 ** (random.uniform(-8, 4) / 20)
        mixture += gain * np.array([share, 1.5 - share])[:channels, None] * sound / (sound.std() + 1e-9)
    return mixture


def _notes(random: Random, times: Signal, step_seconds: float) -> Signal:
    """Make notes, or chords, of one timbre, plucked or held, one a step; `times` in seconds."""
    n_voices, n_partials, slope = random.choice([1, 1, 3]), random.integers(1, 16), random.uniform(0.5, 2.0)
    lowest_hz, decay, vibrato = 55 * 2 ** random.uniform(0, 4.5), random.choice([0, 3, 8]), random.choice([0, 0.3])
    steps, since = np.divmod(times / step_seconds + random.random(), 1) * np.array([[1], [step_seconds]])
    semitones = random.choice((0, 2, 3, 5, 7, 8, 10, 12), (n_voices, int(steps[-1]) + 1))[:, steps.astype(int)]
    pitches_hz = lowest_hz * 2 ** (semitones / 12)
    phases = 2 * np.pi * pitches_hz * since + vibrato * np.sin(2 * np.pi * 5.5 * times) + 1
    partials = ((nth * pitches_hz < 18_000) * np.sin(nth * phases) / nth**slope for nth in range(1, n_partials + 1))
    fade = np.minimum(1, since / 0.01) * np.minimum(1, (step_seconds - since) / 0.02) * np.exp(-decay * since)
    return fade * sum(partials).sum(0)


def _noise(random: Random, times: Signal, step_seconds: float) -> Signal:
    """Make a band of noise that is struck once a step, or swells."""
    low_hz = 40 * 2 ** random.uniform(0, 7.5)
    bins_hz, ratio = np.fft.rfftfreq(times.size, times[1]), random.uniform(2, 32)
    gains = 1 / np.sqrt(1 + (low_hz / (bins_hz + 1)) ** 4 + (bins_hz / low_hz / ratio) ** 4)
    noise = np.fft.irfft(np.fft.rfft(random.standard_normal(times.size)) * gains, times.size)
    steps = times / step_seconds + random.random()
    if random.random() < 0.5:
        return noise * np.exp(-random.choice([10, 30, 80]) * step_seconds * (steps % 1))
    return noise * (1 - 0.5 * random.random() * (1 + np.sin(2 * np.pi * steps)))


class Listener:
    """Hears how well a vector finds the sound in mixtures; these are computed side by side, with one thread each."""

    def __init__(self, backend: Backend, options: Options) -> None:
        self._backend, self._device = backend, options.device
        self._workers = Workers(options.n_workers, options.n_threads)

    def tuned(
        self, plain: Tensor, pairs: list[Pair], tests: list[Pair], on_step: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        """Return the vector after each pass over the pairs `[passes, dim]`, and its gains on the tests `[passes, tests]`."""
        vector, momentum, stages, gains_db = plain, torch.zeros_like(plain), [], []
        before_db, starts = self._each(self._error_db, plain, tests), range(0, len(pairs), N_AT_ONCE)
        for index in range(N_PASSES):
            for n_done, start in enumerate(starts, index * len(starts)):
                gradient = self._each(self._gradient, vector, pairs[start : start + N_AT_ONCE]).mean(0)
                momentum = MOMENTUM * momentum + normalize(gradient - (gradient @ vector) * vector, dim=0)
                step = STEP * (1 - n_done / (N_PASSES * len(starts)))
                vector = normalize(vector - step * momentum, dim=0)
                on_step()
            stages.append(vector)
            gains_db.append(before_db - self._each(self._error_db, vector, tests))
        return torch.stack(stages), torch.stack(gains_db)

    def _each(self, call: Callable[[Tensor, Pair], Tensor], vector: Tensor, pairs: list[Pair]) -> Tensor:
        """Return what the call gives for each pair, in their order; the same bits with any number of threads."""
        results: list[Tensor] = []
        try:
            for pair in pairs:
                self._workers.run(partial(call, vector, pair), results.append)
            self._workers.settle()
        except UnisepError:
            raise
        except FAILURES as error:
            advice = "Tell its author to test it with unisep.testing.BackendContract."
            raise BackendError(
                f"Nothing can be learnt through {type(self._backend).__name__}: {error}. {advice}"
            ) from error
        finally:
            self._workers.drop()
        if not (values := torch.stack(results)).isfinite().all():
            raise BackendError(f"{type(self._backend).__name__} gave NaN or infinity, or a gradient of it.")
        return values

    def _gradient(self, vector: Tensor, pair: Pair) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = vector.clone().requires_grad_()
            return torch.autograd.grad(self._error_db(leaf, pair), [leaf])[0]

    def _error_db(self, vector: Tensor, pair: Pair) -> Tensor:
        """Return how far the error is above the sound, the mean of the plain ratio and of the scale-invariant one."""
        mixture, target = (part.to(self._device) for part in pair)
        scaled, restore = (segment_scale if self._backend.info.normalisation == "song" else no_scale)(mixture, ())
        estimate = restore(self._backend.separate(scaled, vector[None].to(self._device)).sources.float())[:, 0]
        energy = target.square().sum().clamp_min(1e-9)
        projected, least = (estimate * target).sum() / energy * target, 1e-9 * energy  # silence is no answer
        errors = [
            ((estimate - sound).square().sum() + least, sound.square().sum() + least) for sound in (target, projected)
        ]
        return 5 * torch.stack([torch.log10(error / power + _FLOOR) for error, power in errors]).sum().cpu()
