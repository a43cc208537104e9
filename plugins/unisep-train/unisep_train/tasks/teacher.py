"""A larger query model whose answers a smaller one learns to give: knowledge distillation.

Hinton, Vinyals, Dean 2015, arXiv:1503.02531; here the soft targets are the teacher's waveforms and presence. Both are asked
with the same query vectors, so the true targets are not needed where the share is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from pydantic import BaseModel, Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F
from unisep_film.checkpoints import load_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.kernels import computes_bfloat16

from unisep.errors import OptionError, WeightsError
from unisep.weights.hashes import sha256_of
from unisep_train.mixing.queries import QueryBatch
from unisep_train.trainer.losses import LossWeights, log_spectral_distance, plain_sdr_db


class Teacher(BaseModel, frozen=True, extra="forbid"):
    """The larger model of a recipe, and how much it counts.

    Attributes:
        film: weights of a FiLM HT Demucs that understands the student's space, at its rate and channels.
        share: of the teacher in the loss; the rest is that of the true targets.
        spectral: weight of the distance of log spectra beside the mean absolute error over the mixture's level.
        bfloat16: whether the teacher computes in it, where the device does.
        sha256: of the file, filled in when a run starts, so that it goes on with the same teacher.
    """

    film: Path
    share: float = Field(default=1.0, gt=0, le=1)
    spectral: NonNegativeFloat = 0.0
    bfloat16: bool = False
    sha256: str = ""


class Answers(NamedTuple):
    """A teacher's answers: targets `[b, c, l]` and presence `[b]` in log-odds."""

    targets: Tensor
    logits: Tensor


def pinned(teacher: Teacher, student: FilmConfig, segment_seconds: float) -> Teacher:
    """Return the teacher with the hash of its file. Raises as `load_teacher` does."""
    load_teacher(teacher, student, segment_seconds, torch.device("cpu"))
    return teacher.model_copy(update={"sha256": sha256_of(teacher.film)})


def load_teacher(teacher: Teacher, student: FilmConfig, segment_seconds: float, device: torch.device) -> FilmHTDemucs:
    """Load the teacher's model, in evaluation mode and without gradients.

    Raises:
        WeightsError: the file cannot be read, or is another than the run began with.
        OptionError: this teacher cannot teach this student.
    """
    is_fast = teacher.bfloat16 and (device.type != "cpu" or computes_bfloat16())
    model = load_model(teacher.film, device, torch.bfloat16 if is_fast else torch.float32)
    if teacher.sha256 and sha256_of(teacher.film) != teacher.sha256:
        raise WeightsError(f"{teacher.film} is not the teacher this run began with. Bring that file back.")
    _check_fit(model.config, student, segment_seconds)
    return model.requires_grad_(False)


def _check_fit(teacher: FilmConfig, student: FilmConfig, segment_seconds: float) -> None:
    theirs, ours = teacher.separator, student.separator
    for name in ("samplerate", "audio_channels"):
        if getattr(theirs, name) != getattr(ours, name):
            raise OptionError(
                f"The teacher has {name} {getattr(theirs, name)}, the student {getattr(ours, name)}. Give it the same."
            )
    if not student.spaces.items() <= teacher.spaces.items():
        raise OptionError(f"The teacher understands {teacher.spaces}, not {student.spaces}. Ask in one of its spaces.")
    is_limited = teacher.output == "spectrogram" and theirs.use_train_segment
    if is_limited and segment_seconds > theirs.segment:
        raise OptionError(
            f"mix.segment_seconds is {segment_seconds}; the teacher takes at most {float(theirs.segment)}."
        )


@torch.no_grad()
def answers(model: FilmHTDemucs, batch: QueryBatch, space: str) -> Answers:
    """Return a teacher's answers to the batch; it hears each mixture on the scale that it hears songs on."""
    dtype, mixture = model.mix.weight.dtype, batch.mixture.float()
    mean, deviation = torch.zeros(()), torch.ones(())
    if model.config.output == "spectrogram":  # a silent mixture is left on its scale
        deviation, mean = (x[:, None, None] for x in torch.std_mean(mixture.mean(1), -1))
        deviation = deviation + 1e-8
    queries, negatives = (vectors[:, None].to(dtype) for vectors in (batch.queries, batch.negatives))
    targets, logits = model((mixture - mean) / deviation, model.conditions(queries, space, negatives))
    return Answers(targets[:, 0].float() * deviation + mean, logits[:, 0].float())


def taught_loss(
    estimate: Tensor, logits: Tensor, reference: Answers, mixture: Tensor, teacher: Teacher, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return how far a batch is from the teacher's answers, and figures `[b]` for the log.

    `estimate` and `mixture` are `[b, c, l]`, `logits` are presence in log-odds `[b]`.
    """
    gain = 1 / (mixture.float().abs().mean((1, 2), keepdim=True) + 1e-5)
    ours, theirs = (rearrange(x.float() * gain, "b c l -> (b c) l") for x in (estimate, reference.targets))
    loss = (ours - theirs).abs().mean()
    if teacher.spectral:
        loss = loss + teacher.spectral * log_spectral_distance(ours, theirs, weights.spectral_windows).mean()
    loss = loss + weights.presence * F.binary_cross_entropy_with_logits(logits.float(), reference.logits.sigmoid())
    agreement_db = plain_sdr_db(estimate.detach().float().flatten(1), reference.targets.flatten(1))
    return loss, {"agreement_db": agreement_db}
