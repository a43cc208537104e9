"""The command `unisep align`: fit a map from an encoder's space to the one that questions are answered in."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from unisep.cli.arguments import Parser, common_options
from unisep.cli.console import Console, columns

if TYPE_CHECKING:
    from unisep.query.space_maps import MapCard


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="unisep align",
        parents=[common_options()],
        description="Fit a map from an encoder's space to the one the query backend was trained in, measure it on "
        "captions held out, and keep it if it is fit. Then ask with --encoder as usual.",
        epilog="example: unisep align clap@laion/larger_clap_music --clips samples/",
    )
    encoder = "a name of `unisep plugins`; with weights of your own NAME@FOLDER or NAME@OWNER/REPOSITORY"
    parser.add_argument("encoder", metavar="ENCODER", help=encoder)
    clips = "recordings like those you will ask with, 10 at least"
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help=clips)
    parser.add_argument("--query-backend", metavar="NAME", help="whose space it must reach")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--offline", action="store_true", default=None, help="never download")
    return parser


def main(words: list[str]) -> int:
    """Run `unisep align` with these words after it, and return 0 when the map is fit and kept, 1 when it is unfit."""
    arguments = parser().parse_args(words)
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console:
        return _align(arguments, console)


def _align(arguments: Namespace, console: Console) -> int:
    from unisep_align.alignment import align

    card = align(
        arguments.encoder, clips=arguments.clips, query_backend=arguments.query_backend, device=arguments.device,
        offline=arguments.offline, on_progress=console.progress(arguments.encoder),
    )  # fmt: skip
    console.data({**card.model_dump(), "is_fit": card.is_fit, "modalities": sorted(card.modalities)})
    console.lines([f"from {card.source}", f"to   {card.target}", *_table(card)])
    console.note(f"unisep: {_verdict(card, arguments.encoder)}")
    return 0 if card.is_fit else 1


def _table(card: MapCard) -> list[str]:
    rows: list[tuple[str, ...]] = [("", "measured on", "top-1", "top-5", "cosine", "centred", "fit")]
    audio = f"clips ({card.clips})"
    for kind, name, agreement in (("text", "captions held out", card.text), ("audio", audio, card.audio)):
        if agreement is not None:
            numbers = (agreement.top_1, agreement.top_5, agreement.cosine, agreement.centred_cosine)
            fit = "yes" if kind in card.modalities else "no"
            rows.append((kind, f"{agreement.n} {name}", *(f"{number:.3f}" for number in numbers), fit))
    return columns(rows)


def _verdict(card: MapCard, encoder: str) -> str:
    from unisep.query.space_maps import LEAST_CENTRED_COSINE, LEAST_TOP_5

    needed = f"(centred cosine {LEAST_CENTRED_COSINE} and, for text, top-5 {LEAST_TOP_5} at least)"
    if not card.is_fit:
        return f"unfit {needed}: '{encoder}' cannot serve this backend, and asking with it is refused"
    if "audio" in card.modalities:
        return f"fit {needed}: kept. Ask with --encoder {encoder}"
    if card.audio is None:
        return f"fit {needed}: kept. Ask by text with --encoder {encoder}"
    advice = "more clips may help" if card.clips == "own" else "clips of your own may help: --clips FOLDER"
    return f"fit for text only {needed}: kept. Ask by text with --encoder {encoder}; {advice}"
