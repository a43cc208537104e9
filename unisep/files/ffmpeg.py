"""Read and write with the ffmpeg program, where it is installed, what libsndfile cannot.

It runs apart, reads one local file only (no network, no playlists, no lists of files), and is held to limits of time,
size, and the memory it takes at once.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from unisep.errors import AudioFileError

TIMEOUT_SECONDS = 900.0
MAX_DECODED_BYTES = 16 * 2**30
MAX_ALLOCATED_BYTES = 2**29
DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,asf_o,au,avi,caf,dsf,dts,eac3,flac,flv,iff,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpc,mpc8,mpeg,mpegts,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,wv,xwma"
)


def program() -> str | None:
    """Return the path of the ffmpeg program, or None."""
    return shutil.which("ffmpeg")


def decode(source: Path, target: Path, *, strict: bool = False) -> None:
    """Write the first audio stream of `source` to `target` as 32 bit float wav (RF64 above 4 GiB).

    Raises AudioFileError where ffmpeg is missing, cannot decode the file (if `strict`, without any complaint), or met a
    limit of time or size.
    """
    max_bytes = min(MAX_DECODED_BYTES, int(0.9 * shutil.disk_usage(target.parent).free))
    _run("decode", _decoding(source, target, max_bytes), target, strict)
    if target.stat().st_size >= max_bytes - 2**20:
        raise AudioFileError(f"its audio is larger than the limit of {max_bytes // 2**20} MiB")


def encode_aac(path: Path, bitrate_kbps: int | None) -> None:
    """Put an m4a file in the place of the wav file at `path`. Raises AudioFileError as `decode` does."""
    target = path.with_name(f"{path.name}.m4a")
    bitrate = "" if bitrate_kbps is None else f"-b:a {bitrate_kbps}k"
    output = f"-c:a aac {bitrate} -map_metadata -1 -fflags +bitexact -flags:a +bitexact -f ipod".split()
    try:
        _run("encode", ["-xerror", "-i", f"file:{path.absolute()}", *output, f"file:{target}"], target)
        target.replace(path)
    finally:
        target.unlink(missing_ok=True)


def _run(verb: str, arguments: list[str], target: Path, strict: bool = False) -> None:
    """Run ffmpeg, which is to write `target`; if `strict`, without any complaint."""
    ffmpeg, nothing = program(), subprocess.DEVNULL
    if ffmpeg is None:
        raise AudioFileError("the ffmpeg program, which reads more formats, is not installed")
    command = [ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments]
    with tempfile.TemporaryFile() as log:
        try:
            done = subprocess.run(command, stdin=nothing, stdout=nothing, stderr=log, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise AudioFileError(f"ffmpeg was stopped after {TIMEOUT_SECONDS:.0f} s") from error
        except OSError as error:
            raise AudioFileError(f"ffmpeg did not start ({error})") from error
        if done.returncode != 0 or not target.is_file() or (strict and _last_line(log)):
            raise AudioFileError(f"ffmpeg could not {verb} it ({_last_line(log) or 'no reason given'})")


def _decoding(source: Path, target: Path, max_bytes: int) -> list[str]:
    allowed = [
        "-protocol_whitelist",
        "file,pipe",
        "-format_whitelist",
        DEMUXERS,
        "-max_alloc",
        str(MAX_ALLOCATED_BYTES),
    ]
    only_audio = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1"]
    # Not w64: libsndfile reads some bytes of the header of ffmpeg 5.1's as samples.
    output = ["-c:a", "pcm_f32le", "-fs", str(max_bytes), "-rf64", "auto", "-f", "wav", f"file:{target}"]
    return [*allowed, "-i", f"file:{source.absolute()}", *only_audio, *output]


def _last_line(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, 2) - 1000))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
