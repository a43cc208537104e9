"""Train the audio tower of clap-mini against its finished text tower.

    python -m unisep_train audio-tower --text text --store POWERS --store MORE --validation-song SONG --out audio

A window of sound is to land on the vector of its label: a cross-entropy over all names of sounds (its own name and
synonyms are right, names that mean nearly the same are half right) and the cosine with the vector of its label. OUT is
the folder of a run: another call goes on where it stopped.

Windows are roughened like the world, all on band powers: a mixture is the sum of powers, a filter a gain for each
band, a change of pitch a shift along the mel axis.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor
from unisep_clap.audio_tower import AudioTower, AudioTowerConfig
from unisep_clap.log_mel import level_free
from unisep_clap.text_tower import TextTower, TextTowerConfig
from unisep_clap.windows import QUIET_BELOW_DB
from unisep_clap.wordpiece import WordPiece

from unisep_train.data.band_powers import MEL, BandPowers, Clip, read
from unisep_train.tasks.text_tower import embed, write_tower
from unisep_train.trainer.learner import Figures, Learner
from unisep_train.trainer.recipe import BaseRecipe

N_STEPS = 1600
N_WINDOWS_MAX = 6  # of a clip that is measured
# Sounds that are asked for most often are heard more often than their number of files would have it.
EMPHASIS = {"vocals": 3.0, "drums": 1.5, "bass": 1.5, "guitar": 1.2, "keys": 1.2}
AudioBatch = tuple[Tensor, list[Clip]]  # log-mels `[batch, 1, bands, frames]`, and what is heard in them


@dataclass(frozen=True)
class RougheningConfig:
    """How far examples are bent; rates are probabilities."""

    mix_rate: float = 0.35
    mix_db: tuple[float, float] = (4.0, 25.0)
    noise_rate: float = 0.3
    noise_db: tuple[float, float] = (10.0, 45.0)
    pitch_semitones: float = 2.0
    equaliser_db: float = 4.0
    low_pass_rate: float = 0.15
    shorten_rate: float = 0.3


class AudioRecipe(BaseRecipe):
    """All that decides the outcome, apart from the data."""

    n_steps: int = N_STEPS
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    clip_norm: float = 2.0
    average_decay: float = 0.998
    log_every: int = 100
    batch_size: int = 64
    temperature: float = 0.07
    cosine_weight: float = 1.0
    roughening: RougheningConfig = RougheningConfig()

    def learning_rate_at(self, step: int) -> float:
        """Rise linearly, fall as a cosine."""
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.n_steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * fall

    def average_decay_at(self, step: int) -> float:
        """Return how much of the running average stays: nothing of the start."""
        return min(self.average_decay, step / (step + 10))


@dataclass(frozen=True)
class Names:
    """Names of sounds, their vectors `[names, dims]`, and for each label how right each name is."""

    names: tuple[str, ...]
    vectors: Tensor
    rightness: dict[str, Tensor]

    def of(self, labels: Sequence[str]) -> Tensor:
        """Return the vectors `[labels, dims]` of some names."""
        return self.vectors[[self.names.index(label) for label in labels]]


class AudioRun(Learner[AudioTower, AudioBatch]):
    """An audio tower that learns where the names of sounds are."""

    recipe: AudioRecipe
    adamw: ClassVar[dict[str, Any]] = {}

    def __init__(self, tower: AudioTower, names: Names, recipe: AudioRecipe, folder: Path) -> None:
        super().__init__(tower, recipe, folder)
        self.names = names

    def train_step(self, batch: AudioBatch) -> Figures:
        """Make one update; return the loss."""
        mel, clips = batch
        with self.in_bfloat16:
            heard = self.model.from_mel(mel).float()
        right = torch.stack([self.names.rightness[clip.label] for clip in clips])
        wanted = self.names.of([clip.label for clip in clips])
        guess = (heard @ self.names.vectors.T / self.recipe.temperature).log_softmax(-1)
        loss = -(right * guess).sum(-1).mean() + self.recipe.cosine_weight * (1 - (heard * wanted).sum(-1)).mean()
        return {"norm": self.learn(loss), "loss": loss.detach()}


@final
class Listener:
    """Draws (band powers, clip) pairs from stores, labels balanced by the root of their number of files."""

    def __init__(
        self, stores: list[tuple[BandPowers, list[Clip]]], n_frames: int, config: RougheningConfig, seed: int
    ) -> None:
        self._items = [(store, clip) for store, clips in stores for clip in clips]
        self._n_frames, self._config, self._random = n_frames, config, np.random.default_rng(seed)
        n_files = Counter(clip.label for _, clip in self._items)
        weights = np.array([
            EMPHASIS.get(clip.family, 1.0) / n_files[clip.label] ** 0.5
            * (3.0 if clip.kind == "song" else 1.0) for _, clip in self._items
        ])  # fmt: skip
        self._shares = weights / weights.sum()

    def draw(self, n: int) -> tuple[Tensor, Tensor, list[Clip]]:
        """Draw powers `[n, bands + 1, frames]` of sounds, those of strangers to mix in, and the sounds' clips."""
        chosen = [self._item() for _ in range(n)]
        sounds = np.stack([self._cut(*item) for item in chosen])
        strangers = np.stack([self._cut(*self._item()) for _ in range(n)])
        powers = (rearrange(torch.from_numpy(x), "b t m -> b m t") for x in (sounds, strangers))
        return *powers, [clip for _, clip in chosen]  # type: ignore[return-value]

    def _item(self) -> tuple[BandPowers, Clip]:
        return self._items[self._random.choice(len(self._items), p=self._shares)]

    def _cut(self, store: BandPowers, clip: Clip) -> np.ndarray:
        """Cut a window where the clip sounds, now and then a short one."""
        draw = self._random
        n_wanted = self._n_frames
        if draw.random() < self._config.shorten_rate:
            n_wanted = int(n_wanted * draw.uniform(0.25, 1.0))
        active = clip.active_frames[int(draw.integers(len(clip.active_frames)))]
        start = max(0, min(active - int(draw.integers(0, 50)), clip.n_frames - n_wanted))
        powers = store.powers(clip, start, n_wanted)
        return np.pad(powers, ((0, self._n_frames - n_wanted), (0, 0)))


def roughened(sounds: Tensor, strangers: Tensor, config: RougheningConfig, generator: torch.Generator) -> Tensor:
    """Return log-mels `[batch, 1, bands, frames]` of sounds with strangers and noise behind them, through odd filters."""
    level = sounds[:, -1:].mean(-1, keepdim=True)
    background = _some(strangers, level, config.mix_rate, config.mix_db, generator)
    noise = _some(_noise(sounds, generator), level, config.noise_rate, config.noise_db, generator)
    mixed = sounds + background + noise
    power = _pitched(mixed[:, :-1], config.pitch_semitones, generator) * _filters(sounds, config, generator)
    # A filter changes the level as it does each band, so the mean square follows the bands' sum.
    before = (mixed[:, :-1] * _BAND_WIDTHS).sum((1, 2)) + 1e-20
    mean_square = mixed[:, -1].mean(-1) * ((power * _BAND_WIDTHS).sum((1, 2)) / before)
    return level_free(power, mean_square, MEL)


def _mel_of(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


_LOWEST_MEL, _HIGHEST_MEL = (float(_mel_of(torch.tensor(hz))) for hz in (MEL.lowest_hz, MEL.highest_hz))
_EDGES_MEL = torch.linspace(_LOWEST_MEL, _HIGHEST_MEL, MEL.n_bands + 2)
_EDGES_HZ = 700 * (10 ** (_EDGES_MEL / 2595) - 1)
_BANDS_HZ = _EDGES_HZ[1:-1]
# A band's part in the mean square: its share of the spectrum over the energy of the transform's window.
_SHARES = (
    (_EDGES_HZ[2:] - _EDGES_HZ[:-2]) / MEL.sample_rate_hz / float(torch.hann_window(MEL.window_samples).square().sum())
)
_BAND_WIDTHS = rearrange(_SHARES, "m -> m 1")


def _some(
    powers: Tensor, level: Tensor, rate: float, below_db: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Bring the powers to a random level below `level` for a random share of the batch, to zero for the others."""
    n = len(powers)
    low, high = below_db
    drop_db = low + (high - low) * torch.rand(n, 1, 1, generator=generator)
    wanted = torch.rand(n, 1, 1, generator=generator) < rate
    unchanged = powers[:, -1:].mean(-1, keepdim=True) + 1e-12
    return torch.where(wanted, powers * (level / unchanged * 10 ** (-drop_db / 10)), 0.0)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw steady noise whose power falls with frequency to a random power from 0 to 2."""
    n, _, n_frames = like.shape
    slope = 2 * torch.rand(n, 1, 1, generator=generator)
    shape = (rearrange(_BANDS_HZ, "m -> 1 m 1") / 1000) ** -slope
    flutter = (1 + 0.3 * torch.randn(n, MEL.n_bands, n_frames, generator=generator)).clamp(min=0.1)
    power = shape * flutter
    mean_square = (power * _BAND_WIDTHS).sum(1, keepdim=True)
    return torch.cat([power, mean_square], 1)


def _pitched(power: Tensor, semitones: float, generator: torch.Generator) -> Tensor:
    """Read bands at the places that a change of pitch moves there."""
    n = len(power)
    factor = 2 ** (semitones * (2 * torch.rand(n, 1, generator=generator) - 1) / 12)
    step = float(_EDGES_MEL[1] - _EDGES_MEL[0])
    place = ((_mel_of(_BANDS_HZ / factor) - float(_EDGES_MEL[1])) / step).clamp(0, MEL.n_bands - 1)
    below = place.floor().long().clamp(max=MEL.n_bands - 2)
    share = rearrange(place - below, "b m -> b m 1")
    index = rearrange(below, "b m -> b m 1").expand_as(power)
    return power.gather(1, index) * (1 - share) + power.gather(1, index + 1) * share


def _filters(like: Tensor, config: RougheningConfig, generator: torch.Generator) -> Tensor:
    """Draw gains `[batch, bands, 1]`: smooth curves, some cutting off the upper bands as poor recordings do."""
    n = len(like)
    knots = torch.randn(n, 1, 7, generator=generator) * config.equaliser_db
    curve_db = F.interpolate(knots, MEL.n_bands, mode="linear", align_corners=True)
    cut = torch.where(
        torch.rand(n, 1, 1, generator=generator) < config.low_pass_rate,
        torch.randint(MEL.n_bands // 2, MEL.n_bands, (n, 1, 1), generator=generator), MEL.n_bands,
    )  # fmt: skip
    curve_db = curve_db - 15.0 * (torch.arange(MEL.n_bands) - cut).clamp(min=0)
    return rearrange(10 ** (curve_db / 10), "b 1 m -> b m 1")


def load_text(folder: Path) -> tuple[TextTower, WordPiece]:
    """Load the distilled text tower that `text-tower` wrote."""
    tokens = WordPiece((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    tower = TextTower(TextTowerConfig(**json.loads((folder / "text.json").read_text())["tower"]))
    tower.load_state_dict(load_file(folder / "text.safetensors"))
    return tower.eval(), tokens


def gather_names(clips: list[Clip], text: TextTower, tokens: WordPiece) -> Names:
    """Gather all labels and synonyms; a synonym shared by many labels counts less."""
    synonyms: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        synonyms[clip.label].update(set(clip.synonyms) - {clip.label})
    names = sorted({name for label, others in synonyms.items() for name in (label, *others)})
    position = {name: i for i, name in enumerate(names)}
    vectors = embed(text, tokens, names).clone()
    rightness = {}
    for label, others in synonyms.items():
        right = torch.zeros(len(names))
        right[position[label]] = 1.0
        for other in others:
            n_sharing = sum(other in group for group in synonyms.values())
            right[position[other]] = 0.5 / n_sharing**0.5
        near = (vectors @ vectors[position[label]] / 0.07).softmax(0)
        rightness[label] = 0.65 * right / right.sum() + 0.35 * near
    return Names(tuple(names), vectors, rightness)


def batches(listener: Listener, recipe: AudioRecipe) -> Iterator[AudioBatch]:
    """Yield batches without end, the same for the same seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        sounds, strangers, clips = listener.draw(recipe.batch_size)
        yield roughened(sounds, strangers, recipe.roughening, generator), clips


@torch.inference_mode()
def hear(tower: AudioTower, powers: BandPowers, clip: Clip) -> Tensor:
    """Return the vector of a clip, as the encoder computes it: windows that overlap by half, from where it first sounds."""
    n_frames = n_frames_of(tower)
    first = min(clip.active_frames[0], max(0, clip.n_frames - n_frames))
    starts = range(first, max(first + 1, clip.n_frames - n_frames // 2), n_frames // 2)
    windows = torch.from_numpy(np.stack([powers.powers(clip, s, n_frames) for s in starts[:N_WINDOWS_MAX]]))
    mean_square = windows[..., -1].mean(1)
    loud = mean_square >= mean_square.max() * 10 ** (QUIET_BELOW_DB / 10)
    mel = level_free(rearrange(windows[loud][..., :-1], "b t m -> b m t"), mean_square[loud], MEL)
    return F.normalize(tower.from_mel(mel).mean(0), dim=-1)


def n_frames_of(tower: AudioTower) -> int:
    """Return the number of frames in a window of the tower."""
    return tower.config.window_samples // MEL.hop_samples + 1


def retrieval(tower: AudioTower, powers: BandPowers, clips: list[Clip], names: Names) -> dict[str, dict[str, float]]:
    """Return per family and over all how often the label, or a name in the first five, is right.

    The candidates are all labels of the validation clips; `loose` also accepts a synonym of the clip.
    """
    labels = sorted({clip.label for clip in clips})
    vectors = names.of(labels)
    hits: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for clip in clips:
        heard = hear(tower, powers, clip)
        order = [labels[i] for i in (vectors @ heard).argsort(descending=True)[:5].tolist()]
        row = (
            float(order[0] == clip.label), float(order[0] in {clip.label, *clip.synonyms}),
            float(clip.label in order), float(heard @ names.of([clip.label])[0]),
        )  # fmt: skip
        hits[clip.family].append(row)
        hits["all"].append(row)
    keys = ("top_1", "top_1_loose", "top_5", "cosine")
    return {
        family: {"n": len(rows), **dict(zip(keys, (round(float(v), 3) for v in np.mean(rows, 0)), strict=True))}
        for family, rows in sorted(hits.items())
    } | {"candidates": {"n": len(labels)}}


def train_command(
    *, text: Path, store: list[Path], out: Path, validation_song: list[str] | None = None, n_steps: int = N_STEPS
) -> None:
    """Train and measure an audio tower; write audio.safetensors and audio.json.

    Args:
        text: folder that `text-tower` wrote.
        store: folders that `band-powers` wrote; the first one is validated on.
        out: folder of the run and of what is written.
        validation_song: songs that are held out.
        n_steps: length of the run.
    """
    recipe = AudioRecipe(n_steps=n_steps).kept_in(out)
    torch.manual_seed(recipe.seed)
    stores = [read(folder) for folder in store]
    songs = frozenset(validation_song or ())
    kept = [(powers, [clip for clip in powers.clips if not clip.is_validation(songs)]) for powers in stores]
    held_out = [clip for clip in stores[0].clips if clip.is_validation(songs)]
    names = gather_names([clip for powers in stores for clip in powers.clips], *load_text(text))
    tower = AudioTower(AudioTowerConfig())
    listener = Listener(kept, n_frames_of(tower), recipe.roughening, recipe.seed)
    n_clips = sum(len(clips) for _, clips in kept)
    print(f"{n_clips} training clips, {len(held_out)} held out, {len(names.names)} names", flush=True)
    seconds = recipe.batch_size * tower.config.window_seconds
    trained = AudioRun(tower, names, recipe, out).learn_all(batches(listener, recipe), seconds)
    write_tower(out, "audio", trained, recipe, {"validation": retrieval(trained, stores[0], held_out, names)})
