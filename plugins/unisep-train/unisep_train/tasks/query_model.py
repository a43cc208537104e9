"""Train a FiLM HT Demucs from a training store: on a CPU, a GPU, or several of them.

    python -m unisep_train train STORE RUN --config recipe.json
    python -m unisep_train train STORE RUN            # goes on where RUN stopped
    torchrun --nproc-per-node 8 -m unisep_train train STORE RUN --config recipe.json --workers 8

The examples of a step depend on the seed and the step alone, so a resumed run sees what an unbroken one would have seen,
and several processes share the batch that one would have had.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, NonNegativeInt, TypeAdapter, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_film.causal import CausalConfig, CausalFilm
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs

from unisep.errors import OptionError
from unisep.query.concepts import concepts
from unisep_train.mixing.config import MixConfig, QueryMix
from unisep_train.mixing.queries import EMBEDDED, QueryBatch, QueryStream, TextAudioEncoder
from unisep_train.tasks.start import Start, begin, model_at_start
from unisep_train.trainer.distributed import Place
from unisep_train.trainer.learner import ALONE, N_THREADS, Device, Figures, Learner, begun, learn_from
from unisep_train.trainer.losses import LossWeights, separation_loss
from unisep_train.trainer.recipe import CHECKPOINT_FILE, BaseRecipe

N_WORDINGS = 256  # of the table, heard at each step


class Recipe(BaseRecipe):
    """All that decides what a run learns; saved beside its checkpoint and never changed after.

    Attributes:
        model: the shape of a FiLM HT Demucs, or with `"causal": true` that of a causal model.
        start: the weights the first step begins with; nothing by default.
        teacher: always null, as runs of older versions have it.
        conditioning_steps: in the first so many steps only what hears the query is trained (FiLMs, projectors, source
            weights, presence), then everything. For starts from weights that separate already.
        absent_from: step from which a queried sound may be absent: a model that knows nothing falls silent.
    """

    model: FilmConfig | CausalConfig
    start: Start = Start()
    teacher: None = Field(default=None, exclude=True)
    mix: MixConfig = MixConfig()
    queries: QueryMix = QueryMix()
    losses: LossWeights = LossWeights()
    conditioning_steps: NonNegativeInt = 0
    absent_from: int = 1500

    @model_validator(mode="after")
    def _fits_its_model(self) -> Self:
        if len(self.model.spaces) != 1:
            raise ValueError("training takes queries of one embedding space: give `model.spaces` one entry")
        if isinstance(self.model, CausalConfig) and self.start.htdemucs:
            raise ValueError("a causal model cannot start from `htdemucs`")
        n_channels = self.model.separator.audio_channels
        if self.mix.n_channels != n_channels:
            raise ValueError(f"mix.n_channels is {self.mix.n_channels}, and the model hears {n_channels}")
        return self

    @property
    def space(self) -> str:
        """The embedding space of the queries."""
        (space,) = self.model.spaces
        return space

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe; the shape of the model may be left to the weights it starts from.

        Raises:
            OSError: no such file.
            pydantic.ValidationError: no JSON, an unknown field or an impossible value.
            OptionError: a start that does not go with the model.
            WeightsError: it cannot be read.
        """
        fields = TypeAdapter(dict[str, Any])
        written = fields.validate_json(path.read_bytes())
        start = Start.model_validate(written.get("start", {}))
        shape = model_at_start(start, fields.validate_python(written.get("model", {})))
        return cls.model_validate({**written, "model": shape})


class _Conditioned(nn.Module):
    """The model with query vectors as its input: what a process computes and differentiates in one step."""

    def __init__(self, model: FilmHTDemucs | CausalFilm, space: str) -> None:
        super().__init__()
        self.model, self.space = model, space

    def forward(self, mixture: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return targets `[b, c, l]` and presence `[b]` in log-odds, of `mixture [b, c, l]` and `queries [b, d]`."""
        targets, logits = self.model(mixture, self.model.conditions(queries[:, None], self.space))
        return targets[:, 0], logits[:, 0]


class QueryModelRun(Learner[FilmHTDemucs | CausalFilm, QueryBatch]):
    """A query model in training."""

    recipe: Recipe

    def __init__(self, recipe: Recipe, folder: Path, place: Place = ALONE) -> None:
        torch.manual_seed(recipe.seed)
        shape = recipe.model
        model = CausalFilm(shape) if isinstance(shape, CausalConfig) else FilmHTDemucs(shape)
        super().__init__(model, recipe, folder, place)
        self._wrapped: nn.Module | None = None
        self._with_separator = True
        self._wordings: Tensor | None = None

    def hear_wordings(self, encoder: TextAudioEncoder) -> None:
        """Encode the table's wordings and the names that they stand for, if the recipe gives them a weight."""
        if self.recipe.losses.wordings:
            pairs = [(text, name) for name, one in concepts().items() for text in one.wordings if text != name]
            vectors = [F.normalize(encoder.texts(texts), dim=-1) for texts in zip(*pairs, strict=True)]
            self._wordings = torch.stack(vectors).to(self.place.device)

    def begin(self) -> None:
        """Give the model the weights that the recipe names."""
        begin(self.model, self.recipe.start)

    def train_step(self, batch: QueryBatch) -> Figures:
        """Make one update; return the parts of the loss, and which targets were there, for the log."""
        batch = batch.to(self.place.device)
        module = self._module()
        with self.in_bfloat16:
            estimate, logits = module(batch.mixture, batch.queries)
        loss, parts = separation_loss(estimate, batch.target, batch.mixture, logits, batch.present, self.recipe.losses)
        if self._wordings is not None:
            parts["wordings"] = self._apart(self._wordings)
            loss = loss + self.recipe.losses.wordings * parts["wordings"]
            parts["wordings"] = parts["wordings"].detach()
        return {**parts, "norm": self.learn(loss), "loss": loss.detach(), "present": batch.present}

    def _apart(self, pairs: Tensor) -> Tensor:
        """Return how far some wordings' conditions are from those of their names; `pairs [2, n, d]`. The names stay.

        One minus the cosine around the names' mean: bringing all conditions together would not lower it.
        """
        chosen = torch.randint(pairs.shape[1], (N_WORDINGS,), generator=torch.Generator().manual_seed(self.step))
        wording, name = self.model.conditions(pairs[:, chosen.to(pairs.device)], self.recipe.space)
        name = name.detach()
        return 1 - F.cosine_similarity(wording - name.mean(0), name - name.mean(0), dim=-1).mean()

    def shown(self, figures: Figures) -> Figures:
        """Leave gains to the targets that are there and levels to those that are not."""
        is_present = figures.pop("present") > 0.5
        gain, level = figures["si_sdr_gain_db"][is_present], figures["level_db"][~is_present]
        return figures | {"si_sdr_gain_db": gain, "level_db": level}

    def _module(self) -> nn.Module:
        """Return the module that is differentiated; made again when the separator under the query is to be trained too."""
        with_separator = self.step >= self.recipe.conditioning_steps
        if self._wrapped is None or with_separator != self._with_separator:
            self._with_separator = with_separator
            self.model.core.requires_grad_(with_separator)
            shape = self.recipe.model
            # The last layer of the time branch, where no head hears it and a mask is all that is put out.
            dead_end = isinstance(shape, FilmConfig) and shape.output == "mask"
            module = _Conditioned(self.model, self.recipe.space)
            self._wrapped = self.place.averaging(module, some_reach_nothing=dead_end)
        return self._wrapped

    @classmethod
    def saved(cls, folder: Path) -> Self:
        """Read a run that has saved a step, to look at. Raises OptionError when there is none."""
        recipe = Recipe.of_run(folder)
        if not (folder / CHECKPOINT_FILE).exists():
            raise OptionError(f"{folder} has saved no step yet. Let `unisep_train train` go on with it.")
        run = cls(recipe, folder)
        run.restore()
        return run


def train(
    store: str, run: QueryModelRun, encoder: TextAudioEncoder, stop_after_seconds: float = math.inf, n_workers: int = 1
) -> QueryModelRun:
    """Train until the last step, or for `stop_after_seconds` with the state saved for another call; return the run."""
    recipe, rate_hz = run.recipe, run.recipe.model.separator.samplerate
    run.hear_wordings(encoder)
    stream = QueryStream(
        store, recipe.mix, recipe.seed, queries=recipe.queries, encoder=encoder, absent_from=recipe.absent_from
    )
    learn_from(run, stream, rate_hz, stop_after_seconds, n_workers)
    return run


def train_command(
    store: str, run: Path, *, config: Path | None = None, device: Device = "auto", threads: int = N_THREADS,
    workers: int = 1, stop_after_seconds: float = math.inf, encoder: str = EMBEDDED, encoder_weights: Path | None = None,
) -> None:  # fmt: skip
    """Train a query model, or go on where it stopped.

    Args:
        store: folder made by `corpus`.
        run: folder of the run.
        config: recipe (JSON) for a new run.
        device: what trains; auto is a GPU, if there is one.
        threads: CPU threads a process.
        workers: mixing processes for each training process.
        stop_after_seconds: save and end after so many seconds; another call goes on.
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.
    """
    with begun(Recipe, run, config, device, threads) as (recipe, place):
        queries = TextAudioEncoder.named(encoder, encoder_weights, recipe.model.spaces)
        _ = queries.encoder  # a wrong one is refused here, not by the processes that mix
        train(store, QueryModelRun(recipe, run, place), queries, stop_after_seconds, workers)
