"""What training minimises, and the figures it watches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss.

    si_sdr_per_db: of minus the SI-SDR, in 1/dB. Silence is a saddle of both L1 and log-SNR, where a small
        model stays for hours; SI-SDR does not change with scale, so it is pulled towards the target's shape
        from the start.
    l1: of the mean absolute error over the mixture's mean level: fixes the scale SI-SDR leaves free.
    absent_per_db: of the output's energy relative to the mixture, in 1/dB, where the sound is absent.
    presence: of the binary cross-entropy of the presence head.
    floor_db: below this output level relative to the mixture an absent target counts as silent.
    """

    si_sdr_per_db: float = 0.1
    l1: float = 0.3
    absent_per_db: float = 0.05
    presence: float = 0.1
    floor_db: float = -50.0
    ceiling_db: float = 30.0


def si_sdr_db(estimate: Tensor, target: Tensor, ceiling_db: float = 100.0) -> Tensor:
    """Scale-invariant SDR in dB over the last axis (Le Roux et al. 2019, arXiv:1811.02508), at most `ceiling_db`."""
    energy = (target * target).sum(-1)
    scale = (estimate * target).sum(-1) / (energy + 1e-8)
    projected = scale[..., None] * target
    wanted = (projected * projected).sum(-1)
    error = (projected - estimate).square().sum(-1)
    return 10 * torch.log10((wanted + 1e-8) / (error + 10 ** (-ceiling_db / 10) * wanted + 1e-8))


def separation_loss(
    estimate: Tensor, target: Tensor, mixture: Tensor, logits: Tensor, present: Tensor, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts for the log.

    estimate, target, mixture: `[batch, channels, samples]`; logits and present (0 or 1): `[batch]`.
    """
    flat = [rearrange(x.float(), "b c l -> b (c l)") for x in (estimate, target, mixture)]
    estimate, target, mixture = flat
    gain = 1 / (
        mixture.abs().mean(-1, keepdim=True) + 1e-5
    )  # SI-SDR's small constants then mean the same everywhere
    estimate, target, mixture = estimate * gain, target * gain, mixture * gain
    ratio = si_sdr_db(estimate, target, weights.ceiling_db)
    l1 = (estimate - target).abs().mean(-1)
    level = (estimate.square().mean(-1) / mixture.square().mean(-1)).add(
        10 ** (weights.floor_db / 10)
    ).log10() * 10
    separated = -weights.si_sdr_per_db * ratio + weights.l1 * l1
    silenced = weights.absent_per_db * (level - weights.floor_db)
    presence = F.binary_cross_entropy_with_logits(logits.float(), present)
    loss = torch.where(present > 0.5, separated, silenced).mean() + weights.presence * presence
    gained = ratio - si_sdr_db(mixture, target, weights.ceiling_db)
    return loss, {
        "si_sdr_gain_db": gained.detach(),
        "level_db": level.detach(),
        "presence": presence.detach(),
    }
