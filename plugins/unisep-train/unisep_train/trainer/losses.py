"""What training minimises, and the figures it watches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unisep_train.trainer.spectral import log_spectral_distance


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss.

    si_sdr_per_db: of minus the SI-SDR, in 1/dB. Silence is a saddle of both L1 and log-SNR, where a small
        model stays for hours; SI-SDR does not change with scale, so it is pulled towards the target's shape
        from the start.
    sdr_per_db: of minus the plain SDR, in 1/dB. Holds the scale that SI-SDR leaves free: without it, a penalty on
        absent targets is met by making every output quiet, at no cost in SI-SDR. Needed before targets are absent.
    l1: of the mean absolute error over the mixture's mean level: holds the scale too, more weakly.
    absent_per_db: of the output's energy relative to the mixture, in 1/dB, where the sound is absent. Low enough
        that silencing everything would cost more than it saves.
    presence: of the binary cross-entropy of the presence head.
    spectral: of the distance of log spectra (`log_spectral_distance`) where the sound is present; 0 leaves it out.
    spectral_windows: lengths of its windows, in samples.
    floor_db: below this output level relative to the mixture an absent target counts as silent.
    """

    si_sdr_per_db: float = 0.1
    sdr_per_db: float = 0.05
    l1: float = 0.3
    absent_per_db: float = 0.015
    presence: float = 0.3
    spectral: float = 0.0
    spectral_windows: tuple[int, ...] = (512, 1024, 2048, 4096)
    floor_db: float = -40.0
    ceiling_db: float = 30.0


def si_sdr_db(estimate: Tensor, target: Tensor, ceiling_db: float = 100.0) -> Tensor:
    """Scale-invariant SDR in dB over the last axis (Le Roux et al. 2019, arXiv:1811.02508), at most `ceiling_db`."""
    scale = (estimate * target).sum(-1) / ((target * target).sum(-1) + 1e-8)
    return plain_sdr_db(estimate, scale[..., None] * target, ceiling_db)


def plain_sdr_db(estimate: Tensor, target: Tensor, ceiling_db: float = 100.0) -> Tensor:
    """Plain SDR in dB over the last axis, the target's energy over the error's, at most `ceiling_db`."""
    wanted, error = target.square().sum(-1), (target - estimate).square().sum(-1)
    return 10 * torch.log10((wanted + 1e-8) / (error + 10 ** (-ceiling_db / 10) * wanted + 1e-8))


def separation_loss(
    estimate: Tensor, target: Tensor, mixture: Tensor, logits: Tensor, present: Tensor, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts for the log.

    estimate, target, mixture: `[batch, channels, samples]`; logits and present (0 or 1): `[batch]`.
    """
    # SI-SDR's small constants then mean the same everywhere
    gain = 1 / (rearrange(mixture.float().abs(), "b c l -> b (c l)").mean(-1) + 1e-5)
    scaled = [x.float() * gain[:, None, None] for x in (estimate, target, mixture)]
    estimate, target, mixture = (rearrange(x, "b c l -> b (c l)") for x in scaled)
    ratio = si_sdr_db(estimate, target, weights.ceiling_db)
    plain = plain_sdr_db(estimate, target, weights.ceiling_db)
    l1 = (estimate - target).abs().mean(-1)
    level = (estimate.square().mean(-1) / mixture.square().mean(-1)).add(10 ** (weights.floor_db / 10)).log10() * 10
    separated = -weights.si_sdr_per_db * ratio - weights.sdr_per_db * plain + weights.l1 * l1
    spectral = _spectral(scaled[0], scaled[1], weights) if weights.spectral else None
    if spectral is not None:
        separated = separated + weights.spectral * spectral
    silenced = weights.absent_per_db * (level - weights.floor_db)
    presence = F.binary_cross_entropy_with_logits(logits.float(), present)
    loss = torch.where(present > 0.5, separated, silenced).mean() + weights.presence * presence
    gained = ratio - si_sdr_db(mixture, target, weights.ceiling_db)
    parts = {"si_sdr_gain_db": gained, "level_db": level, "presence": presence}
    parts["sdr_db"] = plain[present > 0.5]
    if spectral is not None:
        parts["spectral"] = spectral[present > 0.5]
    return loss, {name: part.detach() for name, part in parts.items()}


def _spectral(estimate: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """The distance of log spectra `[batch]` of `[batch, channels, samples]`, averaged over channels."""
    n_channels = estimate.shape[1]
    flat = [rearrange(x, "b c l -> (b c) l") for x in (estimate, target)]
    distance = log_spectral_distance(flat[0], flat[1], weights.spectral_windows)
    return rearrange(distance, "(b c) -> b c", c=n_channels).mean(1)
