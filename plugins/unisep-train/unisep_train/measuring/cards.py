"""Write what was measured, and the hash of new weights, into cards; pack the towers of clap-mini with theirs.

python -m unisep_train release-clap --text text --audio audio --out unisep_clap/data
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from unisep_clap.mini import SPACE, VOCABULARY_FILE, WEIGHTS_FILE

from unisep.files.paths import write_whole
from unisep.weights.hashes import sha256_of

REPORTED = ("n_steps", "n_phrases", "held_out_before", "held_out_wordings", "kept")
_WAYS = {"audio": "example"}  # how a page calls a way of asking
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


def write_table(page: Path, name: str, measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Write what was measured between the marks `<!-- figures of NAME -->` and `<!-- end -->` of a page; without them it stays.

    measured: for each way of asking, rows as they stand on a card. Rendered and single sounds are left to the card.
    """
    begin, end = f"<!-- figures of {name} -->\n", "<!-- end -->"
    before, mark, after = page.read_text(encoding="utf-8").partition(begin)
    if not mark or end not in after:
        return
    first, *_ = measured.values()
    lines = [
        f"| | windows | {' | '.join(f'by {_WAYS.get(way, way)}' for way in measured)} | the mixture |",
        f"|---|---:|{'---:|' * len(measured)}---:|",
    ]
    for row, figures in first.items():
        group, _, sound = row.rpartition(": ")
        if group in ("all", "song", "remix"):
            label, own = sound + " (remixed)" * (group == "remix"), f"{figures['mixture_sdr_db']:z.1f}"
        elif row in ("absent", "presence_auc"):
            label, own = {"absent": "level of what is not there"}.get(row, "presence, ROC-AUC"), ""
        else:
            continue
        said = " | ".join(_said(table.get(row, {})) for table in measured.values())
        lines.append(f"| {label} | {figures.get('n_windows', '')} | {said} | {own} |")
    table = "\n".join(lines).replace("|  |", "| |") + "\n\n"
    write_whole(page, (before + begin + "\n" + table + end + after.partition(end)[2]).encode())


def _said(figures: Mapping[str, float]) -> str:
    if "si_sdr_gain_db" in figures:
        return f"{figures['si_sdr_gain_db']:z.1f} ({figures['sdr_db']:z.1f})"
    return f"{figures['level_db']:.0f}" if "level_db" in figures else f"{figures.get('value', '')}"


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


def release_clap(
    *,
    out: Path,
    text: Path | None = None,
    wordings: Path | None = None,
    audio: Path | None = None,
    card: Path = CLAP_CARD,
) -> None:
    """Pack the towers, floats in half precision, and write their card from the reports and the prose.

    Args:
        out: folder of what is written.
        text: folder that `text-tower` wrote. A tower that is not given stays the embedded one, with its figures.
        wordings: folder that `wordings` wrote, where that went on from the text tower.
        audio: folder that `audio-tower` wrote.
        card: the card whose prose is kept.
    """
    state = load_file(CLAP_CARD.with_name(WEIGHTS_FILE))
    measured: dict[str, Any] = tomllib.loads(card.read_text(encoding="utf-8")).get("measured", {})
    for tower, folder in (("text", wordings or text), ("audio", audio)):
        if folder:
            state = {name: value for name, value in state.items() if not name.startswith(f"{tower}.")}
            for name, value in load_file(folder / f"{tower}.safetensors").items():
                state[f"{tower}.{name}"] = value.to(torch.float16 if value.is_floating_point() else torch.int32)
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = (wordings or text or CLAP_CARD.parent) / VOCABULARY_FILE
    save_file(state, out / WEIGHTS_FILE, metadata={"space": SPACE})
    (out / VOCABULARY_FILE).write_bytes(vocabulary.read_bytes())
    if text:
        report = json.loads((text / "text.json").read_text())
        measured["text"] = {"n_steps": report["n_steps"], "n_phrases": report["n_phrases"],
                            "cosine_sounds": report["sounds"], "cosine_held_out_words": report["held_out_words"]}  # fmt: skip
    if wordings:
        report = json.loads((wordings / "text.json").read_text())
        measured["wordings"] = {key: report[key] for key in REPORTED}
    if audio:
        report = json.loads((audio / "audio.json").read_text())
        measured["audio"] = {"n_steps": report["n_steps"], **report["validation"]}
    write_card(out / CLAP_CARD.name, card, [out / WEIGHTS_FILE, out / VOCABULARY_FILE], measured, revision="1")
