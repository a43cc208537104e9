"""Distils an HT Demucs into a smaller and faster one: the student learns to give what the teacher gives.

    python -m unisep_train.tasks.student STORE RUN --config distil.json
    python -m unisep_train.tasks.student STORE RUN            # goes on where RUN stopped
    python -m unisep_train.tasks.student STORE RUN --release student.safetensors

Only the mixtures of the store's examples are used, never what is in them: what is right is what the teacher gives. Both
hear a mixture with mean 0 and deviation 1, as songs are given to HT Demucs. A run folder is what it is in
`unisep_train.tasks.train`; a run that goes on takes no other teacher, and one that has ended needs none. The student that
is released is the running average, as a checkpoint that `Separator("htdemucs", weights="student.safetensors")` takes.
Knowledge distillation: Hinton, Vinyals, Dean 2015, arXiv:1503.02531; here the teacher's waveforms are the soft targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from unisep_htdemucs.checkpoints import build_model, read_checkpoint
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import save_checkpoint

from unisep.errors import OptionError, UnisepError, WeightsError
from unisep.weights.hashes import sha256_of
from unisep_train.data.store import Store
from unisep_train.mixing.examples import ExampleStream, MixConfig
from unisep_train.mixing.queries import turns
from unisep_train.trainer.distributed import Place, joined
from unisep_train.trainer.kept import kept_recipe
from unisep_train.trainer.learner import ALONE, Learner
from unisep_train.trainer.loop import add_run_arguments, keep_learning
from unisep_train.trainer.losses import plain_sdr_db
from unisep_train.trainer.pace import Pace
from unisep_train.trainer.spectral import log_spectral_distance

SHARED = ("sources", "audio_channels", "samplerate")  # what a student has in common with its teacher


class Distillation(Pace):
    """All that decides what a student learns; saved beside its checkpoint and never changed after.

    teacher: a checkpoint of HT Demucs (.safetensors or .th).
    student: options of `HTDemucsConfig` in which the student differs from the teacher.
    mix: how the mixtures are made; `segment_seconds` is best that of the teacher, which is given silence to fill its own.
    l1: weight of the mean absolute difference of the waveforms; spectral: of the distance of their log spectra.
    teacher_sha256, teacher_options: what the run holds on to of the teacher; filled in when it starts.
    """

    teacher: Path
    teacher_sha256: str = ""
    teacher_options: dict[str, Any] = Field(default_factory=dict)
    student: dict[str, Any]
    mix: MixConfig = MixConfig(segment_seconds=7.8)
    l1: float = 1.0
    spectral: float = 0.0
    spectral_windows: tuple[int, ...] = (512, 1024, 2048, 4096)


class DistilRun(Learner[HTDemucs]):
    """A student with its teacher; `place` says which share of the run is computed here."""

    def __init__(self, recipe: Distillation, folder: Path, place: Place = ALONE) -> None:
        """The run in `folder`. Raises as `pinned` does, for a recipe whose teacher is not pinned yet."""
        self.recipe = recipe if recipe.teacher_sha256 else pinned(recipe)
        torch.manual_seed(recipe.seed)
        student = HTDemucs(student_config(_config(self.recipe.teacher_options), recipe.student)).train()
        super().__init__(student, recipe, folder, place)
        self._taught: nn.Module = place.averaging(self.model)

    @cached_property
    def teacher(self) -> HTDemucs:
        """Who is learnt from. Raises WeightsError when the file cannot be read, or is another than at the start."""
        path = self.recipe.teacher
        checkpoint = read_checkpoint(path)
        if sha256_of(path) != self.recipe.teacher_sha256:
            raise WeightsError(f"{path} is not the teacher this run began with. Bring that file back.")
        return build_model(checkpoint, self.place.device, torch.float32)

    def train_step(self, mixture: Tensor) -> dict[str, Tensor]:
        """One update on `mixture [batch, channels, samples]`; returns figures `[batch]` or a single one for the log."""
        mixture = standardised(mixture.to(self.place.device))
        with torch.no_grad():
            wanted = self.teacher(mixture)
        with self.in_bfloat16:
            found = self._taught(mixture).float()
        loss = self.recipe.l1 * (found - wanted).abs().mean()
        if self.recipe.spectral:
            ours, theirs = (rearrange(x, "b s c l -> (b s c) l") for x in (found, wanted))
            distance = log_spectral_distance(ours, theirs, self.recipe.spectral_windows)
            loss = loss + self.recipe.spectral * distance.mean()
        norm = self.learn(loss)
        return {"loss": loss.detach(), "norm": norm, "agreement_db": agreement_db(found.detach(), wanted)}

    def student(self) -> HTDemucs:
        """The running average as a model, ready to separate."""
        model = HTDemucs(self.model.config)
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)


class Mixtures(IterableDataset[Tensor]):
    """Mixtures `[items, channels, samples]` of the steps of a run, the same for the same seed and step.

    items: the places of the batch to yield; several workers of a loader take turns, so that the steps come in order.
    """

    def __init__(self, store_folder: str, recipe: Distillation, first_step: int, items: range) -> None:
        self.store_folder, self.recipe, self.first_step, self.items = store_folder, recipe, first_step, items

    def __iter__(self) -> Iterator[Tensor]:
        stream = ExampleStream(Store(self.store_folder), self.recipe.mix, self.recipe.seed)
        turn, n_turns = turns()
        for step in range(self.first_step + turn, self.recipe.n_steps, n_turns):
            yield torch.from_numpy(stream.batch(step, self.items).mixture)


def pinned(recipe: Distillation) -> Distillation:
    """The recipe with the hash and the options of its teacher.

    Raises WeightsError for a teacher that cannot be read, OptionError for a student or a segment that does not go with it.
    """
    teacher = read_checkpoint(recipe.teacher).config
    student_config(teacher, recipe.student)
    n_samples = round(recipe.mix.segment_seconds * teacher.samplerate)
    if teacher.use_train_segment and n_samples > teacher.segment_samples:
        raise OptionError(
            f"mix.segment_seconds is {recipe.mix.segment_seconds}; this teacher takes {float(teacher.segment):g} s at most."
        )
    options = dataclasses.asdict(teacher) | {"segment": str(teacher.segment)}
    return recipe.model_copy(update={"teacher_sha256": sha256_of(recipe.teacher), "teacher_options": options})


def _config(options: dict[str, Any]) -> HTDemucsConfig:
    """The options that a recipe keeps, as a config."""
    segment, sources = Fraction(options["segment"]), tuple(options["sources"])
    return HTDemucsConfig(**options | {"segment": segment, "sources": sources})


def student_config(teacher: HTDemucsConfig, changes: dict[str, Any]) -> HTDemucsConfig:
    """The teacher's options with the student's changes.

    Raises OptionError for what both must share, for unknown options, and for numbers that make no model.
    """
    if set(changes) & set(SHARED):
        raise OptionError(f"A student has the {', '.join(SHARED)} of its teacher. Leave them out of `student`.")
    try:
        return dataclasses.replace(teacher, **changes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise OptionError(f"`student` makes no HT Demucs: {error}") from error


def standardised(mixture: Tensor) -> Tensor:
    """`mixture [batch, channels, samples]` with mean 0 and deviation 1, both of the mean of its channels."""
    mono = mixture.mean(1)
    deviation, mean = torch.std_mean(mono, -1)
    return (mixture - mean[:, None, None]) / (deviation[:, None, None] + 1e-5)


def agreement_db(found: Tensor, wanted: Tensor) -> Tensor:
    """Energy of what is wanted over that of the difference, in dB `[batch]`, of sources `[batch, s, c, l]`."""
    return plain_sdr_db(rearrange(found, "b s c l -> b (s c l)"), rearrange(wanted, "b s c l -> b (s c l)"))


def distil(store: str, run: DistilRun, stop_after_seconds: float = math.inf, n_workers: int = 1) -> DistilRun:
    """The run after its last step, or after `stop_after_seconds` with its state saved for another call.

    Raises OptionError when store and teacher have different sample rates.
    """
    recipe, place = run.recipe, run.place
    Store(store).at_rate(run.model.config.samplerate)
    run.restore()
    place.wait()  # no one saves before all have read
    mixtures = Mixtures(store, recipe, run.step, place.share(recipe.mix.batch))
    loader = DataLoader(mixtures, batch_size=None, num_workers=n_workers)
    keep_learning(
        run, loader, run.train_step, audio_seconds=recipe.mix.batch * recipe.mix.segment_seconds,
        stop_after_seconds=stop_after_seconds,
    )  # fmt: skip
    return run


def load_distillation(folder: Path, given: Path | None) -> Distillation:
    """The run's own recipe if it has one, else the given one with its teacher `pinned`; see `kept_recipe`."""

    def read(path: Path) -> Distillation:
        return pinned(Distillation.model_validate_json(path.read_bytes()))

    return kept_recipe(folder, given, Distillation, read)


def main(given: list[str] | None = None) -> None:
    """Distil from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument("--release", type=Path, help="write the student here at the end: a .safetensors file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    try:
        with joined(args.device) as place:
            if place.is_first:
                load_distillation(args.run, args.config)
            place.wait()
            run = DistilRun(load_distillation(args.run, args.config), args.run, place)
            distil(args.store, run, args.stop_after, args.workers)
            if args.release and place.is_first:
                save_checkpoint(args.release, run.model.config, run.average)
    except UnisepError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
