"""Draw the logs of runs: loss, separation, silence where nothing is to be heard, presence and speed over the steps.

    python -m unisep_train plot RUN [RUN ...] --out progress.png

Several runs are drawn over each other, to compare them. A run that was resumed from an earlier step counts from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

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
N_SMOOTHED = 9  # lines of the log that a thick line is the mean of


def read_log(run: Path) -> list[dict[str, float]]:
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


def plot(runs: list[Path], *, out: Path = Path("progress.png")) -> None:
    """Draw the logs of runs over each other.

    Args:
        runs: folders of runs.
        out: where the picture goes.

    Raises:
        OptionError: matplotlib is not installed.
    """
    names = [run.name for run in runs]
    logs = {run.name if names.count(run.name) == 1 else str(run): read_log(run) for run in runs}
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("Drawing needs matplotlib: pip install 'unisep-train[plot]'.") from error
    shown = [name for name in PANELS if any(name in row for log in logs.values() for row in log)]
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(5 * n_columns, 3.2 * n_rows), layout="constrained")
    for place, name in enumerate(shown, start=1):
        axis = figure.add_subplot(n_rows, n_columns, place)
        for run, log in logs.items():
            steps, values = ([row[key] for row in log if name in row] for key in ("step", name))
            smoothed = [fmean(values[max(0, end - N_SMOOTHED) : end]) for end in range(1, len(values) + 1)]
            (line,) = axis.plot(steps, smoothed, label=run)
            axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.6)
        axis.set(title=PANELS[name], xlabel="step")
        axis.grid(alpha=0.3)
    if len(logs) > 1:
        figure.axes[0].legend()
    figure.savefig(out)
    print(out)
