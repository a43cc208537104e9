"""What is asked on the command line: names, ranges, files of questions, and messages in the words of its options."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep.cli import main
from unisep.errors import arg
from unisep.query.query import Embedding
from unisep.testing.toy import SPACE

RATE_HZ = 44_100
pytestmark = pytest.mark.usefixtures("only_toys")


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return noise(tmp_path / "song.wav")


def noise(path: Path, seconds: float = 0.5, seed: int = 0) -> Path:
    samples = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * RATE_HZ), 2))
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def results(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, np.ndarray]:
    """The targets, read."""
    capsys.readouterr()
    assert main(["separate", *map(str, argv), "--json"]) == 0, capsys.readouterr().err
    (file,) = json.loads(capsys.readouterr().out)["files"]
    return {name: soundfile.read(path)[0] for name, path in file["outputs"].items() if name != "rest"}


def seconds_of_sound(samples: np.ndarray) -> tuple[float, float]:
    at = np.flatnonzero(samples.any(axis=1))
    return round(at[0] / RATE_HZ, 3), round((at[-1] + 1) / RATE_HZ, 3)


def wrong(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main([*map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_a_clip_names_its_result_and_a_name_may_be_given(song: Path, tmp_path: Path, capsys) -> None:
    lick, out = noise(tmp_path / "lick.wav", seed=1), tmp_path / "out"
    assert list(results(capsys, song, "--query-audio", lick, "-o", out)) == ["lick"]
    assert (out / "song" / "lick.wav").is_file()
    assert list(results(capsys, song, "--query-audio", lick, "--query-audio", lick, "-o", out)) == ["lick", "lick-2"]
    assert list(results(capsys, song, "--query-audio", f"lead={lick}", "-o", out)) == ["lead"]
    assert list(results(capsys, song, "-q", "lead=electric guitar", "-q", "bass", "-o", out)) == ["lead", "bass"]
    vector = Embedding(np.ones(4, np.float32), SPACE).save(tmp_path / "v.safetensors")
    assert list(results(capsys, song, "--embedding", f"v={vector}", "-o", out)) == ["v"]
    assert list(results(capsys, song, "-q", "bass", "--query-audio", lick, "-o", out)) == ["bass"]


def test_a_text_or_a_file_with_an_equals_sign_stays_whole(song: Path, tmp_path: Path, capsys) -> None:
    assert list(results(capsys, song, "-q", "a = b", "-q", "=c", "-o", tmp_path / "out")) == ["a = b", "=c"]
    assert list(results(capsys, song, "-q", "x=e=mc2", "-o", tmp_path / "out")) == ["x"]
    odd = noise(tmp_path / "a=b.wav", seed=1)
    assert list(results(capsys, song, "--query-audio", odd, "-o", tmp_path / "out")) == ["a=b"]


def test_ranges_may_be_open(song: Path, tmp_path: Path, capsys) -> None:
    for span, sound in (("0.1-", (0.1, 0.5)), ("-0.2", (0.0, 0.2)), ("0:0.1-0.3", (0.1, 0.3)), ("-0:0.2", (0, 0.2))):
        (target,) = results(capsys, song, "-q", "bass", "--time-range", span, "-o", tmp_path / "out").values()
        assert seconds_of_sound(target) == sound


def test_a_range_beyond_the_end_is_noted(song: Path, tmp_path: Path, capsys) -> None:
    assert main(["separate", str(song), "-q", "bass", "--time-range", "0.1-9", "-o", str(tmp_path / "out")]) == 0
    assert "bass: a time to 9 s is asked for, and the recording ends at 0.500 s." in capsys.readouterr().err


def test_a_range_is_for_all_questions_or_one_for_each(song: Path, tmp_path: Path, capsys) -> None:
    ask = [song, "-q", "bass", "-q", "hat", "-o", tmp_path / "out"]
    for_all = results(capsys, *ask, "--time-range", "0.1-0.2")
    assert {name: seconds_of_sound(samples) for name, samples in for_all.items()} == dict.fromkeys(for_all, (0.1, 0.2))
    for_each = results(capsys, *ask, "--time-range", "0.1-0.2", "--time-range", "0.3-0.4")
    assert [seconds_of_sound(samples) for samples in for_each.values()] == [(0.1, 0.2), (0.3, 0.4)]
    err = wrong(capsys, "separate", *ask, *["--time-range", "1-2"] * 3)
    assert "--time-range is there 3 times, for 2 questions" in err
    parts = results(capsys, song, "--example-range", "0.1-0.2", "--example-range", "0.3-0.4", "-o", tmp_path / "out")
    assert list(parts) == ["example-1", "example-2"]
    assert "--mix is there 2 times" in wrong(capsys, "separate", song, "-q", "a", *["--mix", "text=1"] * 2)


TABLES = """
[lead]
text = "guitar"
audio = "clips/lick.wav"
weights = { text = 0.3, audio = 0.7 }
time_range = [0.1, 0.2]
exclude = ["hat", { audio = "clips/lick.wav" }, { embedding = "v.safetensors" }]

[vector]
embedding = "v.safetensors"
time_range = [0.3, inf]

[third]
text = "bass"
name = "low end"
"""


def test_a_file_of_questions_holds_ranges_and_exclusions_for_each(song: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "asked" / "clips").mkdir(parents=True)
    noise(tmp_path / "asked" / "clips" / "lick.wav", seed=1)
    Embedding(np.array([0, 0, 1, 0], np.float32), SPACE).save(tmp_path / "asked" / "v.safetensors")
    file = tmp_path / "asked" / "questions.toml"
    file.write_text(TABLES)
    targets = results(capsys, song, "--queries", file, "-o", tmp_path / "out")
    spans = {name: seconds_of_sound(samples) for name, samples in targets.items()}
    assert spans == {"lead": (0.1, 0.2), "vector": (0.3, 0.5), "low end": (0.0, 0.5)}
    main(["explain", "--queries", str(file), "--json"])
    assert list(json.loads(capsys.readouterr().out)["answers"])
    again = [song, "--queries", file, "-o", tmp_path / "again", "--resume", "--json"]
    for clip_seed, states in ((1, ["done", "skipped"]), (2, ["done", "skipped"])):  # the content of a clip decides
        noise(tmp_path / "asked" / "clips" / "lick.wav", seed=clip_seed)
        for state in states:
            assert main(["separate", *map(str, again)]) == 0
            assert json.loads(capsys.readouterr().out)["files"][0]["state"] == state


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[lead]\ntxt = "guitar"', "file.toml, [lead]: A query has no field 'txt'. Allowed: text,"),
        ('[a]\ntext = "x"\n[b]\ntext = "y"\ntime_range = [5, 2]', "file.toml, [b]: (5.0, 2.0) is no range"),
        ("[lead]\ntime_range = [1, 2]", "file.toml, [lead]: The query asks for nothing"),
        ("[lead]\ntext = 3\n", "file.toml, [lead]: The query's 'text' cannot be used"),
        ('[lead]\ntext = "x"\nweights = { audio = 1 }', "file.toml, [lead]: weights names audio"),
        ('[lead]\ntext = "x"\nexclude = [{ sound = 1 }]', "file.toml, [lead]: A query has no field 'sound'"),
        ('[lead]\ntext = "x"\nembedding = [1.0]', "file.toml, [lead]: The query's 'embedding' cannot be used"),
        ('[rest]\ntext = "x"', "'rest' is reserved"),
        ("text = 'guitar'", "file.toml is not made of tables; write [lead]"),
        ("", "file.toml is not made of tables"),
        ("[lead", "file.toml cannot be read as TOML"),
        (None, "file.toml cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_of_questions_is_said_with_its_place(song, tmp_path, capsys, content, message) -> None:
    file = tmp_path / "file.toml"
    if content is not None:
        file.write_text(content)
    err = wrong(capsys, "separate", song, "--queries", file, "-o", tmp_path / "out")
    assert message in err and len(err.splitlines()) <= 2


def test_a_vector_that_a_file_of_questions_names_must_be_there(song: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file.toml").write_text('[lead]\ntext = "x"\nexclude = [{ embedding = "no.safetensors" }]')
    flags = ["--queries", str(tmp_path / "file.toml"), "-o", str(tmp_path / "out")]
    assert main(["separate", str(song), *flags]) == 1, "as for --embedding"
    assert "file.toml, [lead]: " in (err := capsys.readouterr().err) and "no.safetensors is no unisep embedding" in err


def test_a_file_of_questions_says_all(song: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "file.toml"
    file.write_text('[lead]\ntext = "guitar"')
    for more in (["-q", "bass"], ["--time-range", "1-2"], ["--exclude", "hat"]):
        assert "--queries FILE says all that is asked" in wrong(capsys, "separate", song, "--queries", file, *more)
    assert "--stems and --two-stems" in wrong(capsys, "separate", song, "--queries", file, "--stems", "low")


# Each of these is refused somewhere below the command line, by what Python calls too.
WRONG = [
    ["-q", "bass", "--segment", "0"],
    ["-q", "bass", "--segment", "60"],
    ["-q", "bass", "--overlap", "0.9"],
    ["-q", "bass", "--shifts", "-1"],
    ["-q", "bass", "--seed", "-1"],
    ["-q", "bass", "--device", "toaster"],
    ["-q", "bass", "--device", "cuda:99"],
    ["-q", "bass", "--precision", "float16", "--device", "cpu"],
    ["-q", "bass", "--precision", "half"],
    ["-q", "bass", "--route", "fixed"],
    ["-q", "bass", "-q", "bass"],
    ["-q", "rest"],
    ["-q", " "],
    ["-q", "bass", "--exclude", " "],
    ["-q", "bass", "--mix", "audio=1"],
    ["-q", "bass", "--mix", "text=-1"],
    ["-q", "bass", "--time-range", "30-60"],
    ["-q", "bass", "--time-range", "30-"],
    ["-q", "bass", "--query-backend", "toy-pan"],
    ["-q", "bass", "--query-backend", "nope"],
    ["-q", "bass", "--encoder", "nope"],
    ["-q", "bass", "--encoder", "toy@"],
    ["-q", "bass", "--filename", "{track}"],
    ["-q", "bass", "--filename", "../{stem}"],
    ["-q", "bass", "--filename", "{stem!r}"],
    ["-q", "bass", "--format", "docx"],
    ["-q", "bass", "--format", "mp3", "--bitrate", "9999"],
    ["-q", "bass", "--format", "flac", "--subtype", "FLOAT"],
    ["--example-range", "30-60"],
    ["--stems", "nope", "--backend", "toy"],
    ["--backend", "nope"],
    ["--backend", "ensemble@"],
    ["--backend", "toy", "--weights", "missing.safetensors"],
    ["-q", "bass", "--query-weights", "missing.safetensors"],
    ["-q", "bass", "--plugin", "TWICE", "--plugin", "AGAIN", "--query-backend", "double"],
]
_PYTHON = re.compile(
    r"\b(segment_seconds|overlap_fraction|query_backend|query_weights|bitrate_kbps|time_range|example_range|"
    r"sample_rate_hz)\b|\b(backend|encoder|device|precision|route|stems|shifts|seed|weights|plugins|filename|format|"
    r"subtype|exclude|name|query|text|folder)=(?!W|1)|Query\(|Path\(|\bNone\b|`exclude`|`audio`"
)
PLUGIN = """
from unisep import BackendSpec, hookimpl

@hookimpl
def unisep_backends():
    return [BackendSpec(name="double", load="unisep.testing.toy:load_backend", summary="", spaces=("toy-bands-1",))]
"""


@pytest.mark.parametrize("flags", WRONG, ids=" ".join)
def test_messages_speak_of_options_and_not_of_python(song: Path, tmp_path: Path, capsys, flags: list[str]) -> None:
    for name in ("TWICE", "AGAIN"):
        (tmp_path / f"{name.lower()}.py").write_text(PLUGIN)
    flags = [str(tmp_path / f"{flag.lower()}.py") if flag in ("TWICE", "AGAIN") else flag for flag in flags]
    assert main(["separate", str(song), "-o", str(tmp_path / "out"), *flags]) in (1, 2)
    err = capsys.readouterr().err
    assert "unisep: error: " in err and "Traceback" not in err and "unexpected" not in err
    assert not _PYTHON.search(err.replace(str(tmp_path), "")), err
    assert arg("seed", 3) == "seed=3", "in Python again"


def test_embed_and_explain_speak_of_options_too(tmp_path: Path, capsys) -> None:
    for argv in (
        ["embed", "bass", "--example-range", "1-2", "-o", tmp_path / "v.safetensors", "--query-backend", "toy"],
        ["embed", "bass", "--mix", "audio=1", "-o", tmp_path / "v.safetensors", "--query-backend", "toy"],
        ["explain", "-q", "bass", "--query-backend", "toy-pan"],
        ["explain", "-q", "bass", "--route", "fixed"],
    ):
        assert not _PYTHON.search(err := wrong(capsys, *argv)), err


def test_notes_and_plans_speak_of_options_too(song: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "hat").write_text("a file of that name")
    flags = ["-q", "bass", "--exclude", tmp_path / "hat", "--route", "conditioned", "-o", tmp_path / "out"]
    assert main(["separate", str(song), *map(str, flags)]) == 0
    err = capsys.readouterr().err
    assert "--exclude-audio" in err and not _PYTHON.search(err.replace(str(tmp_path), "")), err


def test_control_characters_never_reach_the_terminal(tmp_path: Path, capsys) -> None:
    nasty = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202etxt\rfake"
    song = noise(tmp_path / f"{nasty}.wav")
    out, raw = tmp_path / f"out{nasty}", re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
    assert main(["separate", str(song), "-q", f"bass{nasty}", "-o", str(out)]) == 0
    assert main(["separate", str(song), str(tmp_path / f"missing{nasty}"), "-q", "bass", "-o", str(out), "--json"]) == 1
    assert main(["separate", str(song), "-q", f"bass{nasty}", f"--{nasty}"]) == 2
    assert main(["separate", str(song), "-q", "bass", "--time-range", nasty]) == 2
    text = "".join(capsys.readouterr())
    assert not raw.search(text) and r"\u001b[31m" in text


def test_json_with_control_characters_still_says_what_they_are(tmp_path: Path, capsys) -> None:
    name = "\x1b[31m\x9b\u202e"
    song = noise(tmp_path / f"{name}.wav")
    assert main(["separate", str(song), "-q", "bass", "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["input"] == str(song)
