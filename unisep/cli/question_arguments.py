"""The arguments that say what to isolate, shared by the commands that separate or explain."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from unisep.cli.evaluate_arguments import names

_RANGE = re.compile(r"([\d.:]+)\s*-\s*([\d.:]+)")


def seconds(text: str) -> float:
    """Seconds from "90", "90.5", "1:30" or "1:02:30".

    >>> seconds("1:30")
    90.0
    """
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def time_range(text: str) -> tuple[float, float]:
    """Start and end in seconds from "30-60" or "0:30-1:00"."""
    match = _RANGE.fullmatch(text.strip())
    try:
        start, end = (seconds(part) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:
        start = end = 0.0
    if not start < end:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write start-end in seconds, such as 30-60")
    return start, end


def mix(text: str) -> dict[str, float]:
    """Weights from "text=0.3,audio=0.7"."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no mix; write text=0.3,audio=0.7") from None


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked for."""
    group = parser.add_argument_group(
        "what to isolate",
        "Repeat -q (or --query-audio, or --embedding) for several results in one pass. "
        "One text, one clip and one vector given together are one question.",
    )
    group.add_argument(
        "-q", "--query", action="append", default=[], metavar="TEXT", help="a sound by its name"
    )
    group.add_argument(
        "--query-audio",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a sound by an example clip",
    )
    group.add_argument(
        "--embedding",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a vector saved by `unisep embed`",
    )
    group.add_argument(
        "--mix", type=mix, metavar="text=W,audio=W", help="how much each part of the question counts"
    )
    group.add_argument("--exclude", action="append", default=[], metavar="TEXT", help="a sound to leave out")
    group.add_argument(
        "--exclude-audio",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a clip of a sound to leave out",
    )
    group.add_argument(
        "--time-range", type=time_range, metavar="S-E", help="where in the recording it is wanted: 30-60"
    )
    group.add_argument(
        "--example-range",
        type=time_range,
        metavar="S-E",
        help="which part of the clip is the example; without a clip, that part of the recording itself",
    )


def add_stems(parser: argparse.ArgumentParser) -> None:
    """Add the choice among the fixed stems."""
    group = parser.add_argument_group("fixed stems").add_mutually_exclusive_group()
    group.add_argument("--stems", type=names, metavar="A,B", help="only these of the fixed stems")
    group.add_argument("--two-stems", metavar="STEM", help="one fixed stem, and the rest")
