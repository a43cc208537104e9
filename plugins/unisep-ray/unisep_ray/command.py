"""The command `unisep catalogue`.

What takes long to import is imported after the arguments were read, so that help comes at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from unisep.cli.arguments import FLAGS, Parser, add_questions, common_options, shared_options
from unisep.cli.console import Console, columns, duration, visible
from unisep.errors import arguments_named_by

if TYPE_CHECKING:
    from unisep_ray.catalogue import Summary
    from unisep_ray.ledger import Row

_SHOWN_SECONDS = 0.5
_SAME_NAMES = (  # as arguments of `separate_catalogue`
    "filename", "format", "subtype", "stems", "route", "resume", "retry", "attempts", "min_workers", "max_workers",
    "num_gpus_per_worker", "num_cpus_per_worker", "backend", "query_backend", "encoder", "weights", "query_weights",
    "licences", "device", "precision", "seed", "shifts", "cascade", "offline",
)  # fmt: skip
_FLAGS = {**FLAGS, "num_gpus_per_worker": "--num-gpus-per-worker", "address": "--ray"}


def main(words: list[str]) -> int:
    """Run `unisep catalogue` with these words after it; return 0 if nothing failed, else 1."""
    arguments = parser().parse_args(words)
    with Console(as_json=arguments.json, quiet=arguments.quiet) as console, arguments_named_by(_FLAGS):
        return catalogue(arguments, console)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="unisep catalogue",
        parents=[common_options(), shared_options()],
        description="Separate every recording of a folder or a list on a Ray cluster, or on this machine. Results are whole "
        "or absent, and DESTINATION/.unisep/ledger tells in Parquet what became of each recording.",
        epilog="example: unisep catalogue s3://label/masters s3://label/stems -q vocals --num-gpus-per-worker 1",
    )
    what = "a folder, or a list (.parquet, .csv, .jsonl) with path, and perhaps query, stems, example, name; local or s3://, ..."
    parser.add_argument("source", metavar="SOURCE", help=what)
    parser.add_argument("destination", metavar="DESTINATION", help="a folder for the results: local, s3://, gs://, ...")
    add_questions(parser)
    add = parser.add_argument_group("files").add_argument
    add("--filename", default="{track}/{stem}.{ext}", metavar="TEMPLATE", help="as of `unisep separate`")
    add("--format", help="wav, flac, ... (default: that of the input; flac if lossy)")
    add("--subtype", help="how samples are stored: PCM_16, PCM_24, FLOAT, ...")
    add("--bitrate", type=int, metavar="KBPS", help="of lossy formats")
    add("--headroom", type=float, default=0.0, metavar="DB", help="write all files that much lower")
    add("--no-tags", action="store_true", help="leave tags of the inputs behind")
    add = parser.add_argument_group("cluster").add_argument
    add("--ray", metavar="ADDRESS", help="auto, or host:port (default: RAY_ADDRESS, or else Ray on this machine)")
    add("--num-gpus-per-worker", type=float, default=0.0, metavar="N", help="GPUs, or parts of one (%(default)s)")
    add("--num-cpus-per-worker", type=float, default=1.0, metavar="N", help="cores (%(default)s)")
    add("--min-workers", type=int, default=1, metavar="N", help="begin once so many are ready (%(default)s)")
    add("--max-workers", type=int, metavar="N", help="ask Ray for so many (default: as many as have room now)")
    add("--attempts", type=int, default=3, metavar="N", help="workers that may die of one recording (%(default)s)")
    add = parser.add_argument_group("going on").add_argument
    add("--resume", action="store_true", help="skip what is done with the same request and models")
    add("--retry", choices=["failed"], help="resume, and repeat what failed")
    return parser


def catalogue(arguments: argparse.Namespace, console: Console) -> int:
    """Separate all, print the progress, events or a table, and return 0 if nothing failed, else 1."""
    from unisep.cli.questions import questions
    from unisep_ray.catalogue import separate_catalogue

    if arguments.strict_plugins:
        os.environ["UNISEP_PLUGINS_STRICT"] = "1"  # for the workers of a Ray that is started here, too
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _SAME_NAMES}
    if arguments.threads is not None:
        options["threads"] = arguments.threads
    teller = _Teller(console, sys.stdout)
    with redirect_stdout(sys.stderr):  # Ray speaks, too
        summary = separate_catalogue(
            arguments.source, arguments.destination, questions(arguments), bitrate_kbps=arguments.bitrate,
            headroom_db=arguments.headroom, tags=not arguments.no_tags, overlap_fraction=arguments.overlap,
            segment_seconds=arguments.segment, address=arguments.ray, on_row=teller.tell,
            plugins=[str(path.absolute()) for path in arguments.plugin], **options,
        )  # fmt: skip
    teller.event("end", **_values(summary))
    counts = {"done": summary.n_done, "skipped": summary.n_skipped, "failed": summary.n_failed}
    counts |= {f"  {name}": count for name, count in summary.errors.most_common()}
    hours = {"hours of audio": f"{summary.audio_seconds / 3600:.2f}", "time": duration(summary.seconds)}
    lost = {"hours an hour": f"{summary.speed:.1f}", "workers lost": summary.n_workers_lost}
    console.lines(columns([(name, str(value)) for name, value in {**counts, **hours, **lost}.items()]))
    return 1 if summary.n_failed else 0


class _Teller:
    """Tells how a catalogue goes: a line on a terminal, each failure, and events as lines of JSON."""

    def __init__(self, console: Console, stdout: TextIO) -> None:
        self._console, self._stdout, self._last = console, stdout, 0.0

    def tell(self, row: Row | None, summary: Summary) -> None:
        """Tell of a row, and now and then how far it all is."""
        if row is not None:
            shown = ("recording", "outputs", "audio_seconds", "seconds", "node", "attempts", "error_type", "error")
            self.event(row["state"], **{name: row[name] for name in shown if row.get(name) is not None})
            if row["state"] == "failed":
                self._console.note(f"unisep: failed: {row['recording']}: {row['error']}")
        if time.monotonic() - self._last >= _SHOWN_SECONDS:
            self._last = time.monotonic()
            if row is None:
                self.event("progress", **_values(summary))
            if self._console.is_watched:
                self._console.rewrite(progress_line(summary))

    def event(self, event: str, **values: Any) -> None:
        """Print an event, if JSON was asked for."""
        if self._console.as_json:
            print(visible(json.dumps({"event": event, **values}, default=str)), file=self._stdout, flush=True)


def progress_line(summary: Summary) -> str:
    """Return how far a catalogue is, in one line."""
    total = "" if summary.n_total is None else f" of {summary.n_total}"
    skipped = f", {summary.n_skipped} skipped" if summary.n_skipped else ""
    left = "" if summary.seconds_left is None else f", {duration(summary.seconds_left)} left"
    return (
        f"{summary.n_done}{total} done{skipped}, {summary.n_failed} failed; {summary.speed:.1f} h of audio an hour with "
        f"{summary.n_workers} workers{left}"
    )


def _values(summary: Summary) -> dict[str, Any]:
    values = {**vars(summary), "speed": summary.speed, "seconds_left": summary.seconds_left}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}
