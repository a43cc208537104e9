"""The command `unisep evaluate`.

What takes long to import is imported after the arguments were read, so that help comes at once.
"""

from __future__ import annotations

import argparse
import math
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unisep
from unisep.cli.arguments import Parser, common_options, names, shared_options
from unisep.cli.console import Console
from unisep.errors import OptionError

if TYPE_CHECKING:
    from unisep import Embedding
    from unisep_evaluate import Dataset, Evaluation, Record, WindowOptions
    from unisep_evaluate.runner import Spread

_NAMES: dict[str, Any] = {"type": names, "default": (), "metavar": "A,B"}


def main(words: list[str]) -> int:
    """Run `unisep evaluate` with these words after it, and return the exit code."""
    arguments = parser().parse_args(words)
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        return evaluate(arguments, console)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="unisep evaluate",
        parents=[common_options(), shared_options()],
        description="Measure separation on recordings whose stems are known: by questions about windows of them, "
        "or (--mode stems) the fixed stems of whole songs. Tables go to stdout.",
        epilog="example: unisep evaluate musdb18hq --mode stems --bsseval --report musdb.json",
    )
    parser.set_defaults(route=None)
    what = "song/stem.wav folders, a published data set, or a manifest.jsonl"
    parser.add_argument("data", type=Path, metavar="FOLDER", help=what)
    parser.add_argument("--mode", choices=["query", "stems"], default="query", help="(default: %(default)s)")
    parser.add_argument("--bsseval", action="store_true", help="also BSSEval v4, by museval (slow)")
    parser.add_argument("--formulas", action="store_true", help="also print how each figure is computed")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything as JSON, window by window")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures by class")
    spread = "spread the work over a Ray cluster: auto, host:port, or local for this machine (needs unisep-ray)"
    parser.add_argument("--ray", metavar="ADDRESS", help=spread)
    _add_data(parser)
    _add_query_mode(parser)
    group = parser.add_argument_group("fixed stems (--mode stems)")
    group.add_argument("--stems", type=names, metavar="A,B", help="only these")
    group.add_argument("--seconds", type=float, metavar="N", help="only the first N seconds of each song")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--layout", choices=["auto", "folders", "musdb", "moisesdb", "slakh", "manifest"], default="auto"
    )
    group.add_argument("--subset", choices=["test", "train"], default="test", help="of the data set (%(default)s)")
    group.add_argument("--songs", **_NAMES, help="only these songs; examples come from the others")
    group.add_argument("--kinds", **_NAMES, help="of single sounds, only these first folders")
    hashed = "of single sounds, only paths whose md5 ends in one of these"
    group.add_argument("--hashed", default="", metavar="DIGITS", help=hashed)


def _add_query_mode(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("questions (--mode query)")
    asks = ["text", "audio", "vector", "combined"]
    group.add_argument("--ask", nargs="+", choices=asks, default=["text"], help="how, on the same windows")
    group.add_argument("--classes", **_NAMES, help="only these names")
    group.add_argument("--absent", **_NAMES, help="names to ask for where they are absent")
    group.add_argument("--n-absent", type=int, default=24, metavar="N", help="absent windows in all (%(default)s)")
    group.add_argument("--per-class", type=int, default=8, metavar="N", help="windows a class at most (%(default)s)")
    group.add_argument("--window", type=float, default=6.0, metavar="SECONDS", help="length of windows (%(default)s)")
    within = "target and rest at most so far apart; inf for any (%(default)s)"
    group.add_argument("--within-db", type=float, default=10.0, metavar="DB", help=within)
    vectors = "vectors to ask with: <class>.safetensors of `unisep embed`"
    group.add_argument("--vectors", type=Path, metavar="FOLDER", help=vectors)
    group.add_argument("--draw-seed", type=int, default=0, metavar="N", help="of all drawing of windows (%(default)s)")


def evaluate(arguments: Namespace, console: Console) -> int:
    """Measure, print tables or JSON, write the report and the picture, and return 0.

    Raises:
        OptionError: Wrong usage; told before any model is loaded.
        UnisepError: The data cannot be used, or a separation failed.
    """
    from unisep_evaluate import lines, open_dataset

    _check_outputs(arguments)
    dataset = open_dataset(arguments.data, arguments.layout, arguments.subset)
    dataset = dataset.select(arguments.songs, arguments.kinds, arguments.hashed)
    measure = _measure_stems if arguments.mode == "stems" else _measure_queries
    with redirect_stdout(sys.stdout if arguments.ray is None else sys.stderr):  # Ray speaks, too
        evaluation = measure(arguments, console, dataset)
    console.data(evaluation.to_json())
    console.lines(lines(evaluation, formulas=arguments.formulas))
    if not arguments.formulas:
        console.note("unisep: how each figure is computed: --formulas")
    if arguments.report is not None:
        console.note(f"unisep: written: {evaluation.save(arguments.report)}")
    if arguments.plot is not None:
        console.note(f"unisep: drawn: {evaluation.plot(arguments.plot)}")
    return 0


def _measure_queries(arguments: Namespace, console: Console, dataset: Dataset) -> Evaluation:
    from unisep.cli.separate import separator_of
    from unisep_evaluate import Asking, evaluate, query_items

    if arguments.stems or arguments.seconds:
        raise OptionError("--stems and --seconds belong to --mode stems.")
    arguments.route = arguments.route or "conditioned"
    asking = Asking(tuple(arguments.ask), _vectors(arguments.vectors), route=arguments.route, bsseval=arguments.bsseval)
    items = query_items(dataset, _window_options(arguments))
    return evaluate(
        separator_of(arguments),
        items,
        asking,
        about=_about(arguments, dataset),
        on_record=_progress(console),
        spread=_spread(arguments),
    )


def _measure_stems(arguments: Namespace, console: Console, dataset: Dataset) -> Evaluation:
    from unisep.cli.separate import separator_of
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
        spread=_spread(arguments),
    )  # fmt: skip


def _spread(arguments: Namespace) -> Spread | None:
    """Return what computes on a Ray cluster, with as many threads a worker as there would be here: bits depend on them."""
    if arguments.ray is None:
        return None
    try:
        from unisep_ray.pool import Resources, spread
    except ImportError as error:
        raise OptionError("--ray needs unisep-ray. Run: pip install unisep-ray") from error
    import torch

    from unisep.cli.separate import separator_of

    n_gpus = 1.0 if arguments.device.startswith("cuda") else 0.0
    resources = Resources(n_gpus=n_gpus, n_cpus=arguments.threads or torch.get_num_threads())
    plugins = [str(path.absolute()) for path in arguments.plugin]
    make = partial(separator_of, arguments)
    return partial(spread, make, address=arguments.ray, plugins=plugins, stage="evaluate", resources=resources)


def _window_options(arguments: Namespace) -> WindowOptions:
    from unisep_evaluate import WindowOptions

    return WindowOptions(
        window_seconds=arguments.window, n_per_class=arguments.per_class, n_absent=arguments.n_absent,
        within_db=arguments.within_db, classes=arguments.classes, absent=arguments.absent, seed=arguments.draw_seed,
    )  # fmt: skip


def _vectors(folder: Path | None) -> dict[str, Embedding]:
    from unisep import Embedding

    if folder is None:
        return {}
    vectors = {path.stem.replace("_", " "): Embedding.load(path) for path in sorted(folder.glob("*.safetensors"))}
    if not vectors:
        raise OptionError(f"--vectors {folder} holds no <class>.safetensors. Make them with `unisep embed`.")
    return vectors


def _about(arguments: Namespace, dataset: Dataset) -> dict[str, Any]:
    """Return what was measured on, and how: enough to do it again."""
    ignored = {"json", "quiet", "debug", "data", "report", "plot", "formulas", "ray"}
    return {
        "unisep": unisep.__version__,
        "data": dataset.name,
        "songs": [track.name for track in dataset.tracks],
        "n_single_sounds": len(dataset.singles),
        "options": {key: value for key, value in sorted(vars(arguments).items()) if key not in ignored},
    }


def _progress(console: Console) -> Any:
    """Return a callback that shows how many questions are answered; None where nobody looks."""
    if not console.is_watched:
        return None
    numbers = count(1)

    def show(record: Record) -> None:
        console.rewrite(f"{next(numbers)} answered; {record.track}: {record.name} by {record.ask}")

    return show


def _check_outputs(arguments: Namespace) -> None:
    """Raise OptionError where the report or the picture could not be written."""
    from unisep.files.paths import file_on_the_way

    for option in ("report", "plot"):
        path = getattr(arguments, option)
        if path is not None and (path.is_dir() or file_on_the_way(path.parent)):
            raise OptionError(f"--{option} {path}: there is a folder, or a file on the way. Give the path of a file.")
    if arguments.plot is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError('--plot needs matplotlib. Run: pip install "unisep[plot]", or leave it out.') from error
    if arguments.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OptionError(f"--plot {arguments.plot}: give a path that ends in .png, .pdf or .svg.")
