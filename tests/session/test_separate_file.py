"""Disk to disk: the same bits as in memory, complete files or none, in the depth and with the tags of the input."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from unisep import (
    Audio,
    Backend,
    BackendInfo,
    BackendSpec,
    Output,
    Progress,
    Query,
    Separator,
    files,
    hookimpl,
    plugins,
)
from unisep.engine.recording import BLOCK_SAMPLES
from unisep.errors import (
    AudioFileError,
    BackendError,
    Cancelled,
    DiskSpaceError,
    OptionError,
    OverwriteError,
    QueryError,
)
from unisep.separation import SeparatedFiles
from unisep.testing import mix, noise, tone, toy_plugin

RATE_HZ = 44_100
SECONDS = 3.3  # more than one block, and no whole number of segments


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    with toy_plugin():
        yield


@pytest.fixture(scope="module")
def separator() -> Separator:
    with toy_plugin():
        return Separator("toy", query_backend="toy", encoder="toy", offline=True)


def song(rate_hz: int = RATE_HZ, channels: int = 2, seconds: float = SECONDS) -> Audio:
    return mix(noise(seconds, rate_hz, channels), tone(220, seconds, rate_hz, channels))


def on_disk(folder: Path, audio: Audio, name: str = "song.wav", **options: object) -> Path:
    return files.write(folder / name, audio, **{"subtype": "FLOAT", **options})  # type: ignore[arg-type]


def assert_equal_to_whole(
    separator: Separator, path: Path, out: Path, query: object = None, **options: object
) -> SeparatedFiles:
    """Float files hold bit for bit what `separate` gives, and so does what is said of them."""
    whole = separator.separate(path, query, **options)  # type: ignore[arg-type]
    found = separator.separate_file(path, out, query, format="wav", subtype="FLOAT", **options)  # type: ignore[arg-type]
    assert list(found) == list(whole)
    for name, target in found.items():
        assert np.array_equal(files.read(target).samples, whole[name].samples), name
    if found.rest is None:  # what rounding leaves beside all stems
        assert query is None and np.abs(whole.rest.samples).max() < 1e-6 * np.abs(whole.target.samples).max()
    else:
        assert np.array_equal(files.read(found.rest).samples, whole.rest.samples)
    saved = whole.save(out / "saved", format="wav", subtype="FLOAT")
    assert [path.name for path in saved.paths] == [path.name for path in found.paths]
    assert dict(found.presence) == dict(whole.presence)
    assert dict(found.presence_over_time) == dict(whole.presence_over_time)
    assert found.plan.to_json() == whole.plan.to_json()
    return found


QUERIES = {
    "fixed stems": None,
    "a text": "bass",
    "several": ["bass", "hat", {"text": "voice", "exclude": "hat", "name": "no hat"}],
    "an example": {"audio": tone(90, 0.3), "text": "bass", "weights": {"text": 0.3, "audio": 0.7}},
    "a part of the recording": {"example_range": (1.1, 1.6), "name": "that"},
    "a range in time": {"text": "bass", "time_range": (1.0, 2.2)},
    "ranges apart": [
        Query(text="bass", time_range=(0.2, 0.5), name="early"),
        Query(text="bass", time_range=(2.4, 9), name="late"),
        "hat",
    ],
    "a stem and a question": ["low", "oboe"],
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_files_hold_the_bits_of_the_whole(tmp_path: Path, separator: Separator, query: object) -> None:
    assert_equal_to_whole(separator, on_disk(tmp_path, song()), tmp_path / "out", query)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels(tmp_path: Path, separator: Separator, rate_hz: int, channels: int) -> None:
    path = on_disk(tmp_path, song(rate_hz, channels, seconds=1.7))
    ranged = {"text": "bass", "time_range": (0.4, 1.1)}
    found = assert_equal_to_whole(separator, path, tmp_path / "out", ["hat", ranged])
    mixture = files.read(path).samples
    total = sum(files.read(each).samples.astype(np.float64) for each in found.paths)
    assert np.abs(total - mixture).max() <= 4 * np.finfo(np.float32).eps * np.abs(mixture).max()


@pytest.mark.parametrize("options", [{"shifts": 2, "seed": 3}, {"overlap_fraction": 0.5, "segment_seconds": 0.3}])
def test_options_count_for_files_too(tmp_path: Path, options: dict[str, float]) -> None:
    separator = Separator("toy", query_backend="toy", encoder="toy", offline=True, **options)  # type: ignore[arg-type]
    path = on_disk(tmp_path, song())
    assert_equal_to_whole(separator, path, tmp_path / "out", ["bass", {"text": "hat", "time_range": (2, 2.5)}])


def test_a_backend_without_context_gives_the_very_same_samples(tmp_path: Path) -> None:
    path = on_disk(tmp_path, song(), subtype="PCM_24")
    found = Separator("toy-pan", offline=True).separate_file(path, tmp_path / "out")
    mixture = files.read(path).samples
    for channel, name in enumerate(("left", "right")):
        result = files.read(found[name]).samples
        assert np.array_equal(result[channel], mixture[channel])
        assert not result[1 - channel].any()
    assert found.rest is None and found.paths == (found["left"], found["right"])


class Normalised(Backend):
    """Its outputs depend on the level at which it hears the recording; `segment_seconds` None takes all at once."""

    def __init__(self, segment_seconds: float | None) -> None:
        self.info = BackendInfo(
            sources=("a", "b"), sample_rate_hz=8_000, channels=2, segment_seconds=segment_seconds, normalisation="song"
        )

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        return Output(torch.stack([mixture.tanh(), mixture - mixture.tanh()], dim=1))


def load_half_a_second(**_: object) -> Backend:
    return Normalised(0.5)


def load_any_length(**_: object) -> Backend:
    return Normalised(None)


class Plugin:
    """Installs backends that normalise by the whole song."""

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [
            BackendSpec(name=name, load=f"{__name__}:load_{name}", summary="", stems=("a", "b"))
            for name in ("half_a_second", "any_length")
        ]


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["test_separate_file"])
    with plugins.registered(Plugin(), "normalised"):
        yield


@pytest.mark.parametrize("name", ["half_a_second", "any_length"])
@pytest.mark.parametrize("rate_hz", [8_000, 11_025])
def test_a_song_is_normalised_as_a_whole(tmp_path: Path, normalised: None, name: str, rate_hz: int) -> None:
    loud_end = song(rate_hz, seconds=2.0).samples * np.linspace(0.01, 2, 2 * rate_hz, dtype=np.float32)
    path = on_disk(tmp_path, Audio(loud_end, rate_hz))
    assert_equal_to_whole(Separator(name), path, tmp_path / "out")


# formats


@pytest.mark.parametrize(
    ("name", "subtype", "expected"),
    [
        ("song.wav", "PCM_24", ("wav", "PCM_24")),
        ("song.wav", "FLOAT", ("wav", "FLOAT")),
        ("song.wav", "PCM_16", ("wav", "PCM_16")),
        ("song.flac", "PCM_24", ("flac", "PCM_24")),
        ("song.aiff", "FLOAT", ("aiff", "FLOAT")),
        ("song.ogg", "VORBIS", ("flac", "PCM_24")),
        ("song.mp3", "MPEG_LAYER_III", ("flac", "PCM_24")),
    ],
)
def test_the_depth_is_kept(
    tmp_path: Path, separator: Separator, name: str, subtype: str, expected: tuple[str, str]
) -> None:
    path = on_disk(tmp_path, song(seconds=0.4), name, subtype=subtype)
    found = separator.separate_file(path, tmp_path / "out", "bass")
    for written in found.paths:
        info = files.probe(written)
        assert (info.format, info.subtype) == expected
        assert info.n_samples == files.read(path).n_samples


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000])
def test_what_is_written_is_aligned_with_the_input(
    tmp_path: Path, separator: Separator, format: str, rate_hz: int
) -> None:
    path = on_disk(tmp_path, song(rate_hz, seconds=1.5))
    found = separator.separate_file(
        path, tmp_path / "out", "bass", format=format, bitrate_kbps=160 if format in ("ogg", "mp3") else None
    )
    mixture = files.read(path).samples.mean(0)
    parts = [files.read(each) for each in found.paths]
    assert all(part.n_samples == mixture.size and part.sample_rate_hz == rate_hz for part in parts)
    written = sum(part.samples.mean(0) for part in parts)
    spectrum = np.fft.rfft(written, 2 * mixture.size) * np.conj(np.fft.rfft(mixture, 2 * mixture.size))
    assert int(np.argmax(np.fft.irfft(spectrum))) == 0


def test_one_gain_for_all_integer_files_and_none_for_float(tmp_path: Path, separator: Separator) -> None:
    loud = Audio(song(seconds=1.2).samples * 5, RATE_HZ)
    path = on_disk(tmp_path, loud)
    exact = separator.separate_file(path, tmp_path / "float", "bass")
    assert exact.gain == 1.0
    assert np.abs(files.read(exact.rest).samples).max() > 1
    fitted = separator.separate_file(path, tmp_path / "int", "bass", format="flac")
    assert 0 < fitted.gain < 1
    saved = separator.separate(path, "bass").save(tmp_path / "saved", format="flac")
    assert saved.gain == fitted.gain
    for one, other, whole in zip(fitted.paths, saved.paths, exact.paths, strict=True):
        assert np.array_equal(files.read(one).samples, files.read(other).samples)
        assert np.abs(files.read(one).samples - files.read(whole).samples * fitted.gain).max() < 2**-23


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "mp3"}, "96000 Hz"),
        ({"format": "opus"}, "96000 Hz"),
        ({"format": "docx"}, "docx"),
        ({"format": "flac", "subtype": "FLOAT"}, "PCM_24"),
        ({"format": "wav", "bitrate_kbps": 128}, "bitrate"),
        ({"filename": "{track}.{ext}"}, "stem"),
        ({"filename": "../{stem}.{ext}"}, "leaves"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, separator: Separator, options: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = on_disk(tmp_path, song(96_000, seconds=0.1))
    monkeypatch.setattr("unisep.session.prepare.Preparer.prepare", lambda *_: pytest.fail("work began"))
    with pytest.raises((AudioFileError, OptionError), match=said):
        separator.separate_file(path, tmp_path / "out", "bass", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_too_little_room_is_seen_before_any_work(
    tmp_path: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = on_disk(tmp_path, song(seconds=1.0), subtype="PCM_16")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=800_000))
    monkeypatch.setattr("unisep.engine.engine.BackendPass.push", lambda *_: pytest.fail("work began"))
    with pytest.raises(DiskSpaceError, match=r"needs 1 MB, and 1 MB are free"):  # 705.6 kB of spool, 176.4 kB of wav
        separator.separate_file(path, tmp_path / "out", "bass")
    assert not (tmp_path / "out").exists()


def test_an_aiff_that_would_be_too_long_is_refused() -> None:
    from unisep.files.formats import Encoding, check_size

    hour = 3_600 * RATE_HZ
    check_size(Encoding("aiff", "PCM_16"), RATE_HZ, 2, 6 * hour)
    check_size(Encoding("wav", "FLOAT"), RATE_HZ, 2, 80 * hour)
    with pytest.raises(AudioFileError, match="4 GiB"):
        check_size(Encoding("aiff", "PCM_16"), RATE_HZ, 2, 7 * hour)


# all or nothing


class Flawed:
    """A cancel flag that is set, or raises, after some looks at it."""

    def __init__(self, n_looks: int, error: Exception | None = None) -> None:
        self.n_looks, self.error = n_looks, error

    def is_set(self) -> bool:
        self.n_looks -= 1
        if self.n_looks < 0 and self.error is not None:
            raise self.error
        return self.n_looks < 0


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
@pytest.mark.parametrize("error", [None, OSError("gone"), BackendError("broken")])
def test_what_fails_midway_leaves_nothing(
    tmp_path: Path, separator: Separator, subtype: str, error: Exception | None
) -> None:
    path, out = on_disk(tmp_path, song(), subtype=subtype), tmp_path / "out"
    with pytest.raises(type(error) if error else Cancelled):
        separator.separate_file(path, out, "bass", cancel=Flawed(3, error))
    assert not [each for each in out.rglob("*") if each.is_file()]


@pytest.mark.parametrize("stage", ["reading", "writing"])
def test_cancelling_works_at_every_stage(tmp_path: Path, separator: Separator, stage: str) -> None:
    cancel = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == stage:
            cancel.set()

    path = on_disk(tmp_path, song(), subtype="PCM_16")
    with pytest.raises(Cancelled):
        separator.separate_file(path, tmp_path / "out", "bass", cancel=cancel, on_progress=watch)
    assert not [each for each in (tmp_path / "out").rglob("*") if each.is_file()]


CHANGES = {
    "longer": song(seconds=5),
    "shorter": song(seconds=1),
    "of another rate": song(22_050),
    "mono": song(channels=1),
}


@pytest.mark.parametrize("format", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("change", [*CHANGES, "gone"])
def test_a_recording_that_changes_meanwhile_is_refused(
    tmp_path: Path, separator: Separator, change: str, format: str
) -> None:
    path, out = tmp_path / f"song.{format}", tmp_path / "out"
    files.write(path, song())

    def meddle(progress: Progress) -> None:
        if progress.stage == "encoding":
            path.unlink(missing_ok=True)
            if change in CHANGES:
                files.write(path, CHANGES[change])

    with pytest.raises(AudioFileError, match="changed while it was read"):
        separator.separate_file(path, out, "bass", on_progress=meddle)
    assert not [each for each in out.rglob("*") if each.is_file()]


def test_a_recording_that_grows_as_it_is_read_is_refused(tmp_path: Path, separator: Separator) -> None:
    path = on_disk(tmp_path, song())

    def meddle(progress: Progress) -> None:
        if progress.stage == "separating" and progress.fraction > 0:
            stamp = path.stat().st_mtime_ns
            files.write(path, CHANGES["longer"], subtype="FLOAT")
            os.utime(path, ns=(stamp, stamp))

    whole = separator.separate(path, "bass").target
    try:
        found = separator.separate_file(path, tmp_path / "out", "bass", on_progress=meddle)
    except AudioFileError as error:
        assert "changed while it was read" in str(error)
    else:  # the file that was opened lives on under no name
        assert files.read(found.target).n_samples == whole.n_samples


def test_an_example_is_never_replaced(tmp_path: Path, separator: Separator) -> None:
    path, clip = on_disk(tmp_path, song(seconds=0.2)), tmp_path / "out" / "song" / "bass.wav"
    files.write(clip, song(seconds=0.2))
    before = clip.read_bytes()
    for query in ({"text": "bass", "audio": clip}, {"text": "bass", "exclude": clip}):
        with pytest.raises(OverwriteError, match="'bass' would replace the recording"):
            separator.separate_file(path, tmp_path / "out", query)
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": b"RIFF"}, AudioFileError, "takes the path of a file, not bytes"),
        ({"folder": "a\0b"}, OptionError, "the name of no folder"),
        ({"filename": Path("{stem}")}, OptionError, "is no template"),
        ({"filename": "{stem}\0"}, OptionError, "is no template"),
        ({"format": 3}, AudioFileError, "no name of a format"),
        ({"format": "mp3", "bitrate_kbps": "128"}, AudioFileError, "bitrate_kbps='128'"),
        ({"format": "wav", "subtype": 16}, AudioFileError, "cannot be written as 16"),
        ({"stems": 5, "query": None}, OptionError, "stems=5: give names"),
    ],
)
def test_arguments_of_a_wrong_kind_are_typed_errors(
    tmp_path: Path, separator: Separator, given: dict[str, object], error: type[Exception], message: str
) -> None:
    plain = {"path": on_disk(tmp_path, song(seconds=0.2)), "folder": tmp_path / "out", "query": "bass"}
    with pytest.raises(error, match=message):
        separator.separate_file(**{**plain, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "format", "subtype"), [("", "wav", "PCM_16"), (".bwf", "wav", "PCM_24"), (".tmp", "flac", "PCM_16")]
)
def test_the_content_tells_the_format_not_the_name(
    tmp_path: Path, separator: Separator, suffix: str, format: str, subtype: str
) -> None:
    path = tmp_path / f"song{suffix}"
    soundfile.write(path, song(seconds=0.2).samples.T, RATE_HZ, subtype, format=format)
    saved = separator.separate(path, "bass").save(tmp_path / "saved").paths
    written = separator.separate_file(path, tmp_path / "out", "bass").paths
    for each in (*saved, *written):
        assert (files.probe(each).format, files.probe(each).subtype) == (format, subtype)


def test_the_recording_itself_is_never_replaced(tmp_path: Path, separator: Separator) -> None:
    path = on_disk(tmp_path, song(seconds=0.2), "bass.wav")
    before = path.read_bytes()
    with pytest.raises(OptionError, match="replace the recording"):
        separator.separate_file(path, tmp_path, "bass", filename="{stem}.{ext}")
    assert path.read_bytes() == before


def test_the_recording_is_known_by_any_of_its_names(tmp_path: Path, separator: Separator) -> None:
    """As on file systems where "Bass.wav" is "bass.wav" too."""
    path = on_disk(tmp_path, song(seconds=0.2), "Bass.wav")
    if not (tmp_path / "bass.wav").exists():
        (tmp_path / "bass.wav").hardlink_to(path)
    before = path.read_bytes()
    with pytest.raises(OptionError, match="replace the recording"):
        separator.separate_file(path, tmp_path, "bass", filename="{stem}.{ext}")
    assert path.read_bytes() == (tmp_path / "bass.wav").read_bytes() == before


def test_a_name_that_is_not_utf_8(tmp_path: Path, separator: Separator) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4lter"))
    path = Path(os.fsdecode(os.fsencode(folder) + b"/Bj\xf6rk.wav"))
    plain = on_disk(tmp_path, song(seconds=0.2))
    try:
        folder.mkdir()
        shutil.copy(plain, path)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    for subtype in ("FLOAT", "PCM_16"):
        found = separator.separate_file(path, folder, "bass", subtype=subtype, format="wav")
        assert found.target == folder / "Bjrk" / "bass.wav"
        assert files.probe(found.target).subtype == subtype
    whole = separator.separate(path, "bass")
    assert np.array_equal(whole.target.samples, separator.separate(plain, "bass").target.samples)
    assert whole.save(folder / "saved").paths[0] == folder / "saved" / "Bjrk" / "bass.wav"


def test_a_folder_below_a_file_is_a_typed_error(tmp_path: Path, separator: Separator) -> None:
    (tmp_path / "afile").write_text("x")
    for subtype in ("PCM_16", "FLOAT"):
        path = on_disk(tmp_path, song(seconds=0.2), subtype=subtype)
        with pytest.raises(AudioFileError, match="Cannot write"):
            separator.separate_file(path, tmp_path / "afile" / "sub", "bass")


def test_damage_at_the_end_is_found_before_any_work(
    tmp_path: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = song().samples.copy()
    samples[1, -5] = np.nan
    path = tmp_path / "song.wav"
    soundfile.write(path, samples.T, RATE_HZ, subtype="FLOAT")
    monkeypatch.setattr("unisep.engine.engine.BackendPass.push", lambda *_: pytest.fail("work began"))
    with pytest.raises(AudioFileError, match=r"NaN or infinity, first at 3\.300 s"):
        separator.separate_file(path, tmp_path / "out", "bass")
    assert not (tmp_path / "out").exists()


def test_a_range_beyond_the_end_is_refused(tmp_path: Path, separator: Separator) -> None:
    path = on_disk(tmp_path, song())
    for query in ({"text": "a", "time_range": (9, 10)}, {"example_range": (9, 10)}):
        with pytest.raises(QueryError, match=r"3\.300 s long"):
            separator.separate_file(path, tmp_path / "out", query)


def test_progress_goes_on_and_the_query_is_encoded_once(
    tmp_path: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unisep.testing import ToyEncoder

    encoded: list[list[str]] = []
    encode = ToyEncoder.encode_text
    monkeypatch.setattr(ToyEncoder, "encode_text", lambda self, texts: encoded.append(texts) or encode(self, texts))
    seen: list[Progress] = []
    path = on_disk(tmp_path, song(seconds=6.0))
    separator.separate(song(), "bass")  # the first run would load models
    encoded.clear()
    separator.separate_file(path, tmp_path / "out", ["bass", "hat"], on_progress=seen.append)
    assert encoded == [["bass", "hat"]]
    fractions = [each.fraction for each in seen if each.stage == "separating"]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) == 9
    assert list(dict.fromkeys(each.stage for each in seen)) == ["reading", "encoding", "separating", "writing", "done"]


def test_presence_is_said_for_each_segment(tmp_path: Path, separator: Separator) -> None:
    quiet_start = song().samples * (np.arange(song().n_samples) > 2 * RATE_HZ)
    path = on_disk(tmp_path, Audio(quiet_start, RATE_HZ))
    found = separator.separate_file(path, tmp_path / "out", "bass")
    over_time = found.presence_over_time["bass"]
    assert [each.start_seconds for each in over_time] == [0.0, 0.75, 1.5, 2.25, 3.0]
    assert over_time[-1].stop_seconds == pytest.approx(SECONDS)
    assert over_time[0].presence == 0 < over_time[2].presence
    assert found.presence["bass"] == max(each.presence for each in over_time)


def test_from_eight_threads_as_in_sequence(tmp_path: Path, separator: Separator) -> None:
    path = on_disk(tmp_path, song())
    expected = separator.separate(path, "bass").target.samples
    threads = [
        threading.Thread(target=separator.separate_file, args=(path, tmp_path / str(n), "bass")) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        assert np.array_equal(files.read(tmp_path / str(n) / "song" / "bass.wav").samples, expected)


def test_a_longer_file_needs_no_more_blocks_at_a_time(
    tmp_path: Path, separator: Separator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine holds of the mixture is bounded, also while a range is waited for or over."""
    from unisep.engine.timeline import SampleQueue

    most = 0
    put = SampleQueue.put

    def watched(self: SampleQueue, samples: np.ndarray | None) -> None:
        nonlocal most
        put(self, samples)
        most = max(most, self.n_samples)

    monkeypatch.setattr(SampleQueue, "put", watched)
    path = on_disk(tmp_path, song(8_000, seconds=120))
    query = ["hat", {"text": "bass", "time_range": (50, 51)}]
    separator.separate_file(path, tmp_path / "out", query)
    assert most <= 2 * BLOCK_SAMPLES * 44_100 // 8_000


# tags


@pytest.fixture
def mutagen() -> object:
    return pytest.importorskip("mutagen")


PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)


def tagged(path: Path) -> Path:
    from unisep.files.tags import Picture, Tags, write_tags

    texts = {"title": ["Überall"], "artist": ["A", "B"], "date": ["1999"], "tracknumber": ["3/12"], "comment": ["ja"]}
    write_tags(path, path.suffix[1:], Tags(texts, (Picture(PNG, "image/png"),)))
    return path


@pytest.mark.parametrize("source", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_tags_and_cover_are_carried_over(
    tmp_path: Path, separator: Separator, mutagen: object, source: str, format: str
) -> None:
    from unisep.files.tags import read_tags

    path = tagged(on_disk(tmp_path, song(48_000, seconds=0.2), f"song.{source}", subtype=None))
    given = read_tags(path)
    assert given.texts["title"] == ["Überall"] and given.pictures[0].data == PNG
    found = separator.separate_file(path, tmp_path / "out", "bass", format=format)
    for written in found.paths:
        assert read_tags(written) == given
        assert files.read(written).n_samples == files.read(path).n_samples
    saved = separator.separate(path, "bass").save(tmp_path / "saved", format=format)
    assert all(read_tags(written) == given for written in saved.paths)
    without = separator.separate_file(path, tmp_path / "without", "bass", format=format, tags=False)
    assert not read_tags(without.target)


@pytest.mark.parametrize("format", ["caf", "w64"])
def test_formats_without_tags_are_written_without(
    tmp_path: Path, separator: Separator, mutagen: object, format: str
) -> None:
    path = tagged(on_disk(tmp_path, song(seconds=0.2), "song.flac", subtype="PCM_16"))
    assert files.probe(separator.separate_file(path, tmp_path / "out", "bass", format=format).target).format == format


def test_broken_tags_are_left_behind_with_a_warning(
    tmp_path: Path,
    separator: Separator,
    mutagen: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tagged(on_disk(tmp_path, song(seconds=0.2), "song.flac", subtype="PCM_16"))
    monkeypatch.setattr("unisep.files.tags._read", lambda _: 1 / 0)
    found = separator.separate_file(path, tmp_path / "out", "bass")
    assert "left behind" in caplog.text
    assert files.read(found.target).n_samples


def test_without_mutagen_files_are_written_without_tags(
    tmp_path: Path,
    separator: Separator,
    mutagen: object,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import sys

    from unisep.files.tags import read_tags

    path = tagged(on_disk(tmp_path, song(seconds=0.2), "song.flac", subtype="PCM_16"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mutagen", None)
        found = separator.separate_file(path, tmp_path / "out", "bass")
    assert not read_tags(found.target) and not caplog.messages
