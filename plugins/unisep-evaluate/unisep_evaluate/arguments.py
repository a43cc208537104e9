"""The arguments of `unisep evaluate`. Nothing heavy is imported, so that help comes at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from unisep.cli.arguments import common_options, names, shared_options
from unisep.cli.console import Console


def main(words: list[str]) -> int:
    """Run `unisep evaluate` with these words after it."""
    arguments = parser().parse_args(words)
    from unisep_evaluate.command import evaluate  # after the help has been printed

    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        return evaluate(arguments, console)


def parser() -> argparse.ArgumentParser:
    """The parser of the command's words."""
    parser = argparse.ArgumentParser(
        prog="unisep evaluate",
        parents=[common_options(), shared_options()],
        description="Measure separation on recordings whose stems are known: by questions about windows of them, "
        "or (--mode stems) the fixed stems of whole songs. Tables go to stdout, each figure with its formula.",
        epilog="example: unisep evaluate musdb18hq --mode stems --bsseval --report musdb.json",
    )
    parser.set_defaults(route=None)
    parser.add_argument(
        "data", type=Path, metavar="FOLDER", help="song/stem.wav folders, a published data set, or a manifest.jsonl"
    )
    parser.add_argument("--mode", choices=["query", "stems"], default="query", help="(default: %(default)s)")
    parser.add_argument("--bsseval", action="store_true", help="also BSSEval v4, by museval (slow)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write everything as JSON, window by window")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures by class")
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
    group.add_argument(
        "--songs", type=names, default=(), metavar="A,B", help="only these songs; examples come from the others"
    )
    group.add_argument(
        "--kinds", type=names, default=(), metavar="A,B", help="of single sounds, only these first folders"
    )
    group.add_argument(
        "--hashed", default="", metavar="DIGITS", help="of single sounds, only paths whose md5 ends in one of these"
    )


def _add_query_mode(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("questions (--mode query)")
    group.add_argument(
        "--ask",
        nargs="+",
        choices=["text", "audio", "vector", "combined"],
        default=["text"],
        help="how, on the same windows",
    )
    group.add_argument("--classes", type=names, default=(), metavar="A,B", help="only these names")
    group.add_argument("--absent", type=names, default=(), metavar="A,B", help="names to ask for where they are absent")
    group.add_argument("--n-absent", type=int, default=24, metavar="N", help="absent windows in all (%(default)s)")
    group.add_argument("--per-class", type=int, default=8, metavar="N", help="windows a class at most (%(default)s)")
    group.add_argument("--window", type=float, default=6.0, metavar="SECONDS", help="length of windows (%(default)s)")
    group.add_argument(
        "--within-db",
        type=float,
        default=10.0,
        metavar="DB",
        help="target and rest at most so far apart; inf for any (%(default)s)",
    )
    group.add_argument(
        "--vectors", type=Path, metavar="FOLDER", help="vectors to ask with: <class>.safetensors of `unisep embed`"
    )
    group.add_argument("--draw-seed", type=int, default=0, metavar="N", help="of all drawing of windows (%(default)s)")
