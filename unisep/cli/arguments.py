"""The arguments of all commands. Nothing heavy is imported, so that help comes at once."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import unisep
from unisep.cli.console import visible

PLUGIN_KINDS = ("backend", "encoder")  # that `new-plugin` can write
FLAGS = {  # of arguments that the command line calls otherwise than Python does
    "segment_seconds": "--segment", "overlap_fraction": "--overlap", "bitrate_kbps": "--bitrate", "plugins": "--plugin",
    "sample_rate_hz": "sample rate", "folder": "--out", "headroom_db": "--headroom",
    "clips": "CLIP",
}  # fmt: skip

_SEVERAL: dict[str, Any] = {"action": "append", "default": []}


class Parser(argparse.ArgumentParser):
    """A parser that says in two lines what is wrong and where to read on, and takes "-1:30" for a value."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"^-[\d.:]+$")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        self.exit(2, visible(f"unisep: error: {message}\nSee: {self.prog} --help\n"))


def seconds(text: str) -> float:
    """Return the seconds in "90", "90.5", "1:30" or "1:02:30".

    >>> seconds("1:30")
    90.0
    """
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def time_range(text: str) -> tuple[float, float]:
    """Return start and end in seconds of "30-60", "0:30-1:00", "30-" or "-60"."""
    match = re.fullmatch(r"\s*([\d:.]*)\s*-\s*([\d:.]*)\s*", text)
    try:
        start, end = seconds(match[1] or "0"), seconds(match[2] or "inf")  # type: ignore[index]
    except (TypeError, ValueError):
        start = end = math.inf
    if not start < end or text.strip() == "-":
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write start-end in seconds: 30-60, 1:30-, -60")
    return start, end


def named(text: str) -> tuple[str | None, str]:
    """Split "NAME=VALUE" where NAME is a word; all else is a value without a name.

    >>> named("lead=electric guitar"), named("a = b")
    (('lead', 'electric guitar'), (None, 'a = b'))
    """
    match = re.fullmatch(r"([^\W\d][\w-]*)=(.+)", text, re.DOTALL)
    return (match[1], match[2]) if match else (None, text)


def named_file(text: str) -> tuple[str | None, Path]:
    """Split "NAME=FILE", where no file is called so as a whole."""
    name, file = (None, text) if os.path.exists(text) else named(text)
    return name, Path(file)


def mix(text: str) -> dict[str, float]:
    """Return the weights in "text=0.3,audio=0.7"."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no mix; write text=0.3,audio=0.7") from None


def names(text: str) -> tuple[str, ...]:
    """Return the names in "drums,bass"."""
    parts = tuple(name.strip() for name in text.split(",") if name.strip())
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; write names with commas: drums,bass")
    return parts


_WAV: dict[str, Any] = {"dest": "wav_subtype", "action": "store_const"}
_LICENCES: dict[str, Any] = {"type": names, "metavar": "A,B", "help": "only weights under these: commercial, MIT, ..."}
_RANGE: dict[str, Any] = {**_SEVERAL, "type": time_range, "metavar": "S-E"}


def parse(argv: Sequence[str] | None = None, plugin_commands: Sequence[tuple[str, str]] = ()) -> argparse.Namespace:
    """Return the parsed arguments, or exit after printing an error or the help, in which `plugin_commands` are listed."""
    arguments = _parser(plugin_commands).parse_args(argv)
    arguments.debug = arguments.debug or debug_by_environment()
    return arguments


def debug_by_environment() -> bool:
    """Tell whether UNISEP_DEBUG asks for tracebacks."""
    return os.environ.get("UNISEP_DEBUG", "0") not in ("", "0")


def plugin_options(*, allow_abbrev: bool = False) -> argparse.ArgumentParser:
    """Return the options on plugins, which every command takes and which count before the command is known."""
    parser = Parser(prog="unisep", add_help=False, allow_abbrev=allow_abbrev)
    add = parser.add_argument_group("plugins").add_argument
    add("--plugin", **_SEVERAL, type=Path, metavar="PATH", help="a plugin of your own, a file or a folder; repeatable")
    add("--strict-plugins", action="store_true", help="a plugin with a problem is an error (UNISEP_PLUGINS_STRICT=1)")
    return parser


def common_options() -> argparse.ArgumentParser:
    """Return the options of every command, as a parent of its parser; plugins that add commands take them too."""
    parser = argparse.ArgumentParser(add_help=False, parents=[plugin_options()])
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print the result as JSON on stdout")
    add("--quiet", action="store_true", help="no progress and no notes on stderr")
    add("--debug", action="store_true", help="show tracebacks (also with UNISEP_DEBUG=1)")
    return parser


def shared_options() -> argparse.ArgumentParser:
    """Return the options of whatever separates, for one command: what has been added cannot have two defaults."""
    parser = argparse.ArgumentParser(add_help=False, parents=[_model_options()])
    add = parser.add_argument_group("computing").add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    add("--precision", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    add("-j", "--threads", type=int, metavar="N", help="segments computed at once on the CPU (default: one a core)")
    add("--segment", type=float, metavar="SECONDS", help="length of the pieces computed at once")
    add("--overlap", type=float, default=0.25, metavar="FRACTION", help="of the pieces (%(default)s)")
    add("--shifts", type=int, default=0, metavar="N", help="average N random shifts (%(default)s)")
    add("--seed", type=int, default=0, help="of the shifts (%(default)s)")
    return parser


def _model_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument_group("models").add_argument
    add("--backend", metavar="NAME", help="who answers fixed stems")
    add("--query-backend", metavar="NAME", help="who answers questions")
    add("--encoder", metavar="NAME[@PLACE]", help="who makes vectors; your own weights: clap@folder, clap@owner/name")
    add("--weights", type=Path, metavar="PATH", help="your own weights for --backend")
    add("--query-weights", type=Path, metavar="PATH", help="your own weights for --query-backend")
    add("--licences", **_LICENCES)
    add("--route", choices=["auto", "fixed", "conditioned"], default="auto", help="who may answer")
    add("--cascade", choices=["auto", "off"], default="auto", help="take vocals or speech out first, for other sounds")
    add("--offline", action="store_true", default=None, help="never download")
    return parser


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what to isolate; plugins that separate take them too."""
    add = parser.add_argument_group(
        "what to isolate",
        "Repeat -q (or --query-audio, or --embedding) for several results in one pass. One text, one clip and one vector "
        "given together are one question. Ranges and --mix are given once for all questions, or once for each.",
    ).add_argument
    add(
        "-q", "--query", **_SEVERAL, type=named, metavar="[NAME=]TEXT", help="a sound by its name; NAME is the result's"
    )
    add("--query-audio", **_SEVERAL, type=named_file, metavar="[NAME=]FILE", help="a sound by an example clip")
    add("--embedding", **_SEVERAL, type=named_file, metavar="[NAME=]FILE", help="a vector saved by `unisep embed`")
    add("--mix", **_SEVERAL, type=mix, metavar="text=W,audio=W", help="how much each part of a question counts")
    add("--exclude", **_SEVERAL, metavar="TEXT", help="a sound to leave out of all results")
    add("--exclude-audio", **_SEVERAL, type=Path, metavar="FILE", help="a clip of a sound to leave out")
    add("--time-range", **_RANGE, help="where in the recording it is wanted: 30-60, 1:30-, -60")
    add("--example-range", **_RANGE, help="the part of the clip (or of the recording) to go by")
    add("--queries", type=Path, metavar="FILE", help="a TOML file with a table for each question")
    add_stem = parser.add_argument_group("fixed stems").add_mutually_exclusive_group().add_argument
    add_stem("--stems", type=names, metavar="A,B", help="only these of the fixed stems")
    add_stem("--two-stems", dest="stems", nargs=1, metavar="STEM", help="one fixed stem, and the rest")


def _parser(plugin_commands: Sequence[tuple[str, str]]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="unisep",
        parents=[plugin_options()],
        allow_abbrev=False,
        description="Isolate any sound from a recording: by name, by example, or the fixed stems.",
    )
    parser.add_argument("--version", action="version", version=f"unisep {unisep.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _separate(commands)
    _explain(commands)
    _embed(commands)
    _learn(commands)
    _models(commands)
    _plugins(commands)
    doctor = _command(commands, "doctor", help="check this installation and say what to do")
    doctor.add_argument(
        "-v", "--verbose", action="store_true", help="each package, plugin and model in a line of its own"
    )
    claims = [*commands.choices, *(name for name, _ in plugin_commands)]
    for name, summary in plugin_commands:
        if claims.count(name) == 1:
            escaped = summary.replace("%", "%%")  # argparse fills in what stands after a percent sign
            commands.add_parser(name, help=f"{escaped} (of a plugin)", add_help=False)
    return parser


def _command(commands: Any, name: str, *parents: argparse.ArgumentParser, **texts: str) -> argparse.ArgumentParser:
    texts.setdefault("description", texts["help"])
    parser: argparse.ArgumentParser = commands.add_parser(name, parents=[common_options(), *parents], **texts)
    parser.set_defaults(command=name)
    return parser


def _separate(commands: Any) -> None:
    about = "isolate sounds from recordings: what you ask for, or else drums, bass, other and vocals; and the rest"
    example = (
        'example: unisep separate song.mp3 -q "electric guitar" -o out/. '
        "As in demucs: --two-stems STEM, --mp3, --mp3-bitrate KBPS, --float32, --int24, -d DEVICE, and -n BACKEND."
    )
    parser = _command(commands, "separate", shared_options(), help=about, epilog=example)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="audio files, folders, patterns such as '*.flac', - for stdin"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="also take what is in folders of folders")
    add_questions(parser)
    fields = "with {track}, {trackext}, {folder}, {stem}, {ext} (default: %(default)s)"
    add = (group := parser.add_argument_group("files")).add_argument
    add("-o", "--out", type=Path, default=Path("separated"), help="output folder (default: %(default)s), - for stdout")
    add("--format", help="wav, flac, ogg, opus, mp3, m4a, ... (default: that of the input; flac if lossy)")
    add("--bitrate", type=int, metavar="KBPS", help="of lossy formats, in kbit/s")
    add_depth = group.add_mutually_exclusive_group().add_argument
    add_depth("--subtype", help="how samples are stored: PCM_16, PCM_24, FLOAT, ...")
    add_depth("--float32", **_WAV, const="FLOAT", help="write wav in float, which keeps the level and never clips")
    add_depth("--int24", **_WAV, const="PCM_24", help=argparse.SUPPRESS)
    add("--headroom", type=float, default=0.0, metavar="DB", help="write all files that much lower, in every run")
    add("--filename", default="{track}/{stem}.{ext}", metavar="TEMPLATE", help=fields)
    add("--no-tags", action="store_true", help="leave tags and cover art of the input behind")
    add("--mp3", dest="format", action="store_const", const="mp3", help=argparse.SUPPRESS)
    add("--mp3-bitrate", dest="bitrate", type=int, help=argparse.SUPPRESS)
    add("-n", dest="backend", help=argparse.SUPPRESS)
    add("-d", dest="device", help=argparse.SUPPRESS, default="auto")
    add("--resume", action="store_true", help="skip inputs that were completed before, and verify them")


def _models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list, fetch and check weights")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action, n_names, about in (
        ("list", "", "what there is, and whether it is here"),
        ("pull", "+", "download and verify"),
        ("verify", "*", "check every file against its sha256 (without names: all that is here)"),
        ("card", 1, "data, licence and measured quality"),
        ("recommend", 0, "who would answer a question best: what is here, and what is stronger after a download"),
    ):
        sub = _command(actions, action, help=about)
        sub.set_defaults(command=f"models {action}")
        if n_names:
            sub.add_argument("names", nargs=n_names, metavar="NAME", help="a model of `unisep models list`")
        if action == "pull":
            sub.epilog = "`unisep models pull best` fetches the strongest of all installed models"
            sub.add_argument("-y", "--yes", action="store_true", help="fetch `best` without asking")
        if action in ("list", "recommend"):
            sub.add_argument("--licences", **_LICENCES)
        if action == "list":
            sub.add_argument("--stem", metavar="STEM", help="only models with this stem, the best first")
        if action == "recommend":
            sub.add_argument("text", metavar="TEXT", help="a sound or a stem by its name")


def _embed(commands: Any) -> None:
    example = "example: unisep embed 'electric guitar' -o guitar.safetensors"
    add = _command(commands, "embed", help="save a question as a portable vector", epilog=example).add_argument
    add("text", nargs="*", metavar="TEXT", help="the sound by name; several are averaged")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the file to write")
    add("--audio", type=Path, metavar="FILE", help="the sound by an example clip")
    add("--example-range", type=time_range, metavar="S-E", help="which part of the clip")
    add("--mix", type=mix, metavar="text=W,audio=W", help="how much each part counts")
    _add_vector_models(add)


def _learn(commands: Any) -> None:
    about = "teach a sound: from a few clips of it, save a vector that finds it better than a clip does"
    example = "example: unisep learn snare/*.wav --others rest/*.wav -o my-snare.safetensors"
    add = _command(commands, "learn", help=about, epilog=example).add_argument
    add("clips", nargs="+", type=Path, metavar="CLIP", help="1 to 10 clips of the sound, alone")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the file to write")
    about_others = "clips of what it is not, at best of what it is heard with (default: sounds made by rule)"
    add("--others", nargs="+", type=Path, default=[], metavar="CLIP", help=about_others)
    add("--seed", type=int, default=0, help="of the mixtures it learns from (%(default)s)")
    _add_vector_models(add)


def _add_vector_models(add: Callable[..., Any]) -> None:
    add("--encoder", metavar="NAME[@PLACE]", help="who encodes it")
    add("--query-backend", metavar="NAME", help="whose space it must be in")
    add("--licences", **_LICENCES)
    add("--device", default="auto", help="auto, cpu, cuda, mps")
    add("--offline", action="store_true", default=None, help="never download")


def _explain(commands: Any) -> None:
    about = "say who would answer, why, and who else could, under which licences and at what cost; nothing is run"
    example = 'example: unisep explain song.mp3 -q "electric guitar"'
    parser = _command(commands, "explain", _model_options(), help=about, epilog=example)
    parser.add_argument("input", nargs="?", type=Path, metavar="INPUT", help="a recording, to reckon the work")
    parser.add_argument("-v", "--verbose", action="store_true", help="also who cannot answer, and why")
    add_questions(parser)


def _plugins(commands: Any) -> None:
    add = _command(commands, "plugins", help="list what is installed, and what is broken").add_argument
    add("-v", "--verbose", action="store_true", help="with the traceback of what is broken")
    about = "write a plugin to start from: the distribution unisep-NAME, with a model that works and tests that pass"
    add = _command(commands, "new-plugin", help=about).add_argument
    add("name", metavar="NAME", help="lower-case letters, digits and '-', such as my-model")
    add("--folder", type=Path, default=Path(), metavar="FOLDER", help="where unisep-NAME is made (default: here)")
    add("--kind", choices=PLUGIN_KINDS, default="backend", help="what it offers (default: %(default)s)")
