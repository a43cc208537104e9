"""Turn a corpus into band powers: one long memory map, with where each file lies and sounds.

    python -m unisep_train band-powers CORPUS OUT --exclude-repo OWNER/NAME

CORPUS holds sounds with a `manifest.jsonl`. What the audio tower looks at is computed once; mixing, filters and pitch
then cost next to nothing in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from pydantic import TypeAdapter
from unisep_clap.log_mel import LogMel, LogMelConfig
from unisep_evaluate import layouts
from unisep_evaluate.datasets import md5_digit

from unisep.files.paths import write_whole
from unisep_train.data.corpus import HASHED_KINDS, VALID_DIGITS, decode

MEL = LogMelConfig()
FRAMES, CLIPS = "frames.f16", "clips.json"
QUIET_BELOW_DB = -30.0
SMALLEST_POWER = 1e-10


@dataclass(frozen=True)
class Clip:
    """One file of a manifest: its place among the frames, and the frames in which it sounds."""

    path: str
    kind: str
    song: str | None
    label: str
    synonyms: tuple[str, ...]
    family: str
    start: int
    n_frames: int
    active_frames: tuple[int, ...]

    def is_validation(self, songs: frozenset[str]) -> bool:
        """Tell whether the clip is held out: of the named songs, or a single file by the md5 of its path."""
        return md5_digit(self.path) in VALID_DIGITS if self.kind in HASHED_KINDS else self.song in songs


_CLIPS = TypeAdapter(tuple[Clip, ...])


@dataclass(frozen=True)
class BandPowers:
    """Clips and their frames `[frames, bands + 1]`: log10 of each band's power, then of the mean square."""

    clips: tuple[Clip, ...]
    frames: np.ndarray

    def powers(self, clip: Clip, start: int, n_frames: int) -> np.ndarray:
        """Return powers `[n_frames, bands + 1]` of a clip from `start`, zeros after its end."""
        end = min(start + n_frames, clip.n_frames)
        powers = 10 ** self.frames[clip.start + start : clip.start + end].astype(np.float32)
        return np.pad(powers, ((0, n_frames - len(powers)), (0, 0)))


def build(folder: Path, out: Path, *, exclude_repo: list[str] | None = None) -> None:
    """Compute the band powers of the files of a manifest. Both files of `out` appear when all is done.

    Args:
        folder: a folder with manifest.jsonl.
        out: where the powers go.
        exclude_repo: leave out what is from these repositories.

    Raises:
        DatasetError: a file cannot be decoded, or the manifest cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / CLIPS).unlink(missing_ok=True)
    mel, clips, position = LogMel(MEL), [], 0
    partial = out / f"{FRAMES}.part"
    with partial.open("wb") as file:
        for row in layouts.rows(folder, "manifest"):
            samples = decode(folder / row.path, MEL.sample_rate_hz, mono=True)
            if row.repo in (exclude_repo or ()) or len(samples) < MEL.window_samples:
                continue
            frames = _frames(mel, samples)
            frames.tofile(file)
            synonyms = tuple(name.lower() for name in row.synonyms)
            clips.append(Clip(row.path, row.kind, row.song, row.label.lower(), synonyms, row.family, position,
                              len(frames), _active(frames)))  # fmt: skip
            position += len(frames)
    partial.replace(out / FRAMES)
    write_whole(out / CLIPS, _CLIPS.dump_json(tuple(clips)))


def read(folder: Path) -> BandPowers:
    """Read what `build` wrote."""
    clips = _CLIPS.validate_json((folder / CLIPS).read_bytes())
    frames = np.memmap(folder / FRAMES, dtype=np.float16, mode="r")
    return BandPowers(clips, frames.reshape(-1, MEL.n_bands + 1))


@torch.inference_mode()
def _frames(mel: LogMel, samples: np.ndarray) -> np.ndarray:
    power = rearrange(mel.power(torch.from_numpy(samples)[None]), "1 m t -> t m").numpy()
    padded = np.pad(samples, (MEL.hop_samples // 2, MEL.hop_samples))[: len(power) * MEL.hop_samples]
    square = np.square(padded[: len(padded) // MEL.hop_samples * MEL.hop_samples]).reshape(-1, MEL.hop_samples).mean(1)
    square = np.pad(square, (0, len(power) - len(square)))
    return np.log10(np.concatenate([power, square[:, None]], 1) + SMALLEST_POWER).astype(np.float16)


def _active(frames: np.ndarray) -> tuple[int, ...]:
    """Return every tenth frame whose neighbourhood lies within 30 dB of the loudest."""
    n_blocks = -(-len(frames) // 10)
    level = np.array([10 ** frames[10 * i : 10 * i + 25, -1].astype(np.float32).max() for i in range(n_blocks)])
    return tuple(int(10 * i) for i in np.flatnonzero(level >= level.max() * 10 ** (QUIET_BELOW_DB / 10)))
