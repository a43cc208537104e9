"""Equal sounds give equal files: nothing in them comes from the clock or from chance."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep import files
from unisep.files.containers import ogg_checksum, take_out_stamps
from unisep.testing import chirp

WRITTEN = [("WAV", "FLOAT"), ("WAV", "PCM_24"), ("RF64", "FLOAT"), ("AIFF", "FLOAT"), ("AIFF", "PCM_16")]
WRITTEN += [("CAF", "FLOAT"), ("W64", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
WRITTEN += [("MP3", "MPEG_LAYER_III")]


def plain_checksum(page: bytes) -> int:
    """The checksum of an Ogg page, bit by bit, as RFC 3533 writes it."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C1_1DB7 if value & 0x8000_0000 else 0)
            value &= 0xFFFF_FFFF
    return value


@pytest.mark.parametrize(("format", "subtype"), WRITTEN)
def test_the_sound_stays_and_only_stamps_go(format: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    soundfile.write(path, chirp(0.5, 48_000).samples.T, 48_000, subtype=subtype, format=format)
    before, sound = path.read_bytes(), soundfile.read(path)[0]
    take_out_stamps(path)
    after = path.read_bytes()
    assert len(after) == len(before)
    np.testing.assert_array_equal(soundfile.read(path)[0], sound)
    take_out_stamps(path)
    assert path.read_bytes() == after
    if format in ("WAV", "AIFF") and subtype == "FLOAT":
        at = after.index(b"PEAK") + 12
        assert before[at : at + 4] != after[at : at + 4] == bytes(4)
        assert before[:at] + before[at + 4 :] == after[:at] + after[at + 4 :]
    elif format != "OGG":
        assert after == before


@pytest.mark.parametrize("format", ["wav", "aiff", "flac", "ogg", "opus", "mp3", "caf", "w64"])
def test_writing_twice_gives_the_same_bytes(format: str, tmp_path: Path) -> None:
    one, two = (files.write(tmp_path / f"{n}.{format}", chirp(0.5, 48_000)) for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    if format == "wav":
        assert struct.unpack_from("<I", one.read_bytes(), one.read_bytes().index(b"PEAK") + 12) == (0,)


@pytest.mark.parametrize("page", [b"", b"OggS", bytes(range(256)) * 3])
def test_the_quick_checksum_is_that_of_the_standard(page: bytes) -> None:
    assert ogg_checksum(page) == plain_checksum(page)


def test_other_files_and_broken_ones_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"OggS", b"OggS" + bytes(23), b"FORM1234AIFFPEAK"):
        path.write_bytes(content)
        take_out_stamps(path)
        assert len(path.read_bytes()) == len(content), content
