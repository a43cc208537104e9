"""`unisep evaluate --ray` measures what `unisep evaluate` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from unisep import files
from unisep.cli import main
from unisep.testing import noise, tone

TOYS = Path(__file__).parents[3] / "benchmarks" / "catalogue_toys.py"
TOY = ["--backend", "toy", "--query-backend", "toy", "--encoder", "toy", "--plugin", str(TOYS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two songs of 2 s with stems that the toy tells apart."""
    for number in range(2):
        for name, frequency_hz in (("bass", 120.0), ("guitar", 600.0)):
            place = tmp_path / "data" / f"song {number}"
            place.mkdir(parents=True, exist_ok=True)
            files.write(place / f"{name}.wav", tone(frequency_hz + number, 2.0, peak=0.3), subtype="FLOAT")
        files.write(tmp_path / "data" / f"song {number}" / "drums.wav", noise(2.0, seed=number), subtype="FLOAT")
    return tmp_path / "data"


def report(folder: Path, path: Path, *more: str) -> tuple[list[Any], Any]:
    words = [
        "evaluate",
        str(folder),
        "--window",
        "1",
        "--within-db",
        "inf",
        "--report",
        str(path),
        "--quiet",
        *TOY,
        *more,
    ]
    assert main(words) == 0
    values = json.loads(path.read_text())
    return [{**record, "computing_seconds": 0} for record in values["records"]], values["about"]["options"]


def test_figures_are_the_same_to_the_last_digit(cluster: Any, folder: Path, tmp_path: Path) -> None:
    asks = ["--ask", "text", "audio", "vector", "combined"]
    here, options = report(folder, tmp_path / "here.json", *asks)
    there, options_there = report(folder, tmp_path / "there.json", "--ray", cluster.address, *asks)
    assert here == there and len(here) > 8 and options == options_there


def test_without_the_plugin_it_is_said_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "unisep_ray.pool", None)
    assert main(["evaluate", str(folder), "--ray", "local", *TOY]) == 2
    assert "pip install unisep-ray" in capsys.readouterr().err
