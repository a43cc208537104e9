"""What the command line writes: levels, formats, what is left out, and pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep.cli import main

RATE_HZ = 44_100
pytestmark = pytest.mark.usefixtures("only_toys")
PIPED = (
    "import sys; from unisep.cli import main; from unisep.testing import toy_plugin\n"
    "with toy_plugin():\n    sys.exit(main(['separate', *sys.argv[1:]]))"
)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, (RATE_HZ // 2, 2))
    soundfile.write(tmp_path / "song.wav", samples, RATE_HZ, subtype="PCM_24")
    return tmp_path / "song.wav"


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    samples = np.sin(np.arange(RATE_HZ // 2) * 0.1)[:, None] * np.array([2.0, 1.5])
    soundfile.write(tmp_path / "loud.wav", samples, RATE_HZ, subtype="FLOAT")
    return tmp_path / "loud.wav"


def separated(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[dict, str]:
    """The JSON of one input, and what was said beside it."""
    capsys.readouterr()
    assert main(["separate", *map(str, argv), "--json"]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    (file,) = json.loads(out)["files"]
    return file, err


def wrong(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main(["separate", *map(str, argv)]) == 2
    return capsys.readouterr().err


def piped(*argv: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PIPED, *map(str, argv)]
    environment = {**os.environ, "UNISEP_PLUGINS": "-*"}
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)


# levels


def test_float32_keeps_the_level_of_what_would_clip(loud: Path, tmp_path: Path, capsys) -> None:
    file, err = separated(capsys, loud, "-q", "guitar", "-o", tmp_path / "out", "--float32")
    (target, _), rest = soundfile.read(file["outputs"]["guitar"]), soundfile.read(file["outputs"]["rest"])[0]
    assert file["gain"] == 1.0 and "scaled" not in err
    np.testing.assert_allclose(target + rest, soundfile.read(loud)[0], atol=1e-6)
    assert np.abs(target).max() > 1.5
    assert {soundfile.info(path).subtype for path in file["outputs"].values()} == {"FLOAT"}
    assert "PCM_24, PCM_16" in wrong(capsys, loud, "-q", "a", "-o", tmp_path / "x", "--float32", "--format", "flac")
    assert "not allowed" in wrong(capsys, loud, "-q", "a", "--float32", "--subtype", "PCM_16")


def test_a_fixed_headroom_makes_two_runs_line_up(loud: Path, tmp_path: Path, capsys) -> None:
    def run(text: str, *flags: object) -> tuple[dict, str]:
        return separated(capsys, loud, "-q", text, "--format", "flac", "-o", tmp_path / text, *flags)

    assert run("guitar")[0]["gain"] != run("hat")[0]["gain"], "each by itself is scaled by what it needs"
    for text in ("guitar", "hat"):
        file, err = run(text, "--headroom", "12")
        assert file["gain"] == pytest.approx(10 ** (-12 / 20)) and "scaled" not in err
        parts = [soundfile.read(path)[0] for path in file["outputs"].values()]
        np.testing.assert_allclose(sum(parts), soundfile.read(loud)[0] * 10 ** (-12 / 20), atol=2**-22)
    lossy, _ = run("guitar", "--headroom", "12", "--format", "ogg")
    assert 0.3 < np.abs(soundfile.read(lossy["outputs"]["guitar"])[0]).max() < 0.6
    file, err = run("guitar", "--headroom", "1")
    assert file["gain"] < 10 ** (-1 / 20) and "--headroom 7 would be the same for every run" in err
    flags = [loud, "-q", "a", "--headroom", "-1", "-o", tmp_path / "out"]
    assert "--headroom -1.0: give 0 to 100 decibels" in wrong(capsys, *flags)


@pytest.mark.parametrize(
    ("flags", "suffix", "subtype"),
    [
        (["--mp3"], ".mp3", "MPEG_LAYER_III"),
        (["--mp3", "--mp3-bitrate", "128"], ".mp3", "MPEG_LAYER_III"),
        (["--int24"], ".wav", "PCM_24"),
        (["--float32"], ".wav", "FLOAT"),
        (["-n", "toy", "-d", "cpu", "--two-stems", "low"], ".wav", "PCM_24"),
    ],
)
def test_what_users_of_demucs_type_is_understood(song: Path, tmp_path: Path, capsys, flags, suffix, subtype) -> None:
    question = [] if "-n" in flags else ["-q", "bass"]
    file, _ = separated(capsys, song, *question, *flags, "-o", tmp_path / "out")
    for path in file["outputs"].values():
        assert path.endswith(suffix) and soundfile.info(path).subtype == subtype


# what is left out


def test_a_rest_of_nothing_is_not_written(song: Path, tmp_path: Path, capsys) -> None:
    file, err = separated(capsys, song, "-o", tmp_path / "out", "--backend", "toy")
    assert list(file["outputs"]) == ["low", "high"] and file["nothing_left"]
    assert sorted(path.name for path in (tmp_path / "out" / "song").iterdir()) == ["high.wav", "low.wav"]
    assert "these stems leave nothing, so no rest is written" in err
    for flags in (["--two-stems", "low"], ["-q", "bass"]):
        file, _ = separated(capsys, song, "-o", tmp_path / "out", "--backend", "toy", *flags)
        assert "rest" in file["outputs"] and not file["nothing_left"]
    again = [song, "-o", tmp_path / "out", "--backend", "toy", "--resume"]
    assert separated(capsys, *again)[0]["state"] == "skipped", "what was not written is not missed"


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_an_interrupt_leaves_no_empty_folder(song: Path, tmp_path: Path, capsys, monkeypatch, subtype: str) -> None:
    from unisep.engine.runner import BackendRunner

    def interrupted(*_: object) -> None:
        assert (tmp_path / "a" / "b").is_dir(), "the files are open"
        raise KeyboardInterrupt

    monkeypatch.setattr(BackendRunner, "run", interrupted)
    (tmp_path / "a").mkdir()
    flags = ["-q", "bass", "-o", str(tmp_path / "a" / "b"), "--format", "wav", "--subtype", subtype]
    assert main(["separate", str(song), *flags]) == 130
    assert list((tmp_path / "a").iterdir()) == [], "and what was there before stays"


# pipes


def test_from_standard_input_to_standard_output(song: Path, tmp_path: Path, capsys) -> None:
    plain, _ = separated(capsys, song, "-q", "bass", "-o", tmp_path / "out")
    done = piped("-", "-q", "bass", "-o", "-", stdin=song.read_bytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout == Path(plain["outputs"]["bass"]).read_bytes()
    assert b"standard input: 0.5 s of audio" in done.stderr and b"unisep-pipe" not in done.stderr
    done = piped(song, "-n", "toy", "--two-stems", "low", "--float32", "-o", "-", "--quiet")
    assert done.returncode == 0 and done.stderr == b""
    assert soundfile.info(io.BytesIO(done.stdout)).subtype == "FLOAT"


def test_from_standard_input_to_a_folder(song: Path, tmp_path: Path) -> None:
    done = piped("-", "-q", "bass", "-o", tmp_path / "out", "--json", stdin=song.read_bytes())
    (file,) = json.loads(done.stdout)["files"]
    assert (
        file["input"] == "standard input" and Path(file["outputs"]["bass"]) == tmp_path / "out" / "stdin" / "bass.wav"
    )


@pytest.mark.parametrize("content", [b"", b"no audio at all" * 99])
def test_what_is_wrong_with_standard_input_is_said(content: bytes, tmp_path: Path) -> None:
    done = piped("-", "-q", "bass", "-o", "-", stdin=content)
    assert done.returncode == 1 and done.stdout == b""
    assert (
        done.stderr.startswith(b"unisep: error: standard input: standard input ") and b"unisep-pipe" not in done.stderr
    )


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-q", "a", "-q", "b"],
        ["--stems", "low,high"],
        ["-q", "a", "--json"],
        ["-q", "a", "--resume"],
        ["-q", "a", "--filename", "{stem}.{ext}"],
        ["-q", "a", "--format", "flac"],
        ["-q", "a", "SONG"],
        ["-q", "a", "FOLDER"],
        ["-q", "a", "PATTERN"],
    ],
)
def test_standard_output_takes_one_result(song: Path, tmp_path: Path, capsys, flags: list[str]) -> None:
    places = {"FOLDER": [tmp_path], "PATTERN": [tmp_path / "*.wav"], "SONG": [song, song]}
    inputs = next((places[flag] for flag in flags if flag in places), [song])
    flags = [flag for flag in flags if flag not in places]
    assert "-o - writes one result as wav to standard output" in wrong(capsys, *inputs, *flags, "-o", "-")
    assert not Path("-").exists()


def test_standard_input_is_one_recording_and_no_terminal(song: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    for flags in (["-"], ["-", "-"], ["-", "--resume"]):
        assert "- is one recording from standard input" in wrong(capsys, *flags, "-q", "bass", "-o", tmp_path / "out")
