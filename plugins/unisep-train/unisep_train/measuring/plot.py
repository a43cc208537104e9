"""Draws the logs of runs: loss, separation, silence where nothing is to be heard, presence and speed over the steps.

    python -m unisep_train.measuring.plot RUN [RUN ...] --out progress.png

Several runs are drawn over each other, to compare them. A run that was resumed from an earlier step counts from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from unisep.errors import OptionError
from unisep_train.data.store import StoreError

PANELS = {
    "loss": "loss",
    "si_sdr_gain_db": "SI-SDR improvement in dB (median)",
    "sdr_db": "SDR in dB (median)",
    "level_db": "output level of absent sounds in dB",
    "agreement_db": "agreement with the teacher in dB (median)",
    "presence": "presence: cross-entropy",
    "spectral": "distance of log spectra",
    "audio_seconds_per_second": "seconds of audio a second",
}
Log = list[dict[str, float]]


def read_log(run: Path) -> Log:
    """The lines of a run's log in order of their steps; of several lines for one step the last.

    A line cut short by a crash is left out. Raises StoreError when there is nothing to draw.
    """
    path = run / "log.jsonl"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}). Give the folder of a run.") from error
    lines: dict[int, dict[str, float]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue
        # What a resumed run did again replaces all that came after the checkpoint.
        lines = {earlier: kept for earlier, kept in lines.items() if earlier < step} | {step: row}
    if not lines:
        raise StoreError(f"{path} holds no steps yet.")
    return [lines[step] for step in sorted(lines)]


def smoothed(values: Sequence[float], n: int = 9) -> list[float]:
    """Means over the last `n` values, or as many as there are.

    >>> smoothed([2.0, 4.0, 6.0], n=2)
    [2.0, 3.0, 5.0]
    """
    return [sum(values[max(0, k - n + 1) : k + 1]) / len(values[max(0, k - n + 1) : k + 1]) for k in range(len(values))]


def draw(logs: Mapping[str, Log], out: Path) -> Path:
    """The picture written, with a panel for each quantity that any log holds. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("Drawing needs matplotlib: pip install 'unisep-film[training]'.") from error
    shown = [name for name in PANELS if any(name in row for log in logs.values() for row in log)]
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(5 * n_columns, 3.2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for name, axis in zip(shown, axes, strict=False):
        for run, log in logs.items():
            points = [(row["step"], row[name]) for row in log if name in row]
            if points:
                steps, values = (list(column) for column in zip(*points, strict=True))
                (line,) = axis.plot(steps, smoothed(values), label=run)
                axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.6)
        axis.set(title=PANELS[name], xlabel="step")
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(shown) :]:
        axis.remove()
    if len(logs) > 1:
        figure.axes[0].legend()
    figure.savefig(out)
    return out


def main(given: list[str] | None = None) -> int:
    """Exit status of `python -m unisep_train.measuring.plot`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("progress.png"))
    args = parser.parse_args(given)
    try:
        names = [run.name for run in args.runs]
        draw({run.name if names.count(run.name) == 1 else str(run): read_log(run) for run in args.runs}, args.out)
    except (StoreError, OptionError) as error:
        parser.exit(1, f"{error}\n")
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
