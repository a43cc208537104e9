"""A batch that is killed, or whose weights change, goes on from what is truly done."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep import BackendSpec, files, hookimpl, plugins
from unisep.cli import main
from unisep.cli.console import BatchProgress, Console, duration
from unisep.cli.separate import FILE_NAME
from unisep.progress import Progress
from unisep.testing import ToyBackend, noise
from unisep.weights.hashes import sha256_of

RATE_HZ = 44_100
N_KILLS = int(os.environ.get("UNISEP_KILLS", "12"))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for seed, name in enumerate("abcd"):
        samples = np.random.default_rng(seed).normal(0, 0.1, (RATE_HZ // 5, 2))
        soundfile.write(folder / f"{name}.wav", samples, RATE_HZ, subtype="PCM_24")
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["separate", *map(str, argv), "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def visible(folder: Path) -> dict[str, str]:
    """The files that carry a final name, and their sha256."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


# killed

# Runs the command again and again in children of one process that has imported everything. Each child
# kills itself (SIGKILL) at the call of a function whose number is drawn at random, anywhere in the run.
KILLED_AGAIN_AND_AGAIN = """
import json, os, random, signal, sys
from unisep import plugins
from unisep.cli import main
from unisep.testing import noise, toy_plugin
import unisep.cli.separate, unisep.separator

argv, whole, n_kills, seed = sys.argv[4:], sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def child(out, kill_at):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        n_calls = 0
        def count(frame, event, argument):
            nonlocal n_calls
            n_calls += event in ("call", "c_call")
            if n_calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        code = main(["separate", *argv, "-o", out, "--resume"])
        sys.setprofile(None)
        with open(out + ".calls", "w") as file:
            file.write(str(n_calls))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

with toy_plugin():
    assert child(whole, -1) == 0
    n_all = int(open(whole + ".calls").read())
    draw = random.Random(seed)
    for _ in range(n_kills):
        code = child(whole + "-killed", draw.randrange(n_all // 2))
        print(json.dumps(code), flush=True)
        sys.stdin.readline()
    print(json.dumps(child(whole + "-killed", -1)), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments_it_loses_nothing_and_leaves_nothing_half_written(album: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "out", tmp_path / "out-killed"
    seed = random.randrange(2**32)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, whole, str(N_KILLS), str(seed), album, "-q", "bass"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "UNISEP_PLUGINS": "-*", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None and process.stdout is not None
    codes, n_recorded = [], 0
    with process:
        for line in process.stdout:
            codes.append(json.loads(line))
            wanted = visible(whole)
            found = visible(out)
            assert found.items() <= wanted.items(), f"half a file under a final name, seed {seed}"
            recorded = records(out)
            assert len(recorded) >= n_recorded, f"a finished file was forgotten, seed {seed}"
            n_recorded = len(recorded)
            for record in recorded:
                for place, sha256 in record["outputs"].values():
                    assert found[place] == sha256, f"a finished file was lost, seed {seed}"
            process.stdin.write("\n")
            process.stdin.flush()
    assert codes[-1] == 0
    assert set(codes[:-1]) <= {-9, 0} and codes.count(-9) >= N_KILLS // 3, (codes, seed)
    assert visible(out) == visible(whole)
    assert len(visible(whole)) == 8


def records(out: Path) -> list[dict]:
    """The lines of the record that are whole."""
    path = out / FILE_NAME
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


# what decides a result


class Own:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        load = f"{__name__}:load_own"
        return [BackendSpec(name="own", load=load, summary="", stems=ToyBackend.info.sources)]


def load_own(**_: object) -> ToyBackend:
    return ToyBackend()


@pytest.mark.usefixtures("only_toys")
def test_resume_looks_at_the_content_of_the_weights(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "w.bin").write_bytes(b"one")
    argv = [album, "--backend", "own", "--weights", weights, "-o", tmp_path / "out", "--resume"]
    with plugins.registered(Own(), "own"):
        assert run_json(capsys, *argv)[1]["n_done"] == 4
        assert run_json(capsys, *argv)[1]["n_skipped"] == 4
        (weights / "w.bin").write_bytes(b"two")
        assert run_json(capsys, *argv)[1]["n_done"] == 4
        (tmp_path / "moved").mkdir()
        (weights / "w.bin").rename(tmp_path / "moved" / "w.bin")
        (tmp_path / "moved" / "w.bin").rename(weights / "w.bin")
        assert run_json(capsys, *argv)[1]["n_skipped"] == 4


@pytest.mark.usefixtures("only_toys")
def test_an_input_that_changed_while_it_was_separated_is_done_again(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    song, separate = album / "a.wav", ToyBackend.separate

    def meddling(self: ToyBackend, *given: object) -> object:
        soundfile.write(song, np.zeros((RATE_HZ // 5, 2)), RATE_HZ)
        return separate(self, *given)  # type: ignore[arg-type]

    argv = [song, "-q", "bass", "-o", tmp_path / "out", "--resume"]
    with monkeypatch.context() as patched:
        patched.setattr(ToyBackend, "separate", meddling)
        assert run_json(capsys, *argv)[1]["n_done"] == 1
    assert run_json(capsys, *argv)[1]["n_done"] == 1
    assert run_json(capsys, *argv)[1]["n_skipped"] == 1


@pytest.mark.usefixtures("only_toys")
def test_each_line_of_the_manifest_says_what_was_done_and_with_what(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_json(capsys, album, "-q", "bass", "-o", out)[0] == 0
    lines = records(out)
    assert [Path(line["input"]).name for line in lines] == ["a.wav", "b.wav", "c.wav", "d.wav"]
    for line in lines:
        assert line["sha256"] == sha256_of(Path(line["input"]))
        assert set(line["outputs"]) == {"bass", "rest"}
        assert "registered:toy" in line["asked"]["provenance"]
        assert line["details"]["plan"]["bass"]["backend"] == "toy"


@pytest.mark.usefixtures("only_toys")
def test_one_bad_file_anywhere_does_not_stop_the_rest(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "b.wav").write_bytes(b"RIFF, but no more")
    too_long = "x" * 5000
    code, result = run_json(capsys, too_long, album, album / "none.wav", "-q", "bass", "-o", tmp_path / "out")
    assert code == 1
    assert [file["state"] for file in result["files"]] == ["failed", "done", "failed", "done", "done", "failed"]
    assert (result["n_done"], result["n_skipped"], result["n_failed"]) == (3, 0, 3)
    assert len(visible(tmp_path / "out")) == 6


@pytest.mark.usefixtures("only_toys")
def test_results_never_replace_another_input_of_the_batch(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = album / "b" / "low.wav"
    inner.parent.mkdir()
    (album / "c.wav").rename(inner)
    before = inner.read_bytes()
    argv = [album, "-r", "-o", album, "--backend", "toy", "--stems", "low"]
    code, result = run_json(capsys, *argv)
    assert code == 1
    states = {Path(file["input"]).relative_to(album).as_posix(): file for file in result["files"]}
    assert {name: file["state"] for name, file in states.items()} == {
        "a.wav": "done",
        "b.wav": "failed",
        "b/low.wav": "done",
        "d.wav": "done",
    }
    assert f"'low' would replace the recording '{inner}'." in states["b.wav"]["error"]
    assert inner.read_bytes() == before and not (album / "b" / "rest.wav").exists()
    assert main(["separate", *map(str, argv[2:]), str(album / "b.wav")]) == 0  # alone, it may


@pytest.mark.usefixtures("only_toys")
@pytest.mark.parametrize("inputs", [("b/rest.wav", "a.wav"), ("a.wav", "b/rest.wav")])
def test_an_input_that_would_be_replaced_stops_no_other(
    album: Path, capsys: pytest.CaptureFixture[str], inputs: tuple[str, str]
) -> None:
    (album / "b").mkdir()
    (album / "c.wav").rename(album / "b" / "rest.wav")
    where = [*(album / name for name in inputs), "-o", album, "--filename", "{folder}/{stem}.{ext}"]
    code, result = run_json(capsys, *where, "--backend", "toy", "-o", album)
    assert (code, result["n_done"], result["n_failed"]) == (1, 1, 1)


@pytest.mark.usefixtures("only_toys")
def test_results_never_replace_an_example(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = album / "b" / "example-1.wav"
    clip.parent.mkdir()
    (album / "c.wav").rename(clip)
    before = clip.read_bytes()
    toys = ["--query-backend", "toy", "--encoder", "toy"]
    code, result = run_json(capsys, album / "a.wav", album / "b.wav", "--query-audio", clip, *toys, "-o", album)
    assert code == 1
    assert f"would replace the recording '{clip}'." in result["files"][1]["error"]
    assert clip.read_bytes() == before and not (album / "b" / "rest.wav").exists()


@pytest.mark.usefixtures("only_toys")
def test_names_that_are_not_utf_8_are_done_and_known_again(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4lter"))
    try:
        (album / "a.wav").rename(os.fsdecode(os.fsencode(album) + b"/Bj\xf6rk.wav"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    argv = [album, "-q", "bass", "-o", out, "--resume"]
    assert main(["separate", *map(str, argv)]) == 0
    assert "/Bjrk/bass.wav" in capsys.readouterr().out
    assert b"\\udcf6" in (out / FILE_NAME).read_bytes()
    code, result = run_json(capsys, *argv)
    assert (code, result["n_skipped"]) == (0, 4)
    assert "Bj\\udcf6rk.wav" in result["files"][0]["input"]
    for path in album.glob("Bj*"):
        path.write_bytes(b"RIFF, but no more")
    code, result = run_json(capsys, *argv)
    assert (code, result["n_failed"], result["n_skipped"]) == (1, 1, 3)


@pytest.mark.usefixtures("only_toys")
def test_the_summary_counts_and_names_what_failed(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "b.wav").write_bytes(b"")
    assert main(["separate", str(album), "-q", "bass", "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "unisep: 3 done, 0 skipped, 1 failed" in err
    assert err.rstrip().splitlines()[-1].startswith(f"unisep: failed: {album / 'b.wav'}: ")


@pytest.mark.usefixtures("only_toys")
def test_what_fails_for_all_but_only_later_does_not_hide_what_is_done(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unisep.errors import WeightsError

    separate = ToyBackend.separate
    n_calls: list[int] = []

    def gone(self: ToyBackend, *given: object) -> object:
        n_calls.append(1)
        if len(n_calls) > 1:
            raise WeightsError("the weights were removed")
        return separate(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(ToyBackend, "separate", gone)
    code, result = run_json(capsys, album, "-q", "bass", "-o", tmp_path / "out")
    assert (code, result["n_done"], result["n_failed"]) == (1, 1, 3)


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_fraction_and_time_of_the_file_and_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    sizes = {"skipped": 1000, "one": 100, "two": 300}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    now = [100.0]
    shown = BatchProgress(Console(), [tmp_path / name for name in sizes], clock=lambda: now[0])
    shown.ended(0, computed=False)

    def line(index: int, fraction: float, eta_seconds: float | None = None) -> str:
        callback = shown.of(index, f"{index}.wav")
        assert callback is not None
        callback(Progress(fraction, 0, 0, eta_seconds, "separating"))
        return terminal.getvalue().split("\x1b[2K")[-1]

    assert line(1, 0.0) == "[2/3] 1.wav: separating   0%; all:   0%"
    now[0] += 10
    assert line(1, 0.5, 10) == "[2/3] 1.wav: separating  50%, 10 s left; all:  12%, 1:10 min left"
    shown.ended(1, computed=True)
    now[0] += 30
    assert line(2, 1 / 3, 80) == "[3/3] 2.wav: separating  33%, 1:20 min left; all:  50%, 40 s left"


def test_a_single_file_has_no_line_about_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    callback = BatchProgress(Console(), [tmp_path]).of(0, "song.wav")
    assert callback is not None
    callback(Progress(0.25, 0, 0, 3, "separating"))
    assert sys.stderr.getvalue().endswith("song.wav: separating  25%, 3 s left")  # type: ignore[attr-defined]


@pytest.mark.parametrize("quiet", [True, False])
def test_nobody_is_told_where_nobody_looks(quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if quiet else io.StringIO())
    assert BatchProgress(Console(quiet=quiet), [tmp_path]).of(0, "song.wav") is None


@pytest.mark.usefixtures("only_toys")
def test_a_reader_that_goes_away_ends_the_batch_and_makes_nothing_fail(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Head(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stdout", Head())
    argv = ["separate", str(album), "-o", str(tmp_path / "out"), "--backend", "toy"]
    assert main(argv) == 1
    assert "error" not in capsys.readouterr().err
    assert {path.split("/")[0] for path in visible(tmp_path / "out")} == {"a"}


@pytest.mark.usefixtures("only_toys")
def test_without_a_console_it_works_all_the_same(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    argv = ["separate", str(album / "a.wav"), "-o", str(tmp_path / "out"), "--backend", "toy"]
    assert main(argv) == main([*argv, "--json"]) == 0


def test_times_to_wait() -> None:
    assert [duration(seconds) for seconds in (0, 59.4, 60, 3599.6, 36_000)] == [
        "0 s",
        "59 s",
        "1:00 min",
        "1:00 h",
        "10:00 h",
    ]


@pytest.mark.usefixtures("only_toys")
@pytest.mark.parametrize("name", ["out", os.fsdecode(b"\xe4lter")])
def test_a_result_never_replaces_that_of_another_input(name, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / name
    try:
        out.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    folder.mkdir()
    for name, rate_hz in (("song.wav", 44_100), ("song_hat.wav", 8_000)):
        files.write(folder / name, noise(0.3, rate_hz))
    options = ["-q", "bass", "-q", "hat_bass", "--filename", "{track}_{stem}.{ext}", "-o", out, "--json"]
    for more in ([], ["--resume"]):
        code = main(["separate", str(folder), *map(str, options), *more])
        first, second = json.loads(capsys.readouterr().out)["files"]
        assert code == 1 and first["state"] == ("skipped" if more else "done")
        assert second["state"] == "failed" and "the result of another input" in second["error"]
        assert soundfile.info(os.fsencode(out / "song_hat_bass.wav")).samplerate == 44_100


def test_an_output_folder_below_a_file_is_refused_before_anything_is_computed(tmp_path, capsys):
    files.write(tmp_path / "a.wav", noise(0.2, 8_000))
    for out in (tmp_path / "a.wav", tmp_path / "a.wav" / "sub" / "more"):
        assert main(["separate", str(tmp_path / "a.wav"), "-o", str(out)]) == 2
        assert "a.wav is a file. Give a folder." in capsys.readouterr().err


@pytest.mark.usefixtures("only_toys")
def test_a_folder_of_results_alone_says_what_they_are(tmp_path, capsys):
    files.write(tmp_path / "a.wav", noise(0.2, 8_000))
    out = tmp_path / "out"
    argv = ["separate", "-q", "bass", "-o", str(out)]
    assert main([*argv, str(tmp_path / "a.wav")]) == 0
    assert main([*argv, str(out), "--recursive"]) == 1
    assert "All 2 audio files in" in capsys.readouterr().err
