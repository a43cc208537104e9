"""`unisep new-plugin`: a distribution to start from, with hooks, a model and tests that pass."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from unisep.cli.console import Console
from unisep.scaffold import VARIANTS, write_plugin


def add_new_plugin(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "new-plugin",
        parents=[common],
        help="write a plugin to start from",
        description="Write the distribution unisep-NAME: hooks, a model that works, and tests that pass.",
    )
    parser.set_defaults(command="new-plugin")
    parser.add_argument("name", metavar="NAME", help="lower-case letters, digits and '-', such as my-model")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where the folder unisep-NAME is made (default: here)",
    )
    parser.add_argument(
        "--kind", choices=sorted(VARIANTS), default="backend", help="what it offers (default: %(default)s)"
    )


def new_plugin(arguments: Namespace, console: Console) -> int:
    """0; prints the folder that was written."""
    written = write_plugin(arguments.name, arguments.folder, arguments.kind)
    console.data({"folder": str(written.folder), "files": [str(path) for path in written.files]})
    console.lines([str(written.folder)])
    console.note(
        f"unisep: {len(written.files)} files. Try them: cd {written.folder}; pip install -e .; pytest"
    )
    return 0
