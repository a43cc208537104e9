"""Show sounds in a notebook: HTML that holds players with their audio."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

MAX_SECONDS = 30
_MAX_FLAC_RATE_HZ = 655_350


class Row(NamedTuple):
    """One result in a table: its name, what is known of it in words, and its samples `[channels, samples]`."""

    name: str
    presence: str
    answer: str
    samples: NDArray[np.float32]


def player(samples: NDArray[np.float32], sample_rate_hz: int, peak: float | None = None) -> str:
    """Return a player of the first 30 s of `samples` `[channels, samples]`, in 16 bits.

    What is louder than 1.0 is turned down, by as much as it takes for `peak`, that of the samples without.
    """
    peak = float(np.abs(samples).max()) if peak is None else peak
    excerpt = samples[:, : MAX_SECONDS * sample_rate_hz] / max(1.0, peak)
    format, data = "flac" if sample_rate_hz <= _MAX_FLAC_RATE_HZ else "wav", io.BytesIO()
    soundfile.write(data, excerpt.T, sample_rate_hz, "PCM_16", format=format)
    source = f"data:audio/{format};base64,{base64.b64encode(data.getvalue()).decode()}"
    notes = ["the first 30 s"] if excerpt.shape[1] < samples.shape[1] else []
    notes += [f"turned down by {20 * np.log10(peak):.1f} dB"] if peak > 1 else []
    return f'<audio controls src="{source}"></audio><br><small>{", ".join(notes)}</small>'


def table(title: str, sample_rate_hz: int, rows: Sequence[Row]) -> str:
    """Return a table of results with their players, all turned down alike if one is too loud."""
    peak = max(float(np.abs(row.samples).max()) for row in rows)
    heads = "".join(f"<th>{head}</th>" for head in ("sound", "presence", "answered by", "listen"))
    lines = [
        f"<tr><td><b>{escape(row.name)}</b></td><td>{escape(row.presence)}</td><td>{escape(row.answer)}</td>"
        f"<td>{player(row.samples, sample_rate_hz, peak)}</td></tr>"
        for row in rows
    ]
    return f"<table><caption>{escape(title)}</caption><tr>{heads}</tr>{''.join(lines)}</table>"
