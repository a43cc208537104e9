"""Draw the logs of runs: loss, separation, silence where nothing is to be heard, presence and speed over the steps.

    python -m unisep_train plot RUN [RUN ...] --out progress.png

Several runs are drawn over each other, to compare them. A run that was resumed from an earlier step counts from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from unisep.errors import DatasetError, OptionError
from unisep_train.trainer.learner import LOG_FILE

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
    """Read the lines of a run's log in order of their steps; of several lines for one step the last.

    A line cut short by a crash is left out.

    Raises:
        DatasetError: there is nothing to draw.
    """
    path = run / LOG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}). Give the folder of a run.") from error
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
        raise DatasetError(f"{path} holds no steps yet.")
    return list(lines.values())


def smoothed(values: Sequence[float], n: int = 9) -> list[float]:
    """Return means over the last `n` values, or as many as there are.

    >>> smoothed([2.0, 4.0, 6.0], n=2)
    [2.0, 3.0, 5.0]
    """
    recent = [values[max(0, k - n) : k] for k in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in recent]


def draw(logs: Mapping[str, Log], out: Path) -> Path:
    """Write a picture with a panel for each quantity that any log holds, and return its path. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("Drawing needs matplotlib: pip install 'unisep-train[plot]'.") from error
    shown = [name for name in PANELS if any(name in row for log in logs.values() for row in log)]
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(5 * n_columns, 3.2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for name, axis in zip(shown, axes, strict=False):
        for run, log in logs.items():
            steps, values = ([row[key] for row in log if name in row] for key in ("step", name))
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


def plot(runs: list[Path], *, out: Path = Path("progress.png")) -> None:
    """Draw the logs of runs over each other.

    Args:
        runs: folders of runs.
        out: where the picture goes.
    """
    names = [run.name for run in runs]
    print(draw({run.name if names.count(run.name) == 1 else str(run): read_log(run) for run in runs}, out))
