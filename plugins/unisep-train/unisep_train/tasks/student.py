"""Distil an HT Demucs into a smaller and faster one: the student learns to give what the teacher gives.

    python -m unisep_train distil STORE RUN --config distil.json
    python -m unisep_train distil STORE RUN --release student.safetensors        # goes on where RUN stopped

Only the mixtures of the store's examples are used, never what is in them; both hear a mixture with mean 0 and deviation 1,
as songs are given to HT Demucs. The student that is released is the running average, a checkpoint as `Separator` takes it.
Knowledge distillation: Hinton, Vinyals, Dean 2015, arXiv:1503.02531; here the teacher's waveforms are the soft targets.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from unisep_htdemucs.checkpoints import build_model, read_checkpoint
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import save_checkpoint

from unisep.errors import OptionError, WeightsError
from unisep.weights.hashes import sha256_of
from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.queries import MixtureStream
from unisep_train.trainer.distributed import Place
from unisep_train.trainer.learner import ALONE, N_THREADS, Device, Figures, Learner, begun, learn_from
from unisep_train.trainer.losses import log_spectral_distance, plain_sdr_db
from unisep_train.trainer.recipe import BaseRecipe

SHARED = ("sources", "audio_channels", "samplerate")  # what a student has in common with its teacher


class Distillation(BaseRecipe):
    """All that decides what a student learns; saved beside its checkpoint and never changed after.

    Attributes:
        teacher: a checkpoint of HT Demucs (.safetensors or .th).
        teacher_sha256: of that file, filled in when the run starts, which holds on to it.
        student: options of `HTDemucsConfig` in which the student differs from the teacher; those of the teacher are filled
            in when the run starts.
        mix: how mixtures are made; best with the teacher's `segment_seconds`, which is given silence to fill its own.
        l1: weight of the mean absolute difference of the waveforms.
        spectral: weight of the distance of their log spectra.
    """

    teacher: Path
    teacher_sha256: str = ""
    student: dict[str, Any]
    mix: MixConfig = MixConfig(segment_seconds=7.8)
    l1: float = 1.0
    spectral: float = 0.0
    spectral_windows: tuple[int, ...] = (512, 1024, 2048, 4096)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe, with its teacher pinned."""
        return super().read(path).pinned()

    def pinned(self) -> Self:
        """Return the recipe with the hash of its teacher, and all options of the student.

        Raises:
            WeightsError: the teacher cannot be read.
            OptionError: the student or the segment does not go with it.
        """
        config = read_checkpoint(self.teacher).config
        options = vars(config) | {"segment": str(config.segment), "sources": list(config.sources)} | self.student
        recipe = self.model_copy(update={"teacher_sha256": sha256_of(self.teacher), "student": options})
        if any(getattr(recipe.student_config(), name) != getattr(config, name) for name in SHARED):
            raise OptionError(f"A student has the {', '.join(SHARED)} of its teacher. Leave them out of `student`.")
        n_samples = round(self.mix.segment_seconds * config.samplerate)
        if config.use_train_segment and n_samples > config.segment_samples:
            raise OptionError(
                f"mix.segment_seconds is {self.mix.segment_seconds}; this teacher takes {float(config.segment):g} s at most."
            )
        return recipe

    def student_config(self) -> HTDemucsConfig:
        """Return the student's config, of a pinned recipe."""
        try:
            return HTDemucsConfig(**self.student | {"segment": Fraction(self.student["segment"])})
        except (TypeError, ValueError, ArithmeticError) as error:
            raise OptionError(f"`student` makes no HT Demucs: {error}") from error


class StudentRun(Learner[HTDemucs, Tensor]):
    """A student in training. Raises as `Distillation.pinned` does, for a recipe whose teacher is not pinned yet."""

    recipe: Distillation

    def __init__(self, recipe: Distillation, folder: Path, place: Place = ALONE) -> None:
        recipe = recipe if recipe.teacher_sha256 else recipe.pinned()
        torch.manual_seed(recipe.seed)
        super().__init__(HTDemucs(recipe.student_config()).train(), recipe, folder, place)
        self._taught: nn.Module = place.averaging(self.model)

    @cached_property
    def teacher(self) -> HTDemucs:
        """The teacher. Raises WeightsError when its file cannot be read, or is another than at the start."""
        path = self.recipe.teacher
        checkpoint = read_checkpoint(path)
        if sha256_of(path) != self.recipe.teacher_sha256:
            raise WeightsError(f"{path} is not the teacher this run began with. Bring that file back.")
        return build_model(checkpoint, self.place.device, torch.float32)

    def train_step(self, batch: Tensor) -> Figures:
        """Make one update on mixtures `[batch, channels, samples]`; return figures for the log."""
        mixture = standardised(batch.to(self.place.device))
        with torch.no_grad():
            target = self.teacher(mixture)
        with self.in_bfloat16:
            estimate = self._taught(mixture).float()
        loss = self.recipe.l1 * (estimate - target).abs().mean()
        if self.recipe.spectral:
            ours, theirs = (rearrange(x, "b s c l -> (b s c) l") for x in (estimate, target))
            distance = log_spectral_distance(ours, theirs, self.recipe.spectral_windows)
            loss = loss + self.recipe.spectral * distance.mean()
        agreement_db = plain_sdr_db(estimate.detach().flatten(1), target.flatten(1))
        return {"loss": loss.detach(), "norm": self.learn(loss), "agreement_db": agreement_db}


def standardised(mixture: Tensor) -> Tensor:
    """Bring `mixture [batch, channels, samples]` to mean 0 and deviation 1, both of the mean of its channels."""
    deviation, mean = torch.std_mean(mixture.mean(1), -1)
    return (mixture - mean[:, None, None]) / (deviation[:, None, None] + 1e-5)


def distil(store: str, run: StudentRun, stop_after_seconds: float = math.inf, n_workers: int = 1) -> StudentRun:
    """Distil until the last step, or for `stop_after_seconds` with the state saved for another call; return the run."""
    stream = MixtureStream(store, run.recipe.mix, run.recipe.seed)
    learn_from(run, stream, run.model.config.samplerate, stop_after_seconds, n_workers)
    return run


def distil_command(
    store: str, run: Path, *, config: Path | None = None, device: Device = "auto", threads: int = N_THREADS,
    workers: int = 1, stop_after_seconds: float = math.inf, release: Path | None = None,
) -> None:  # fmt: skip
    """Distil a student, or go on where it stopped.

    Args:
        store: folder made by `corpus`.
        run: folder of the run.
        config: recipe (JSON) for a new run.
        device: what trains; auto is a GPU, if there is one.
        threads: CPU threads a process.
        workers: mixing processes for each training process.
        stop_after_seconds: save and end after so many seconds; another call goes on.
        release: write the student here at the end, a .safetensors file.
    """
    with begun(Distillation, run, config, device, threads) as (recipe, place):
        student_run = distil(store, StudentRun(recipe, run, place), stop_after_seconds, workers)
        if release and place.is_first:
            save_checkpoint(release, student_run.model.config, student_run.average)
