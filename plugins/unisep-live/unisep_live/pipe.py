"""Raw samples from one pipe to another: as many come out as went in, in step with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from unisep import Live
from unisep_live.mixer import Mixer, Samples

FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}  # as ffmpeg calls them


def run(
    live: Live,
    mixer: Mixer,
    source: BinaryIO,
    sink: BinaryIO,
    form: str,
    shape: tuple[int, int],
    shown: Callable[[], None],
) -> int:
    """Separate blocks of `shape` until the source ends; return the number of samples. A pipe waits, so nothing is late.

    Args:
        live: the session, for blocks of this shape.
        mixer: what is written of it.
        source: interleaved samples.
        sink: the same.
        form: one of `FORMATS`.
        shape: channels and samples of a block.
        shown: called after each block.
    """
    n_channels, n_block = shape
    n_frame = n_channels * np.dtype(FORMATS[form]).itemsize
    n_in, n_out, n_to_skip = 0, 0, live.latency_samples
    is_open = True
    while is_open or n_out < n_in:
        data = _read(source, n_block * n_frame) if is_open else b""
        is_open = len(data) == n_block * n_frame
        n_in += len(data) // n_frame
        samples = decoded(data[: len(data) // n_frame * n_frame], form, n_channels)
        block = np.pad(samples, [(0, 0), (0, n_block - samples.shape[1])])
        mixed = mixer.mix(live.push(block, wait=True))
        n_skipped = min(n_to_skip, n_block)
        n_to_skip -= n_skipped
        mixed = mixed[:, n_skipped:] if is_open else mixed[:, n_skipped:][:, : n_in - n_out]
        sink.write(encoded(mixed, form))
        sink.flush()
        n_out += mixed.shape[1]
        shown()
    return n_out


def decoded(data: bytes, form: str, n_channels: int) -> Samples:
    """Return interleaved samples as float32 `[channels, samples]`, full scale at 1.0."""
    values = np.frombuffer(data, dtype=FORMATS[form]).reshape(-1, n_channels).T
    full = 1.0 if form == "f32le" else 2.0 ** (values.dtype.itemsize * 8 - 1)
    return (values / full).astype(np.float32)


def encoded(samples: Samples, form: str) -> bytes:
    """Return samples `[channels, samples]` as interleaved ones; whole numbers are clipped at full scale."""
    kind = np.dtype(FORMATS[form])
    if form == "f32le":
        return samples.T.astype(kind).tobytes()
    limits = np.iinfo(kind)
    scaled = np.round(samples.T.astype(np.float64) * (limits.max + 1))
    return np.clip(scaled, limits.min, limits.max).astype(kind).tobytes()


def _read(source: BinaryIO, n_bytes: int) -> bytes:
    """Return so many bytes, or fewer at the end; a pipe gives what it has."""
    parts: list[bytes] = []
    n_left = n_bytes
    while n_left and (part := source.read(n_left)):
        parts.append(part)
        n_left -= len(part)
    return b"".join(parts)
