"""Train the models of unisep: `python -m unisep_train COMMAND --help` says what a command takes.

judge and build a store    curate, corpus, render
train                      train, distil
look and measure           plot, measure, controls, ablation
clap-mini                  clips, band-powers, text-tower, audio-tower, release-clap
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, getmodule, signature
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unisep.errors import UnisepError

COMMANDS = {
    "curate": "data.curation:curate",
    "corpus": "data.corpus:build",
    "render": "rendering.songs:render",
    "train": "tasks.query_model:train_command",
    "distil": "tasks.student:distil_command",
    "plot": "measuring.plot:plot",
    "measure": "measuring.measure:measure_command",
    "controls": "measuring.controls:controls_command",
    "ablation": "measuring.ablation:ablate",
    "clips": "rendering.clips:render",
    "band-powers": "data.band_powers:build",
    "text-tower": "tasks.text_tower:train_command",
    "audio-tower": "tasks.audio_tower:train_command",
    "release-clap": "measuring.cards:release_clap",
}


def parser_of(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Read a command off its function: keywords become options, without their unit, and `Args:` the help.

    >>> def pad(file: str, *, stop_after_seconds: float = 3.0) -> None: ...
    >>> vars(parser_of("pad", pad).parse_args(["a.wav", "--stop-after", "2"]))
    {'file': 'a.wav', 'stop_after_seconds': 2.0}
    """
    parser = argparse.ArgumentParser(
        f"python -m unisep_train {name}", description=getattr(getmodule(function), "__doc__", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    helps = dict(re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", function.__doc__ or "", re.MULTILINE))
    kinds: dict[str, Any] = get_type_hints(function)
    for argument, parameter in signature(function).parameters.items():
        kind, options = kinds[argument], dict[str, Any]()
        if isinstance(kind, UnionType):
            (kind,) = (member for member in get_args(kind) if member is not NoneType)
        if get_origin(kind) is list:
            (kind,), options["nargs"] = get_args(kind), "+"
        if get_origin(kind) is Literal:
            kind, options["choices"] = str, get_args(kind)
        flag = argument
        if parameter.kind is Parameter.KEYWORD_ONLY:
            flag = "--" + re.sub(r"(_hz|(?<=.)_seconds|_)$", "", argument).replace("_", "-")
            options |= {"dest": argument, "action": "extend" if "nargs" in options else "store"}
            has_default = parameter.default is not Parameter.empty
            options |= {"default": parameter.default} if has_default else {"required": True}
        parser.add_argument(flag, type=kind, help=" ".join(helps.get(argument, "").split()), **options)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the first argument names; exit with a sentence where it cannot be done."""
    top = argparse.ArgumentParser(
        "python -m unisep_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    words = sys.argv[1:] if arguments is None else arguments
    name = top.parse_args(words[:1]).command
    module, _, function = COMMANDS[name].partition(":")
    command = getattr(import_module(f"unisep_train.{module}"), function)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        command(**vars(parser_of(name, command).parse_args(words[1:])))
    except UnisepError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
