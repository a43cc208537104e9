"""Weighted means of several estimates of one stem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
