"""The command `unisep live`.

What takes long to import is imported after the arguments were read, so that help comes at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.cli.arguments import Parser, add_questions, common_options
from unisep.cli.console import Console, columns
from unisep.errors import OptionError

if TYPE_CHECKING:
    from unisep import Live
    from unisep_live.mixer import Mixer

_RAW_FORMATS = ("s16le", "s32le", "f32le")
_METER_SECONDS = 0.1
KEYS = "keys: w/s target louder and softer, e/d the rest, t the target alone, b both as they are, q quits"


def main(words: list[str]) -> int:
    """Run `unisep live` with these words after it."""
    arguments = parser().parse_args(words)
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        if arguments.list_devices:
            return _list_devices(console)
        return _run(arguments, console)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="unisep live", parents=[common_options()], description="Separate while it is played: from an input device to an "
        "output device, or from standard input to standard output. The targets are heard; the rest, if you turn it up.",
        epilog=KEYS,
    )  # fmt: skip
    add_questions(parser)
    add = parser.add_argument_group("sound").add_argument
    add("--list-devices", action="store_true", help="list the devices, and end")
    add("--input", type=_device, metavar="DEVICE", help="number or part of the name (default: the system's)")
    add("--output", type=_device, metavar="DEVICE", help="number or part of the name (default: the system's)")
    add("--raw", choices=_RAW_FORMATS, help="samples from standard input to standard output; needs --rate")
    add("--rate", type=int, metavar="HZ", help="sample rate (default: the usual one of the input device)")
    add("--channels", type=int, choices=[1, 2], default=2, help="(default: %(default)s)")
    add("--block", type=int, default=256, metavar="N", help="samples in a block (default: %(default)s)")
    add(
        "--margin",
        type=int,
        metavar="N",
        help="blocks in which the work must be done (default: those of one hop; 0 with --raw)",
    )
    add("--target-gain", type=_gain, default=0.0, metavar="DB", help="of the targets, or off (default: 0)")
    add("--rest-gain", type=_gain, default=-60.0, metavar="DB", help="of the rest, or off (default: off)")
    add = parser.add_argument_group("models").add_argument
    for name, about in (("backend", "who answers fixed stems"), ("query-backend", "who answers questions")):
        add(f"--{name}", metavar="NAME", help=about)
    add("--encoder", metavar="NAME[@PLACE]", help="who makes vectors")
    add("--weights", type=Path, metavar="PATH", help="your own weights for --backend")
    add("--query-weights", type=Path, metavar="PATH", help="your own weights for --query-backend")
    add("--device", default="auto", help="what computes: auto, cpu, cuda, mps (default: %(default)s)")
    add("--offline", action="store_true", default=None, help="never download")
    return parser


def _run(arguments: Namespace, console: Console) -> int:
    rate_hz = arguments.rate
    if arguments.raw is not None:
        if rate_hz is None or console.as_json:
            raise OptionError("--raw needs --rate HZ, and has samples on standard output, so no --json.")
    else:
        from unisep_live import device  # says at once what is missing

        rate_hz = rate_hz or device.default_rate_hz(arguments.input)
    from unisep import Separator
    from unisep.cli.questions import questions
    from unisep_live.mixer import Mixer

    asked: Any = questions(arguments)
    options = {
        name: getattr(arguments, name) for name in ("backend", "query_backend", "encoder", "weights", "query_weights")
    }
    with Separator(
        **options, device=arguments.device, offline=arguments.offline, plugins=arguments.plugin
    ) as separator:
        margin = 0 if arguments.raw and arguments.margin is None else arguments.margin
        with separator.live(
            asked, sample_rate_hz=rate_hz, channels=arguments.channels, block_samples=arguments.block,
            margin_blocks=margin, stems=arguments.stems,
        ) as live:  # fmt: skip
            milliseconds = [1000 * n / rate_hz for n in (live.latency_samples, live.algorithmic_latency_samples)]
            who = ", ".join(f"{name} by {choice.backend}" for name, choice in live.plan.items())
            console.note("unisep: {}; {:.0f} ms behind, {:.0f} of them by the model".format(who, *milliseconds))
            mixer = Mixer(arguments.target_gain, arguments.rest_gain)
            (_through_pipe if arguments.raw else _through_devices)(live, mixer, arguments, rate_hz, console)
            result = {"latency_samples": live.latency_samples, "late_blocks": live.n_late, "sample_rate_hz": rate_hz}
            console.data({**result, "plan": live.plan.to_json()})
            console.note(f"unisep: {live.n_late} blocks came too late")
    return 0


def _through_pipe(live: Live, mixer: Mixer, arguments: Namespace, rate_hz: int, console: Console) -> None:
    from unisep_live import pipe

    shape, n_blocks = (arguments.channels, arguments.block), [0]
    n_between = max(1, round(_METER_SECONDS * rate_hz / arguments.block))

    def shown() -> None:
        n_blocks[0] += 1
        if console.is_watched and n_blocks[0] % n_between == 0:
            console.rewrite(mixer.meters())

    try:
        pipe.run(live, mixer, sys.stdin.buffer, sys.stdout.buffer, arguments.raw, shape, shown)
    except BrokenPipeError:  # who listened has gone; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _through_devices(live: Live, mixer: Mixer, arguments: Namespace, rate_hz: int, console: Console) -> None:
    from unisep_live import device, keys

    console.note(f"unisep: {KEYS}")
    with keys.pressed() as pressed:

        def is_going_on() -> bool:
            if console.is_watched:
                console.rewrite(f"{mixer.meters()}  late {live.n_late}")
            key = pressed(_METER_SECONDS)
            return not key or mixer.press(key)

        try:
            shape = (arguments.channels, arguments.block)
            device.run(live, mixer, arguments.input, arguments.output, rate_hz, shape, is_going_on)
        except KeyboardInterrupt:
            pass  # the usual way to end it


def _list_devices(console: Console) -> int:
    from unisep_live.device import devices

    rows = devices()
    console.data(rows)
    table = [("", "device", "in", "out", "Hz")]
    table += [
        (
            f"{'*' if row['is_default'] else ' '} {row['number']}",
            row["name"],
            *(str(row[key]) for key in ("inputs", "outputs", "sample_rate_hz")),
        )
        for row in rows
    ]
    console.lines(columns(table))
    return 0


def _device(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _gain(text: str) -> float:
    """Return a gain in dB, within what there is.

    >>> _gain("off"), _gain("-3"), _gain("90")
    (-60.0, -3.0, 12.0)
    """
    from unisep_live.mixer import SILENT_DB, within

    try:
        return SILENT_DB if text == "off" else within(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no gain; write decibels, or off") from None
