"""What training minimises, and the figures it watches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

# Bins this far below the level of the whole count as silent: what no one hears need not be right.
FLOOR_DB = -60.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss.

    Attributes:
        si_sdr_per_db: of minus the SI-SDR, in 1/dB. Silence is a saddle of both L1 and log-SNR, where a small model stays
            for hours; SI-SDR does not change with scale, so it is pulled towards the target's shape from the start.
        sdr_per_db: of minus the plain SDR, in 1/dB. Holds the scale that SI-SDR leaves free: without it, a penalty on
            absent targets is met by making every output quiet, at no cost in SI-SDR. Needed before targets are absent.
        l1: of the mean absolute error over the mixture's mean level: holds the scale too, more weakly.
        absent_per_db: of the output's energy relative to the mixture, in 1/dB, where the sound is absent. Low enough
            that silencing everything would cost more than it saves.
        presence: of the binary cross-entropy of the presence head.
        spectral: of the distance of log spectra (`log_spectral_distance`) where the sound is present; 0 leaves it out.
        spectral_windows: lengths of its windows, in samples.
        wordings: of the distance between the condition of a wording and that of its concept's name, in the words of unisep's
            table; needs no audio.
        floor_db: output level relative to the mixture below which an absent target counts as silent.
        ceiling_db: SDR and SI-SDR above which more is worth next to nothing.
    """

    si_sdr_per_db: float = 0.1
    sdr_per_db: float = 0.05
    l1: float = 0.3
    absent_per_db: float = 0.015
    presence: float = 0.3
    spectral: float = 0.0
    spectral_windows: tuple[int, ...] = (512, 1024, 2048, 4096)
    wordings: float = 0.0
    floor_db: float = -40.0
    ceiling_db: float = 30.0


def si_sdr_db(estimate: Tensor, target: Tensor, ceiling_db: float = 100.0) -> Tensor:
    """Return scale-invariant SDR in dB over the last axis (Le Roux et al. 2019, arXiv:1811.02508), up to `ceiling_db`."""
    scale = (estimate * target).sum(-1) / ((target * target).sum(-1) + 1e-8)
    return plain_sdr_db(estimate, scale[..., None] * target, ceiling_db)


def plain_sdr_db(estimate: Tensor, target: Tensor, ceiling_db: float = 100.0) -> Tensor:
    """Return plain SDR in dB over the last axis, the target's energy over the error's, up to `ceiling_db`."""
    wanted, error = target.square().sum(-1), (target - estimate).square().sum(-1)
    return 10 * torch.log10((wanted + 1e-8) / (error + 10 ** (-ceiling_db / 10) * wanted + 1e-8))


def separation_loss(
    estimate: Tensor, target: Tensor, mixture: Tensor, logits: Tensor, present: Tensor, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch, and its parts for the log.

    `estimate`, `target` (zeros where the sound is absent) and `mixture` are `[batch, channels, samples]`; `logits` (of
    presence) and `present` (0 or 1) are `[batch]`.
    """
    # SI-SDR's small constants then mean the same everywhere
    gain = 1 / (rearrange(mixture.float().abs(), "b c l -> b (c l)").mean(-1) + 1e-5)
    scaled = [x.float() * gain[:, None, None] for x in (estimate, target, mixture)]
    estimate, target, mixture = (rearrange(x, "b c l -> b (c l)") for x in scaled)
    ratio = si_sdr_db(estimate, target, weights.ceiling_db)
    plain = plain_sdr_db(estimate, target, weights.ceiling_db)
    l1 = (estimate - target).abs().mean(-1)
    level = (estimate.square().mean(-1) / mixture.square().mean(-1)).add(10 ** (weights.floor_db / 10)).log10() * 10
    gained = ratio - si_sdr_db(mixture, target, weights.ceiling_db)
    parts = {"si_sdr_gain_db": gained, "level_db": level, "sdr_db": plain[present > 0.5]}
    separated = -weights.si_sdr_per_db * ratio - weights.sdr_per_db * plain + weights.l1 * l1
    if weights.spectral:
        flat = [rearrange(x, "b c l -> (b c) l") for x in scaled[:2]]
        distance = log_spectral_distance(flat[0], flat[1], weights.spectral_windows)
        spectral = rearrange(distance, "(b c) -> b c", b=len(present)).mean(1)
        separated = separated + weights.spectral * spectral
        parts["spectral"] = spectral[present > 0.5]
    silenced = weights.absent_per_db * (level - weights.floor_db)
    parts["presence"] = F.binary_cross_entropy_with_logits(logits.float(), present)
    loss = torch.where(present > 0.5, separated, silenced).mean() + weights.presence * parts["presence"]
    return loss, {name: part.detach() for name, part in parts.items()}


def log_spectral_distance(estimate: Tensor, target: Tensor, windows: tuple[int, ...]) -> Tensor:
    """Return the mean absolute difference of log magnitudes `[batch]` of waveforms `[batch, samples]`.

    The log-magnitude term of Arik, Jun, Diamos 2018 (arXiv:1808.06719), at several window lengths as in Yamamoto, Song,
    Kim 2020 (arXiv:1910.11480). It hears quiet bins that an error on the waveform does not, and no phase. Hann windows, a
    quarter of one apart; those longer than the waveform are left out.
    """
    floor = 10 ** (FLOOR_DB / 10) * target.square().mean(-1, keepdim=True)[..., None] + 1e-8
    usable = [n for n in windows if n <= estimate.shape[-1]] or [estimate.shape[-1]]
    logs = ([_log_energy(sound, n, floor) for sound in (estimate, target)] for n in usable)
    return torch.stack([(ours - theirs).abs().mean((-1, -2)) / 2 for ours, theirs in logs]).mean(0)


def _log_energy(sound: Tensor, window_samples: int, floor: Tensor) -> Tensor:
    """Return the log of the energy `[batch, bins, frames]`; white noise has its own mean energy in every bin."""
    window = torch.hann_window(window_samples, device=sound.device)
    hop_samples = max(window_samples // 4, 1)
    bins = torch.stft(sound, window_samples, hop_samples, window=window, center=False, return_complex=True)
    energy = torch.view_as_real(bins).square().sum(-1) / math.fsum(window.square().tolist())
    return torch.log(energy + floor)
