"""Distil the text tower of clap-mini from a sentence encoder.

    python -m unisep_train text-tower --teacher MINILM --wordnet WORDNET --words WORDS --out text

The teacher is a MiniLM sentence encoder; the student keeps three of its six layers, a third of their hidden
units and a low-rank copy of its word embeddings, and learns on short phrases to say what the teacher says, in a space
that is centred on sounds, with synonyms drawn together. Templates ("the sound of a ...") are to change nothing.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_clap.text_tower import TextTower, TextTowerConfig, pad
from unisep_clap.wordpiece import WordPiece

from unisep_train.tasks import phrases
from unisep_train.tasks.phrases import Links
from unisep_train.trainer.learner import Figures, Learner
from unisep_train.trainer.recipe import BaseRecipe

N_STEPS = 1750  # of the embedded tower
# Our names for the parts of a BERT layer, and BERT's.
PARTS = {
    "attention.output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense", "contract": "output.dense", "output_norm": "output.LayerNorm",
}  # fmt: skip
TextBatch = tuple[Tensor, Tensor, Tensor]  # piece ids and which are there `[batch, pieces]`, targets `[batch, dims]`


class TextRecipe(BaseRecipe):
    """All that decides the outcome, apart from the data."""

    n_steps: int = N_STEPS
    warmup_steps: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    average_decay: float = 0.0
    log_every: int = 100
    batch_size: int = 384
    sound_share: float = 0.3
    sound_template_rate: float = 0.5
    template_rate: float = 0.15
    kept_layers: tuple[int, ...] = (0, 2, 5)
    n_factors: int = 112

    def learning_rate_at(self, step: int) -> float:
        """Rise linearly, and fall linearly all the while."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * rise * max(0.01, 1 - (step + 1) / (self.n_steps + 1))


def load_teacher(folder: Path) -> tuple[TextTower, WordPiece]:
    """Load a MiniLM-L6 sentence encoder (BERT, mean pooling) from a folder with model.safetensors and vocab.txt."""
    weights = {key.removeprefix("bert."): value for key, value in load_file(folder / "model.safetensors").items()}
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    n_layers = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layer."))
    n_positions, width = weights["embeddings.position_embeddings.weight"].shape
    config = TextTowerConfig(
        n_pieces=len(pieces), n_factors=0, n_positions=n_positions, width=width, n_layers=n_layers,
        n_heads=width // 32, hidden_width=len(weights["encoder.layer.0.intermediate.dense.bias"]), n_dims=0,
    )  # fmt: skip
    tower = TextTower(config)
    tower.load_state_dict(_renamed(weights, n_layers))
    return tower.eval(), WordPiece(pieces)


def _renamed(weights: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """Put the teacher's parameters under our names; its one token type is folded into the positions."""
    token_type = weights["embeddings.token_type_embeddings.weight"][0]
    out = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"] + token_type,
    }
    for kind in ("weight", "bias"):
        out[f"input_norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for i in range(n_layers):
            theirs = f"encoder.layer.{i}"
            qkv = [weights[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"layers.{i}.attention.query_key_value.{kind}"] = torch.cat(qkv)
            for ours, name in PARTS.items():
                out[f"layers.{i}.{ours}.{kind}"] = weights[f"{theirs}.{name}.{kind}"]
    return out


@torch.inference_mode()
def embed(tower: TextTower, tokens: WordPiece, texts: list[str], batch_size: int = 256) -> Tensor:
    """Return unit vectors `[texts, dims]` in the order of the texts; batches are of texts of like length."""
    ids = [tokens.encode(text) for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = torch.empty(len(ids), tower.config.n_dims or tower.config.width)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        out[chosen] = tower(*pad([ids[i] for i in chosen], tokens.padding_id)).float()
    return out


@dataclass(frozen=True)
class Projection:
    """A fixed linear map of the teacher's space: normalise((u - mean) @ components)."""

    mean: Tensor
    components: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        """Return unit vectors `[n, n_dims]` of the teacher's vectors `[n, width]`."""
        return F.normalize((u - self.mean) @ self.components, dim=-1)


def fit_projection(sounds: Tensor, everything: Tensor, n_dims: int) -> Projection:
    """Fit principal axes of the teacher's vectors, half weight on names of sounds, half on all phrases."""
    mean = sounds.mean(0)
    covariance = torch.stack([(x - mean).T @ (x - mean) / len(x) for x in (sounds, everything)]).mean(0)
    _, axes = torch.linalg.eigh(covariance)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # else the processor chooses
    return Projection(mean, axes[:, -n_dims:].flip(1))


def draw_together(
    vectors: Tensor, links: Links, *, n_steps: int = 150, keep: float = 3.0, temperature: float = 0.1
) -> Tensor:
    """Move the vectors of the linked names so that linked names are nearest, others apart.

    After the retrofitting of Faruqui et al. 2015 (arXiv:1411.4166), with a contrastive pull instead of an
    average and `keep` times the squared distance from where each vector began.
    """
    position = {name: i for i, name in enumerate(links.names)}
    wanted = torch.zeros(len(vectors), len(vectors))
    for first, second, strength in links.pairs:
        i, j = position[first], position[second]
        wanted[i, j] = wanted[j, i] = max(float(wanted[i, j]), float(wanted[j, i]), strength)
    pull = wanted.sum(1, keepdim=True).clamp(max=1.0)
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-9)
    moved = vectors.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=0.01)
    itself = torch.eye(len(vectors), dtype=torch.bool)
    for _ in range(n_steps):
        unit = F.normalize(moved, dim=-1)
        similar = (unit @ unit.T / temperature).masked_fill(itself, -1e4)
        contrast = -(wanted * similar.log_softmax(-1)).sum(-1, keepdim=True) * pull
        loss = contrast.mean() + keep * (unit - vectors).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return F.normalize(moved.detach(), dim=-1)


@dataclass(frozen=True)
class Shift:
    """The movement of the names of sounds, handed on to phrases of like meaning and to no others."""

    names: Tensor
    movement: Tensor
    near: float = 0.75
    softness: float = 0.04

    def __call__(self, projected: Tensor) -> Tensor:
        """Return target unit vectors of projected teacher vectors `[n, n_dims]`."""
        similar = projected @ self.names.T
        movement = (similar / self.softness).softmax(-1) @ self.movement
        gate = torch.sigmoid((similar.amax(-1, keepdim=True) - self.near) / self.softness)
        return F.normalize(projected + gate * movement, dim=-1)


@dataclass(frozen=True)
class Lesson:
    """Phrases with the vectors they should get; the first `n_sounds` are names of sounds."""

    phrases: list[str]
    targets: Tensor
    n_sounds: int


class TextRun(Learner[TextTower, TextBatch]):
    """A text tower that learns to say what its teacher says."""

    recipe: TextRecipe
    adamw: ClassVar[dict[str, Any]] = {}

    def train_step(self, batch: TextBatch) -> Figures:
        """Make one update; return the loss, which is 1 less the mean cosine."""
        ids, present, targets = batch
        with self.in_bfloat16:
            vectors = self.model(ids, present)
        loss = (1 - (vectors.float() * targets).sum(-1)).mean()
        return {"norm": self.learn(loss), "loss": loss.detach()}


def pruned_pieces(pieces: tuple[str, ...]) -> list[int]:
    """Return indices of the teacher's pieces worth keeping: special marks and what is written in plain Latin."""
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    plain = re.compile(r"(##)?([a-z]+|[0-9]{1,3}|[!-~]|[a-z0-9]+)")
    return [i for i, piece in enumerate(pieces) if piece in special or plain.fullmatch(piece)]


@torch.no_grad()
def start_from(teacher: TextTower, kept: list[int], config: TextTowerConfig, layers: tuple[int, ...]) -> TextTower:
    """Cut a student out of the teacher: low-rank words, chosen layers, their strongest hidden units."""
    student = TextTower(config)
    left, scale, right = torch.linalg.svd(teacher.words.weight[kept], full_matrices=False)
    root = scale[: config.n_factors].sqrt()
    student.words.weight.copy_(left[:, : config.n_factors] * root)
    student.get_submodule("widen").get_parameter("weight").copy_((rearrange(root, "f -> f 1") * right[: len(root)]).T)
    student.positions.weight.copy_(teacher.positions.weight[: config.n_positions])
    student.input_norm.load_state_dict(teacher.input_norm.state_dict())
    for ours, theirs in zip(student.layers, (teacher.layers[i] for i in layers), strict=True):
        state = theirs.state_dict()
        strength = state["expand.weight"].norm(dim=1) * state["contract.weight"].norm(dim=0)
        strongest = strength.topk(config.hidden_width).indices
        for name in ("expand.weight", "expand.bias"):
            state[name] = state[name][strongest]
        state["contract.weight"] = state["contract.weight"][:, strongest]
        ours.load_state_dict(state)
    return student


def batches(lesson: Lesson, tokens: WordPiece, recipe: TextRecipe) -> Iterator[TextBatch]:
    """Yield batches without end, phrases of like length together, some dressed in a template."""
    generator = random.Random(recipe.seed)
    n_phrases = recipe.batch_size * 24
    n_sounds = round(n_phrases * recipe.sound_share)

    def dressed(i: int) -> str:
        rate = recipe.sound_template_rate if i < lesson.n_sounds else recipe.template_rate
        phrase = lesson.phrases[i]
        return generator.choice(phrases.TEMPLATES).format(phrase) if generator.random() < rate else phrase

    while True:
        chosen = generator.choices(range(lesson.n_sounds), k=n_sounds)
        chosen += generator.choices(range(len(lesson.phrases)), k=n_phrases - n_sounds)
        written = [(tokens.encode(dressed(i)), i) for i in chosen]
        written.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(written), recipe.batch_size))
        generator.shuffle(starts)
        for start in starts:
            group = written[start : start + recipe.batch_size]
            yield *pad([ids for ids, _ in group], tokens.padding_id), lesson.targets[[i for _, i in group]]


def measure(student: TextTower, tokens: WordPiece, phrase_list: list[str], targets: Tensor) -> dict[str, float]:
    """Return mean and low-decile cosine of the student with its targets."""
    cosine = (embed(student, tokens, phrase_list) * targets).sum(-1)
    return {"n": len(cosine), "mean": float(cosine.mean()), "decile": float(cosine.quantile(0.1))}


def train_command(
    *, teacher: Path, wordnet: Path, out: Path, words: Path | None = None, manifest: Path | None = None,
    names: Path | None = None, n_steps: int = N_STEPS,
) -> None:  # fmt: skip
    """Train a text tower; write text.safetensors, vocab.txt and text.json.

    Args:
        teacher: folder of a MiniLM sentence encoder.
        wordnet: folder with WordNet's data.noun and others.
        out: folder of the run and of what is written.
        words: a word list, one a line.
        manifest: corpus manifest (JSON lines with label and synonyms).
        names: further names of sounds, one a line.
        n_steps: length of the run.
    """
    recipe = TextRecipe(n_steps=n_steps).kept_in(out)
    torch.manual_seed(recipe.seed)
    links = phrases.sound_links(manifest)
    more = names.read_text().replace(",", "\n").splitlines() if names else []
    sounds, known, held_out = phrases.split(links, more, wordnet, words)
    tower, pieces = load_teacher(teacher)
    with torch.autocast("cpu", torch.bfloat16):
        u_sounds, u_known, u_held_out = (embed(tower, pieces, group) for group in (sounds, known, held_out))
    project = fit_projection(u_sounds, u_known, TextTowerConfig.n_dims)
    vectors = project(u_sounds[: len(links.names)])
    shift = Shift(vectors, draw_together(vectors, links) - vectors)

    def target(u: Tensor) -> Tensor:
        return torch.cat([shift(project(part)) for part in u.split(4096)])

    lesson = Lesson(sounds + known, torch.cat([target(u_sounds), target(u_known)]), len(sounds))
    kept = pruned_pieces(pieces.pieces)
    tokens = WordPiece([pieces.pieces[i] for i in kept])
    config = TextTowerConfig(n_pieces=len(kept), n_factors=recipe.n_factors)
    student = start_from(tower, kept, config, recipe.kept_layers)
    with torch.no_grad():
        student.get_submodule("head").get_parameter("weight").copy_(project.components.T)
        student.get_submodule("head").get_parameter("bias").copy_(-project.mean @ project.components)
    print(f"{len(sounds)} sounds, {len(known)} phrases, {len(held_out)} held out, {len(kept)} pieces", flush=True)
    trained = TextRun(student, recipe, out).learn_all(batches(lesson, tokens, recipe))
    (out / "vocab.txt").write_text("\n".join(tokens.pieces) + "\n", encoding="utf-8")
    report = {
        "tower": asdict(config), "n_phrases": len(known),
        "sounds": measure(trained, tokens, sounds, target(u_sounds)),
        "held_out_words": measure(trained, tokens, held_out, target(u_held_out)),
    }  # fmt: skip
    write_tower(out, "text", trained, recipe, report)


def write_tower(out: Path, name: str, tower: nn.Module, recipe: BaseRecipe, report: dict[str, Any]) -> None:
    """Write a tower, and what was measured of it; print that too."""
    save_file({key: value.contiguous() for key, value in tower.state_dict().items()}, out / f"{name}.safetensors")
    text = json.dumps({"config": recipe.model_dump(mode="json"), "n_steps": recipe.n_steps, **report}, indent=1)
    (out / f"{name}.json").write_text(text)
    print(text)
