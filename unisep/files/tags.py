"""Tags and cover art, carried from a recording to its results.

mutagen, an extra of its own (`pip install "unisep[tags]"`) under the GPL, reads and writes them; without it none are.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
MAX_PICTURE_BYTES = 16 * 2**20
MAX_TEXT_LETTERS = 64 * 1024
# What describes the music. What describes the file (encoder, loudness, length) is left behind.
FIELDS = (
    *("title", "artist", "album", "albumartist", "composer", "date", "genre", "tracknumber", "discnumber", "bpm"),
    *("copyright", "isrc", "organization", "language", "comment"),
)
_OGG_PICTURE = "metadata_block_picture"  # a flac picture in base64


@dataclass(frozen=True)
class Picture:
    """An image: its bytes, its type such as "image/png", and what it shows (3: the front cover)."""

    data: bytes
    mime: str
    kind: int = 3
    description: str = ""


@dataclass(frozen=True)
class Tags:
    """Facts about a recording: values by field, of those named in `FIELDS`, and cover art."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.texts or self.pictures)


def read_tags(path: Path) -> Tags:
    """Return the tags of an audio file; none where it has none, they cannot be read, or mutagen is not installed."""
    try:
        import mutagen
    except ImportError:
        return Tags()
    try:
        file = mutagen.File(path)
        return Tags() if file is None or file.tags is None else _clean(_read(file))
    except Exception as error:  # whatever is wrong with the tags, the sound can be had
        log.warning("The tags of '%s' cannot be read (%s); they are left behind.", path, error)
        return Tags()


def write_tags(path: Path, format: str, tags: Tags) -> None:
    """Put `tags` into a complete audio file, where its format holds any."""
    if not tags or format not in ("wav", "aiff", "mp3", "flac", "ogg", "opus", "m4a"):
        return
    try:
        _write(path, format, tags)
    except Exception as error:  # the sound is complete without them
        log.warning("The tags cannot be written to %s (%s); they are left out.", format, error)


def _clean(tags: Tags) -> Tags:
    texts = {
        name: [str(value).replace("\0", " ")[:MAX_TEXT_LETTERS] for value in values if str(value).strip()]
        for name, values in tags.texts.items()
        if name in FIELDS
    }
    pictures = tuple(picture for picture in tags.pictures if 0 < len(picture.data) <= MAX_PICTURE_BYTES)
    return Tags({name: values for name, values in texts.items() if values}, pictures)


def _read(file: Any) -> Tags:
    from mutagen import flac, id3, mp4
    from mutagen.easyid3 import EasyID3
    from mutagen.easymp4 import EasyMP4Tags

    tags = file.tags
    if isinstance(tags, id3.ID3):
        blocks = tags.getall("APIC")
        comments = [text for frame in tags.getall("COMM") if not frame.desc for text in frame.text]
        texts = _easy_texts(tags, {**EasyID3.Get, "comment": lambda *_: comments})
    elif isinstance(tags, mp4.MP4Tags):
        mimes = {mp4.MP4Cover.FORMAT_PNG: "image/png"}
        covers = [Picture(bytes(c), mimes.get(c.imageformat, "image/jpeg")) for c in tags.get("covr", [])]
        texts = _easy_texts(tags, {**EasyMP4Tags.Get, "composer": lambda atoms, _: atoms["\xa9wrt"]})
        return Tags(texts, tuple(covers))
    else:
        texts = {key.lower(): list(values) for key, values in tags.as_dict().items()}
        encoded = [flac.Picture(base64.b64decode(block)) for block in texts.get(_OGG_PICTURE, [])]
        blocks = [*getattr(file, "pictures", []), *encoded]
    return Tags(texts, tuple(Picture(p.data, p.mime, int(p.type), p.desc) for p in blocks))


def _easy_texts(tags: Any, getters: Mapping[str, Callable[[Any, str], list[str]]]) -> dict[str, list[str]]:
    """Return the fields in `tags`, got by the functions of mutagen's easy interface."""
    texts = {}
    for name in FIELDS:
        with suppress(KeyError):  # of tags without the field, and of formats that have none for it
            texts[name] = getters[name](tags, name)
    return texts


def _write(path: Path, format: str, tags: Tags) -> None:
    from mutagen import aiff, flac, mp3, mp4, oggopus, oggvorbis, wave

    kinds: dict[str, Any] = {"wav": wave.WAVE, "aiff": aiff.AIFF, "mp3": mp3.MP3, "flac": flac.FLAC, "m4a": mp4.MP4}
    file = (kinds | {"ogg": oggvorbis.OggVorbis, "opus": oggopus.OggOpus})[format](path)
    if file.tags is None:
        file.add_tags()
    if format in ("wav", "aiff", "mp3"):
        _fill_id3(file.tags, tags)
    elif format == "m4a":
        _fill_mp4(file.tags, tags)
    else:
        file.update(tags.texts)
        for picture in tags.pictures:
            block = flac.Picture()
            block.data, block.mime, block.type, block.desc = (
                picture.data,
                picture.mime,
                picture.kind,
                picture.description,
            )
            if format == "flac":
                file.add_picture(block)
            else:
                file[_OGG_PICTURE] = [*file.get(_OGG_PICTURE, []), base64.b64encode(block.write()).decode("ascii")]
    file.save()


def _fill_id3(frames: Any, tags: Tags) -> None:
    from mutagen import id3
    from mutagen.easyid3 import EasyID3

    for name, values in tags.texts.items():
        if name == "comment":
            frames.add(id3.COMM(encoding=id3.Encoding.UTF8, lang="und", desc="", text=values))
        else:
            EasyID3.Set[name](frames, name, values)
    for n, p in enumerate(tags.pictures):
        description = p.description or (str(n) if n else "")  # two of one description would be one
        frames.add(id3.APIC(id3.Encoding.UTF8, mime=p.mime, type=p.kind, desc=description, data=p.data))


def _fill_mp4(atoms: Any, tags: Tags) -> None:
    from mutagen.easymp4 import EasyMP4Tags
    from mutagen.mp4 import MP4Cover

    for name, values in tags.texts.items():
        if name == "composer":
            atoms["\xa9wrt"] = values
        elif name in EasyMP4Tags.Set:
            EasyMP4Tags.Set[name](atoms, name, values)
    kinds = {"image/png": MP4Cover.FORMAT_PNG}
    atoms["covr"] = [MP4Cover(p.data, kinds.get(p.mime, MP4Cover.FORMAT_JPEG)) for p in tags.pictures]
