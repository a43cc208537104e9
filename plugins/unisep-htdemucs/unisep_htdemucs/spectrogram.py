"""Spectrograms whose frames line up with the strided convolutions of the time branch."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def spectrogram(waveform: Tensor, nfft: int) -> Tensor:
    """Compute the complex spectrogram `[..., nfft/2, ceil(samples / hop)]`, hop = nfft/4, without Nyquist bin.

    Frame k is centred on the middle of samples [k hop, (k+1) hop), reflected at both ends, so that a
    frame stands for exactly one hop of signal (Hann window, normalised by sqrt(nfft)).
    """
    hop_samples = nfft // 4
    n_samples = waveform.shape[-1]
    n_frames = math.ceil(n_samples / hop_samples)
    left = 3 * hop_samples // 2
    right = left + n_frames * hop_samples - n_samples
    padded = _reflected(waveform.reshape(-1, n_samples), left, right)
    window = torch.hann_window(nfft, device=waveform.device, dtype=waveform.dtype)
    bins = torch.stft(padded, nfft, hop_samples, window=window, center=False, normalized=True, return_complex=True)
    return bins[:, :-1].reshape(*waveform.shape[:-1], nfft // 2, n_frames)


def waveform(bins: Tensor, n_samples: int) -> Tensor:
    """Return the waveform `[..., n_samples]` of a spectrogram made by `spectrogram`."""
    nfft, n_frames = 2 * bins.shape[-2], bins.shape[-1]
    hop_samples = nfft // 4
    # Four squared Hann windows a quarter apart add up to 1.5 everywhere.
    window = torch.hann_window(nfft, device=bins.device, dtype=bins.real.dtype) / 1.5
    frames = torch.fft.irfft(rearrange(bins, "... f t -> ... t f"), nfft, norm="ortho") * window
    signal = frames.new_zeros(*bins.shape[:-2], n_frames + 3, hop_samples)
    for index, quarter in enumerate(frames.split(hop_samples, dim=-1)):
        signal[..., index : index + n_frames, :] += quarter
    left = 3 * hop_samples // 2
    return signal.flatten(-2)[..., left : left + n_samples]


def _reflected(signal: Tensor, left: int, right: int) -> Tensor:
    """Mirror the ends of `signal [rows, samples]`; a signal too short to mirror gets zeros first."""
    missing = max(0, max(left, right) - signal.shape[-1] + 1)
    if missing:
        signal = F.pad(signal, (0, missing))
    return F.pad(signal, (left, right - missing), mode="reflect")
