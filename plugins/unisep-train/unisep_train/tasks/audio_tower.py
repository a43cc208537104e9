"""Train the audio tower: `python -m unisep_train.tasks.audio_tower --text FOLDER --store FOLDER ... --out FOLDER`.

The text tower is finished and stands still. A window of sound is to land on the vector of its label: a
cross-entropy over all names of sounds (its own name and synonyms are right, names that mean nearly the same
are half right) and the cosine with the vector of its label.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor
from unisep_clap.audio_tower import AudioTower, AudioTowerConfig
from unisep_clap.log_mel import level_free
from unisep_clap.text_tower import TextTower, TextTowerConfig
from unisep_clap.windows import QUIET_BELOW_DB
from unisep_clap.wordpiece import WordPiece

from unisep_train.data.band_powers import MEL, Clip, Store, is_validation, read
from unisep_train.tasks.listening import Listener, RougheningConfig, roughened
from unisep_train.tasks.text_teacher import embed


@dataclass(frozen=True)
class AudioTrainingConfig:
    """Everything that decides the outcome, apart from the data."""

    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    n_steps: int = 1600
    temperature: float = 0.07
    cosine_weight: float = 1.0
    average_decay: float = 0.998
    roughening: RougheningConfig = field(default_factory=RougheningConfig)


@dataclass(frozen=True)
class Names:
    """Names of sounds, their vectors [names, dims], and for each label how right each name is."""

    names: tuple[str, ...]
    vectors: Tensor
    rightness: dict[str, Tensor]

    def of(self, label: str) -> Tensor:
        """The vector of one name."""
        return self.vectors[self.names.index(label)]


def load_text(folder: Path) -> tuple[TextTower, WordPiece]:
    """The distilled text tower that `training.text` wrote."""
    tokens = WordPiece((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    tower = TextTower(TextTowerConfig(**json.loads((folder / "text.json").read_text())["tower"]))
    tower.load_state_dict(load_file(folder / "text.safetensors"))
    return tower.eval(), tokens


def gather_names(clips: list[Clip], text: TextTower, tokens: WordPiece) -> Names:
    """All labels and synonyms; a synonym shared by many labels counts less."""
    synonyms: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        synonyms[clip.label].update(set(clip.synonyms) - {clip.label})
    names = sorted({name for label, others in synonyms.items() for name in (label, *others)})
    position = {name: i for i, name in enumerate(names)}
    shared = {name: sum(name in others for others in synonyms.values()) for name in names}
    vectors = embed(text, tokens, names).clone()
    rightness = {}
    for label, others in synonyms.items():
        own = torch.zeros(len(names))
        own[position[label]] = 1.0
        for other in others:
            own[position[other]] = 0.5 / max(1, shared[other]) ** 0.5
        near = (vectors @ vectors[position[label]] / 0.07).softmax(0)
        rightness[label] = 0.65 * own / own.sum() + 0.35 * near
    return Names(tuple(names), vectors, rightness)


def train(tower: AudioTower, listener: Listener, names: Names, config: AudioTrainingConfig) -> AudioTower:
    """The running average of the tower over the last steps."""
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    average = copy.deepcopy(tower).eval()
    seen = 0.0
    for step in range(config.n_steps):
        for group in optimiser.param_groups:
            decay = 0.5 + 0.5 * math.cos(math.pi * step / config.n_steps)
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 100) * decay
        sounds, strangers, clips = listener.draw(config.batch_size)
        mel = roughened(sounds, strangers, config.roughening, generator)
        with torch.autocast("cpu", torch.bfloat16):
            heard = tower.from_mel(mel)
        loss = _loss(heard.float(), clips, names, config)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 2.0)
        optimiser.step()
        _follow(average, tower, min(config.average_decay, step / (step + 10)))
        seen = 0.98 * seen + 0.02 * loss.item()
        if step % 100 == 99:
            print(f"step {step + 1} of {config.n_steps}, loss {seen:.3f}", flush=True)
    return average


def _loss(heard: Tensor, clips: list[Clip], names: Names, config: AudioTrainingConfig) -> Tensor:
    right = torch.stack([names.rightness[clip.label] for clip in clips])
    wanted = torch.stack([names.of(clip.label) for clip in clips])
    guess = (heard @ names.vectors.T / config.temperature).log_softmax(-1)
    return -(right * guess).sum(-1).mean() + config.cosine_weight * (1 - (heard * wanted).sum(-1)).mean()


@torch.no_grad()
def _follow(average: AudioTower, tower: AudioTower, decay: float) -> None:
    """Move the running average; counters and running statistics are averaged or copied alike."""
    for ours, theirs in zip(average.state_dict().values(), tower.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1 - decay)
        else:
            ours.copy_(theirs)


@torch.inference_mode()
def hear(tower: AudioTower, store: Store, clip: Clip, n_frames: int, n_windows_max: int = 6) -> Tensor:
    """The vector of a clip, as the encoder computes it: windows that overlap by half, from where it first sounds."""
    first = min(clip.active_frames[0], max(0, clip.n_frames - n_frames))
    starts = range(first, max(first + 1, clip.n_frames - n_frames // 2), n_frames // 2)
    powers = torch.from_numpy(np.stack([store.powers(clip, s, n_frames) for s in starts[:n_windows_max]]))
    mean_square = powers[..., -1].mean(1)
    loud = mean_square >= mean_square.max() * 10 ** (QUIET_BELOW_DB / 10)
    mel = level_free(rearrange(powers[loud][..., :-1], "b t m -> b m t"), mean_square[loud], MEL)
    return F.normalize(tower.from_mel(mel).mean(0), dim=-1)


def n_frames_of(tower: AudioTower) -> int:
    """Frames in a window of the tower."""
    return tower.config.window_samples // MEL.hop_samples + 1


def retrieval(tower: AudioTower, store: Store, clips: list[Clip], names: Names) -> dict[str, dict[str, float]]:
    """Per family and over all: how often the label, or a name in the first five, is right.

    The candidates are all labels of the validation clips; `loose` also accepts a synonym of the clip.
    """
    labels = sorted({clip.label for clip in clips})
    vectors = torch.stack([names.of(label) for label in labels])
    hits: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for clip in clips:
        heard = hear(tower, store, clip, n_frames_of(tower))
        order = [labels[i] for i in (vectors @ heard).argsort(descending=True)[:5].tolist()]
        row = (
            float(order[0] == clip.label), float(order[0] in {clip.label, *clip.synonyms}),
            float(clip.label in order), float(heard @ names.of(clip.label)),
        )  # fmt: skip
        hits[clip.family].append(row)
        hits["all"].append(row)
    keys = ("top_1", "top_1_loose", "top_5", "cosine")
    return {
        family: {"n": len(rows), **dict(zip(keys, (round(float(v), 3) for v in np.mean(rows, 0)), strict=True))}
        for family, rows in sorted(hits.items())
    } | {"candidates": {"n": len(labels)}}


def main() -> None:
    """Read the arguments, train, measure, and write audio.safetensors and audio.json into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder that training.text wrote")
    parser.add_argument("--store", type=Path, action="append", required=True, help="the first one is validated on")
    parser.add_argument("--validation-song", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-steps", type=int, default=AudioTrainingConfig.n_steps)
    arguments = parser.parse_args()
    config = AudioTrainingConfig(n_steps=arguments.n_steps)
    torch.manual_seed(config.seed)
    stores = [read(folder) for folder in arguments.store]
    songs = frozenset(arguments.validation_song)
    kept = [(store, [clip for clip in store.clips if not is_validation(clip, songs)]) for store in stores]
    held = [clip for clip in stores[0].clips if is_validation(clip, songs)]
    text, tokens = load_text(arguments.text)
    names = gather_names([clip for store in stores for clip in store.clips], text, tokens)
    tower = AudioTower(AudioTowerConfig())
    listener = Listener(kept, n_frames_of(tower), config.roughening, config.seed)
    print(f"{sum(len(c) for _, c in kept)} training clips, {len(held)} held out, {len(names.names)} names", flush=True)
    trained = train(tower, listener, names, config)
    report = {
        "config": asdict(config),
        "n_steps": config.n_steps,
        "validation": retrieval(trained, stores[0], held, names),
    }
    print(json.dumps(report, indent=1))
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, arguments.out / "audio.safetensors")
    (arguments.out / "audio.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
