"""Weighted means of several estimates of one stem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from unisep.engine.chunking import SegmentPlan
from unisep.engine.overlap_add import separate_chunks
from unisep.engine.resample import to_model, to_source
from unisep.engine.runner import no_scale, segment_scale, wrong_sources
from unisep.ensemble.definition import Domain, normalised
from unisep.errors import BackendError, EnsembleError
from unisep.plugins.backend import Backend, BackendInfo, Output

N_FFT = 4096


HOP_SAMPLES = 1024


def waveform_mean(estimates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mean of `estimates` [batch, channels, samples], sample by sample; `weights` sum to 1."""
    if len(estimates) == 1:
        return estimates[0]
    total = estimates[0] * weights[0]
    for estimate, weight in zip(estimates[1:], weights[1:], strict=True):
        total = total + estimate * weight
    return total


def spectrogram_mean(estimates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mean of magnitudes under the phase of the mean, bin by bin; shapes as in `waveform_mean`.

    Mean samples are quieter than their members wherever those disagree in phase. The mean magnitude is not; it
    keeps more of the stem, and more of what leaks into it. Window of 4096 samples (Hann), a quarter of it a step.
    """
    if len(estimates) == 1:
        return estimates[0]
    n_samples = estimates[0].shape[-1]
    spectra = [_spectrum(estimate) for estimate in estimates]
    mean = waveform_mean(spectra, weights)
    magnitude = waveform_mean([spectrum.abs() for spectrum in spectra], weights)
    samples = _samples(torch.polar(magnitude, mean.angle()), n_samples)
    return samples.unflatten(0, estimates[0].shape[:2])


def _spectrum(estimate: Tensor) -> Tensor:
    rows = estimate.flatten(0, 1)  # one row for each channel of each recording
    window = torch.hann_window(N_FFT, device=rows.device, dtype=rows.dtype)
    return torch.stft(rows, N_FFT, HOP_SAMPLES, window=window, pad_mode="constant", return_complex=True)


def _samples(spectrum: Tensor, n_samples: int) -> Tensor:
    window = torch.hann_window(N_FFT, device=spectrum.device, dtype=spectrum.real.dtype)
    return torch.istft(spectrum, N_FFT, HOP_SAMPLES, window=window, length=n_samples)


Mean = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


_MEANS: dict[Domain, Mean] = {"waveform": waveform_mean, "spectrogram": spectrogram_mean}


@dataclass(frozen=True)
class EnsemblePart:
    """A loaded member.

    weights: how much it counts for each stem of the ensemble; what is not named does not count.
    stems: where the names differ, the ensemble's stem to the backend's. name: for messages.
    """

    backend: Backend
    weights: Mapping[str, float]
    stems: Mapping[str, str] = field(default_factory=dict)
    name: str = "a member"

    def own_stem(self, stem: str) -> str:
        """What the backend calls the ensemble's `stem`."""
        return self.stems.get(stem, stem)


@final
class EnsembleBackend(Backend):
    """Weighted means of what the parts give, stem by stem.

    It works at the highest rate of its parts and in stereo if one of them does; a part of another rate or of one
    channel is converted for, there and back. It takes segments as long as the longest that a part takes; a part that
    takes less is given shorter ones, overlapping by a quarter. If all parts want the song normalised, the host does
    it. If only some do, recordings are taken whole (`info.needs_whole`), since only then their statistics are known here: each
    part then works exactly as it does alone, but progress is told and memory used as for one segment.

    Raises:
        EnsembleError: a stem for which no part counts, or a part that does not give what it counts for.
    """

    def __init__(
        self, parts: Sequence[EnsemblePart], sources: tuple[str, ...] = (), domain: Domain = "waveform"
    ) -> None:
        """An ensemble of `parts` that gives `sources`; without, all that a part counts for, in that order."""
        if domain not in _MEANS:
            raise EnsembleError(f"domain={domain!r}: give {' or '.join(map(repr, _MEANS))}.")
        rows = [{stem: weight for stem, weight in part.weights.items() if weight > 0} for part in parts]
        self._sources = sources or tuple(dict.fromkeys(stem for row in rows for stem in row))
        for part, row in zip(parts, rows, strict=True):
            _check_part(part, row)
        shares = normalised(rows, self._sources)
        self._shares = [(part, share) for part, share in zip(parts, shares, strict=True) if share]
        self._domain: Domain = domain
        infos = [part.backend.info for part, _ in self._shares]
        self._is_mixed = len({info.normalisation for info in infos}) > 1
        self.info = _common(infos, self._sources, self._is_mixed)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """The means, `[batch, sources, channels, samples]`. Raises as `check_input` does."""
        self.check_input(mixture, queries, negatives)
        estimates: dict[str, list[Tensor]] = {stem: [] for stem in self._sources}
        weights: dict[str, list[float]] = {stem: [] for stem in self._sources}
        for part, share in self._shares:
            found = self._found(part, mixture)
            for stem, weight in share.items():
                index = part.backend.info.sources.index(part.own_stem(stem))
                estimates[stem].append(found[:, index])
                weights[stem].append(weight)
        mean = _MEANS[self._domain]
        return Output(torch.stack([mean(estimates[stem], weights[stem]) for stem in self._sources], dim=1))

    def for_sources(self, names: tuple[str, ...]) -> EnsembleBackend:
        """An ensemble of only those parts that count for `names`, giving only those sources."""
        wanted = tuple(stem for stem in self._sources if stem in names)
        if wanted in ((), self._sources):
            return self
        return EnsembleBackend(
            [
                replace(
                    part,
                    backend=part.backend.for_sources(tuple(part.own_stem(stem) for stem in wanted if stem in share)),
                    weights={stem: share[stem] for stem in wanted if stem in share},
                )
                for part, share in self._shares
                if any(stem in share for stem in wanted)
            ],
            wanted,
            self._domain,
        )

    def close(self) -> None:
        """Close all parts."""
        for part, _ in self._shares:
            part.backend.close()

    def _found(self, part: EnsemblePart, mixture: Tensor) -> Tensor:
        """What one part gives, `[batch, its sources, channels, samples]` like the mixture."""
        info, own = part.backend.info, self.info
        fits = info.segment_samples is None or mixture.shape[-1] <= info.segment_samples
        plain = info.normalisation == "none" or not self._is_mixed
        if fits and plain and (info.sample_rate_hz, info.channels) == (own.sample_rate_hz, own.channels):
            return _called(part, mixture)
        return torch.stack([self._converted(part, recording) for recording in mixture])

    def _converted(self, part: EnsemblePart, recording: Tensor) -> Tensor:
        """What one part gives of one recording [channels, samples], in the part's own rate and segments."""
        info, rate_hz = part.backend.info, self.info.sample_rate_hz
        heard = to_model(recording.detach().cpu().numpy(), rate_hz, info.sample_rate_hz, info.channels)
        samples = torch.tensor(heard).to(recording.device)

        normalises = self._is_mixed and info.normalisation == "song"
        (scaled,), restore = (segment_scale if normalises else no_scale)(samples[None])
        estimates = separate_chunks(scaled, lambda batch: _called(part, batch), SegmentPlan(info.segment_samples))
        found = restore(estimates[None])[0].float().cpu().numpy()
        back = to_source(found, info.sample_rate_hz, rate_hz, recording.shape[0], recording.shape[1])
        return torch.from_numpy(back).to(recording.device)


def _called(part: EnsemblePart, mixture: Tensor) -> Tensor:
    output = part.backend.separate(mixture)
    wrong = wrong_sources(output, len(part.backend.info.sources), mixture)
    if wrong:
        raise BackendError(f"'{part.name}' of an ensemble returned {wrong}")
    return output.sources.float()


def _check_part(part: EnsemblePart, row: Mapping[str, float]) -> None:
    given = part.backend.info.sources
    lacking = [stem for stem in row if part.own_stem(stem) not in given]
    if lacking:
        raise EnsembleError(
            f"'{part.name}' counts for '{lacking[0]}' and gives no '{part.own_stem(lacking[0])}'. It gives: "
            f'{", ".join(given) or "no fixed stems"}. Where names differ: stems = {{ {lacking[0]} = "its name" }}'
        )


def _common(infos: Sequence[BackendInfo], sources: tuple[str, ...], is_mixed: bool) -> BackendInfo:
    seconds = [info.segment_seconds for info in infos if info.segment_seconds is not None]
    needs_whole = is_mixed or any(info.needs_whole for info in infos)
    return BackendInfo(
        sources=sources,
        sample_rate_hz=max(info.sample_rate_hz for info in infos),
        channels=max(info.channels for info in infos),
        segment_seconds=None if needs_whole or not seconds else max(seconds),
        normalisation="none" if is_mixed else infos[0].normalisation,
        needs_whole=needs_whole,
    )
