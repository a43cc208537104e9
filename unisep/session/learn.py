"""Learn a sound: tune the query vector alone, through a frozen backend, on mixtures made of clips of the sound.

The clips are halved. A vector is tuned on each half, beginning with the plain example (the mean of the clips' vectors), and
tried on mixtures of the other half, so the gain that is reported is one on clips left out. The answer is the mean of both, at
the stage that served best; where none served clearly better than the plain example, it is that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import normalize

from unisep.audio import AudioLike, Samples
from unisep.engine.cpu import Workers, keeping_freed_memory
from unisep.engine.device import Options
from unisep.engine.resample import to_model
from unisep.engine.runner import no_scale, segment_scale
from unisep.errors import FAILURES, BackendError, OptionError, QueryError, UnisepError, arg
from unisep.files.reading import Opened, open_audio
from unisep.plugins.backend import Backend, BackendInfo
from unisep.progress import CancelFlag, ProgressReporter, stop_if
from unisep.query.query import Embedding, Query
from unisep.session.backgrounds import background
from unisep.session.prepare import Preparer
from unisep.session.stream import refuse_excerpt

MAX_CLIPS = 10
LEAST_SECONDS = 0.1  # of a clip
WINDOW_SECONDS = 2.0
N_WINDOWS, N_TESTS = 24, 8  # mixtures of each half: to tune on, to try with
N_PASSES, N_AT_ONCE = 6, 4  # over the windows, so many to a step
LEARNING_RATE = 0.006  # of Adam, for unit vectors
PULL_DB = 1.0  # what a vector at right angles to the plain example must gain
LEAST_GAIN_DB = 0.3  # on clips left out
TARGET_OVER_REST_DB = (-6.0, 6.0)
LEVEL_DB = (-28.0, -16.0)
_FLOOR = 1e-3  # an error 30 dB below the target is good enough

Pair = tuple[Tensor, Tensor]  # a mixture [1, channels, samples], and the sound in it


def opened(sounds: AudioLike | Sequence[AudioLike] | None, role: str, sample_rate_hz: float | None) -> list[Opened]:
    """Open the clips of a sound, or of what it is not. Raises AudioError or QueryError for what teaches nothing."""
    items = [] if sounds is None else list(sounds) if isinstance(sounds, list | tuple) else [sounds]
    clips = [open_audio(item, sample_rate_hz) for item in items]
    for number, clip in enumerate(clips, 1):
        is_short = clip.audio.seconds < LEAST_SECONDS
        if is_short or not clip.audio.samples.any():
            lack = f"shorter than {LEAST_SECONDS} s" if is_short else "silent"
            raise QueryError(f"Clip {number} of {arg(role)} ({clip.name}) is {lack}. Leave it out, or give another.")
    return clips


def learn_sound(
    preparer: Preparer, options: Options, clips: Sequence[Opened], others: Sequence[Opened], name: str | None,
    reporter: ProgressReporter, cancel: CancelFlag | None,
) -> Embedding:  # fmt: skip
    """Return the vector that finds the sound of the clips best, or their plain example; its provenance says which."""
    if not 1 <= len(clips) <= MAX_CLIPS:
        raise QueryError(f"A sound is learnt from 1 to {MAX_CLIPS} clips, not {len(clips)}. Choose clean ones that differ.")
    queries = [Query(audio=clip.audio, name=f"clip {number}") for number, clip in enumerate(clips, 1)]
    request = preparer.requested(queries, None, None, "conditioned")
    entry = preparer.route(request).tasks[0].backend
    if not entry.spec.differentiable:
        raise OptionError(
            f"Nothing can be learnt through '{entry.name}': its spec does not declare that gradients reach its queries. "
            f"Take a backend that does, such as {arg('query_backend', 'htdemucs-film')}."
        )
    loaded = preparer.encoded(preparer.prepare(request, reporter), refuse_excerpt, reporter)[0]
    assert loaded.conditions is not None
    plain = normalize(loaded.conditions.queries.mean(0), dim=0)
    reporter.begin(2 * N_PASSES * N_WINDOWS // N_AT_ONCE, sum(clip.audio.seconds for clip in clips), "learning")
    lessons, listener = Lessons(loaded.backend.info, options.seed), Listener(loaded.backend, entry.name, options, cancel)
    with keeping_freed_memory():
        vector, gain_db = _learnt(plain, listener, lessons.of_halves(clips, others), reporter.step)
    report = f"{gain_db:+.1f} dB against the plain example, on clips left out"
    if gain_db < LEAST_GAIN_DB:
        vector, report = plain, f"{report}: the plain example was kept"
        preparer.say(f"Nothing better than the plain example was learnt, so that is kept: {gain_db:+.1f} dB on clips left out.")
    reporter.stage("done")
    encoder = loaded.task.targets[0].encoder
    provenance = {
        "query": name or clips[0].name, "encoder": encoder.name if encoder else "none", "backend": entry.name,
        "learnt": report, "clips": str(len(clips)), "others": str(len(others)), "seed": str(options.seed),
    }  # fmt: skip
    return Embedding(vector, loaded.task.space, provenance)


class Lessons:
    """Makes mixtures of clips with others, or with sounds made by rule, as a backend takes them."""

    def __init__(self, info: BackendInfo, seed: int) -> None:
        self._info, self._random = info, np.random.default_rng(seed)
        self._n_samples = round(min(WINDOW_SECONDS, info.segment_seconds or WINDOW_SECONDS) * info.sample_rate_hz)

    def of_halves(self, clips: Sequence[Opened], others: Sequence[Opened]) -> list[tuple[list[Pair], list[Pair]]]:
        """Return for each half of the clips mixtures of it, and mixtures of the other half to try it with."""
        sounds, rests = self._halves(clips), self._halves(others) if others else [[], []]
        return [
            (self._pairs(sounds[half], rests[half], N_WINDOWS), self._pairs(sounds[1 - half], rests[1 - half], N_TESTS))
            for half in (0, 1)
        ]

    def _halves(self, clips: Sequence[Opened]) -> list[list[Samples]]:
        """Return two halves of the clips; of one clip its beginning and its end, equally loud."""
        rate_hz, channels = self._info.sample_rate_hz, self._info.channels
        audios = [to_model(clip.audio.samples, clip.audio.sample_rate_hz, rate_hz, channels) for clip in clips]
        if len(audios) == 1:
            audios = np.split(audios[0], [max(1, _point(audios[0], 0.5))], axis=1)
        return [audios[::2], audios[1::2]]

    def _pairs(self, clips: list[Samples], others: list[Samples], n_pairs: int) -> list[Pair]:
        return [self._pair(clips[index % len(clips)], others, self._random) for index in range(n_pairs)]

    def _pair(self, clip: Samples, others: list[Samples], random: Generator) -> Pair:
        target = self._window(clip, random)
        if others:
            rest = self._window(others[random.integers(len(others))], random)
        else:
            rest = background(random, self._info.sample_rate_hz, self._info.channels, self._n_samples)
        rest = rest * _level(target) / _level(rest) * 10 ** (-random.uniform(*TARGET_OVER_REST_DB) / 20)
        gain = 10 ** (random.uniform(*LEVEL_DB) / 20) / _level(target + rest)
        mixture, target = (torch.from_numpy((gain * part).astype(np.float32))[None] for part in (target + rest, target))
        return mixture, target

    def _window(self, clip: Samples, random: Generator) -> Samples:
        """Return a window of the clip around a point that is drawn by energy; a short clip has silence around it."""
        n_missing = max(0, self._n_samples - clip.shape[1])
        clip = np.pad(clip, [(0, 0), (n_missing, n_missing)])
        start = _point(clip, random.random()) - random.integers(self._n_samples)
        return clip[:, max(0, min(start, clip.shape[1] - self._n_samples)) :][:, : self._n_samples]


class Listener:
    """Hears how well a vector finds the sound in mixtures; these are computed side by side, with one thread each."""

    def __init__(self, backend: Backend, name: str, options: Options, cancel: CancelFlag | None) -> None:
        self._backend, self._name, self._device, self._cancel = backend, name, options.device, cancel
        self._workers = Workers(options.n_workers, options.n_threads)

    def errors_db(self, vector: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """Return for each mixture how far the error is above the sound."""
        return self._each(partial(self._error_db, vector), pairs)

    def gradient(self, vector: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """Return the gradient of the mean error to the vector; the same bits with any number of threads."""
        return self._each(partial(self._gradient, vector), pairs).mean(0)

    def _each(self, call: Callable[[Pair], Tensor], pairs: Sequence[Pair]) -> Tensor:
        results: list[Tensor] = []
        try:
            for pair in pairs:
                stop_if(self._cancel)
                self._workers.run(partial(call, pair), results.append)
            self._workers.settle()
        except UnisepError:
            raise
        except FAILURES as error:
            raise BackendError(
                f"Nothing can be learnt through the backend '{self._name}': {type(error).__name__}: {error}. "
                "Tell its author to test it with unisep.testing.BackendContract."
            ) from error
        finally:
            self._workers.drop()
        return torch.stack(results)

    def _gradient(self, vector: Tensor, pair: Pair) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = vector.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self._error_db(leaf, pair), [leaf])
        if not gradient.isfinite().all():
            raise BackendError(f"The backend '{self._name}' gave a gradient of NaN or infinity.")
        return gradient

    def _error_db(self, vector: Tensor, pair: Pair) -> Tensor:
        mixture, target = (part.to(self._device) for part in pair)
        scale = segment_scale if self._backend.info.normalisation == "song" else no_scale
        scaled, restore = scale(mixture, ())
        output = self._backend.separate(scaled, normalize(vector, dim=0)[None].to(self._device))
        error = restore(output.sources.float())[:, 0] - target
        return 10 * torch.log10(error.square().sum() / target.square().sum().clamp_min(1e-9) + _FLOOR).cpu()


def _learnt(
    plain: Tensor, listener: Listener, halves: Sequence[tuple[list[Pair], list[Pair]]], on_step: Callable[[], None]
) -> tuple[Tensor, float]:
    """Return the mean of what each half taught, at the best stage, and the mean gain of both on the tests."""
    stages, gains_db = zip(*(_tuned(plain, listener, pairs, tests, on_step) for pairs, tests in halves), strict=True)
    gain_db, best = torch.cat(gains_db, dim=1).mean(1).max(0)
    return normalize((stages[0] + stages[1])[best], dim=0), float(gain_db)


def _tuned(
    plain: Tensor, listener: Listener, pairs: list[Pair], tests: list[Pair], on_step: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """Return the vector after each pass over the pairs `[passes, dim]`, and its gains on the tests `[passes, tests]`."""
    vector, stages, gains_db = plain.clone(), [], []
    optimiser, before_db = torch.optim.Adam([vector], betas=(0.8, 0.95)), listener.errors_db(plain, tests)
    for index in range(N_PASSES):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - index / N_PASSES) ** 0.5
        for first in range(0, len(pairs), N_AT_ONCE):
            vector.grad = listener.gradient(vector, pairs[first : first + N_AT_ONCE]) - PULL_DB * plain
            optimiser.step()
            vector.copy_(normalize(vector, dim=0))
            on_step()
        stages.append(vector.clone())
        gains_db.append(before_db - listener.errors_db(vector, tests))
    return torch.stack(stages), torch.stack(gains_db)


def _point(samples: Samples, share: float) -> int:
    """Return the sample up to which this share of the energy lies."""
    energy = np.cumsum(np.square(samples, dtype=np.float64).sum(0))
    return int(np.searchsorted(energy, share * energy[-1]))


def _level(samples: Samples) -> float:
    """Return the root of the mean energy, never 0."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) + 1e-9
