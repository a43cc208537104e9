"""Texts and clips through two encoders, a few at a time, with the progress told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from unisep.audio import Audio
from unisep.plugins.encoder import QueryEncoder
from unisep.progress import OnProgress, Progress
from unisep.query.encode import call_encoder
from unisep_align.fit import Clips
from unisep_align.ridge import Matrix, Pairs
from unisep_align.sounds import LEAST_CLIPS, made_sounds, read_clip, too_few

_N_AT_ONCE = 64


class Count:
    """Reports how far the encoding is."""

    def __init__(self, on_progress: OnProgress | None, n_all: int) -> None:
        self._on_progress = on_progress
        self._n_all = n_all
        self._n_done = 0

    def add(self, n: int) -> None:
        """Count `n` more things as encoded."""
        self._n_done += n
        if self._on_progress is not None:
            self._on_progress(Progress(self._n_done / self._n_all, 0.0, 0.0, None, "encoding"))


def read_texts(encoder: QueryEncoder, texts: Sequence[str], count: Count) -> Matrix:
    """Vectors [n, dim] of `n` texts."""
    rows = []
    for start in range(0, len(texts), _N_AT_ONCE):
        some = list(texts[start : start + _N_AT_ONCE])
        rows.append(_vectors(encoder, "encode_text", encoder.encode_text, some))
        count.add(len(some))
    return np.concatenate(rows)


def hear(
    pair: tuple[QueryEncoder, QueryEncoder], folder: str | Path | None, paths: list[Path] | None, count: Count
) -> Clips:
    """The clips' vectors in both spaces, one clip in memory at a time. Raises AudioFileError for too few."""
    sounds: Iterable[Audio | None] = made_sounds() if paths is None else map(read_clip, paths)
    rows: list[tuple[Matrix, ...]] = []
    for clip in _counted(sounds, count):
        if clip is not None:
            rows.append(tuple(_vectors(each, "encode_audio", each.encode_audio, [clip])[0] for each in pair))
    if len(rows) < LEAST_CLIPS:
        raise too_few(str(folder), len(rows))
    source, target = (np.stack(side) for side in zip(*rows, strict=True))
    return Clips(Pairs(source, target), own=paths is not None)


def _counted(sounds: Iterable[Audio | None], count: Count) -> Iterator[Audio | None]:
    for sound in sounds:
        yield sound
        count.add(1)


def _vectors(encoder: QueryEncoder, method: str, call: Callable[..., torch.Tensor], items: list) -> Matrix:
    rows: Matrix = call_encoder(encoder, method, call, items).numpy().astype(np.float64)
    return rows
