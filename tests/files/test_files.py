from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import struct
import subprocess
import sys
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unisep import Audio, files
from unisep.errors import AudioError, AudioFileError
from unisep.files import ffmpeg, writing
from unisep.files import reading as sources
from unisep.files.formats import AudioFileInfo, Encoding

FLOAT_WAV = Encoding("wav", "FLOAT")
LOSSLESS = [
    ("wav", "FLOAT"),
    ("wav", "PCM_24"),
    ("flac", "PCM_24"),
    ("aiff", "PCM_24"),
    ("caf", "FLOAT"),
    ("w64", "FLOAT"),
]


def music(n_samples: int = 22_050, channels: int = 2, seed: int = 0, rate_hz: int = 44_100) -> Audio:
    """Noise bursts under tones: enough structure for a correlation to find the lag."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(n_samples) / rate_hz
    tones = sum(np.sin(2 * np.pi * f * seconds) for f in (220.0, 550.0, 1230.0)) * 0.1
    noise = generator.standard_normal((channels, n_samples)) * 0.05 * (np.sin(2 * np.pi * 3 * seconds) > 0)
    return Audio((tones + noise).astype(np.float32), rate_hz)


def lag_samples(one: np.ndarray, other: np.ndarray) -> int:
    n_all = 2 * len(one)
    product = np.fft.rfft(one, n_all) * np.conj(np.fft.rfft(other, n_all))
    peak = int(np.argmax(np.fft.irfft(product)))
    return peak if peak < len(one) else peak - n_all


# what is written comes back


@pytest.mark.parametrize(("format", "subtype"), LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_formats_keep_every_sample(tmp_path: Path, format: str, subtype: str, channels: int) -> None:
    audio = music(channels=channels)
    path = files.write(tmp_path / f"a.{format}", audio, subtype=subtype)
    back = files.read(path)
    assert (back.sample_rate_hz, back.samples.shape) == (44_100, audio.samples.shape)
    tolerance = 0 if subtype == "FLOAT" else 2.0**-24
    assert np.abs(back.samples - audio.samples).max() <= tolerance
    info = files.probe(path)
    assert (info.format, info.subtype, info.n_samples) == (format, subtype, audio.n_samples)


@pytest.mark.parametrize(
    ("format", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("flac", "PCM_24")]
)
def test_integer_files_survive_reading_and_writing_bit_for_bit(tmp_path: Path, format: str, subtype: str) -> None:
    bits = int(subtype[-2:])
    codes = np.random.default_rng(1).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (500, 2), dtype=np.int32)
    soundfile.write(tmp_path / f"a.{format}", codes << (32 - bits), 44_100, subtype=subtype)
    first = files.read(tmp_path / f"a.{format}")
    assert files.default_subtype(format, files.probe(tmp_path / f"a.{format}")) == subtype
    files.write(tmp_path / f"b.{format}", first, subtype=subtype)
    again, _ = soundfile.read(tmp_path / f"b.{format}", dtype="int32")
    np.testing.assert_array_equal(again >> (32 - bits), codes)


@pytest.mark.parametrize(
    ("format", "rate_hz"), [("ogg", 44_100), ("mp3", 44_100), ("mp3", 22_050), ("opus", 48_000), ("ogg", 96_000)]
)
def test_lossy_formats_keep_length_and_alignment(tmp_path: Path, format: str, rate_hz: int) -> None:
    audio = music(rate_hz, rate_hz=rate_hz)
    path = files.write(tmp_path / f"a.{format}", audio)
    back = files.read(path)
    assert back.samples.shape == audio.samples.shape
    assert lag_samples(back.samples[0], audio.samples[0]) == 0
    assert files.probe(path).format == format
    assert files.lossy(format)


@pytest.mark.parametrize(("format", "rate_hz"), [("ogg", 44_100), ("mp3", 44_100), ("mp3", 22_050), ("opus", 48_000)])
@pytest.mark.parametrize("bitrate_kbps", [64, 96, 128, 160])
def test_a_bitrate_is_kept_within_a_third(tmp_path: Path, format: str, rate_hz: int, bitrate_kbps: int) -> None:
    audio = Audio(np.random.default_rng(0).standard_normal((2, 4 * rate_hz)) * 0.1, rate_hz)
    path = files.write(tmp_path / f"a.{format}", audio, bitrate_kbps=bitrate_kbps)
    measured_kbps = path.stat().st_size * 8 / 1000 / audio.seconds
    assert bitrate_kbps / 1.5 < measured_kbps < bitrate_kbps * 1.5
    assert files.read(path).n_samples == audio.n_samples


def test_more_kilobits_make_a_larger_file(tmp_path: Path) -> None:
    for format in ("ogg", "mp3"):
        sizes = [
            files.write(tmp_path / f"{kbps}.{format}", music(44_100), bitrate_kbps=kbps).stat().st_size
            for kbps in (64, 128, 320)
        ]
        assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("format", ["wav", "flac"])
def test_rates_from_8_to_192_khz(tmp_path: Path, format: str, rate_hz: int) -> None:
    audio = music(1000, rate_hz=rate_hz)
    assert files.read(files.write(tmp_path / f"a.{format}", audio)).sample_rate_hz == rate_hz


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_one_sample_is_enough(tmp_path: Path, format: str) -> None:
    path = files.write(tmp_path / f"a.{format}", Audio([[0.5], [0.25]], 44_100))
    assert files.read(path).n_samples == 1


@given(st.integers(1, 3000), st.integers(1, 1000), st.sampled_from(["wav", "flac", "ogg"]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_joined_are_the_whole(tmp_path: Path, n_samples: int, block_samples: int, format: str) -> None:
    path = files.write(tmp_path / f"a.{format}", music(n_samples))
    blocks = [block.samples for block in files.read_blocks(path, block_samples)]
    assert all(block.shape[1] == block_samples for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), files.read(path).samples)


def test_bytes_and_file_objects_read_like_the_path(tmp_path: Path) -> None:
    for format in ("wav", "mp3"):
        path = files.write(tmp_path / f"a.{format}", music())
        expected = files.read(path).samples
        np.testing.assert_array_equal(files.read(path.read_bytes()).samples, expected)
        np.testing.assert_array_equal(files.read(str(path)).samples, expected)
        with path.open("rb") as file:
            np.testing.assert_array_equal(files.read(file).samples, expected)
        assert files.probe(io.BytesIO(path.read_bytes())).format == format


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("wav", "GSM610"), ("wav", "NMS_ADPCM_16"), ("aiff", "GSM610"), ("w64", "GSM610"), ("au", "G721_32")],
)
def test_telephone_recordings_that_cannot_seek_are_read(tmp_path: Path, format: str, subtype: str) -> None:
    path = tmp_path / f"a.{format}"
    soundfile.write(path, music(20_001, 1, rate_hz=8_000).samples[0], 8_000, subtype=subtype)
    with soundfile.SoundFile(path) as sound:
        assert not sound.seekable()
        expected = sound.read(sound.frames, dtype="float32")
    np.testing.assert_array_equal(files.read(path).samples[0], expected)
    with files.opened(path) as opened:
        for start in (0, 1, 7_000, len(expected) - 1):
            blocks = list(opened.blocks(3_000, start))
            np.testing.assert_array_equal(np.concatenate(blocks, axis=1)[0], expected[start:])


@pytest.fixture
def latin_1(tmp_path: Path) -> Path:
    """A path that is no UTF-8, as old archives give."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Bj\xf6rk.wav"))
    try:
        path.touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    return path


def test_names_that_are_not_utf_8_are_read_and_written(latin_1: Path) -> None:
    audio = music(1000)
    assert files.write(latin_1, audio, subtype="FLOAT") == latin_1
    np.testing.assert_array_equal(files.read(latin_1).samples, audio.samples)
    assert files.probe(latin_1).n_samples == 1000
    folder = latin_1.with_suffix("")
    assert [path.name for path in files.write(folder / "a.flac", audio).parent.iterdir()] == ["a.flac"]


# what cannot be read


def wav_bytes(samples: np.ndarray, subtype: str = "FLOAT") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 44_100, format="WAV", subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "program", lambda: None)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=r"There is no file .*nowhere\.wav"):
        files.read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioFileError, match="is a folder"):
        files.read(tmp_path)
    with pytest.raises(AudioFileError):
        files.read("bad\0name.wav")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioFileError, match="no regular file"):
        files.read(tmp_path / "pipe.wav")


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize("content", [b"just some text, no audio at all\n" * 50, b"\x00" * 4000, b"RIFF", b"ID3"])
@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".raw", ".txt", ""])
def test_what_is_no_audio_names_both_decoders(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match=r"libsndfile.*ffmpeg"):
        files.read(path)


def test_an_empty_file_and_one_without_samples(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioFileError, match="0 bytes"):
        files.read(tmp_path / "empty.wav")
    with pytest.raises(AudioFileError, match="0 bytes"):
        files.read(b"")
    with pytest.raises(AudioFileError, match="no audio samples"):
        files.read(wav_bytes(np.zeros((0, 2))))


@pytest.mark.parametrize("format", ["wav", "aiff", "flac"])
def test_a_truncated_file_is_noticed(tmp_path: Path, format: str) -> None:
    whole = files.write(tmp_path / f"a.{format}", music()).read_bytes()
    cut = tmp_path / f"cut.{format}"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(AudioFileError, match="cut short"):
        files.read(cut)
    with pytest.raises(AudioFileError, match="cut short"):
        list(files.read_blocks(cut, 4096))


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize("format", ["ogg", "mp3", "caf", "w64"])
def test_other_truncated_files_give_what_they_hold_or_a_typed_error(tmp_path: Path, format: str) -> None:
    whole = files.write(tmp_path / f"a.{format}", music()).read_bytes()
    try:
        audio = files.read(whole[: len(whole) * 6 // 10])
    except AudioFileError:
        return
    assert 0 < audio.n_samples < music().n_samples


def test_a_recorder_that_left_the_size_open_is_read(tmp_path: Path) -> None:
    data = bytearray(wav_bytes(np.full((100, 1), 0.5), "PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert files.read(bytes(data)).n_samples == 100


@pytest.mark.usefixtures("no_ffmpeg")
def test_headers_that_claim_terabytes_take_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    w64 = bytearray(files.write(tmp_path / "a.w64", music(100)).read_bytes())
    at = w64.index(b"data") + 16
    w64[at : at + 8] = struct.pack("<Q", 2**43)
    aiff = bytearray(files.write(tmp_path / "a.aiff", music(100)).read_bytes())
    at = aiff.index(b"COMM") + 10
    aiff[at : at + 4] = struct.pack(">I", 2**31 - 1)
    flac = bytearray(files.write(tmp_path / "a.flac", music(100)).read_bytes())
    flac[21] |= 0x0F
    flac[22:26] = b"\xff\xff\xff\xff"
    chunk = b"ds64" + struct.pack("<I", 0xFF00_0000) + bytes(28)
    rf64 = bytearray(b"RF64\xff\xff\xff\xffWAVE" + chunk + wav_bytes(np.zeros((100, 1)))[12:])
    for data in (w64, aiff, flac, rf64):
        try:
            assert files.read(bytes(data)).n_samples <= 200
        except AudioFileError as error:
            assert "these bytes" in str(error)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**24


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_and_placed(value: float) -> None:
    samples = np.zeros((44_100, 2), dtype=np.float32)
    samples[22_050, 1] = value
    with pytest.raises(AudioFileError, match=r"first at 0\.500 s"):
        files.read(wav_bytes(samples))


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(wav_bytes(np.zeros((9, 2))))])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path, change: Any) -> None:
    path = files.write(tmp_path / "a.wav", music(1000))
    with files.opened(path) as opened:
        change(path)
        with pytest.raises(AudioFileError, match="changed while it was read"):
            next(opened.blocks(100))


def test_more_than_two_channels_are_refused_before_reading() -> None:
    with pytest.raises(AudioFileError, match="6 channels"):
        files.probe(wav_bytes(np.zeros((10, 6))))


def test_a_rate_out_of_range_is_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((10, 2)), 400, format="WAV")
    with pytest.raises(AudioFileError, match="not usable"):
        files.read(buffer.getvalue())


def closed() -> io.BytesIO:
    stream = io.BytesIO(b"audio")
    stream.close()
    return stream


class Unreadable(io.RawIOBase):
    """As a file that was opened for writing."""

    def read(self, size: int = -1) -> bytes:
        raise io.UnsupportedOperation("not readable")


@pytest.mark.parametrize("source", [io.StringIO("text"), closed(), Unreadable(), 7, None])
def test_other_objects_are_refused(source: Any) -> None:
    with pytest.raises(AudioFileError, match="binary mode"):
        files.read(source)


def test_too_long_for_memory_is_an_error_and_blocks_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write(tmp_path / "a.wav", music(3000))
    monkeypatch.setattr("unisep.files.reading.MAX_VALUES_IN_MEMORY", 4000)
    with pytest.raises(AudioFileError, match="too long to read at once"):
        files.read(path)
    assert sum(block.n_samples for block in files.read_blocks(path, 1000)) == 3000
    monkeypatch.setattr(sources, "MAX_STREAM_BYTES", 4000)
    with pytest.raises(AudioFileError, match="Pass a path"):
        files.read(path.read_bytes())


@pytest.mark.usefixtures("no_ffmpeg")
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_give_audio_or_a_typed_error(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    format, subtype = data.draw(
        st.sampled_from([("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")])
    )
    soundfile.write(buffer, music(2000).samples.T, 44_100, format=format, subtype=subtype)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(content) - 1, 200)))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with contextlib.suppress(AudioError):
        assert np.isfinite(files.read(bytes(content)).samples).all()


# the ffmpeg program

FAKE_FFMPEG = """#!{python}
import struct, sys, time
arguments = sys.argv[1:]
assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
assert not {{"hls", "concat", "dash"}} & set(arguments[arguments.index("-format_whitelist") + 1].split(","))
content = open(arguments[arguments.index("-i") + 1].removeprefix("file:"), "rb").read()
if content.startswith(b"slow"):
    time.sleep(30)
if content.startswith(b"bad"):
    sys.exit("moov atom not found")
import soundfile, numpy
n_channels = 6 if content.startswith(b"surround") else 2
soundfile.write(arguments[-1].removeprefix("file:"), numpy.full((1000, n_channels), 1.5), 32000, format="W64", subtype="FLOAT")
"""


@pytest.fixture
def fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FAKE_FFMPEG.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))


@pytest.mark.usefixtures("fake_ffmpeg")
def test_ffmpeg_decodes_what_libsndfile_cannot(tmp_path: Path) -> None:
    path = tmp_path / "-song.m4a"
    path.write_bytes(b"anything")
    audio = files.read(path)
    assert (audio.sample_rate_hz, audio.samples.shape) == (32_000, (2, 1000))
    assert audio.samples.max() == 1.5
    assert files.probe(path) == AudioFileInfo(32_000, 2, 1000, "m4a", "FFMPEG")
    assert files.default_format(files.probe(path)) == "flac"
    assert [block.n_samples for block in files.read_blocks(path, 600)] == [600, 400]


@pytest.mark.usefixtures("fake_ffmpeg")
@pytest.mark.parametrize(
    ("content", "message"), [(b"bad", "moov atom"), (b"surround", "6 channels"), (b"slow", "stopped")]
)
def test_a_failing_ffmpeg_gives_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(ffmpeg, "TIMEOUT_SECONDS", 0.5 if content == b"slow" else 60)
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(AudioFileError, match=message):
        files.read(tmp_path / "a.m4a")


@pytest.mark.usefixtures("fake_ffmpeg")
def test_a_program_that_cannot_start_gives_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "program", lambda: str(tmp_path))
    with pytest.raises(AudioFileError, match="did not start"):
        files.read(b"anything")


# writing


@pytest.mark.parametrize(
    ("format", "rate_hz"), [("mp3", 96_000), ("opus", 44_100), ("ogg", 384_000), ("flac", 700_000)]
)
def test_rates_a_format_cannot_hold_are_refused(tmp_path: Path, format: str, rate_hz: int) -> None:
    with pytest.raises(AudioFileError, match=f"{rate_hz} Hz"):
        files.write(tmp_path / f"a.{format}", music(100, rate_hz=rate_hz))
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_subtypes_and_bitrates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="Did you mean 'flac'"):
        files.write(tmp_path / "a.flc", music(100))
    with pytest.raises(AudioFileError, match="Possible: PCM_24, PCM_16"):
        files.write(tmp_path / "a.flac", music(100), subtype="FLOAT")
    with pytest.raises(AudioFileError, match="Leave bitrate_kbps= out"):
        files.write(tmp_path / "a.wav", music(100), bitrate_kbps=128)
    with pytest.raises(AudioFileError, match="64 to 320"):
        files.write(tmp_path / "a.mp3", music(100), bitrate_kbps=999)


def test_float_files_keep_what_is_beyond_full_scale(tmp_path: Path) -> None:
    report = files.write_all({tmp_path / "a.wav": Audio([[3.0, -3.0]], 44_100)}, subtype="FLOAT")
    assert report.gain == 1.0
    assert files.read(report.paths[0]).samples.tolist() == [[3.0, -3.0]]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_integer_files_share_one_gain(tmp_path: Path, subtype: str) -> None:
    loud, quiet = Audio([[2.0, -2.0, 0.1]], 44_100), Audio([[0.5, 0.25, 0.0]], 44_100)
    report = files.write_all({tmp_path / "a.wav": loud, tmp_path / "b.wav": quiet}, subtype=subtype)
    assert report.gain == pytest.approx(0.5, abs=1e-4)
    for path, audio in zip(report.paths, (loud, quiet), strict=True):
        np.testing.assert_allclose(files.read(path).samples, audio.samples * report.gain, atol=2**-15)


def test_a_single_file_that_is_scaled_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files.write(tmp_path / "a.flac", Audio([[2.0]], 44_100))
    assert "scaled by 0.5000" in caplog.text


def test_full_scale_is_not_scaled(tmp_path: Path) -> None:
    assert files.write_all({tmp_path / "a.wav": Audio([[1.0, -1.0]], 44_100)}, subtype="PCM_16").gain == 1.0


def test_all_or_none_are_written(tmp_path: Path) -> None:
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(AudioFileError, match="it is a folder"):
        files.write_all({tmp_path / "a.wav": music(100), tmp_path / "taken.wav": music(100)})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.wav"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write(tmp_path / "a.wav", music(100))
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.PartialFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, music(200))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), AssertionError()])
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def full(*_: object) -> None:
        raise failure

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(AudioFileError, match="free space"):
        files.write(tmp_path / "a.wav", music(100))
    assert list(tmp_path.iterdir()) == []


FORMAT_RATES = [
    *[("mp3", rate_hz) for rate_hz in (8_000, 11_025, 16_000, 22_050, 44_100, 48_000)],
    *[("ogg", rate_hz) for rate_hz in (8_000, 44_100, 192_000)],
    *[("opus", rate_hz) for rate_hz in (8_000, 24_000, 48_000)],
    *[(format, 44_100) for format in ("wav", "flac", "aiff", "caf", "w64")],
]


@pytest.mark.parametrize(("format", "rate_hz"), FORMAT_RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_good_files_of_any_length_are_found_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str, rate_hz: int, channels: int
) -> None:
    for n_samples in (1, 575, 576, 577, 1151, 1152, 1153, 4095, 4097, 70_001):
        path = files.write(tmp_path / f"a.{format}", music(n_samples, channels, rate_hz=rate_hz))
        assert files.probe(path).n_samples == n_samples
    assert capfd.readouterr().err == ""  # mpg123 has not been asked to start in the middle


@pytest.mark.parametrize("format", ["flac", "ogg", "opus", "mp3", "wav", "aiff", "caf", "w64"])
@pytest.mark.parametrize("n_lost_bytes", [1, 700, 9_000])
def test_what_is_lost_while_a_file_is_closed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, n_lost_bytes: int
) -> None:
    close = soundfile.SoundFile.close

    def losing(self: soundfile.SoundFile) -> None:
        was_open = not self.closed
        close(self)
        if was_open and self.mode == "w":
            os.truncate(self.name, os.path.getsize(self.name) - n_lost_bytes)

    monkeypatch.setattr(soundfile.SoundFile, "close", losing)
    path = tmp_path / f"a.{format}"
    path.write_bytes(b"what was there before")
    with pytest.raises(AudioFileError, match=r"not complete.*free space"):
        files.write(path, music(48_000, rate_hz=48_000))
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", ["flac", "ogg", "opus", "mp3"])
def test_tags_do_not_hide_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    pytest.importorskip("mutagen")
    from unisep.files import tags

    given = tags.Tags({"title": ["a"]}, (tags.Picture(bytes(50_000), "image/png"),))
    whole = {tmp_path / f"a.{format}": music(48_000, rate_hz=48_000)}
    assert files.write_all(whole, tags=given)

    def half_written(path: Path, *_: object) -> None:
        tags.write_tags(path, format, given)
        os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr(writing, "write_tags", half_written)
    with pytest.raises(AudioFileError, match="not complete"):
        files.write_all(whole, tags=given)


# Ends with 3 unless each file that does not fit within a limit on its size is refused, and nothing is left of it.
LIMITED = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from unisep import Audio, files; from unisep.files import reading as sources
from unisep.errors import AudioFileError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, format, rate_hz = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
audio = Audio(np.random.default_rng(0).normal(0, 0.1, (2, rate_hz)), rate_hz)
n_bytes = files.write(folder / f"whole.{format}", audio).stat().st_size
for n_lost in (1, 100, 1000, 5000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes - n_lost, resource.RLIM_INFINITY))
    try:
        files.write(folder / f"cut.{format}", audio)
        sys.exit(3)
    except AudioFileError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if sorted(os.listdir(folder)) != [f"whole.{format}"]:
        sys.exit(4)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the size of files")
@pytest.mark.parametrize("format", ["flac", "ogg", "opus", "mp3", "wav"])
def test_a_disk_that_fills_during_the_last_flush_is_noticed(tmp_path: Path, format: str) -> None:
    argv = [sys.executable, "-c", LIMITED, str(tmp_path), format, "48000"]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == 0


def test_beyond_four_gigabytes_a_wav_is_rf64(tmp_path: Path) -> None:
    with files.PartialFile(tmp_path / "a.wav", 44_100, 2, FLOAT_WAV, 2**30) as partial:
        partial.write(music(100).samples)
        partial.commit()
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RF64"
    assert files.read(tmp_path / "a.wav").n_samples == 100
    assert files.probe(tmp_path / "a.wav").format == "wav"


def test_folders_are_made_and_what_is_not_committed_disappears(tmp_path: Path) -> None:
    with files.PartialFile(tmp_path / "x" / "y" / "a.wav", 44_100, 2, FLOAT_WAV) as partial:
        partial.write(music(100).samples)
    assert not (tmp_path / "x").exists(), "the folders too, where they were made for it"


def test_defaults_follow_the_input() -> None:
    def info(format: str, subtype: str) -> AudioFileInfo:
        return AudioFileInfo(44_100, 2, 10, format, subtype)

    assert files.default_format(None) == "wav"
    assert files.default_format(info("mp3", "MPEG_LAYER_III")) == "flac"
    assert files.default_format(info("au", "PCM_16")) == "wav"
    assert files.default_format(info("aiff", "PCM_16")) == "aiff"
    assert files.default_subtype("wav", info("wav", "DOUBLE")) == "FLOAT"
    assert files.default_subtype("wav", info("wav", "PCM_24")) == "PCM_24"
    assert files.default_subtype("flac", info("wav", "FLOAT")) == "PCM_24"
    assert files.default_subtype("flac", info("mp3", "MPEG_LAYER_III")) == "PCM_24"
    assert files.default_subtype("mp3") == "MPEG_LAYER_III"


# names


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_a_safe_name_stays_in_its_folder_and_can_be_written(name: str) -> None:
    safe = files.safe_name(name)
    assert safe and safe not in (".", "..")
    assert len(safe.encode()) <= 151
    assert not set(safe) & set('<>:"/\\|?*\0\n')
    assert not safe.startswith((".", " ")) and not safe.endswith((".", " "))
    assert Path("folder", safe).parent == Path("folder")
    assert files.safe_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("lead vocal", "lead vocal"),
        ("Flöte", "Flöte"),
        (unicodedata.normalize("NFD", "Flöte"), "Flöte"),
        ("ギター", "ギター"),
        ("..", "unnamed"),
        ("  ", "unnamed"),
        ("C:\\drums", "C__drums"),
        ("con", "_con"),
        ("LPT¹.wav", "_LPT¹.wav"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("x" * 400, "x" * 150),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert files.safe_name(name) == safe


@given(st.lists(st.sampled_from(["a", "A", "a-2", "a/b", "a:b", "", "."]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_safe_names_never_collide(names: list[str]) -> None:
    folded = [name.casefold() for name in files.safe_names(names)]
    assert len(set(folded)) == len(names)
