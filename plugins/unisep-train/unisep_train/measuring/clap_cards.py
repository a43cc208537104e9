"""Pack the towers as half-precision weights with their card: `python -m unisep_train.measuring.clap_cards`."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from unisep_clap.mini import SPACE, VOCABULARY_FILE, WEIGHTS_FILE

_NOTES = Path(__file__).with_name("notes.txt")


def pack(text: Path, audio: Path, out: Path) -> Path:
    """One file with both towers, floats in half precision; the vocabulary lies beside it."""
    parts = {"text": load_file(text / "text.safetensors"), "audio": load_file(audio / "audio.safetensors")}
    state = {f"{tower}.{name}": _half(value) for tower, part in parts.items() for name, value in part.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS_FILE, metadata={"space": SPACE})
    shutil.copyfile(text / "vocab.txt", out / VOCABULARY_FILE)
    return out / WEIGHTS_FILE


def _half(value: Tensor) -> Tensor:
    return value.half().contiguous() if value.is_floating_point() else value.to(torch.int32)


def card(weights: Path, notes: str, measured: dict[str, Any]) -> str:
    """The TOML card of the packed weights."""
    head = f'''name = "clap-mini"
summary = "Embedded text and audio encoder, space {SPACE}: open vocabulary, works offline"
licence = "Apache-2.0"
source = "trained by unisep_clap.training in this repository"
sources = []
sample_rate_hz = 32000
notes = """
{notes.strip()}
"""
'''
    files = "".join(_file(path) for path in (weights, weights.with_name(VOCABULARY_FILE)))
    return head + files + "".join(_table(["measured", key], value) for key, value in measured.items())


def _file(path: Path) -> str:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f'''
[[files]]
name = "{path.name}"
revision = "1"
sha256 = "{digest}"
n_bytes = {len(content)}
resource = "data/{path.name}"
'''


def _table(path: list[str], values: dict[str, Any]) -> str:
    numbers = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"\n[{'.'.join(map(_key, path))}]"] + [f"{_key(key)} = {value}" for key, value in numbers.items()]
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    own = "\n".join(lines) + "\n" if numbers else ""
    return own + "".join(_table([*path, key], value) for key, value in nested.items())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def main() -> None:
    """Read the arguments, pack, and write the card from the reports and the prose given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="folder that training.text wrote")
    parser.add_argument("--audio", type=Path, required=True, help="folder that training.audio wrote")
    parser.add_argument("--notes", type=Path, default=_NOTES, help="the card's prose")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    weights = pack(arguments.text, arguments.audio, arguments.out)
    text, audio = (
        json.loads((folder / f"{kind}.json").read_text())
        for folder, kind in ((arguments.text, "text"), (arguments.audio, "audio"))
    )
    measured = {
        "text": {"n_steps": text["n_steps"], "n_phrases": text["n_phrases"],
                 "cosine_sounds": text["sounds"], "cosine_held_out_words": text["held_out_words"]},
        "audio": {"n_steps": audio["n_steps"], **audio["validation"]},
    }  # fmt: skip
    notes = arguments.notes.read_text(encoding="utf-8")
    (arguments.out / "clap-mini.toml").write_text(card(weights, notes, measured), encoding="utf-8")


if __name__ == "__main__":
    main()
