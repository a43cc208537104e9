"""What each audio file format can hold, and what is chosen when the user does not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisep.errors import AudioFileError, OptionError, arg, suggest
from unisep.files import ffmpeg

INTEGER_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
MAX_HEADROOM_DB = 100
MAX_RIFF_BYTES = 2**32 - 2**16  # larger wav files become RF64; aiff has no such way
_LOSSLESS_ELSEWHERE = {"ape", "au", "dsf", "tak", "tta", "wv"}
_MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
_OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
_VORBIS_KBPS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)  # of the qualities 0, 0.1, ... 1


@dataclass(frozen=True)
class AudioFileInfo:
    """The facts in a file's header: `format` as unisep names it ("wav", "m4a"), `subtype` as libsndfile does ("PCM_16").

    `n_samples` are those of a channel, None where the header does not say.
    """

    sample_rate_hz: int
    n_channels: int
    n_samples: int | None
    format: str
    subtype: str

    @property
    def seconds(self) -> float | None:
        """Length in seconds, or None where the header does not say."""
        return None if self.n_samples is None else self.n_samples / self.sample_rate_hz


@dataclass(frozen=True)
class Format:
    """One format that unisep writes: `subtypes`, the first by default, at `rates_hz`, or any up to `max_rate_hz`.

    `kbps` are the lowest and highest bitrate that can be asked for; None for a lossless format.
    """

    name: str
    container: str
    suffixes: tuple[str, ...]
    subtypes: tuple[str, ...]
    max_rate_hz: int = 768_000
    rates_hz: tuple[int, ...] = ()
    kbps: tuple[int, int] | None = None


FORMATS = {
    known.name: known
    for known in (
        Format("wav", "WAV", (".wav", ".wave"), ("FLOAT", "PCM_16", "PCM_24", "PCM_32")),
        Format("flac", "FLAC", (".flac",), ("PCM_24", "PCM_16"), max_rate_hz=655_350),
        Format("aiff", "AIFF", (".aiff", ".aif"), ("PCM_24", "PCM_16", "PCM_32", "FLOAT")),
        Format("caf", "CAF", (".caf",), ("FLOAT", "PCM_16", "PCM_24", "PCM_32")),
        Format("w64", "W64", (".w64",), ("FLOAT", "PCM_16", "PCM_24", "PCM_32")),
        Format("ogg", "OGG", (".ogg", ".oga"), ("VORBIS",), max_rate_hz=192_000, kbps=(64, 500)),
        Format("opus", "OGG", (".opus",), ("OPUS",), rates_hz=_OPUS_RATES_HZ, kbps=(12, 510)),
        Format("m4a", "FFMPEG", (".m4a",), ("AAC",), rates_hz=_AAC_RATES_HZ, kbps=(32, 320)),
        Format("mp3", "MP3", (".mp3",), ("MPEG_LAYER_III",), rates_hz=_MP3_RATES_HZ, kbps=(64, 320)),
    )
}
# Where no ffmpeg is installed, reading one of the others is an error that says so.
READ_SUFFIXES = frozenset(suffix for known in FORMATS.values() for suffix in known.suffixes).union(
    (".au", ".m4a", ".aac", ".wma", ".mp4", ".ape", ".wv", ".webm")
)


@dataclass(frozen=True)
class Encoding:
    """How a file is to be written. `bitrate_kbps` is for lossy formats; None is their default.

    Raises OptionError for a headroom below 0.
    """

    format: str
    subtype: str
    bitrate_kbps: int | None = None
    headroom_db: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.headroom_db <= MAX_HEADROOM_DB:
            raise OptionError(f"{arg('headroom_db', self.headroom_db)}: give 0 to {MAX_HEADROOM_DB} decibels.")

    def gain(self, peak: float) -> float:
        """Return what samples up to `peak` are multiplied by: the headroom, or less where integers would clip.

        >>> Encoding("flac", "PCM_16").gain(0.9), Encoding("wav", "FLOAT").gain(2.0)
        (1.0, 1.0)
        >>> round(Encoding("flac", "PCM_16").gain(2.0), 4), Encoding("wav", "FLOAT", headroom_db=20).gain(2.0)
        (0.5, 0.1)
        """
        gain = 10 ** (-self.headroom_db / 20)
        if self.subtype not in INTEGER_BITS or peak * gain <= 1.0:
            return float(gain)
        return (1.0 - 2.0 ** (1 - INTEGER_BITS[self.subtype])) / peak

    def n_bytes(self, sample_rate_hz: int, n_channels: int, n_samples: int) -> int:
        """Return how large a file becomes, at the most (for lossy formats, about); m4a, which is made of a wav, on the way."""
        kbps = FORMATS[self.format].kbps
        if kbps is not None and not self.is_by_ffmpeg:
            return n_samples * (self.bitrate_kbps or kbps[1]) * 125 // sample_rate_hz
        return n_samples * n_channels * INTEGER_BITS.get(self.subtype, 32) // 8

    @property
    def is_by_ffmpeg(self) -> bool:
        """Whether ffmpeg makes the file."""
        return FORMATS[self.format].container == "FFMPEG"

    def settings(self, sample_rate_hz: int, n_channels: int) -> dict[str, object]:
        """Return what `soundfile.SoundFile` is told to reach the bitrate; nothing for the default.

        mp3 keeps the bitrate throughout, opus reaches it on average. So does ogg in stereo at 44.1 and 48 kHz; its encoder
        is told a quality. Raises AudioFileError where the format cannot hold the rate or the bitrate.
        """
        known, bitrate_kbps = FORMATS[self.format], self.bitrate_kbps
        if sample_rate_hz not in (known.rates_hz or range(known.max_rate_hz + 1)):
            possible = ", ".join(map(str, known.rates_hz)) or f"up to {known.max_rate_hz}"
            raise AudioFileError(
                f"{known.name} files cannot hold {sample_rate_hz} Hz (possible: {possible} Hz). "
                "Write wav or flac, which keep the rate of the recording."
            )
        if self.is_by_ffmpeg and ffmpeg.program() is None:
            raise AudioFileError(f"{known.name} files are made by the ffmpeg program, which is not installed here.")
        if bitrate_kbps is None:
            return {}
        if known.kbps is None:
            raise AudioFileError(
                f"A bitrate is for lossy formats, not for {known.name}. Leave {arg('bitrate_kbps')} out."
            )
        lowest, highest = known.kbps
        if known.name == "mp3" and sample_rate_hz < 32_000:
            highest = 160 if sample_rate_hz >= 16_000 else 64
        if known.name == "opus":
            highest = min(highest, 255 * n_channels)
        if not isinstance(bitrate_kbps, int) or not lowest <= bitrate_kbps <= highest:
            raise AudioFileError(
                f"{arg('bitrate_kbps', bitrate_kbps)} is out of range for {known.name} at {sample_rate_hz} Hz: "
                f"give {lowest} to {highest}."
            )
        if self.is_by_ffmpeg:
            return {}
        if known.name == "mp3":
            floor = 32 if sample_rate_hz >= 32_000 else 8
            return {"compression_level": (highest - bitrate_kbps) / (highest - floor), "bitrate_mode": "CONSTANT"}
        if known.name == "opus":
            return {"compression_level": max(0.0, 1 - (bitrate_kbps / n_channels - 6) / 250)}
        quality = np.interp(bitrate_kbps, _VORBIS_KBPS, np.linspace(0, 1, len(_VORBIS_KBPS)))
        return {"compression_level": 1 - float(quality)}


def find_format(path: Path, name: str | None = None) -> Format:
    """Return the format of that name, or without one that of the file's suffix. Raises AudioFileError for others."""
    if not isinstance(name, str | None):
        raise AudioFileError(f"{arg('format', name)} is no name of a format. Possible: {', '.join(FORMATS)}.")
    suffix = path.suffix if name is None else f".{name.removeprefix('.')}"
    for known in FORMATS.values():
        if suffix.lower() in known.suffixes:
            return known
    wish = name if name is not None else suffix or str(path)
    raise AudioFileError(f"Cannot write the format {wish!r}. {suggest(wish.removeprefix('.'), FORMATS)}")


def default_format(source: AudioFileInfo | None) -> str:
    """Return the format to write when the user does not say: the input's, flac for lossy input, wav for arrays."""
    if source is not None and lossy(source.format):
        return "flac"
    return source.format if source is not None and source.format in FORMATS else "wav"


def default_subtype(format: str, source: AudioFileInfo | None = None) -> str:
    """Return how to store samples when the user does not say: the input's depth where the format holds it.

    Without an input, or where it has no depth of its own: float for wav, 24 bit for flac and aiff.

    >>> default_subtype("wav"), default_subtype("flac")
    ('FLOAT', 'PCM_24')
    """
    known = find_format(Path(), format)
    same = "" if source is None else source.subtype.replace("DOUBLE", "FLOAT")
    return same if same in known.subtypes else known.subtypes[0]


def lossy(format: str) -> bool:
    """Tell whether files of this format lose sound when written; formats that are not known count as lossy."""
    known = FORMATS.get(format.lower())
    return known.kbps is not None if known else format.lower() not in _LOSSLESS_ELSEWHERE


def checked_subtype(known: Format, subtype: str | None) -> str:
    """Return the subtype to write, the default for None. Raises AudioFileError for one that the format cannot hold.

    >>> checked_subtype(FORMATS["wav"], "pcm_24")
    'PCM_24'
    """
    name = known.subtypes[0] if subtype is None else str(subtype).upper().replace("-", "_")
    if name not in known.subtypes:
        raise AudioFileError(
            f"{known.name} files cannot be written as {subtype!r}. Possible: {', '.join(known.subtypes)}."
        )
    return name


def choose_encoding(
    source: AudioFileInfo,
    *,
    format: str | None = None,
    subtype: str | None = None,
    bitrate_kbps: int | None = None,
    headroom_db: float = 0.0,
) -> Encoding:
    """Return how to write results of a file: as the arguments say, like the file where they do not, and checked."""
    known = find_format(Path(), default_format(source) if format is None else format)
    subtype = default_subtype(known.name, source) if subtype is None else subtype
    encoding = Encoding(known.name, checked_subtype(known, subtype), bitrate_kbps, headroom_db)
    encoding.settings(source.sample_rate_hz, source.n_channels)
    return encoding


def check_size(encoding: Encoding, sample_rate_hz: int, n_channels: int, n_samples: int) -> None:
    """Raise AudioFileError for audio too long for one file of the format."""
    if encoding.format == "aiff" and encoding.n_bytes(sample_rate_hz, n_channels, n_samples) > MAX_RIFF_BYTES:
        raise AudioFileError("An aiff file holds at most 4 GiB, and this would be longer. Write wav, flac, caf or w64.")
