"""Draw the picture at the top of the README: the demo recording, what was asked for, and all the rest.

    python examples/draw_picture.py                       # writes docs/separation.png
    python examples/draw_picture.py --text choir --out choir.png

Runs offline with the embedded weights. The three spectrograms share one scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from demo import AUDIO, HOP_SAMPLES, Samples, read, spectrogram_db
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from unisep import Separator

PICTURE = Path(__file__).parents[1] / "docs" / "separation.png"
RANGE_DB = 62
N_COLOURS = 128  # a palette keeps the file small
DARK, PALE, DIM = "#0b0b14", "#f4f0ea", "#9a94a6"


def draw(panels: Mapping[str, Samples], rate_hz: int, path: Path) -> None:
    """Write one row of spectrograms to `path`, with "=" after the first and "+" between the others."""
    figure = Figure(figsize=(9, 2.9), dpi=200, facecolor=DARK)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True)
    figure.subplots_adjust(left=0.052, right=0.985, top=0.875, bottom=0.105, wspace=0.115)
    edges_hz = np.geomspace(60, 16_000, 161)
    levels = [spectrogram_db(samples, edges_hz, rate_hz) for samples in panels.values()]
    top_db = max(float(level.max()) for level in levels)
    for axis, name, level in zip(axes, panels, levels, strict=True):
        times = np.arange(level.shape[1] + 1) * HOP_SAMPLES / rate_hz
        axis.pcolormesh(times, edges_hz, level, cmap="magma", vmin=top_db - RANGE_DB, vmax=top_db, rasterized=True)
        style(axis, name)
    axes[0].set_yticks([100, 1_000, 10_000], ["100 Hz", "1 kHz", "10 kHz"])
    for sign, axis in zip("=" + "+" * (len(panels) - 2), axes[1:], strict=True):
        axis.text(-0.058, 0.5, sign, transform=axis.transAxes, color=PALE, fontsize=15, ha="center", va="center")
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(N_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def style(axis: Axes, name: str) -> None:
    """Give a panel its title, a logarithmic frequency axis and quiet ticks."""
    axis.set(yscale="log", facecolor=DARK)
    axis.set_title(name, color=PALE, fontsize=11, pad=7)
    axis.set_xticks([0, 5, 10, 15, 20], ["0", "5", "10", "15", "20 s"])
    axis.tick_params(which="both", length=0, colors=DIM, labelsize=7.5)
    for spine in axis.spines.values():
        spine.set_visible(False)


def main() -> None:
    """Separate the demo recording and draw."""
    parser = argparse.ArgumentParser(description="Draw the picture at the top of the README.")
    parser.add_argument("--text", default="drums", help="what to ask for")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    mixture, rate_hz = read(AUDIO / "mixture.flac")
    answer = Separator(offline=True).separate(AUDIO / "mixture.flac", query=arguments.text, route="conditioned")
    title = f'query="{arguments.text}"'
    panels = {"recording": mixture, title: answer.target.samples, "rest": answer.rest.samples}
    draw(panels, rate_hz, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
