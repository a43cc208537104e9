"""Distil the text tower: `python -m unisep_train.tasks.text_tower --teacher FOLDER --wordnet FOLDER --out FOLDER`.

The teacher is a MiniLM sentence encoder; the student keeps three of its six layers, a third of their hidden
units and a low-rank copy of its word embeddings, and learns on short phrases to say what the teacher says,
moved as `targets` describes. Templates ("the sound of a ...") are to change nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor
from unisep_clap.text_tower import TextTower, TextTowerConfig, pad
from unisep_clap.wordpiece import WordPiece

from unisep_train.tasks import phrases
from unisep_train.tasks.text_targets import Shift, draw_together, fit_projection
from unisep_train.tasks.text_teacher import embed, load_teacher


@dataclass(frozen=True)
class TextTrainingConfig:
    """Everything that decides the outcome, apart from the data."""

    seed: int = 0
    batch_size: int = 384
    learning_rate: float = 1e-3
    minutes: float = 8.0
    sound_share: float = 0.3
    sound_template_rate: float = 0.5
    template_rate: float = 0.15
    kept_layers: tuple[int, ...] = (0, 2, 5)
    n_factors: int = 112


@dataclass(frozen=True)
class Lesson:
    """Phrases with the vectors they should get; the first `n_sounds` are names of sounds."""

    phrases: list[str]
    targets: Tensor
    n_sounds: int


def pruned_pieces(pieces: tuple[str, ...]) -> list[int]:
    """Indices of the teacher's pieces worth keeping: special marks and what is written in plain Latin."""
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    plain = re.compile(r"(##)?([a-z]+|[0-9]{1,3}|[!-~]|[a-z0-9]+)")
    return [i for i, piece in enumerate(pieces) if piece in special or plain.fullmatch(piece)]


@torch.no_grad()
def start_from(teacher: TextTower, kept: list[int], config: TextTowerConfig, layers: tuple[int, ...]) -> TextTower:
    """A student cut out of the teacher: low-rank words, chosen layers, their strongest hidden units."""
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
        state["expand.weight"] = state["expand.weight"][strongest]
        state["expand.bias"] = state["expand.bias"][strongest]
        state["contract.weight"] = state["contract.weight"][:, strongest]
        ours.load_state_dict(state)
    return student


def batches(lesson: Lesson, tokens: WordPiece, config: TextTrainingConfig) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (ids, present, targets), phrases of like length together, some dressed in a template."""
    generator = random.Random(config.seed)
    n_batches = 24
    n_sounds = round(config.batch_size * n_batches * config.sound_share)
    while True:
        chosen = generator.choices(range(lesson.n_sounds), k=n_sounds)
        chosen += generator.choices(range(len(lesson.phrases)), k=config.batch_size * n_batches - n_sounds)
        written = [(tokens.encode(_dressed(lesson, i, config, generator)), i) for i in chosen]
        written.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(written), config.batch_size))
        generator.shuffle(starts)
        for start in starts:
            group = written[start : start + config.batch_size]
            yield *pad([ids for ids, _ in group], tokens.padding_id), lesson.targets[[i for _, i in group]]


def _dressed(lesson: Lesson, i: int, config: TextTrainingConfig, generator: random.Random) -> str:
    rate = config.sound_template_rate if i < lesson.n_sounds else config.template_rate
    phrase = lesson.phrases[i]
    return generator.choice(phrases.TEMPLATES).format(phrase) if generator.random() < rate else phrase


def distil(student: TextTower, tokens: WordPiece, lesson: Lesson, config: TextTrainingConfig) -> int:
    """Train in place for the time given; the number of steps taken."""
    optimiser = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=0.0)
    began, step = time.monotonic(), 0
    for ids, present, targets in batches(lesson, tokens, config):
        done = (time.monotonic() - began) / (60 * config.minutes)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * max(0.01, 1 - done)
        with torch.autocast("cpu", torch.bfloat16):
            said = student(ids, present)
        loss = (1 - (said.float() * targets).sum(-1)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}, {100 * done:.0f} % of the time, cosine {1 - loss.item():.4f}", flush=True)
    return step


def measure(student: TextTower, tokens: WordPiece, phrase_list: list[str], targets: Tensor) -> dict[str, float]:
    """Mean and low-decile cosine of the student with its targets."""
    cosine = (embed(student.eval(), tokens, phrase_list) * targets).sum(-1)
    student.train()
    return {"n": len(cosine), "mean": float(cosine.mean()), "decile": float(cosine.quantile(0.1))}


def main() -> None:
    """Read the arguments, train, and write text.safetensors, vocab.txt and text.json into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of a MiniLM sentence encoder")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.noun and others")
    parser.add_argument("--words", type=Path, help="a word list, one a line")
    parser.add_argument("--manifest", type=Path, help="corpus manifest (JSON lines with label and synonyms)")
    parser.add_argument("--names", type=Path, help="further names of sounds, one a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=TextTrainingConfig.minutes)
    arguments = parser.parse_args()
    config = TextTrainingConfig(minutes=arguments.minutes)
    torch.manual_seed(config.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    _train(config, arguments)


def _train(config: TextTrainingConfig, arguments: argparse.Namespace) -> None:
    links = phrases.sound_links(arguments.manifest)
    sounds, known, held_out = _phrases(arguments, links)
    teacher, teacher_tokens = load_teacher(arguments.teacher)
    with torch.autocast("cpu", torch.bfloat16):
        u_sounds, u_known, u_held_out = (embed(teacher, teacher_tokens, group) for group in (sounds, known, held_out))
    project = fit_projection(u_sounds, u_known, TextTowerConfig.n_dims)
    names = project(u_sounds[: len(links.names)])
    shift = Shift(names, draw_together(names, links) - names)

    def target(u: Tensor) -> Tensor:
        return torch.cat([shift(project(part)) for part in u.split(4096)])

    lesson = Lesson(sounds + known, torch.cat([target(u_sounds), target(u_known)]), len(sounds))
    kept = pruned_pieces(teacher_tokens.pieces)
    tokens = WordPiece([teacher_tokens.pieces[i] for i in kept])
    student_config = TextTowerConfig(n_pieces=len(kept), n_factors=config.n_factors)
    student = start_from(teacher, kept, student_config, config.kept_layers)
    with torch.no_grad():
        student.get_submodule("head").get_parameter("weight").copy_(project.components.T)
        student.get_submodule("head").get_parameter("bias").copy_(-project.mean @ project.components)
    print(f"{len(sounds)} sounds, {len(known)} phrases, {len(held_out)} held out, {len(kept)} pieces", flush=True)
    n_steps = distil(student, tokens, lesson, config)
    report = {
        "config": asdict(config), "tower": asdict(student_config), "n_steps": n_steps, "n_phrases": len(known),
        "sounds": measure(student, tokens, sounds, target(u_sounds)),
        "held_out_words": measure(student, tokens, held_out, target(u_held_out)),
    }  # fmt: skip
    _write(arguments.out, student, tokens, json.dumps(report, indent=1))


def _phrases(arguments: argparse.Namespace, links: phrases.Links) -> tuple[list[str], list[str], list[str]]:
    """Names of sounds and all phrases to learn, and phrases held out: none of a word that the manifest's names use."""
    keep = frozenset(re.findall(r"[a-z]+", " ".join(links.names).lower()))
    listed = arguments.names.read_text().replace(",", "\n").splitlines() if arguments.names else []
    more = [name.strip() for name in listed]
    sounds = list(links.names) + [name.lower() for name in more if name and name not in links.names]
    everything = phrases.dictionary_phrases(arguments.wordnet, arguments.words, sounds)
    held_out = [phrase for phrase in everything if phrases.is_held_out(phrase, keep)]
    sounds = [name for name in sounds if not phrases.is_held_out(name, keep)]
    known = [phrase for phrase in everything if not phrases.is_held_out(phrase, keep)]
    return sounds, known, held_out


def _write(folder: Path, student: TextTower, tokens: WordPiece, report: str) -> None:
    """Nothing; prints the report and puts it into the folder beside the tower and its pieces."""
    print(report)
    save_file({k: v.contiguous() for k, v in student.state_dict().items()}, folder / "text.safetensors")
    (folder / "vocab.txt").write_text("\n".join(tokens.pieces) + "\n", encoding="utf-8")
    (folder / "text.json").write_text(report)


if __name__ == "__main__":
    main()
