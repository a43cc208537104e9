"""The command `unisep export`: write a backend as a file that other runtimes run."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from unisep.cli.arguments import Parser, common_options
from unisep.cli.console import Console

if TYPE_CHECKING:
    from unisep_onnx.export import Exported

FORMATS = ("onnx", "torch-export")
PRECISIONS = ("float32", "float16", "int8")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="unisep export",
        parents=[common_options()],
        description="Write a model as one file for other runtimes, its transforms inside. The file is run once and compared "
        "with the original; one that differs by more than 1e-4 of the peak is not written.",
        epilog="example: unisep export htdemucs-film -o film.onnx && unisep separate song.flac -q piano --query-backend onnx@film.onnx",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a backend of `unisep plugins`; with weights of your own NAME@FILE"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="replaced if it is there")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="(default: %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of onnx files (default: %(default)s)"
    )
    calibrate = "for int8: recordings like those it will hear, which set the range of its numbers"
    parser.add_argument("--calibrate", type=Path, nargs="+", default=[], metavar="FILE", help=calibrate)
    parser.add_argument("--space", default="", help="of the queries, for a model that knows several")
    parser.add_argument("--offline", action="store_true", default=None, help="never download")
    return parser


def main(words: list[str]) -> int:
    """Run `unisep export` with these words after it, and return 0 when the file is written."""
    arguments = parser().parse_args(words)
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        exported = _export(arguments, console)
        facts = exported.description.model_dump()
        size = {
            "file": str(arguments.output),
            "n_bytes": len(exported.content),
            "largest_error": exported.largest_error,
        }
        console.data({**size, "agreement_db": exported.agreement_db, **facts})
        console.lines([_summary(arguments.output, exported)])
        return 0


def _export(arguments: Namespace, console: Console) -> Exported:
    from unisep.errors import OptionError
    from unisep.files.paths import write_whole
    from unisep_onnx.export import FORMATS as EXPORTERS
    from unisep_onnx.export import describe, opened

    if arguments.format != "onnx" and arguments.precision != "float32":
        raise OptionError(f"--precision {arguments.precision} is for --format onnx. Leave one of them out.")
    if bool(arguments.calibrate) != (arguments.precision == "int8"):
        raise OptionError(
            "--calibrate goes with --precision int8, which needs it: a minute of your recordings is enough."
        )
    backend, name, space, licence = opened(arguments.model, arguments.space, arguments.offline)
    exported = EXPORTERS[arguments.format](backend, describe(backend, name, space, licence))
    if arguments.precision != "float32":
        from unisep_onnx.smaller import smaller

        exported = smaller(exported, backend, arguments.precision, arguments.calibrate)
    try:
        write_whole(arguments.output, exported.content)
    except (OSError, ValueError) as error:
        raise OptionError(f"{arguments.output} cannot be written ({error}).") from error
    return exported


def _summary(path: Path, exported: Exported) -> str:
    facts, size = exported.description, len(exported.content) / 1e6
    if facts.precision != "float32":
        return f"{path}: {size:.1f} MB, {facts.precision}, agrees with the original by {exported.agreement_db:.1f} dB"
    return f"{path}: {size:.1f} MB, largest error {exported.largest_error:.1e} of the peak"
