"""Tags and cover art in the formats that have them; how they are carried over is tested with the separator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from unisep import files
from unisep.files.tags import FIELDS, MAX_PICTURE_BYTES, MAX_TEXT_LETTERS, Picture, Tags, _read, read_tags, write_tags
from unisep.testing.signals import chirp, tone

pytest.importorskip("mutagen")
FORMATS = ["wav", "aiff", "mp3", "flac", "ogg", "opus"]
# What each field may hold in all formats: some are numbers, and ID3 knows dates.
VALUES = {"date": "1999-12-31", "tracknumber": "3/12", "discnumber": "1/2", "bpm": "120", "language": "deu"}


@pytest.fixture(params=FORMATS)
def song(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return files.write(tmp_path / f"song.{request.param}", chirp(0.2, 48_000))


def test_every_field_comes_back_from_every_format(song: Path) -> None:
    texts = {name: [VALUES.get(name, f"Über {name}")] for name in FIELDS}
    texts |= {"artist": ["A", "B"], "comment": ["one", "two"]}
    pictures = (Picture(b"front", "image/png"), Picture(b"back", "image/jpeg", 4), Picture(b"x", "image/png", 3, "x"))
    write_tags(song, song.suffix[1:], Tags(texts, pictures))
    tags = read_tags(song)
    assert tags.texts == texts
    assert [(p.data, p.mime, p.kind) for p in tags.pictures] == [(p.data, p.mime, p.kind) for p in pictures]


def test_what_is_too_large_or_empty_or_describes_the_file_is_left_behind(song: Path) -> None:
    texts = {"title": ["x" * (MAX_TEXT_LETTERS + 1)], "artist": [" "], "album": ["a\0b"]}
    pictures = (Picture(b"", "image/png"), Picture(bytes(1000), "image/png"))
    write_tags(song, song.suffix[1:], Tags(texts, pictures))
    tags = read_tags(song)
    assert len(tags.texts["title"][0]) == MAX_TEXT_LETTERS
    assert set(tags.texts) <= {"title", "album"} and "\0" not in str(tags.texts)
    assert [len(picture.data) for picture in tags.pictures] == [1000]
    assert MAX_PICTURE_BYTES == 16 * 2**20


def test_tags_of_an_mp4_have_the_same_names() -> None:
    from mutagen.mp4 import MP4Cover, MP4Tags

    atoms = MP4Tags()
    atoms.update({"\xa9nam": ["Song"], "\xa9wrt": ["Clara"], "\xa9cmt": ["one"], "tmpo": [120]})
    atoms.update({"trkn": [(3, 12)], "disk": [(1, 0)], "\xa9too": ["an encoder"]})
    atoms["covr"] = [MP4Cover(b"png", MP4Cover.FORMAT_PNG), MP4Cover(b"jpeg", MP4Cover.FORMAT_JPEG)]
    tags = _read(SimpleNamespace(tags=atoms))
    assert tags.texts == {
        "title": ["Song"], "composer": ["Clara"], "comment": ["one"], "bpm": ["120"],
        "tracknumber": ["3/12"], "discnumber": ["1"],
    }  # fmt: skip
    assert tags.pictures == (Picture(b"png", "image/png"), Picture(b"jpeg", "image/jpeg"))


@pytest.mark.parametrize("format", ["wav", "flac", "opus"])
def test_tags_that_cannot_be_written_leave_the_file(
    tmp_path: Path, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "no audio").write_bytes(b"no audio")
    write_tags(tmp_path / "no audio", format, Tags({"title": ["a"]}))
    assert "are left out" in caplog.text
    assert (tmp_path / "no audio").read_bytes() == b"no audio"


def test_other_formats_hold_none(tmp_path: Path) -> None:
    path = files.write(tmp_path / "song.caf", tone(440, 0.2))
    write_tags(path, "caf", Tags({"title": ["a"]}))
    assert not read_tags(path)
