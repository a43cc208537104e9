"""Draw the logs of runs over each other, a panel for each column, over the steps.

python -m unisep_train plot RUN [RUN ...] --out progress.png
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from unisep.errors import DatasetError, OptionError
from unisep_train.trainer.learner import LOG_FILE


def read_log(run: Path) -> list[dict[str, float]]:
    """Read a run's log in the order of its steps; of several lines for one step the last. Raises DatasetError without any."""
    rows: dict[float, dict[str, float]] = {}
    try:
        for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):  # cut short by a crash
                row = json.loads(line)
                rows[row["step"]] = row
    except OSError as error:
        raise DatasetError(f"{run / LOG_FILE} cannot be read ({error.strerror}). Give the folder of a run.") from error
    if not rows:
        raise DatasetError(f"{run / LOG_FILE} holds no steps yet.")
    return [row for _, row in sorted(rows.items())]


def plot(runs: list[Path], *, out: Path = Path("progress.png")) -> None:
    """Draw the logs of runs over each other.

    Args:
        runs: folders of runs.
        out: where the picture goes.

    Raises:
        OptionError: matplotlib is not installed.
    """
    logs = {str(run): read_log(run) for run in runs}
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("Drawing needs matplotlib: pip install 'unisep-train[plot]'.") from error
    columns = list(dict.fromkeys(name for log in logs.values() for row in log for name in row if name != "step"))
    figure = Figure(figsize=(8, 2 * len(columns)), layout="constrained")
    for axis, name in zip(figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0], columns, strict=True):
        for run, log in logs.items():
            axis.plot(*([row[key] for row in log if name in row] for key in ("step", name)), label=run, linewidth=0.8)
        axis.set_ylabel(name)
    figure.axes[-1].set_xlabel("step")
    figure.axes[0].legend()
    figure.savefig(out)
    print(out)
