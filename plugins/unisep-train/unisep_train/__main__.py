"""Train the models of unisep: `python -m unisep_train COMMAND --help` says what a command takes.

judge and build a store    curate, corpus, render
train                      train, presence, distil
look and measure           plot, measure, controls
clap-mini                  clips, band-powers, text-tower, wordings, audio-tower, release-clap
"""

from __future__ import annotations

import argparse
import logging
import sys
from importlib import import_module

from unisep.errors import UnisepError
from unisep_train.arguments import parser_of

# Of each command the module and the function that does it.
COMMANDS = {
    "curate": "data.curation:curate",
    "corpus": "data.corpus:build",
    "render": "rendering.songs:render",
    "train": "tasks.query_model:train_command",
    "presence": "tasks.presence:presence_command",
    "distil": "tasks.student:distil_command",
    "plot": "measuring.plot:plot",
    "measure": "measuring.measure:measure_command",
    "controls": "measuring.controls:controls_command",
    "clips": "rendering.clips:render",
    "band-powers": "data.band_powers:build",
    "text-tower": "tasks.text_tower:train_command",
    "wordings": "tasks.wordings:train_command",
    "audio-tower": "tasks.audio_tower:train_command",
    "release-clap": "measuring.cards:release_clap",
}


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
