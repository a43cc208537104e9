"""Write what was measured, and the hash of new weights, into cards; pack the towers of clap-mini with theirs.

python -m unisep_train release-clap --text text --audio audio --out unisep_clap/data
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from unisep_clap.mini import SPACE, VOCABULARY_FILE, WEIGHTS_FILE

from unisep.files.paths import write_whole
from unisep.weights.hashes import sha256_of

CLAP_CARD = Path(str(resources.files("unisep_clap"))) / "data" / "clap-mini.toml"


def write_card(
    out: Path, prose: Path, files: Sequence[Path], measured: Mapping[str, Mapping[str, Any]], **more: str
) -> None:
    """Write a card: of the card `prose` what precedes `[[files]]`, then its files in a package, and what was measured.

    The prose (data, licence, weaknesses) is the releaser's. `more` is said of each file.
    """
    kept, _, _ = prose.read_text(encoding="utf-8").partition("[[files]]")
    lines = []
    for path in files:
        facts = {"name": path.name, "resource": f"{path.parent.name}/{path.name}", **more}
        lines += ["[[files]]", *_rows(facts | {"sha256": sha256_of(path), "n_bytes": path.stat().st_size}), ""]
    for name, values in measured.items():
        lines += [f"[measured.{name}]", *_rows(values), ""]
    write_whole(out, (kept + "\n".join(lines[:-1]) + "\n").encode())


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


def release_clap(*, text: Path, audio: Path, out: Path, card: Path = CLAP_CARD) -> None:
    """Pack both towers, floats in half precision, and write their card from the reports and the prose.

    Args:
        text: folder that `text-tower` wrote.
        audio: folder that `audio-tower` wrote.
        out: folder of what is written.
        card: the card whose prose is kept.
    """
    state = {}
    for tower, folder in (("text", text), ("audio", audio)):
        for name, value in load_file(folder / f"{tower}.safetensors").items():
            state[f"{tower}.{name}"] = value.to(torch.float16 if value.is_floating_point() else torch.int32)
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / WEIGHTS_FILE, metadata={"space": SPACE})
    shutil.copyfile(text / "vocab.txt", out / VOCABULARY_FILE)
    of_text, of_audio = (json.loads(path.read_text()) for path in (text / "text.json", audio / "audio.json"))
    measured = {
        "text": {"n_steps": of_text["n_steps"], "n_phrases": of_text["n_phrases"],
                 "cosine_sounds": of_text["sounds"], "cosine_held_out_words": of_text["held_out_words"]},
        "audio": {"n_steps": of_audio["n_steps"], **of_audio["validation"]},
    }  # fmt: skip
    files = [out / WEIGHTS_FILE, out / VOCABULARY_FILE]
    write_card(out / CLAP_CARD.name, card, files, measured, revision="1")
