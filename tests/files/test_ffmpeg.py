"""ffmpeg reads the one file it is given, and nothing that this file points to. Skipped where it is not installed."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep import Audio, Separator, files
from unisep.errors import AudioFileError
from unisep.files import ffmpeg
from unisep.files.containers import ogg_checksum
from unisep.testing import tone, toy_plugin

PROGRAM = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(PROGRAM is None, reason="the ffmpeg program is not installed")

POINTERS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile {secret}\n",
    "list-by-another-name.mp3": "ffconcat version 1.0\nfile {secret}\n",
    "playlist-by-another-name.wav": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="audio/wav"><Representation id="1" '
    'bandwidth="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "graph.lavfi": "sine=frequency=440:duration=1",
}


def plainly(*arguments: object) -> int:
    """The exit code of ffmpeg without any of our limits."""
    assert PROGRAM is not None
    command = [PROGRAM, "-nostdin", "-loglevel", "quiet", "-y", *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return files.write(tmp_path / "secret.wav", tone(440, 1.0))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["song.m4a", "song.mka", "song.wma", "-odd: name%03d.m4a"])
def test_what_only_ffmpeg_can_read_is_read_like_any_other(name: str, secret: Path, tmp_path: Path) -> None:
    assert (
        plainly(
            "-i", secret, "-f", {"m4a": "mp4", "mka": "matroska", "wma": "asf"}[name[-3:]], f"file:{tmp_path / name}"
        )
        == 0
    )
    audio = files.read(tmp_path / name)
    assert (audio.sample_rate_hz, audio.n_channels) == (44_100, 2)
    assert 0.95 < audio.seconds < 1.1
    assert float(np.abs(audio.samples).max()) == pytest.approx(0.5, abs=0.05)
    with toy_plugin():
        stems = Separator("toy", offline=True).separate(tmp_path / name)
    assert stems.target.samples.shape == audio.samples.shape


@needs_ffmpeg
@pytest.mark.parametrize("name", POINTERS)
def test_playlists_and_lists_of_files_are_refused(name: str, secret: Path, tmp_path: Path) -> None:
    pointer = tmp_path / name
    pointer.write_text(POINTERS[name].format(secret=secret))
    with pytest.raises(AudioFileError, match="cannot be decoded"):
        files.read(pointer)
    relative = tmp_path / f"relative-{name}"
    relative.write_text(POINTERS[name].format(secret=secret.name))
    with pytest.raises(AudioFileError, match="cannot be decoded"):
        files.read(relative)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_those_lists_would_work_without_our_limits(name: str, secret: Path, tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    pointer = tmp_path / name
    pointer.write_text(POINTERS[name].format(secret=secret.name))
    loose = ["-safe", "0"] if name.endswith("ffconcat") else ["-allowed_extensions", "ALL", "-extension_picky", "0"]
    assert plainly(*loose, "-i", pointer, tmp_path / "out.wav") == 0
    assert files.read(tmp_path / "out.wav").seconds == pytest.approx(1.0, abs=0.1)


@needs_ffmpeg
def test_more_sound_than_is_allowed_is_refused(secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly("-f", "lavfi", "-i", "anullsrc=d=60", tmp_path / "long.m4a")
    assert (tmp_path / "long.m4a").stat().st_size < 200_000
    monkeypatch.setattr(ffmpeg, "MAX_DECODED_BYTES", 8 * 2**20)
    with pytest.raises(AudioFileError, match="larger than the limit of 8 MiB"):
        files.read(tmp_path / "long.m4a")


@needs_ffmpeg
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "bad.m4a").write_bytes(b"no sound at all" * 100)
    with pytest.raises(AudioFileError):
        files.read(tmp_path / "bad.m4a")
    assert not list(temporary.iterdir())


def test_the_command_allows_local_files_of_known_kinds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at, since it holds where ffmpeg is not installed too."""
    monkeypatch.setattr(ffmpeg, "program", lambda: "ffmpeg")
    seen: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        seen.append(command)
        assert options["stdin"] == subprocess.DEVNULL and options["timeout"] == ffmpeg.TIMEOUT_SECONDS
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(AudioFileError, match="could not decode"):
        ffmpeg.decode(Path("-i concat:x.wav"), tmp_path / "out.w64")
    (command,) = seen
    before_input = command[: command.index("-i")]
    assert before_input[before_input.index("-protocol_whitelist") + 1] == "file,pipe"
    assert int(before_input[before_input.index("-max_alloc") + 1]) <= 2**30
    allowed = before_input[before_input.index("-format_whitelist") + 1].split(",")
    assert not {"hls", "applehttp", "concat", "dash", "sdp", "rtsp", "rtp", "lavfi", "image2", "tty", "imf"} & set(
        allowed
    )
    assert command[command.index("-i") + 1] == f"file:{os.getcwd()}/-i concat:x.wav"
    assert "-fs" in command


@needs_ffmpeg
def test_m4a_is_written_as_it_is_read(tmp_path: Path) -> None:
    song = tone(440, 3.0)
    default, small = (
        files.write(tmp_path / f"{name}.m4a", song, bitrate_kbps=kbps) for name, kbps in (("a", None), ("b", 64))
    )
    back = files.read(default)
    n = song.n_samples
    assert n <= back.n_samples <= n + 44_100 and back.sample_rate_hz == 44_100
    assert np.abs(back.samples[:, 4_000 : n - 4_000] - song.samples[:, 4_000 : n - 4_000]).max() < 0.02
    assert small.stat().st_size < default.stat().st_size
    assert files.write(tmp_path / "again.m4a", song).read_bytes() == default.read_bytes(), "no stamps"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.m4a", "again.m4a", "b.m4a"]
    for kbps, rate_hz, message in ((9999, 44_100, "32 to 320"), (None, 192_000, "192000 Hz")):
        with pytest.raises(AudioFileError, match=message):
            files.write(tmp_path / "no.m4a", tone(440, 0.1, rate_hz), bitrate_kbps=kbps)


@needs_ffmpeg
def test_m4a_holds_tags(tmp_path: Path) -> None:
    pytest.importorskip("mutagen")
    from unisep.files.tags import Picture, Tags, read_tags

    texts = {"title": ["Über"], "artist": ["A", "B"], "composer": ["C"], "comment": ["one"], "tracknumber": ["3/12"]}
    pictures = (Picture(b"front", "image/png"), Picture(b"back", "image/jpeg"))
    files.write_all({tmp_path / "a.m4a": tone(440, 0.5)}, tags=Tags({**texts, "isrc": ["left behind"]}, pictures))
    tags = read_tags(tmp_path / "a.m4a")
    assert tags.texts == texts and tags.pictures == pictures
    assert files.read(tmp_path / "a.m4a").n_samples >= 22_050


@needs_ffmpeg
def test_an_m4a_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "_run", lambda *_: (_ for _ in ()).throw(AudioFileError("ffmpeg could not encode it")))
    with pytest.raises(AudioFileError, match="could not encode"):
        files.write_all({tmp_path / "new" / f"{name}.m4a": tone(440, 0.5) for name in "ab"})
    assert not (tmp_path / "new").exists()


def test_m4a_without_ffmpeg_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "program", lambda: None)
    song = files.write(tmp_path / "song.wav", tone(440, 0.5))
    with toy_plugin(), pytest.raises(AudioFileError, match="made by the ffmpeg program, which is not installed"):
        Separator("toy").separate_file(song, tmp_path / "out", format="m4a")
    assert not (tmp_path / "out").exists()


# what libsndfile reads in part


def opus_that_libsndfile_gives_up(path: Path, audio: Audio) -> Path:
    """A valid Opus file whose pages tell the time otherwise than packets add up, as some that ffmpeg writes."""
    data = bytearray(files.write(path, audio).read_bytes())
    starts = [match.start() for match in re.finditer(b"OggS", data)]
    for start in starts[len(starts) // 2 :][:1]:
        (granule,) = struct.unpack_from("<q", data, start + 6)
        n_segments = data[start + 26]
        end = start + 27 + n_segments + sum(data[start + 27 : start + 27 + n_segments])
        struct.pack_into("<q", data, start + 6, granule + 488)
        struct.pack_into("<I", data, start + 22, 0)
        struct.pack_into("<I", data, start + 22, ogg_checksum(data[start:end]))
    path.write_bytes(data)
    return path


def noise(seconds: float, rate_hz: int = 48_000) -> Audio:
    samples = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * rate_hz)))
    return Audio(samples.astype(np.float32), rate_hz)


@needs_ffmpeg
def test_what_libsndfile_calls_damaged_is_read_by_ffmpeg_where_that_finds_no_fault(tmp_path: Path) -> None:
    song = noise(12)
    path = opus_that_libsndfile_gives_up(tmp_path / "song.opus", song)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    whole = files.read(path)
    assert whole.samples.shape == song.samples.shape
    plain = files.read(files.write(tmp_path / "plain.opus", song))
    assert float(np.abs(whole.samples - plain.samples).max()) < 0.02
    for block_samples in (1000, 65_536, 300_000):
        blocks = [block.samples for block in files.read_blocks(path, block_samples)]
        assert {block.shape[1] for block in blocks[:-1]} <= {block_samples}
        assert np.array_equal(np.concatenate(blocks, axis=1), whole.samples)
    with files.opened(path) as opened:
        for start in (0, 1, 65_536, 100_000, 400_000, song.n_samples):
            rest = np.concatenate([np.zeros((2, 0)), *opened.blocks(50_000, start)], axis=1)
            assert np.array_equal(rest, whole.samples[:, start:])


@needs_ffmpeg
def test_such_a_file_is_separated_from_disk_to_disk_like_in_memory(tmp_path: Path) -> None:
    path = opus_that_libsndfile_gives_up(tmp_path / "song.opus", noise(6))
    with toy_plugin():
        separator = Separator("toy", offline=True)
        separator.separate_file(path, tmp_path, filename="{stem}.{ext}", format="wav", subtype="FLOAT")
        result = separator.separate(path)
    for name, target in {**result, "rest": result.rest}.items():
        assert np.array_equal(files.read(tmp_path / f"{name}.wav").samples, target.samples)


def test_without_ffmpeg_such_a_file_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = opus_that_libsndfile_gives_up(tmp_path / "song.opus", noise(6))
    monkeypatch.setattr(ffmpeg, "program", lambda: None)
    with pytest.raises(AudioFileError, match="damaged or cut short: it can be read up to"):
        files.read(path)


@needs_ffmpeg
@pytest.mark.parametrize("format", ["flac", "opus"])
def test_what_ffmpeg_finds_damaged_too_stays_damaged(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"song.{format}"
    if format == "flac":
        files.write(path, noise(4))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        data = bytearray(opus_that_libsndfile_gives_up(path, noise(12)).read_bytes())
        data[len(data) * 3 // 4] ^= 0xFF  # a page that is not what its checksum says
        path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(AudioFileError, match="damaged or cut short"), files.opened(path) as opened:
            list(opened.blocks(10_000))


GARBAGE = {
    "text": b"garbage\n",
    "random": np.random.default_rng(3).bytes(5000),
    "a tag": b"ID3\x03\x00\x00\x00\x00\x00\x00garbage",
    "a long tag": b"ID3\x03\x00\x00\x00\x00\x10\x00" + bytes(2048) + b"garbage" * 100,
    "one header": b"\xff\xfb\x90garbage",
}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("has_ffmpeg", [False, pytest.param(True, marks=needs_ffmpeg)])
def test_garbage_called_mp3_cannot_be_decoded_and_is_met_in_silence(
    kind: str, has_ffmpeg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp3").write_bytes(GARBAGE[kind])
    if not has_ffmpeg:
        monkeypatch.setattr(ffmpeg, "program", lambda: None)
    with pytest.raises(AudioFileError, match=r"cannot be decoded: .*'no MPEG audio is at its beginning'") as caught:
        files.read(tmp_path / "bad.mp3")
    assert "does not exist" not in str(caught.value)
    assert ("install ffmpeg" in str(caught.value)) is not has_ffmpeg
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("before", [b"", b"some junk " * 50, b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)])
def test_mp3_after_a_tag_or_some_junk_is_read_by_libsndfile(before: bytes, tmp_path: Path) -> None:
    song = files.write(tmp_path / "song.mp3", noise(1, 44_100))
    (tmp_path / "more.mp3").write_bytes(before + song.read_bytes())
    assert np.array_equal(files.read(tmp_path / "more.mp3").samples, files.read(song).samples)
    assert files.probe(tmp_path / "more.mp3").subtype == "MPEG_LAYER_III"
    (tmp_path / "nameless").write_bytes(song.read_bytes())
    assert files.probe(tmp_path / "nameless").format == "mp3"
