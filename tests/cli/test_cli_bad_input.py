"""What people really pass: each works, or fails with a sentence; none of it shows a traceback."""

import numpy as np
import pytest
import soundfile

from unisep import Embedding
from unisep.cli import main

RATE_HZ = 44_100
pytestmark = pytest.mark.usefixtures("only_toys")


def noise(n_samples, n_channels=2):
    return np.random.default_rng(0).normal(0, 0.1, (n_samples, n_channels)).astype(np.float32)


def wav(path, samples, rate_hz=RATE_HZ, subtype="FLOAT"):
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def with_value(value):
    samples = noise(1000)
    samples[500, 1] = value
    return samples


def link_in_a_circle(path):
    path.symlink_to(path)
    return path


def truncated(path):
    whole = wav(path, noise(20_000), subtype="PCM_16").read_bytes()
    path.write_bytes(whole[:30])
    return path


FAILS = {
    "missing": lambda path: path,
    "empty": lambda path: path.write_bytes(b"") and path,
    "text": lambda path: path.write_text("this is no audio"),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "truncated header": truncated,
    "no samples": lambda path: wav(path, noise(0)),
    "NaN": lambda path: wav(path, with_value(np.nan)),
    "infinity": lambda path: wav(path, with_value(np.inf)),
    "three channels": lambda path: wav(path, noise(100, 3)),
    "eight channels": lambda path: wav(path, noise(100, 8)),
    "a link in a circle": link_in_a_circle,
    "a folder without audio": lambda path: path.mkdir(),
}
WORKS = {
    "one sample": lambda path: wav(path, noise(1)),
    "mono": lambda path: wav(path, noise(3000, 1)),
    "8 kHz": lambda path: wav(path, noise(3000), 8_000),
    "192 kHz": lambda path: wav(path, noise(3000), 192_000),
    "8 bit": lambda path: wav(path, noise(3000), subtype="PCM_U8"),
    "float64": lambda path: wav(path, noise(3000), subtype="DOUBLE"),
    "beyond full scale": lambda path: wav(path, noise(3000) * 50),
}


@pytest.mark.parametrize("kind", FAILS)
def test_bad_recordings_fail_with_a_sentence(kind, tmp_path, capsys):
    path = tmp_path / "song.wav"
    FAILS[kind](path)
    assert main(["separate", str(path), "-q", "bass", "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "unexpected" not in err
    assert "unisep: error: " in err and str(path) in err
    assert not list((tmp_path).rglob("bass.wav"))


@pytest.mark.parametrize("kind", FAILS)
def test_bad_examples_fail_before_any_work(kind, tmp_path, capsys):
    song, path = wav(tmp_path / "good.wav", noise(3000)), tmp_path / "example.wav"
    FAILS[kind](path)
    assert main(["separate", str(song), "--query-audio", str(path), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and "unexpected" not in err and "unisep: error: " in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", WORKS)
def test_unusual_recordings_and_examples_work(kind, tmp_path, capsys):
    path = WORKS[kind](tmp_path / "song.wav")
    assert main(["separate", str(path), "-q", "bass", "-o", str(tmp_path / "text")]) == 0
    assert main(["separate", str(path), "--query-audio", str(path), "-o", str(tmp_path / "clip")]) == 0
    out = capsys.readouterr().out.splitlines()
    before, after = soundfile.info(path), soundfile.info(out[0])
    assert len(out) == 4
    assert (after.samplerate, after.channels, after.frames) == (before.samplerate, before.channels, before.frames)


def test_a_silent_recording_works_and_a_silent_example_is_refused(tmp_path, capsys):
    silent, song = wav(tmp_path / "silent.wav", noise(3000) * 0), wav(tmp_path / "song.wav", noise(3000))
    assert main(["separate", str(silent), "-q", "bass", "-o", str(tmp_path / "out")]) == 0
    assert main(["separate", str(song), "--query-audio", str(silent), "-o", str(tmp_path / "out")]) == 1
    assert "silent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (Embedding(np.ones(7, np.float32), "toy-bands-1"), "4 values"),
        (Embedding(np.ones(4, np.float32), "another-space"), "another-space"),
    ],
)
def test_vectors_of_another_size_or_space_are_refused(embedding, message, tmp_path, capsys):
    song, vector = wav(tmp_path / "song.wav", noise(3000)), embedding.save(tmp_path / "v.safetensors")
    assert main(["separate", str(song), "--embedding", str(vector), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and "unexpected" not in err


def test_a_range_beyond_the_recording_is_said(tmp_path, capsys):
    song = wav(tmp_path / "song.wav", noise(3000))
    flags = ["-q", "bass", "--time-range", "30-60", "-o", str(tmp_path / "out")]
    assert main(["separate", str(song), *flags]) == 1
    err = capsys.readouterr().err
    assert "30" in err and "Traceback" not in err and "unexpected" not in err


def test_a_rate_that_the_format_cannot_hold_is_said(tmp_path, capsys):
    song = wav(tmp_path / "song.wav", noise(3000), 192_000)
    assert main(["separate", str(song), "-q", "bass", "--format", "mp3", "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "192000" in err and "Traceback" not in err
    assert not list((tmp_path / "out").rglob("*.mp3"))
