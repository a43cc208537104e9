"""`unisep evaluate`: how good separation is, on recordings whose stems are known."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unisep
from unisep.cli.console import Console
from unisep.cli.separate import separator_of
from unisep.errors import OptionError
from unisep.files.paths import file_on_the_way
from unisep.query.query import Embedding

if TYPE_CHECKING:
    from unisep_evaluate import Dataset, Evaluation, Record, WindowOptions


def evaluate(arguments: Namespace, console: Console) -> int:
    """0; prints tables (or JSON), and writes the report and the picture that were asked for.

    Raises:
        OptionError: wrong usage, before any model is loaded.
        UnisepError: the data cannot be used, or a separation failed.
    """
    from unisep_evaluate import lines, open_dataset

    if arguments.plot is not None:
        _check_plot(arguments.plot)
    for option in ("report", "plot"):
        _check_place(option, getattr(arguments, option))
    dataset = open_dataset(arguments.data, arguments.layout, arguments.subset)
    dataset = dataset.select(arguments.songs, arguments.kinds, arguments.hashed)
    run = _stems if arguments.mode == "stems" else _queries
    evaluation = run(arguments, console, dataset)
    console.data(evaluation.to_json())
    console.lines(lines(evaluation))
    if arguments.report is not None:
        console.note(f"unisep: written: {evaluation.save(arguments.report)}")
    if arguments.plot is not None:
        console.note(f"unisep: drawn: {evaluation.plot(arguments.plot)}")
    return 0


def _queries(arguments: Namespace, console: Console, dataset: Dataset) -> Evaluation:
    from unisep_evaluate import Asking, evaluate, query_items

    if arguments.stems or arguments.seconds:
        raise OptionError("--stems and --seconds belong to --mode stems.")
    arguments.route = arguments.route or "conditioned"
    asking = Asking(tuple(arguments.ask), _vectors(arguments.vectors), route=arguments.route, bsseval=arguments.bsseval)
    items = query_items(dataset, _window_options(arguments))
    return evaluate(
        separator_of(arguments), items, asking, about=_about(arguments, dataset), on_record=_progress(console)
    )


def _stems(arguments: Namespace, console: Console, dataset: Dataset) -> Evaluation:
    from unisep_evaluate import WindowOptions, evaluate_stems, songs

    arguments.route = arguments.route or "auto"
    if arguments.ask != ["text"] or arguments.vectors or _window_options(arguments) != WindowOptions():
        raise OptionError(
            "--ask, --vectors, and what windows are taken belong to --mode query; see --stems and --seconds."
        )
    if arguments.seconds is not None and not 0 < arguments.seconds < math.inf:
        raise OptionError(f"--seconds {arguments.seconds}: give a number above 0.")
    return evaluate_stems(
        separator_of(arguments), songs(dataset, arguments.seconds), arguments.stems, route=arguments.route,
        bsseval=arguments.bsseval, about=_about(arguments, dataset), on_record=_progress(console),
    )  # fmt: skip


def _window_options(arguments: Namespace) -> WindowOptions:
    from unisep_evaluate import WindowOptions

    return WindowOptions(
        window_seconds=arguments.window, n_per_class=arguments.per_class, n_absent=arguments.n_absent,
        within_db=arguments.within_db, classes=arguments.classes, absent=arguments.absent, seed=arguments.draw_seed,
    )  # fmt: skip


def _vectors(folder: Path | None) -> dict[str, Embedding]:
    if folder is None:
        return {}
    found = {path.stem.replace("_", " "): Embedding.load(path) for path in sorted(folder.glob("*.safetensors"))}
    if not found:
        raise OptionError(f"--vectors {folder} holds no <class>.safetensors. Make them with `unisep embed`.")
    return found


def _about(arguments: Namespace, dataset: Dataset) -> dict[str, Any]:
    """What was measured on, and how: enough to do it again."""
    ignored = {"json", "quiet", "debug", "data", "report", "plot"}
    options = {key: value for key, value in sorted(vars(arguments).items()) if key not in ignored}
    return {
        "unisep": unisep.__version__,
        "data": dataset.name,
        "songs": [track.name for track in dataset.tracks],
        "n_single_sounds": len(dataset.singles),
        "options": options,
    }


def _progress(console: Console) -> Any:
    """A callback that shows how many questions are answered; None where nobody looks."""
    if not console.is_watched:
        return None
    n_done = 0

    def show(record: Record) -> None:
        nonlocal n_done
        n_done += 1
        console.rewrite(f"{n_done} answered; {record.track}: {record.name} by {record.ask}")

    return show


def _check_place(option: str, path: Path | None) -> None:
    """Nothing. Raises OptionError where no file could be written, before anything is computed."""
    if path is not None and (path.is_dir() or file_on_the_way(path.parent)):
        raise OptionError(f"--{option} {path}: there is a folder, or a file on the way. Give the path of a file.")


def _check_plot(path: Path) -> None:
    """Nothing. Raises OptionError where no picture could be drawn, before anything is computed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError('--plot needs matplotlib. Run: pip install "unisep[plot]", or leave it out.') from error
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OptionError(f"--plot {path}: give a path that ends in .png, .pdf or .svg.")
