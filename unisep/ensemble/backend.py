"""Average several estimates of each stem, with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import final, get_args

import torch
from torch import Tensor

from unisep.engine.chunking import SegmentPlan
from unisep.engine.overlap_add import separate_chunks
from unisep.engine.resample import to_model, to_source
from unisep.engine.runner import no_scale, segment_scale, wrong_sources
from unisep.ensemble.definition import Domain, check_stems, normalised
from unisep.errors import BackendError, EnsembleError
from unisep.plugins.backend import Backend, BackendInfo, Output

N_FFT = 4096
HOP_SAMPLES = 1024


def waveform_mean(estimates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the mean of estimates `[batch, channels, samples]`, sample by sample; `weights` sum to 1."""
    return reduce(torch.add, (estimate * weight for estimate, weight in zip(estimates, weights, strict=True)))


def spectrogram_mean(estimates: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the mean of magnitudes under the phase of the mean, bin by bin; shapes as in `waveform_mean`.

    Mean samples are quieter than their members wherever those disagree in phase. The mean magnitude is not; it
    keeps more of the stem, and more of what leaks into it. Window of 4096 samples (Hann), a quarter of it a step.
    """
    if len(estimates) == 1:
        return estimates[0]
    rows = [estimate.flatten(0, 1) for estimate in estimates]  # one for each channel of each recording
    window = torch.hann_window(N_FFT, device=rows[0].device, dtype=rows[0].dtype)
    spectra = [
        torch.stft(row, N_FFT, HOP_SAMPLES, window=window, pad_mode="constant", return_complex=True) for row in rows
    ]
    magnitude = waveform_mean([spectrum.abs() for spectrum in spectra], weights)
    spectrum = torch.polar(magnitude, waveform_mean(spectra, weights).angle())
    samples = torch.istft(spectrum, N_FFT, HOP_SAMPLES, window=window, length=estimates[0].shape[-1])
    return samples.unflatten(0, estimates[0].shape[:2])


@dataclass(frozen=True)
class EnsemblePart:
    """A loaded member.

    Attributes:
        backend: gives fixed stems.
        weights: how much it counts for each stem of the ensemble; what is not named does not count.
        stems: where the names differ, the ensemble's stem to the backend's.
        name: for messages.
    """

    backend: Backend
    weights: Mapping[str, float]
    stems: Mapping[str, str] = field(default_factory=dict)
    name: str = "a member"

    def __post_init__(self) -> None:
        counted = [stem for stem, weight in self.weights.items() if weight > 0]
        check_stems(self.name, counted, self.stems, self.backend.info.sources)

    def own_stem(self, stem: str) -> str:
        """Return what the backend calls the ensemble's `stem`."""
        return self.stems.get(stem, stem)

    def separate(self, mixture: Tensor) -> Tensor:
        """Return the sources that the backend gives, checked, in float32."""
        output = self.backend.separate(mixture)
        if wrong := wrong_sources(output, len(self.backend.info.sources), mixture):
            raise BackendError(f"'{self.name}' of an ensemble returned {wrong}")
        return output.sources.float()


@final
class EnsembleBackend(Backend):
    """Weighted means of what the parts give, stem by stem.

    It works at the highest rate of its parts and in stereo if one of them does; others are converted for, there and
    back. Segments are as long as the longest that a part takes; a part that takes less is given shorter ones,
    overlapping by a quarter. If all parts want the song normalised, the host does it. If only some do, recordings are
    taken whole (`info.needs_whole`), since only then their statistics are known here, and each part works as alone.
    Raises EnsembleError for a stem for which no part counts.

    Args:
        parts: the loaded members.
        sources: the stems, in order; without, all that a part counts for, in that order.
        domain: how the mean is taken, "waveform" or "spectrogram".
    """

    def __init__(
        self, parts: Sequence[EnsemblePart], sources: tuple[str, ...] = (), domain: Domain = "waveform"
    ) -> None:
        if domain not in get_args(Domain):
            raise EnsembleError(f"domain={domain!r}: give 'waveform' or 'spectrogram'.")
        counted = (stem for part in parts for stem, weight in part.weights.items() if weight > 0)
        self._sources = sources or tuple(dict.fromkeys(counted))
        shares = normalised([part.weights for part in parts], self._sources)
        self._parts = [replace(part, weights=share) for part, share in zip(parts, shares, strict=True) if share]
        self._domain: Domain = domain
        infos = [part.backend.info for part in self._parts]
        self._is_mixed = len({info.normalisation for info in infos}) > 1
        needs_whole = self._is_mixed or any(info.needs_whole for info in infos)
        seconds = [] if needs_whole else [info.segment_seconds for info in infos if info.segment_seconds is not None]
        self.info = BackendInfo(
            sources=self._sources,
            sample_rate_hz=max(info.sample_rate_hz for info in infos),
            channels=max(info.channels for info in infos),
            segment_seconds=max(seconds, default=None),
            normalisation="none" if self._is_mixed else infos[0].normalisation,
            needs_whole=needs_whole,
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the means, `[batch, sources, channels, samples]`. Raises as `check_input` does."""
        self.check_input(mixture, queries, negatives)
        terms: dict[str, list[tuple[Tensor, float]]] = {stem: [] for stem in self._sources}
        for part in self._parts:
            sources = self._estimate(part, mixture)
            for stem, weight in part.weights.items():
                terms[stem].append((sources[:, part.backend.info.sources.index(part.own_stem(stem))], weight))
        mean = waveform_mean if self._domain == "waveform" else spectrogram_mean
        return Output(torch.stack([mean(*zip(*terms[stem], strict=True)) for stem in self._sources], dim=1))

    def for_sources(self, names: tuple[str, ...]) -> EnsembleBackend:
        """Return an ensemble of only those parts that count for `names`, giving only those."""
        wanted = tuple(stem for stem in self._sources if stem in names)
        if wanted in ((), self._sources):
            return self
        parts = []
        for part in self._parts:
            if weights := {stem: part.weights[stem] for stem in wanted if stem in part.weights}:
                backend = part.backend.for_sources(tuple(map(part.own_stem, weights)))
                parts.append(replace(part, backend=backend, weights=weights))
        return EnsembleBackend(parts, wanted, self._domain)

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.backend.close()

    def _estimate(self, part: EnsemblePart, mixture: Tensor) -> Tensor:
        """Return what one part gives, `[batch, its sources, channels, samples]`, like the mixture."""
        info, rate_hz = part.backend.info, self.info.sample_rate_hz
        is_short = info.segment_samples is None or mixture.shape[-1] <= info.segment_samples
        is_plain = info.normalisation == "none" or not self._is_mixed
        if is_short and is_plain and (info.sample_rate_hz, info.channels) == (rate_hz, self.info.channels):
            return part.separate(mixture)
        scale = no_scale if is_plain else segment_scale
        estimates = []
        for recording in mixture:
            samples = to_model(recording.detach().cpu().numpy(), rate_hz, info.sample_rate_hz, info.channels)
            scaled, restore = scale(torch.tensor(samples[None]).to(mixture.device), ())
            sources = restore(separate_chunks(scaled[0], part.separate, SegmentPlan(info.segment_samples))[None])[0]
            back = to_source(sources.float().cpu().numpy(), info.sample_rate_hz, rate_hz, *recording.shape)
            estimates.append(torch.from_numpy(back))
        return torch.stack(estimates).to(mixture.device)
