"""`unisep separate` and `unisep embed`: questions about recordings, one or a batch."""

from __future__ import annotations

import glob
import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import unisep
from unisep.cli.console import BatchProgress, Console, describe
from unisep.cli.questions import asked, questions
from unisep.errors import (
    AudioFileError,
    Cancelled,
    EmbeddingError,
    OptionError,
    OverwriteError,
    PluginError,
    UnisepError,
    WeightsError,
)
from unisep.files.formats import READ_SUFFIXES, checked_subtype, find_format, lossy
from unisep.files.paths import Template, file_on_the_way, protected
from unisep.query.query import Query
from unisep.weights.hashes import sha256_of

if TYPE_CHECKING:
    from unisep.separation import SeparatedFiles
    from unisep.separator import Separator


@dataclass(frozen=True)
class Nothing:
    """An input that stands for no file: what was asked, and why there is nothing."""

    asked: str
    error: AudioFileError


def expand(asked: Sequence[str], *, recursive: bool, skip: Callable[[Path], bool]) -> list[Path | Nothing]:
    """The audio files that `asked` (files, folders, patterns) stands for, each once, in order.

    A folder gives its audio files, without those that `skip` knows as results of an earlier run. What
    stands for nothing keeps its place as a `Nothing`, so that the others are still done.
    """
    found: dict[str, Path | Nothing] = {}
    for text in asked:
        try:
            for path in _standing_for(text, recursive, skip):
                found.setdefault(os.path.abspath(path), path)
        except OSError as error:
            found[text] = Nothing(text, AudioFileError(f"'{text}' cannot be looked at ({error.strerror or error})."))
        except AudioFileError as error:
            found[text] = Nothing(text, error)
    return list(found.values())


def _standing_for(text: str, recursive: bool, skip: Callable[[Path], bool]) -> Sequence[Path]:
    """Raises AudioFileError where that is no file."""
    path = Path(text)
    if path.is_dir():
        every = list(_audio_files(path, recursive))
        found = [file for file in every if not skip(file)]
        if every and not found:
            raise AudioFileError(f"All {len(every)} audio files in '{path}' are results of an earlier run.")
        if not found:
            raise _nothing_in(path, recursive)
        return found
    if glob.has_magic(text) and not path.exists():
        found = [Path(match) for match in sorted(glob.glob(text, recursive=recursive))]
        found = [match for match in found if match.is_file()]
        if not found:
            raise AudioFileError(f"No file matches the pattern '{text}'.")
        return found
    return [path]


def _audio_files(folder: Path, recursive: bool) -> Iterable[Path]:
    files = sorted(folder.rglob("*") if recursive else folder.glob("*"))
    return (
        file
        for file in files
        if file.suffix.lower() in READ_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _nothing_in(folder: Path, recursive: bool) -> AudioFileError:
    advice = "" if recursive else " With --recursive, folders inside it are searched too."
    return AudioFileError(f"There is no audio file in the folder '{folder}'.{advice}")


def check_distinct(sources: Iterable[Path], template: Template) -> None:
    """Nothing. Raises OptionError when two inputs would be written to the same files."""
    taken: dict[str, Path] = {}
    for source in sources:
        place = str(template.place(source, ["stem"], "ext")["stem"]).casefold()
        if place in taken:
            raise OptionError(
                f"The results of '{taken[place]}' and '{source}' would have the same names. Tell them apart with "
                "--filename '{folder}/{track}/{stem}.{ext}' or '{track}.{trackext}/{stem}.{ext}'."
            )
        taken[place] = source


FILE_NAME = ".unisep-done.jsonl"


@dataclass(frozen=True)
class Entry:
    """One finished input: its path and sha256, what decided the result, and what it gave.

    outputs: name of the result -> [path in the output folder, sha256].
    details: what is printed about it: presence, plan, gain.
    """

    input: str
    sha256: str
    asked: Mapping[str, Any]
    outputs: Mapping[str, tuple[str, str]]
    details: Mapping[str, Any]


class Ledger:
    """The record of one output folder, read once, appended to after each input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._entries = {(entry.input, _key(entry.asked)): entry for entry in _read(self._path)}

    def is_output(self, path: Path) -> bool:
        """Whether an earlier run wrote this file."""
        if not path.resolve().is_relative_to(self._folder.resolve()):
            return False
        place = path.resolve().relative_to(self._folder.resolve()).as_posix()
        return any(place == output for entry in self._entries.values() for output, _ in entry.outputs.values())

    def completed(self, source: Path, asked: Mapping[str, Any]) -> Entry | None:
        """The entry of `source`, if the same was asked of it and every file is still what was written."""
        entry = self._entries.get((str(source.resolve()), _key(asked)))
        if entry is None or sha256_or_nothing(source) != entry.sha256:
            return None
        intact = all(sha256_or_nothing(self._folder / place) == sha256 for place, sha256 in entry.outputs.values())
        return entry if intact else None

    def add(
        self,
        source: Path,
        sha256: str,
        asked: Mapping[str, Any],
        outputs: Mapping[str, Path],
        details: Mapping[str, Any],
    ) -> None:
        """Record that `source` is done; `outputs` are paths within the output folder.

        sha256: of the source before it was read, so that one that changed meanwhile is done again.
        """
        written = {
            name: (path.relative_to(self._folder).as_posix(), sha256_or_nothing(path)) for name, path in outputs.items()
        }
        entry = Entry(str(source.resolve()), sha256, asked, written, details)
        line = json.dumps(asdict(entry))  # in ASCII, which holds names of files that are not UTF-8 too
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries[entry.input, _key(asked)] = entry


def _read(path: Path) -> list[Entry]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            values = json.loads(line)
            outputs = {str(name): (str(place), str(sha)) for name, (place, sha) in values["outputs"].items()}
            entries.append(
                Entry(str(values["input"]), str(values["sha256"]), values["asked"], outputs, values["details"])
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return entries


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True, default=str)


def sha256_or_nothing(path: Path) -> str:
    """The sha256 of a file; empty where there is none."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


def embed(arguments: Namespace, console: Console) -> int:
    """0; writes the vector, its space and where it came from, and prints the path."""
    query, out = _query(arguments), Path(arguments.out)
    if arguments.audio is not None and out.exists() and out.samefile(arguments.audio):
        raise OptionError(f"-o {out} would replace the clip itself. Choose another place.")
    from unisep.separator import Separator

    separator = Separator(
        query_backend=arguments.query_backend,
        encoder=arguments.encoder,
        device=arguments.device,
        offline=arguments.offline,
    )
    embedding = separator.embed(query)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"Cannot write {out} ({error}). Choose another place with -o.") from error
    embedding.save(out)
    console.data({"path": str(out), "space": embedding.space, "dim": embedding.dim, "provenance": embedding.provenance})
    console.lines([str(out)])
    console.note(f"unisep: {embedding.dim} numbers in the space {embedding.space}")
    return 0


def _query(arguments: Namespace) -> Query:
    if not arguments.text and arguments.audio is None:
        raise OptionError("Nothing to embed. Give a text, --audio FILE, or both.")
    return Query(
        text=tuple(arguments.text) or None,
        audio=arguments.audio,
        weights=arguments.mix,
        example_range=arguments.example_range,
    )


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
    counts = {state: sum(result["state"] == state for result in results) for state in ("done", "skipped", "failed")}
    console.data({"files": results, **{f"n_{state}": count for state, count in counts.items()}})
    if len(found) > 1:
        console.note("unisep: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        for result in results:
            if result["state"] == "failed":
                console.say(f"unisep: failed: {result['input']}: {result['error']}")
    return 1 if counts["failed"] else 0


class _Batch:
    """What all inputs of one call share; the models are loaded for the first one that needs them."""

    def __init__(self, arguments: Namespace, console: Console, ledger: Ledger, progress: BatchProgress) -> None:
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
        outputs = {name: _printable(self._arguments.out / place) for name, (place, _) in entry.outputs.items()}
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
