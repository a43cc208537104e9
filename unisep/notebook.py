"""Show sounds in a notebook: HTML that holds players with their audio."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import soundfile
from numpy.typing import NDArray

MAX_SECONDS = 30
_MAX_FLAC_RATE_HZ = 655_350


def player(samples: NDArray[np.float32], sample_rate_hz: int, peak: float | None = None) -> str:
    """Return a player of the first 30 s of `samples` `[channels, samples]`, in 16 bits; a `peak` above 1.0 is turned down.

    `peak` is that of the samples, unless several players are to be turned down alike.
    """
    peak = float(np.abs(samples).max()) if peak is None else peak
    excerpt = samples[:, : MAX_SECONDS * sample_rate_hz] / max(1.0, peak)
    format, data = "flac" if sample_rate_hz <= _MAX_FLAC_RATE_HZ else "wav", io.BytesIO()
    soundfile.write(data, excerpt.T, sample_rate_hz, "PCM_16", format=format)
    source = f"data:audio/{format};base64,{base64.b64encode(data.getvalue()).decode()}"
    notes = ["the first 30 s"] if excerpt.shape[1] < samples.shape[1] else []
    notes += [f"turned down by {20 * np.log10(peak):.1f} dB"] if peak > 1 else []
    return f'<audio controls src="{source}"></audio><br><small>{", ".join(notes)}</small>'


def table(title: str, sample_rate_hz: int, rows: Sequence[tuple[str, str, str, NDArray[np.float32]]]) -> str:
    """Return a table of results: name, presence, who answered, and a player of the samples."""
    peak = max(float(np.abs(samples).max()) for *_, samples in rows)
    lines = ["".join(f"<th>{head}</th>" for head in ("sound", "presence", "answered by", "listen"))]
    for name, presence, answer, samples in rows:
        cells = [*map(escape, (name, presence, answer)), player(samples, sample_rate_hz, peak)]
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    return f"<table><caption>{escape(title)}</caption>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
