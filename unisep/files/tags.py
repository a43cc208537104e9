"""Tags and cover art, carried from a recording to what is made of it.

They are read and written by mutagen, an extra of its own (`pip install "unisep[tags]"`) since its licence is
the GPL. Without it, files are written without tags.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_PICTURE_BYTES = 16 * 2**20


MAX_TEXT_LETTERS = 64 * 1024


_FRONT_COVER = 3


_KINDS = (  # one field a row: its name, the ID3 frame (mp3, wav, aiff), the MP4 atom
    ("title", "TIT2", "\xa9nam"),
    ("artist", "TPE1", "\xa9ART"),
    ("album", "TALB", "\xa9alb"),
    ("albumartist", "TPE2", "aART"),
    ("composer", "TCOM", "\xa9wrt"),
    ("date", "TDRC", "\xa9day"),
    ("genre", "TCON", "\xa9gen"),
    ("tracknumber", "TRCK", "trkn"),
    ("discnumber", "TPOS", "disk"),
    ("bpm", "TBPM", "tmpo"),
    ("copyright", "TCOP", "cprt"),
    ("isrc", "TSRC", ""),
    ("organization", "TPUB", ""),
    ("language", "TLAN", ""),
)


_FRAMES = {frame: name for name, frame, _ in _KINDS}


_ATOMS = {atom: name for name, _, atom in _KINDS if atom}


_NAMES = {name for name, _, _ in _KINDS} | {"comment"}


@dataclass(frozen=True)
class Picture:
    """An image: its bytes, its type such as "image/png", and what it shows (3: the front cover)."""

    data: bytes
    mime: str
    kind: int = _FRONT_COVER
    description: str = ""


@dataclass(frozen=True)
class Tags:
    """What is said of a recording: fields such as "title" with their values, and pictures.

    What describes the file and not the music (encoder, loudness, length) is left behind.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.texts or self.pictures)


def read_tags(path: Path) -> Tags:
    """The tags of an audio file; none where it has none, they cannot be read, or mutagen is not installed."""
    try:
        import mutagen
    except ImportError:
        return Tags()
    try:
        file = mutagen.File(path)
        return Tags() if file is None or file.tags is None else _clean(_read(file))
    except Exception as error:  # whatever is wrong with the tags, the sound can be had
        warnings.warn(f"The tags of '{path}' cannot be read ({error}); they are left behind.", stacklevel=2)
        return Tags()


def write_tags(path: Path, format: str, tags: Tags) -> None:
    """Nothing; puts `tags` into the complete file at `path` of the format `format`, where that holds any."""
    if not tags or format not in _WRITERS:
        return
    try:
        _WRITERS[format](path, tags)
    except Exception as error:  # the sound is complete without them
        warnings.warn(f"The tags cannot be written to {format} ({error}); they are left out.", stacklevel=2)


def _clean(tags: Tags) -> Tags:
    texts = {
        name: [str(value).replace("\0", " ")[:MAX_TEXT_LETTERS] for value in values if str(value).strip()]
        for name, values in tags.texts.items()
        if name in _NAMES
    }
    pictures = tuple(picture for picture in tags.pictures if 0 < len(picture.data) <= MAX_PICTURE_BYTES)
    return Tags({name: values for name, values in texts.items() if values}, pictures)


def _read(file: Any) -> Tags:
    import mutagen.id3
    import mutagen.mp4

    if isinstance(file.tags, mutagen.id3.ID3):
        return _from_id3(file.tags)
    if isinstance(file.tags, mutagen.mp4.MP4Tags):
        return _from_mp4(file.tags)
    return _from_vorbis(file)


def _from_id3(frames: Any) -> Tags:
    texts = {_FRAMES[key]: [str(text) for text in frame.text] for key, frame in frames.items() if key in _FRAMES}
    comments = [str(text) for frame in frames.getall("COMM") if not frame.desc for text in frame.text]
    pictures = [Picture(p.data, p.mime, int(p.type), p.desc) for p in frames.getall("APIC")]
    return Tags(texts | {"comment": comments}, tuple(pictures))


def _from_mp4(atoms: Any) -> Tags:
    from mutagen.mp4 import MP4Cover

    texts = {_ATOMS[key]: [_of_total(value) for value in values] for key, values in atoms.items() if key in _ATOMS}
    comments = [str(value) for value in atoms.get("\xa9cmt", [])]
    mimes = {MP4Cover.FORMAT_PNG: "image/png"}
    covers = [Picture(bytes(c), mimes.get(c.imageformat, "image/jpeg")) for c in atoms.get("covr", [])]
    return Tags(texts | {"comment": comments}, tuple(covers))


def _of_total(value: Any) -> str:
    """`(3, 12)` as "3/12"; anything else as it is."""
    if not isinstance(value, tuple):
        return str(value)
    return "/".join(str(part) for part in value if part)


def _from_vorbis(file: Any) -> Tags:
    import base64

    from mutagen import flac

    texts = {key.lower(): list(values) for key, values in file.tags.as_dict().items()}
    found = list(getattr(file, "pictures", [])) + [
        flac.Picture(base64.b64decode(block)) for block in texts.get("metadata_block_picture", [])
    ]
    return Tags(texts, tuple(Picture(p.data, p.mime, int(p.type), p.desc) for p in found))


def _to_flac(path: Path, tags: Tags) -> None:
    from mutagen.flac import FLAC

    file = FLAC(path)
    file.update(tags.texts)
    for picture in tags.pictures:
        file.add_picture(_block(picture))
    file.save()


def _to_ogg(path: Path, tags: Tags) -> None:
    import base64

    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    with path.open("rb") as head:
        file = OggOpus(path) if b"OpusHead" in head.read(64) else OggVorbis(path)
    file.update(tags.texts)
    if tags.pictures:
        blocks = [_block(picture).write() for picture in tags.pictures]
        file["metadata_block_picture"] = [base64.b64encode(block).decode("ascii") for block in blocks]
    file.save()


def _to_id3(kind: str) -> Callable[[Path, Tags], None]:
    def write(path: Path, tags: Tags) -> None:
        from mutagen import aiff, id3, mp3, wave

        file: Any = {"mp3": mp3.MP3, "wav": wave.WAVE, "aiff": aiff.AIFF}[kind](path)
        if file.tags is None:
            file.add_tags()
        for name, frame, _ in _KINDS:
            if name in tags.texts:
                file.tags.add(getattr(id3, frame)(encoding=id3.Encoding.UTF8, text=tags.texts[name]))
        for comment in tags.texts.get("comment", []):
            file.tags.add(id3.COMM(encoding=id3.Encoding.UTF8, lang="und", desc="", text=[comment]))
        for n, p in enumerate(tags.pictures):
            desc = p.description or ("" if n == 0 else str(n))
            file.tags.add(id3.APIC(id3.Encoding.UTF8, mime=p.mime, type=p.kind, desc=desc, data=p.data))
        file.save()

    return write


def _block(picture: Picture) -> Any:
    from mutagen.flac import Picture as Block

    block = Block()
    block.data, block.mime, block.type, block.desc = (picture.data, picture.mime, picture.kind, picture.description)
    return block


_WRITERS: dict[str, Callable[[Path, Tags], None]] = {
    "flac": _to_flac,
    "ogg": _to_ogg,
    "opus": _to_ogg,
    "mp3": _to_id3("mp3"),
    "wav": _to_id3("wav"),
    "aiff": _to_id3("aiff"),
}
