"""Write what was measured, and the hash of new weights, into cards; pack the towers of clap-mini with theirs.

python -m unisep_train release-clap --text text --audio audio --out unisep_clap/data
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from unisep_clap.mini import SPACE, VOCABULARY_FILE, WEIGHTS_FILE

from unisep.weights.hashes import sha256_of

MIN_WINDOWS = 8  # a median over fewer says little, and is left out of a card
NOTES = Path(__file__).with_name("notes.txt")


def update_film_card(
    card: Path, weights: Path, n_steps: int, hours: float, tables: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """Rewrite a query model's card below its prose, which ends where `[[files]]` begins: file, hash, steps, figures.

    The prose (data, licence, weaknesses) is the releaser's; what is written here is measured.
    """
    prose, _, _ = card.read_text(encoding="utf-8").partition("[[files]]")
    measured: dict[str, Mapping[str, Any]] = {"training": {"n_steps": n_steps, "hours_of_mixtures": round(hours, 1)}}
    for ask, rows in tables.items():
        measured[ask] = {key: row for key, row in rows.items() if row.get("n_windows", MIN_WINDOWS) >= MIN_WINDOWS}
    partial = card.with_name(card.name + ".part")
    partial.write_text(prose + facts([weights], weights.parent.name, measured), encoding="utf-8")
    partial.replace(card)


def facts(files: Sequence[Path], folder: str, measured: Mapping[str, Mapping[str, Any]], **more: str) -> str:
    """Return as TOML what follows a card's prose: its files in a package's `folder`, and what was measured."""
    lines = []
    for path in files:
        place = {"name": path.name, "resource": f"{folder}/{path.name}"} | more
        lines += ["[[files]]", *_rows(place | {"sha256": sha256_of(path), "n_bytes": path.stat().st_size}), ""]
    for name, values in measured.items():
        lines += [f"[measured.{name}]", *_rows(values), ""]
    return "\n".join(lines[:-1]) + "\n"


def _rows(values: Mapping[str, Any]) -> list[str]:
    """Return a line of TOML for each value; tables in them are written in their line.

    >>> _rows({"n": 3, "top 1": {"all": 0.5, "of": "x"}})
    ['n = 3', '"top 1" = { all = 0.5, of = "x" }']
    """
    lines = []
    for key, value in values.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
        if isinstance(value, Mapping):
            lines.append(f"{name} = {{ {', '.join(_rows(value))} }}")
        else:
            lines.append(f"{name} = {json.dumps(value) if isinstance(value, str) else value}")
    return lines


def pack(text: Path, audio: Path, out: Path) -> Path:
    """Write one file with both towers, floats in half precision; the vocabulary lies beside it."""
    parts = {"text": load_file(text / "text.safetensors"), "audio": load_file(audio / "audio.safetensors")}
    state = {f"{tower}.{name}": _half(value) for tower, part in parts.items() for name, value in part.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS_FILE, metadata={"space": SPACE})
    shutil.copyfile(text / "vocab.txt", out / VOCABULARY_FILE)
    return out / WEIGHTS_FILE


def _half(value: Tensor) -> Tensor:
    return value.half().contiguous() if value.is_floating_point() else value.to(torch.int32)


def clap_card(weights: Path, notes: str, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the TOML card of the packed towers."""
    head = f'''name = "clap-mini"
summary = "Embedded text and audio encoder, space {SPACE}: open vocabulary, works offline"
licence = "Apache-2.0"
source = "trained by unisep_train in this repository"
sources = []
sample_rate_hz = 32000
notes = """
{notes.strip()}
"""

'''
    return head + facts([weights, weights.with_name(VOCABULARY_FILE)], "data", measured, revision="1")


def release_clap(*, text: Path, audio: Path, out: Path, notes: Path = NOTES) -> None:
    """Pack both towers, and write their card from the reports and the prose.

    Args:
        text: folder that `text-tower` wrote.
        audio: folder that `audio-tower` wrote.
        out: folder of what is written.
        notes: the card's prose.
    """
    weights = pack(text, audio, out)
    of_text, of_audio = (json.loads(path.read_text()) for path in (text / "text.json", audio / "audio.json"))
    measured = {
        "text": {"n_steps": of_text["n_steps"], "n_phrases": of_text["n_phrases"],
                 "cosine_sounds": of_text["sounds"], "cosine_held_out_words": of_text["held_out_words"]},
        "audio": {"n_steps": of_audio["n_steps"], **of_audio["validation"]},
    }  # fmt: skip
    (out / "clap-mini.toml").write_text(
        clap_card(weights, notes.read_text(encoding="utf-8"), measured), encoding="utf-8"
    )
