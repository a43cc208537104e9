"""Isolate one sound by name and one by example from a recording of real sounds, and measure what came out.

    python examples/demo.py --out out/demo

Runs offline with the embedded weights. Writes the target and the rest of both questions, prints how sure the
model is that the sound is there, which backend and encoder answered, and how near the target is to the known
stem; draws `demo.png`.

    SDR    = 10 log10(|s|^2 / |s - e|^2)                          s: true stem, e: estimate
    SI-SDR = 10 log10(|a s|^2 / |a s - e|^2),  a = <e, s> / |s|^2   (Le Roux et al. 2019, arXiv:1811.02508)

Both channels are taken as one vector. A silent estimate scores an SDR of 0 dB, so an improvement over the mixture
says little by itself: read both numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from unisep_evaluate import residual_db, sdr_db, si_sdr_db

from unisep import Query, Separation, Separator

AUDIO = Path(__file__).parent / "audio"
N_FFT = 4096
HOP_SAMPLES = 1024
RANGE_DB = 70

Samples = NDArray[np.float32]  # [channels, samples]


@dataclass(frozen=True)
class Question:
    """What to ask, in words and as a query, and the stem that is the right answer."""

    title: str
    query: Query
    stem: str


def questions(text: str, text_stem: str, clip: Path, clip_stem: str) -> list[Question]:
    """Return the two questions of the demo: by name and by example."""
    return [
        Question(f'text "{text}"', Query(text=text, name=text), text_stem),
        Question(f"clip {clip.name}", Query(audio=clip, name=clip.stem), clip_stem),
    ]


def read(path: Path) -> tuple[Samples, int]:
    """Read samples `[channels, samples]` and rate of an audio file."""
    samples, sample_rate_hz = sf.read(path, dtype="float32", always_2d=True)
    return samples.T, sample_rate_hz


def report(question: Question, answer: Separation, mixture: Samples, stem: Samples, seconds: float) -> None:
    """Print presence, plan and figures of one answer."""
    name = question.query.name or ""
    target, rest = answer.target.samples, answer.rest.samples
    presence = answer.presence[name]
    sdr, si_sdr = sdr_db(target, stem), si_sdr_db(target, stem)
    left_db = residual_db(mixture, [target, rest])
    print(f"\n{question.title}, {seconds:.1f} s of computing")
    choice = answer.plan[name]
    print(
        f"  plan      {choice.backend} ({choice.weights} weights, {choice.licence}) with {choice.encoder}: {choice.reason}"
    )
    print(f"  presence  {'not given' if presence is None else f'{presence:.2f}'}")
    print(f"  SDR       {sdr:6.2f} dB, the mixture {sdr_db(mixture, stem):6.2f} dB")
    print(f"  SI-SDR    {si_sdr:6.2f} dB, the mixture {si_sdr_db(mixture, stem):6.2f} dB: ", end="")
    print(f"improved by {si_sdr - si_sdr_db(mixture, stem):.2f} dB")
    print(f"  residual  mixture - (target + rest) is {left_db:.0f} dB of the mixture")


def spectrogram_db(samples: Samples, band_edges_hz: NDArray[np.float64], rate_hz: int) -> NDArray[np.float64]:
    """Return the loudest level of each band over time `[bands, frames]`, in dB of a full-scale sine."""
    window = np.hanning(N_FFT)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT, axis=1)[:, ::HOP_SAMPLES]
    amplitude = np.abs(np.fft.rfft(frames * window)) / (window.sum() / 2)
    power = np.mean(amplitude**2, axis=0).T
    first_bins = np.floor(band_edges_hz[:-1] * N_FFT / rate_hz).astype(int)
    loudest = np.maximum.reduceat(power[: int(band_edges_hz[-1] * N_FFT / rate_hz)], first_bins)
    return 10 * np.log10(np.maximum(loudest, 1e-12))


def draw(columns: dict[str, dict[str, Samples]], rate_hz: int, path: Path) -> None:
    """Write one picture: a column a question; mixture, target, rest and true stem on one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_rows = max(len(panels) for panels in columns.values())
    figure = Figure(figsize=(7.5 * len(columns), 2.6 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, len(columns), sharex=True, sharey=True, squeeze=False)
    edges_hz = np.geomspace(60, 16_000, 201)
    drawn = []
    for column, (title, panels) in zip(axes.T, columns.items(), strict=True):
        for axis, (name, samples) in zip(column, panels.items(), strict=True):
            level = spectrogram_db(samples, edges_hz, rate_hz)
            times = np.arange(level.shape[1] + 1) * HOP_SAMPLES / rate_hz
            drawn.append(axis.pcolormesh(times, edges_hz, level, cmap="magma", rasterized=True))
            axis.set(yscale="log", title=name if axis is not column[0] else f"{title}\n\n{name}")
            axis.set_yticks([100, 1_000, 10_000], ["100", "1k", "10k"])
        column[-1].set_xlabel("time (s)")
    top_db = max(float(image.get_array().max()) for image in drawn)
    for image in drawn:
        image.set_clim(top_db - RANGE_DB, top_db)
    figure.supylabel("frequency (Hz)")
    figure.colorbar(drawn[0], ax=axes, label="level (dB of a full-scale sine)", fraction=0.03)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Ask both questions, write, print and draw."""
    parser = argparse.ArgumentParser(description="unisep's demo: one text query, one audio-example query.")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--text", default="drums", help="the question in words")
    parser.add_argument("--text-stem", default="drums", help="the stem in audio/ that answers it")
    parser.add_argument("--example", type=Path, default=AUDIO / "example-drums.ogg", help="the question as a clip")
    parser.add_argument("--example-stem", default="drums", help="the stem in audio/ that answers it")
    arguments = parser.parse_args()
    recording = AUDIO / "mixture.flac"
    mixture, sample_rate_hz = read(recording)
    separator = Separator(offline=True)
    columns = {}
    for question in questions(arguments.text, arguments.text_stem, arguments.example, arguments.example_stem):
        start = perf_counter()
        answer = separator.separate(recording, query=question.query, route="conditioned")
        seconds = perf_counter() - start
        stem, _ = read(AUDIO / f"{question.stem}.ogg")
        report(question, answer, mixture, stem, seconds)
        answer.save(arguments.out / question.title.split()[0])
        panels = {"mixture": mixture, "target": answer.target.samples, "rest": answer.rest.samples}
        columns[question.title] = {**panels, f"true stem: {question.stem}": stem}
    draw(columns, sample_rate_hz, arguments.out / "demo.png")
    print(f"\nWritten to {arguments.out}; look at {arguments.out / 'demo.png'}")


if __name__ == "__main__":
    main()
