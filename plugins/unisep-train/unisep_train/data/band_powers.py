"""A corpus as one long memory map of band powers, with where each file lies and sounds.

What the audio tower looks at is computed once; mixing, filters and pitch then cost next to nothing in training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from einops import rearrange
from unisep_clap.log_mel import LogMel, LogMelConfig

from unisep.errors import UnisepError

MEL = LogMelConfig()
FRAMES, CLIPS = "frames.f16", "clips.json"
_QUIET_BELOW_DB = -30.0
_SMALLEST = 1e-10


class ManifestError(UnisepError, ValueError):
    """A manifest, or a file it names, that no store can be made of."""


@dataclass(frozen=True)
class Clip:
    """One file of a manifest: its place in the store (in frames) and the frames in which it sounds."""

    path: str
    kind: str
    song: str | None
    label: str
    synonyms: tuple[str, ...]
    family: str
    start: int
    n_frames: int
    active_frames: tuple[int, ...]


@dataclass(frozen=True)
class Store:
    """Clips and their frames [frames, bands + 1]: log10 of each band's power, then of the mean square."""

    clips: tuple[Clip, ...]
    frames: np.ndarray

    def powers(self, clip: Clip, start: int, n_frames: int) -> np.ndarray:
        """Powers [n_frames, bands + 1] of a clip from `start`, zeros after its end."""
        end = min(start + n_frames, clip.n_frames)
        powers = 10 ** self.frames[clip.start + start : clip.start + end].astype(np.float32)
        return np.pad(powers, ((0, n_frames - len(powers)), (0, 0)))


def is_validation(clip: Clip, songs: frozenset[str]) -> bool:
    """True for the named songs, and for solo, voice and universal files whose path's md5 ends in 0 or 1."""
    if clip.kind in {"solo", "voice", "universal"}:
        return hashlib.md5(clip.path.encode(), usedforsecurity=False).hexdigest()[-1] in "01"
    return clip.song in songs


def build(folder: Path, out: Path, excluded_repos: frozenset[str]) -> None:
    """Decode the files of `folder/manifest.jsonl` into `out`, less those of the excluded repositories.

    Both files of the store appear when all is done; while they are written, `out` holds no store.
    Raises ManifestError for a file that cannot be decoded, or a line that lacks what a clip needs.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / CLIPS).unlink(missing_ok=True)
    mel, clips, position = LogMel(MEL), [], 0
    partial = out / f"{FRAMES}.part"
    with partial.open("wb") as file:
        for number, line in enumerate((folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = {"kind": "solo", "song": None, "synonyms": (), "family": "other"} | json.loads(line)
                samples, label = decoded(folder / row["path"]), row["label"].lower()
            except (OSError, ValueError, TypeError, KeyError, soundfile.SoundFileError) as error:
                raise ManifestError(f"{folder / 'manifest.jsonl'}, line {number}: {error!r}") from error
            if row.get("repo") in excluded_repos or len(samples) < MEL.window_samples:
                continue
            frames = _frames(mel, samples)
            frames.tofile(file)
            clips.append(Clip(
                row["path"], row["kind"], row["song"], label, tuple(s.lower() for s in row["synonyms"]),
                row["family"], position, len(frames), _active(frames),
            ))  # fmt: skip
            position += len(frames)
    partial.replace(out / FRAMES)
    listed = out / f"{CLIPS}.part"
    listed.write_text(json.dumps([asdict(clip) for clip in clips]))
    listed.replace(out / CLIPS)


def read(folder: Path) -> Store:
    """The store that `build` wrote."""
    rows = json.loads((folder / CLIPS).read_text())
    clips = tuple(
        Clip(**{**row, "synonyms": tuple(row["synonyms"]), "active_frames": tuple(row["active_frames"])})
        for row in rows
    )
    frames = np.memmap(folder / FRAMES, dtype=np.float16, mode="r")
    return Store(clips, frames.reshape(-1, MEL.n_bands + 1))


def decoded(path: Path) -> np.ndarray:
    """Mono float32 samples at the mel's rate."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(1), rate_hz, MEL.sample_rate_hz)


@torch.inference_mode()
def _frames(mel: LogMel, samples: np.ndarray) -> np.ndarray:
    power = rearrange(mel.power(torch.from_numpy(samples)[None]), "1 m t -> t m").numpy()
    padded = np.pad(samples, (MEL.hop_samples // 2, MEL.hop_samples))[: len(power) * MEL.hop_samples]
    square = np.square(padded[: len(padded) // MEL.hop_samples * MEL.hop_samples]).reshape(-1, MEL.hop_samples).mean(1)
    square = np.pad(square, (0, len(power) - len(square)))
    return np.log10(np.concatenate([power, square[:, None]], 1) + _SMALLEST).astype(np.float16)


def _active(frames: np.ndarray) -> tuple[int, ...]:
    """Every tenth frame whose neighbourhood lies within 30 dB of the loudest."""
    n_blocks = -(-len(frames) // 10)
    level = np.array([10 ** frames[10 * i : 10 * i + 25, -1].astype(np.float32).max() for i in range(n_blocks)])
    return tuple(int(10 * i) for i in np.flatnonzero(level >= level.max() * 10 ** (_QUIET_BELOW_DB / 10)))


def main() -> None:
    """Build a store: `python -m unisep_train.data.band_powers FOLDER OUT [--exclude-repo OWNER/NAME]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with manifest.jsonl")
    parser.add_argument("out", type=Path)
    parser.add_argument("--exclude-repo", action="append", default=[])
    arguments = parser.parse_args()
    try:
        build(arguments.folder, arguments.out, frozenset(arguments.exclude_repo))
    except (OSError, UnisepError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
