import json
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep.cli import main

RATE_HZ = 44_100
pytestmark = pytest.mark.usefixtures("only_toys")
TOY = ["--backend", "toy", "--query-backend", "toy", "--encoder", "toy"]


@pytest.fixture
def song(tmp_path):
    return write(tmp_path / "song.wav")


def write(path, n_samples=RATE_HZ // 2, seed=0, level=0.1):
    samples = np.random.default_rng(seed).normal(0, level, (n_samples, 2))
    soundfile.write(path, samples, RATE_HZ, subtype="PCM_24")
    return path


def separate(*argv):
    return main(["separate", *map(str, argv)])


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(path):
    return soundfile.read(path, dtype="float64")[0]


def test_a_text_question_writes_the_target_and_the_rest(song, tmp_path, capsys):
    assert separate(song, "-q", "bass", "-o", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "out/song/bass.wav"), str(tmp_path / "out/song/rest.wav")]
    target, rest = (read(line) for line in out.splitlines())
    assert np.abs(target).max() > 0
    np.testing.assert_allclose(target + rest, read(song), atol=2**-22)
    assert soundfile.info(out.splitlines()[0]).subtype == "PCM_24"
    assert "bass (presence 0." in err and "toy with toy" in err


def test_fixed_stems_without_a_question(song, tmp_path):
    assert separate(song, "-o", tmp_path / "out", *TOY[:2]) == 0
    assert files_in(tmp_path / "out/song") == ["high.wav", "low.wav"]


@pytest.mark.parametrize("flags", [["--stems", "high"], ["--two-stems", "high"]])
def test_one_stem_and_the_rest(song, tmp_path, flags):
    assert separate(song, "-o", tmp_path / "out", *TOY[:2], *flags) == 0
    assert files_in(tmp_path / "out/song") == ["high.wav", "rest.wav"]


def test_several_questions_in_one_pass_as_json(song, tmp_path, capsys):
    assert separate(song, "-q", "bass", "-q", "hat", "-o", tmp_path / "out", "--json", "--quiet") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert (result["n_done"], result["n_skipped"], result["n_failed"]) == (1, 0, 0)
    (file,) = result["files"]
    assert list(file["outputs"]) == ["bass", "hat", "rest"]
    assert all(Path(path).is_file() for path in file["outputs"].values())
    assert file["plan"]["bass"]["backend"] == "toy"
    assert 0 <= file["presence"]["hat"] <= 1
    (segment,) = file["presence_over_time"]["hat"]
    assert segment == {"start_seconds": 0.0, "stop_seconds": 0.5, "presence": file["presence"]["hat"]}
    assert file["gain"] == 1.0 and file["seconds"] >= 0


def test_text_clip_exclusion_and_range_are_one_question(song, tmp_path):
    clip = write(tmp_path / "clip.flac", seed=1)
    flags = ["-q", "bass", "--query-audio", clip, "--mix", "text=0.3,audio=0.7", "--exclude", "hat"]
    assert separate(song, *flags, "--time-range", "0.1-0.25", "-o", tmp_path / "out") == 0
    target = read(tmp_path / "out/song/bass.wav")
    assert np.abs(target[int(0.12 * RATE_HZ) : int(0.24 * RATE_HZ)]).max() > 0
    assert not target[int(0.3 * RATE_HZ) :].any()


def test_a_part_of_the_recording_itself_as_example(song, tmp_path):
    assert separate(song, "--example-range", "0.1-0.4", "-o", tmp_path / "out") == 0
    assert files_in(tmp_path / "out/song") == ["example-1.wav", "rest.wav"]


def test_an_embedding_needs_something_to_embed_and_a_place(song, tmp_path, capsys):
    assert main(["embed", "-o", str(tmp_path / "v.safetensors")]) == 2
    assert "Nothing to embed. Give a text, --audio FILE, or both." in capsys.readouterr().err
    assert main(["embed", "bass", "-o", str(song / "v.safetensors"), "--query-backend", "toy"]) == 1
    assert "Choose another place with -o." in capsys.readouterr().err


def test_an_embedding_never_replaces_its_clip(song, capsys):
    before = song.read_bytes()
    assert main(["embed", "--audio", str(song), "-o", str(song), "--query-backend", "toy"]) == 2
    assert "would replace the clip" in capsys.readouterr().err and song.read_bytes() == before


def test_a_sound_is_learnt_from_files_and_asked_for(song, tmp_path, monkeypatch, capsys):
    for name, value in {"N_PASSES": 1, "N_WINDOWS": 4, "N_TESTS": 2, "WINDOW_SECONDS": 0.1}.items():
        monkeypatch.setattr(f"unisep.session.learn.{name}", value)
    clips = [str(write(tmp_path / f"{seed}.wav", seed=seed)) for seed in (1, 2, 3)]
    vector = tmp_path / "hit.safetensors"
    options = ["--others", clips[2], "-o", str(vector), "--query-backend", "toy", "--encoder", "toy"]
    assert main(["learn", *clips[:2], *options, "--seed", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    provenance = json.loads(out)["provenance"]
    assert {"query": "hit", "clips": "2", "others": "1", "seed": "5"}.items() <= provenance.items()
    assert provenance["learnt"] in err
    assert separate(song, "--embedding", f"hit={vector}", "-o", tmp_path / "out") == 0
    assert (tmp_path / "out/song/hit.wav").is_file()


def test_nothing_is_written_where_nothing_can_be_learnt(song, tmp_path, capsys):
    write(tmp_path / "silent.wav", level=0)
    vector, before = tmp_path / "v.safetensors", song.read_bytes()
    toys = ["--query-backend", "toy", "--encoder", "toy", "-o"]
    for clips, out, words in (
        ([song, tmp_path / "silent.wav"], vector, "Clip 2 of CLIP is silent"),
        ([song] * 11, vector, "1 to 10 clips, not 11"),
        ([song, "--others", tmp_path / "silent.wav"], vector, "Clip 1 of --others is silent"),
        ([song], song, "would replace the clip"),
    ):
        assert main(["learn", *map(str, clips), *toys, str(out)]) == 2
        assert words in capsys.readouterr().err
    assert not vector.exists() and song.read_bytes() == before


def test_an_embedding_made_by_embed_asks_the_same(song, tmp_path, capsys):
    vector = tmp_path / "bass.safetensors"
    assert main(["embed", "bass", "-o", str(vector), "--query-backend", "toy", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["space"] == "toy-bands-1" and made["path"] == str(vector)
    assert separate(song, "--embedding", vector, "-o", tmp_path / "by-vector") == 0
    assert separate(song, "-q", "bass", "-o", tmp_path / "by-text") == 0
    by_vector, by_text = tmp_path / "by-vector/song/embedding-1.wav", tmp_path / "by-text/song/bass.wav"
    np.testing.assert_allclose(read(by_vector), read(by_text), atol=2**-22)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--exclude", "hat"], "--exclude"),
        (["--time-range", "1-2"], "--time-range"),
        (["-q", "bass", "--stems", "low"], "--stems"),
        (["-q", "bass", "-q", "bass"], "named 'bass'"),
        (["-q", "rest"], "reserved"),
        (["-q", "  "], "empty"),
        (["-q", "bass", "-q", "hat", "--query-audio", "SONG"], "one question"),
        (["--backend", "toy", "--stems", "drums"], "low, high"),
        (["-q", "bass", "--overlap", "0.9"], "overlap"),
        (["-q", "bass", "--segment", "0"], "segment"),
        (["-q", "bass", "--segment", "60"], "at most"),
        (["-q", "bass", "--shifts", "-1"], "shifts"),
        (["-q", "bass", "--device", "toaster"], "toaster"),
        (["-q", "bass", "--format", "docx"], "docx"),
        (["-q", "bass", "--format", "wav", "--bitrate", "128"], "lossy"),
        (["-q", "bass", "--format", "flac", "--subtype", "FLOAT"], "PCM_24"),
        (["-q", "bass", "--subtype", "PCM_16"], "--format"),
        (["-q", "bass", "--filename", "{track}.{ext}"], "{stem}"),
        (["-q", "bass", "-o", "SONG"], "folder"),
    ],
)
def test_wrong_usage_has_code_2_and_writes_nothing(song, tmp_path, capsys, flags, message):
    flags = [str(song) if flag == "SONG" else flag for flag in flags]
    assert separate(song, "-o", tmp_path / "out", *flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "nope"], "toy"),
        (["-q", "bass", "--query-backend", "toy-pan"], "queries"),
        (["-q", "bass", "--encoder", "nope"], "toy"),
        (["--backend", "toy", "--weights", "missing.safetensors"], "missing.safetensors"),
        (["--query-audio", "missing.wav"], "missing.wav"),
        (["--embedding", "missing.safetensors"], "unisep embed"),
    ],
)
def test_what_cannot_be_had_fails_before_any_file_is_touched(song, tmp_path, capsys, flags, message):
    assert separate(song, "-o", tmp_path / "out", *flags) in (1, 2)
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"not audio at all", None])
def test_a_bad_file_fails_without_stopping_the_others(song, tmp_path, capsys, content):
    bad = tmp_path / "bad.wav"
    if content is not None:
        bad.write_bytes(content)
    assert separate(bad, song, "-q", "bass", "-o", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "1 done, 0 skipped, 1 failed" in err
    assert f"failed: {bad}" in err and "Traceback" not in err
    assert files_in(tmp_path / "out") == [".unisep-done.jsonl", "song/bass.wav", "song/rest.wav"]


def test_an_error_that_nobody_foresaw_is_one_line_and_fails_that_file_only(song, tmp_path, monkeypatch, capsys):
    from unisep.separator import Separator

    whole = Separator.separate_file

    def fragile(self, audio, *arguments, **options):
        if Path(audio).name == "odd.wav":
            raise ZeroDivisionError("oops")
        return whole(self, audio, *arguments, **options)

    monkeypatch.setattr(Separator, "separate_file", fragile)
    odd = write(tmp_path / "odd.wav")
    assert separate(odd, song, "-q", "bass", "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in err and "--debug" in err and "Traceback" not in err
    assert (tmp_path / "out/song/bass.wav").is_file()


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_leaves_nothing_half_written(song, tmp_path, monkeypatch, sign, code):
    from unisep.files.writing import PartialFile

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(PartialFile, "finish", lambda _self: signal.raise_signal(sign))
    # What is started in the background ignores SIGINT, this test run perhaps too.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert separate(song, "-q", "bass", "-o", tmp_path / "out") == code
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert files_in(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_folders_and_templates(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    write(folder / "a.wav")
    write(folder / "b.flac")
    flags = ["-q", "bass", "--filename", "{stem}/{folder}-{track}.{ext}", "--format", "ogg", "--bitrate", "128"]
    assert separate(folder, "-o", tmp_path / "out", *flags) == 0
    found = [name for name in files_in(tmp_path / "out") if not name.startswith(".")]
    assert found == ["bass/album-a.ogg", "bass/album-b.ogg", "rest/album-a.ogg", "rest/album-b.ogg"]


def test_two_inputs_of_one_name_are_refused(tmp_path, capsys):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "song.wav")
    argv = [tmp_path / "a/song.wav", tmp_path / "b/song.wav", "-q", "bass", "-o", tmp_path / "out"]
    assert separate(*argv) == 2
    assert "{folder}" in capsys.readouterr().err
    assert separate(*argv, "--filename", "{folder}/{track}/{stem}.{ext}") == 0


def test_one_gain_is_reported_when_an_integer_format_would_clip(tmp_path, capsys):
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.full((RATE_HZ, 2), 2.0, dtype="float32"), RATE_HZ, subtype="FLOAT")
    assert separate(loud, "-q", "bass", "--format", "flac", "-o", tmp_path / "out", "--json") == 0
    out, err = capsys.readouterr()
    assert 0 < json.loads(out)["files"][0]["gain"] < 1
    assert "so that none clips" in err


def test_a_text_that_is_also_a_file_is_pointed_out(song, tmp_path, capsys):
    assert separate(song, "-q", song, "-o", tmp_path / "out") == 0
    assert "--query-audio" in capsys.readouterr().err


def run_json(capsys, *argv):
    code = separate(*argv, "--json", "--quiet")
    return code, json.loads(capsys.readouterr().out)


def test_resume_skips_what_is_complete_and_redoes_what_is_not(tmp_path, capsys):
    folder = tmp_path / "album"
    folder.mkdir()
    songs = [write(folder / f"{name}.wav", seed=seed) for seed, name in enumerate("abcd")]
    out = tmp_path / "out"
    argv = [folder, "-q", "bass", "-o", out, "--resume"]
    assert run_json(capsys, *argv)[1]["n_done"] == 4
    (out / "a/bass.wav").unlink()
    (out / "b/rest.wav").write_bytes(b"damaged")
    write(songs[2], seed=9)
    code, result = run_json(capsys, *argv)
    assert code == 0
    assert [file["state"] for file in result["files"]] == ["done", "done", "done", "skipped"]
    assert result["files"][3]["outputs"]["bass"] == str(out / "d/bass.wav")
    assert result["files"][3]["plan"]["bass"]["backend"] == "toy"
    assert run_json(capsys, *argv)[1]["n_skipped"] == 4
    assert run_json(capsys, *argv, "--overlap", "0.5")[1]["n_done"] == 4
    assert run_json(capsys, folder, "-q", "bass", "-o", out)[1]["n_done"] == 4, "without --resume all is done again"


def test_resume_survives_a_record_cut_short(song, tmp_path, capsys):
    out = tmp_path / "out"
    argv = [song, "-q", "bass", "-o", out, "--resume"]
    separate(*argv)
    record = out / ".unisep-done.jsonl"
    record.write_bytes(record.read_bytes()[:-40])
    capsys.readouterr()
    assert run_json(capsys, *argv)[1]["n_done"] == 1
    assert run_json(capsys, *argv)[1]["n_skipped"] == 1


def test_resume_looks_at_the_content_of_an_example(song, tmp_path, capsys):
    clip = write(tmp_path / "clip.wav", seed=3)
    argv = [song, "--query-audio", clip, "-o", tmp_path / "out", "--resume"]
    separate(*argv)
    capsys.readouterr()
    assert run_json(capsys, *argv)[1]["n_skipped"] == 1
    write(clip, seed=4)
    assert run_json(capsys, *argv)[1]["n_done"] == 1


def test_a_folder_that_holds_its_own_results_gives_only_recordings(tmp_path, capsys):
    folder = tmp_path / "album"
    folder.mkdir()
    write(folder / "a.wav")
    argv = [folder, "-q", "bass", "-o", folder, "--recursive"]
    assert run_json(capsys, *argv)[1]["n_done"] == 1
    assert [Path(file["input"]).name for file in run_json(capsys, *argv)[1]["files"]] == ["a.wav"]
