"""Teach the text tower of clap-mini how people call the sounds it knows.

    python -m unisep_train wordings --out text

Each wording of unisep's concepts is to get the vector that the name of its concept has; all other phrases are to keep
theirs. So vectors saved before, the audio tower and query models stay right. Held-out wordings are measured, never learnt.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from string import ascii_lowercase

import torch
from torch import Tensor
from unisep_clap.mini import VOCABULARY_FILE, load_mini
from unisep_clap.text_tower import TextTower
from unisep_clap.wordpiece import WordPiece
from unisep_evaluate import vocabulary

from unisep.query.concepts import concepts
from unisep_train.tasks.text_tower import Lesson, TextRecipe, TextRun, batches, embed, measure, write_tower

N_STEPS = 800
N_KEPT = 20_000  # words, as many pairs of words, and half as many letters at random that are to keep their vectors


def lesson_of(tower: TextTower, tokens: WordPiece, seed: int) -> Lesson:
    """Return the wordings with the vectors of their concepts, and the phrases that keep their own."""
    known = concepts().values()
    anchors = dict(zip(concepts(), embed(tower, tokens, list(concepts())), strict=True))
    wordings = {wording: anchors[concept.name] for concept in known for wording in concept.wordings}
    pieces = [piece for piece in tokens.pieces if piece.isalpha() and len(piece) > 2]
    draw = random.Random(seed)
    words = draw.sample(pieces, min(N_KEPT, len(pieces)))
    pairs = [" ".join(draw.choices(pieces, k=2)) for _ in range(N_KEPT)]
    letters = ["".join(draw.choices(ascii_lowercase, k=draw.randint(3, 9))) for _ in range(N_KEPT // 2)]
    kept = [
        name
        for name in dict.fromkeys([*vocabulary.TABLE["spellings"], *concepts(), *words, *pairs, *letters])
        if name not in wordings
    ]
    targets = torch.cat([torch.stack(list(wordings.values())), embed(tower, tokens, kept)])
    return Lesson([*wordings, *kept], targets, len(wordings))


def held_out(tower: TextTower, tokens: WordPiece, anchors: Tensor) -> dict[str, float]:
    """Return how near held-out wordings are to the names of their concepts, and how many are nearest to the right one."""
    rows = [(index, text) for index, concept in enumerate(concepts().values()) for text in concept.held_out]
    vectors = embed(tower, tokens, [text for _, text in rows])
    right = torch.tensor([index for index, _ in rows])
    figures = measure(tower, tokens, [text for _, text in rows], anchors[right])
    return {**figures, "nearest": float(((vectors @ anchors.T).argmax(1) == right).float().mean())}


def train_command(*, out: Path, n_steps: int = N_STEPS) -> None:
    """Teach the embedded text tower the wordings of all concepts; write text.safetensors, vocab.txt and text.json.

    Args:
        out: folder of the run and of what is written.
        n_steps: length of the run.
    """
    recipe = TextRecipe(n_steps=n_steps, learning_rate=3e-4, sound_share=0.4, sound_template_rate=0.3).kept_in(out)
    torch.manual_seed(recipe.seed)
    encoder = load_mini()
    tower, tokens = encoder.text_tower.float(), encoder.tokens
    anchors = embed(tower, tokens, list(concepts()))
    before = held_out(tower, tokens, anchors)
    lesson = lesson_of(tower, tokens, recipe.seed)
    kept = list(range(lesson.n_sounds, len(lesson.phrases), 20))
    trained = TextRun(tower, recipe, out).learn_all(batches(lesson, tokens, recipe))
    (out / VOCABULARY_FILE).write_text("\n".join(tokens.pieces) + "\n", encoding="utf-8")
    report = {
        "tower": asdict(tower.config), "n_phrases": len(lesson.phrases), "held_out_before": before,
        "held_out_wordings": held_out(trained, tokens, anchors),
        "kept": measure(trained, tokens, [lesson.phrases[i] for i in kept], lesson.targets[kept]),
    }  # fmt: skip
    write_tower(out, "text", trained, recipe, report)
