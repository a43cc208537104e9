"""`unisep separate`: a batch of recordings, one after the other, each complete or not there at all."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import unisep
from unisep.cli.batch_progress import BatchProgress
from unisep.cli.console import Console, describe
from unisep.cli.inputs import Nothing, check_distinct, expand
from unisep.cli.ledger import Ledger, sha256_or_nothing
from unisep.cli.questions import asked, questions
from unisep.errors import Cancelled, OptionError, OverwriteError, PluginError, UnisepError, WeightsError
from unisep.formats import checked_subtype, find_format, lossy
from unisep.naming import Template, file_on_the_way, protected

if TYPE_CHECKING:
    from unisep.separated_files import SeparatedFiles
    from unisep.separator import Separator


_SAME_FOR_ALL = (OptionError, PluginError, WeightsError)  # no input would fare better than the first


def separate(arguments: Namespace, console: Console) -> int:
    """0 when every input was separated or had been before, else 1.

    Raises:
        OptionError, QueryError: wrong usage, before any file is touched.
        UnisepError: nothing can be separated at all, for want of a plugin or of weights given by path.
    """
    template = Template(arguments.filename)
    _check_writing(arguments)
    ledger = Ledger(arguments.out)
    found = expand(arguments.inputs, recursive=arguments.recursive, skip=ledger.is_output)
    recordings = [path for path in found if isinstance(path, Path)]
    check_distinct(recordings, template)
    progress = BatchProgress(console, [item if isinstance(item, Path) else None for item in found])
    batch = _Batch(arguments, console, ledger, progress)
    results = []
    with protected(recordings) as protect:
        for index, item in enumerate(found):
            results.append(batch.result(index, item))
            protect(Path(place) for place in results[-1].get("outputs", {}).values())
    counts = {
        state: sum(result["state"] == state for result in results) for state in ("done", "skipped", "failed")
    }
    console.data({"files": results, **{f"n_{state}": count for state, count in counts.items()}})
    if len(found) > 1:
        console.note("unisep: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        for result in results:
            if result["state"] == "failed":
                console.say(f"unisep: failed: {result['input']}: {result['error']}")
    return 1 if counts["failed"] else 0


class _Batch:
    """What all inputs of one call share; the models are loaded for the first one that needs them."""

    def __init__(
        self,
        arguments: Namespace,
        console: Console,
        ledger: Ledger,
        progress: BatchProgress,
    ) -> None:
        self._arguments = arguments
        self._console = console
        self._ledger = ledger
        self._progress = progress
        self._n_done = 0
        self._queries = questions(arguments)
        self._asked = {**asked(arguments), "version": unisep.__version__}
        stems = arguments.stems or ((arguments.two_stems,) if arguments.two_stems else None)
        self._question: dict[str, Any] = {"query": self._queries, "stems": stems, "route": arguments.route}
        self._separator: Separator | None = None

    def result(self, index: int, item: Path | Nothing) -> dict[str, Any]:
        """What came of one input, as plain values; an error is said, and kept in the result."""
        result = self._result(index, item)
        if result["state"] == "done":
            self._console.lines(list(result["outputs"].values()))
        self._progress.ended(index, computed=result["state"] == "done")
        self._n_done += result["state"] != "failed"
        return result

    def _result(self, index: int, item: Path | Nothing) -> dict[str, Any]:
        if isinstance(item, Nothing):
            self._console.error(item.error)
            return {"input": _printable(item.asked), "state": "failed", "error": _printable(str(item.error))}
        try:
            return self._skipped(item) or self._done(index, item)
        except Exception as error:
            is_same_for_all = isinstance(error, _SAME_FOR_ALL) and not isinstance(error, OverwriteError)
            hopeless = is_same_for_all and not self._n_done
            if hopeless or isinstance(error, Cancelled) or self._arguments.debug:
                raise
            name = _printable(item)
            self._console.error(error, f"{name}: ")
            return {"input": name, "state": "failed", "error": _printable(describe(error))}

    def _skipped(self, source: Path) -> dict[str, Any] | None:
        entry = self._ledger.completed(source, self._basis()) if self._arguments.resume else None
        if entry is None:
            return None
        shown = _printable(source)
        self._console.note(f"unisep: {shown}: done before, and intact")
        outputs = {
            name: _printable(self._arguments.out / place) for name, (place, _) in entry.outputs.items()
        }
        return {"input": shown, "state": "skipped", "outputs": outputs, **entry.details}

    def _basis(self) -> dict[str, Any]:
        """All that decides a result beside the recording: what was asked, and the content of who answers."""
        return {**self._asked, "provenance": self._ready().provenance(**self._question)}

    def _done(self, index: int, source: Path) -> dict[str, Any]:
        started, sha256, wanted = perf_counter(), sha256_or_nothing(source), self._arguments
        found = self._ready().separate_file(
            source,
            wanted.out,
            **self._question,
            filename=wanted.filename,
            format=wanted.format,
            subtype=wanted.subtype,
            bitrate_kbps=wanted.bitrate,
            tags=not wanted.no_tags,
            on_progress=self._progress.of(index, source.name),
        )
        seconds = round(perf_counter() - started, 3)
        outputs = {**found, "rest": found.rest}
        details = {
            "presence": dict(found.presence),
            "presence_over_time": {
                name: [each._asdict() for each in said] for name, said in found.presence_over_time.items()
            },
            "plan": found.plan.to_json(),
            "gain": found.gain,
        }
        self._ledger.add(source, sha256, self._basis(), outputs, details)
        self._tell(source, found, seconds, self._progress.label(index))
        paths = {name: _printable(path) for name, path in outputs.items()}
        return {"input": _printable(source), "state": "done", "outputs": paths, **details, "seconds": seconds}

    def _ready(self) -> Separator:
        if self._separator is None:
            self._separator = separator_of(self._arguments)
        return self._separator

    def _tell(self, source: Path, found: SeparatedFiles, seconds: float, label: str) -> None:
        say = self._console.note
        say(f"unisep: {label}{_printable(source)}: {found.seconds:.1f} s of audio in {seconds:.1f} s")
        answers: dict[str, list[str]] = {}
        for name, choice in found.plan.items():
            by = choice.backend + (f" with {choice.encoder}" if choice.encoder else "")
            answers.setdefault(f"{by}. {choice.reason}", []).append(_with_presence(name, found))
        for answer, names in answers.items():
            say(f"unisep:   {', '.join(names)}: {answer}")
        if found.gain != 1.0:
            say(
                f"unisep:   all files are scaled by {found.gain:.4f}, so that none clips; --format wav --subtype FLOAT keeps the level"
            )


def _printable(name: str | Path) -> str:
    """The name as it can be printed, with escapes for bytes that are not UTF-8."""
    return str(name).encode(errors="backslashreplace").decode()


def _with_presence(name: str, found: SeparatedFiles) -> str:
    presence = found.presence[name]
    return name if presence is None else f"{name} (presence {presence:.2f})"


def separator_of(arguments: Namespace) -> Separator:
    """The Separator with the options of the command line."""
    from unisep.separator import Separator

    return Separator(
        arguments.backend,
        query_backend=arguments.query_backend,
        encoder=arguments.encoder,
        weights=arguments.weights,
        query_weights=arguments.query_weights,
        device=arguments.device,
        precision=arguments.precision,
        seed=arguments.seed,
        overlap_fraction=arguments.overlap,
        segment_seconds=arguments.segment,
        shifts=arguments.shifts,
        offline=arguments.offline,
    )


def _check_writing(arguments: Namespace) -> None:
    """Nothing. Raises OptionError for a format that cannot be written, before anything is computed."""
    options: Mapping[str, Any] = vars(arguments)
    if (there := file_on_the_way(arguments.out)) is not None:
        raise OptionError(f"--out {arguments.out}: {there} is a file. Give a folder.")
    try:
        if options["format"] is not None:
            known = find_format(Path(), options["format"])
            checked_subtype(known, options["subtype"])
            if options["bitrate"] is not None and not lossy(known.name):
                raise OptionError(f"--bitrate is for lossy formats; {known.name} has none.")
        elif options["subtype"] is not None or options["bitrate"] is not None:
            raise OptionError("--subtype and --bitrate need --format, so that they fit every input.")
    except UnisepError as error:
        raise error if isinstance(error, OptionError) else OptionError(str(error)) from error
