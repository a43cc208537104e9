"""The teacher's text tower: a BERT sentence encoder's folder, run by our own text tower."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from unisep_clap.text_tower import TextTower, TextTowerConfig, pad
from unisep_clap.wordpiece import WordPiece


def load_teacher(folder: Path) -> tuple[TextTower, WordPiece]:
    """A MiniLM-L6 sentence encoder (mean pooling) from a folder with model.safetensors and vocab.txt."""
    weights = load_file(folder / "model.safetensors")
    weights = {key.removeprefix("bert."): value for key, value in weights.items()}
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    n_layers = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layer."))
    n_positions, width = weights["embeddings.position_embeddings.weight"].shape
    hidden_width = len(weights["encoder.layer.0.intermediate.dense.bias"])
    config = TextTowerConfig(
        n_pieces=len(pieces), n_factors=0, n_positions=n_positions, width=width, n_layers=n_layers,
        n_heads=width // 32, hidden_width=hidden_width, n_dims=0,
    )  # fmt: skip
    tower = TextTower(config)
    tower.load_state_dict(_renamed(weights, n_layers))
    return tower.eval(), WordPiece(pieces)


def _renamed(weights: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """The teacher's parameters under our names; its one token type is folded into the positions."""
    out = {"words.weight": weights["embeddings.word_embeddings.weight"]}
    out["positions.weight"] = (
        weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    )
    parts = {
        "attention.output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "expand": "intermediate.dense", "contract": "output.dense", "output_norm": "output.LayerNorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        out[f"input_norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for i in range(n_layers):
            theirs = f"encoder.layer.{i}"
            qkv = [weights[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"layers.{i}.attention.query_key_value.{kind}"] = torch.cat(qkv)
            for ours, name in parts.items():
                out[f"layers.{i}.{ours}.{kind}"] = weights[f"{theirs}.{name}.{kind}"]
    return out


@torch.inference_mode()
def embed(tower: TextTower, tokens: WordPiece, phrases: list[str], batch_size: int = 256) -> Tensor:
    """Unit vectors [phrases, dims] in the order given; batches are made of phrases of like length."""
    ids = [tokens.encode(phrase) for phrase in phrases]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = torch.empty(len(ids), tower.config.n_dims or tower.config.width)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        out[chosen] = tower(*pad([ids[i] for i in chosen], tokens.padding_id)).float()
    return out
