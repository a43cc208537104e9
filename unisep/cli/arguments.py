"""The arguments of all commands. Nothing heavy is imported, so that help comes at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

import unisep
from unisep.cli.plugins import add_new_plugin, plugin_options

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


def names(text: str) -> tuple[str, ...]:
    """Names from "drums,bass"."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; write names with commas: drums,bass")
    return found


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add what can be asked for."""
    group = parser.add_argument_group(
        "what to isolate",
        "Repeat -q (or --query-audio, or --embedding) for several results in one pass. "
        "One text, one clip and one vector given together are one question.",
    )
    group.add_argument("-q", "--query", action="append", default=[], metavar="TEXT", help="a sound by its name")
    group.add_argument(
        "--query-audio", action="append", default=[], type=Path, metavar="FILE", help="a sound by an example clip"
    )
    group.add_argument(
        "--embedding", action="append", default=[], type=Path, metavar="FILE", help="a vector saved by `unisep embed`"
    )
    group.add_argument("--mix", type=mix, metavar="text=W,audio=W", help="how much each part of the question counts")
    group.add_argument("--exclude", action="append", default=[], metavar="TEXT", help="a sound to leave out")
    group.add_argument(
        "--exclude-audio", action="append", default=[], type=Path, metavar="FILE", help="a clip of a sound to leave out"
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


def parse(argv: Sequence[str] | None = None, added: Sequence[tuple[str, str]] = ()) -> argparse.Namespace:
    """The parsed arguments; `command` holds the words of the command.

    added: names and summaries of the commands of plugins, for the help; names that are taken are left out.

    Raises:
        SystemExit: after printing the help or the version (0), or what is wrong (2).
    """
    parser = _parser(added)
    arguments = parser.parse_args(argv)
    arguments.debug = arguments.debug or os.environ.get("UNISEP_DEBUG", "0") not in ("", "0")
    return arguments


def _parser(added: Sequence[tuple[str, str]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unisep",
        parents=[plugin_options()],
        allow_abbrev=False,
        description="Isolate any sound from a recording: by name, by example, or the fixed stems.",
    )
    parser.add_argument("--version", action="version", version=f"unisep {unisep.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = common_options()
    _add_separate(commands, [common, shared_options()])
    _add_plugins(commands, common)
    _add_models(commands, common)
    _add_embed(commands, common)
    doctor = commands.add_parser("doctor", parents=[common], help="check this installation and say what to do")
    doctor.set_defaults(command="doctor")
    _add_explain(commands, [common, _choosing_options()])
    add_new_plugin(commands, common)
    _add_added(commands, added)
    return parser


def _add_added(commands: argparse._SubParsersAction, added: Sequence[tuple[str, str]]) -> None:
    """The commands of plugins whose name is free, and claimed by one plugin alone."""
    claims = [*commands.choices, *(name for name, _ in added)]
    for name, summary in added:
        if claims.count(name) == 1:
            told = summary.replace("%", "%%")  # argparse fills in what stands after a percent sign
            commands.add_parser(name, help=f"{told} (of a plugin)", add_help=False)


def common_options() -> argparse.ArgumentParser:
    """The options of every command, as a parent of its parser; plugins that add commands take them too."""
    common = argparse.ArgumentParser(add_help=False, parents=[plugin_options()])
    group = common.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    group.add_argument("--quiet", action="store_true", help="no progress and no notes on stderr")
    group.add_argument("--debug", action="store_true", help="show tracebacks (also with UNISEP_DEBUG=1)")
    return common


def _choosing_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    _add_models_choice(parser)
    return parser


def shared_options() -> argparse.ArgumentParser:
    """The options of whatever separates, for one command: what has been added cannot have two defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_models_choice(parser)
    _add_computing(parser)
    return parser


def _add_separate(commands: argparse._SubParsersAction, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "separate",
        parents=list(parents),
        help="isolate sounds from recordings",
        description="Isolate what you ask for; without a question, drums, bass, other and vocals. "
        "What is asked and the rest are written to OUT; the paths go to stdout.",
        epilog='example: unisep separate song.mp3 -q "electric guitar" -o out/',
    )
    parser.set_defaults(command="separate")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio files, folders, or patterns such as '*.flac'")
    parser.add_argument("-r", "--recursive", action="store_true", help="also take what is in folders of folders")
    add_questions(parser)
    add_stems(parser)
    _add_writing(parser)


def _add_explain(commands: argparse._SubParsersAction, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "explain",
        parents=list(parents),
        help="say who would answer, why, and who else could; nothing is run",
        description="Say which backend and encoder would answer, why, what else could, their licences and their cost. "
        "Nothing is loaded, downloaded or run.",
        epilog='example: unisep explain song.mp3 -q "electric guitar"',
    )
    parser.set_defaults(command="explain")
    parser.add_argument(
        "input", nargs="?", type=Path, metavar="INPUT", help="the recording, to reckon how much work it is"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="also who cannot answer, and why")
    add_questions(parser)
    add_stems(parser)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("-o", "--out", type=Path, default=Path("separated"), help="output folder (default: %(default)s)")
    group.add_argument("--format", help="wav, flac, ogg, opus, mp3, ... (default: that of the input; flac if lossy)")
    group.add_argument("--subtype", help="how samples are stored: PCM_16, PCM_24, FLOAT, ...")
    group.add_argument("--bitrate", type=int, metavar="KBPS", help="of lossy formats, in kbit/s")
    group.add_argument(
        "--filename",
        default="{track}/{stem}.{ext}",
        metavar="TEMPLATE",
        help="with {track}, {trackext}, {folder}, {stem}, {ext} (default: %(default)s)",
    )
    group.add_argument("--no-tags", action="store_true", help="leave tags and cover art of the input behind")
    group.add_argument("--resume", action="store_true", help="skip inputs that were completed before, and verify them")


def _add_models_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument("--backend", metavar="NAME", help="who answers fixed stems")
    group.add_argument("--query-backend", metavar="NAME", help="who answers questions")
    group.add_argument(
        "--encoder",
        metavar="NAME[@PLACE]",
        help="who turns a question into a vector; with your own weights: clap@folder, clap@owner/name",
    )
    group.add_argument("--weights", type=Path, metavar="PATH", help="your own weights for --backend")
    group.add_argument("--query-weights", type=Path, metavar="PATH", help="your own weights for --query-backend")
    group.add_argument("--route", choices=["auto", "fixed", "conditioned"], default="auto", help="who may answer")
    group.add_argument("--offline", action="store_true", default=None, help="never download")


def _add_computing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    group.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    group.add_argument("--segment", type=float, metavar="SECONDS", help="length of the pieces computed at once")
    group.add_argument("--overlap", type=float, default=0.25, metavar="FRACTION", help="of the pieces (%(default)s)")
    group.add_argument("--shifts", type=int, default=0, metavar="N", help="average N random shifts (%(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of the shifts (%(default)s)")


def _add_plugins(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("plugins", parents=[common], help="list what is installed, and what is broken")
    parser.set_defaults(command="plugins")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the traceback of what is broken")


def _add_models(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("models", help="list, fetch and check weights")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    every = [
        ("list", "what there is, and whether it is here", None),
        ("pull", "download and verify", "+"),
        ("verify", "check every file against its sha256 (without names: all that is here)", "*"),
        ("card", "data, licence and measured quality", 1),
    ]
    for action, text, count in every:
        sub = actions.add_parser(action, parents=[common], help=text, description=text)
        sub.set_defaults(command=f"models {action}")
        if count is not None:
            sub.add_argument("names", nargs=count, metavar="NAME", help="a model of `unisep models list`")


def _add_embed(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "embed",
        parents=[common],
        help="save a question as a vector",
        description="Save a question as a portable vector: unisep embed 'electric guitar' -o guitar.safetensors",
    )
    parser.set_defaults(command="embed")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="the sound by name; several are averaged")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--audio", type=Path, metavar="FILE", help="the sound by an example clip")
    parser.add_argument("--example-range", type=time_range, metavar="S-E", help="which part of the clip")
    parser.add_argument("--mix", type=mix, metavar="text=W,audio=W", help="how much each part counts")
    parser.add_argument("--encoder", metavar="NAME[@PLACE]", help="who encodes it")
    parser.add_argument("--query-backend", metavar="NAME", help="whose space it must be in")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--offline", action="store_true", default=None, help="never download")
