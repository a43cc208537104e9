"""Draw spectrograms under one another, with matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unisep.audio import Audio
from unisep.errors import OptionError

N_FFT = 2048
FLOOR_DB = -80.0
MAX_COLUMNS = 2000


def draw(tracks: Mapping[str, Audio], path: Path) -> Path:
    """Draw a spectrogram for each track, on the scale of the loudest; return the path of the picture.

    It uses no global state of matplotlib, so it is safe in threads and needs no display.

    Raises:
        OptionError: the picture cannot be written, or the suffix is no picture format.
    """
    spectra = {name: _spectrum_db(audio) for name, audio in tracks.items()}
    top_db = max(float(spectrum.max()) for spectrum in spectra.values())
    figure = Figure(figsize=(10, 1.2 + 1.9 * len(spectra)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(spectra), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, spectrum) in zip(axes, spectra.items(), strict=True):
        audio = tracks[name]
        extent = (0.0, audio.seconds, 0.0, audio.sample_rate_hz / 2000)
        image = axis.imshow(spectrum, origin="lower", aspect="auto", extent=extent, vmin=top_db + FLOOR_DB, vmax=top_db)
        axis.set_title(name, loc="left", fontsize=11, parse_math=False)
        axis.set_ylabel("frequency (kHz)")
    axes[-1].set_xlabel("time (s)")
    figure.colorbar(image, ax=list(axes), label="level (dB)")
    return print_to(path, canvas)


def print_to(path: Path, canvas: FigureCanvasAgg) -> Path:
    """Write the picture. Raises OptionError where it cannot be, or the suffix is no picture format."""
    known = canvas.get_supported_filetypes()
    try:
        if path.suffix.lower().removeprefix(".") not in known:
            raise ValueError(f"{path.suffix or 'no suffix'!r} is none of {', '.join(sorted(known))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.print_figure(path, dpi=110)
    except (ValueError, OSError) as error:
        raise OptionError(f"Cannot draw to '{path}': {error}. Give a path that ends in .png.") from error
    return path


def _spectrum_db(audio: Audio) -> NDArray[np.float32]:
    """Return the power in decibels, `[frequencies, columns]`, of the mean of the channels."""
    mono = audio.samples.mean(axis=0)
    mono = np.pad(mono, (N_FFT // 2, N_FFT // 2 + N_FFT))
    hop = max(N_FFT // 4, mono.size // MAX_COLUMNS)
    frames = np.lib.stride_tricks.sliding_window_view(mono, N_FFT)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT).astype(np.float32), axis=1)) ** 2
    return np.asarray(10 * np.log10(power.T + 1e-10), dtype=np.float32)
