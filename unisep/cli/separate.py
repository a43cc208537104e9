"""`unisep separate`: one recording or a batch, with a record by which `--resume` goes on."""

from __future__ import annotations

import glob
import io
import json
import math
import os
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import unisep
from unisep.cli.console import BatchProgress, Console, describe
from unisep.cli.questions import deciding_options, questions
from unisep.errors import AudioFileError, Cancelled, OptionError, OverwriteError, PluginError, WeightsError
from unisep.files.formats import READ_SUFFIXES, checked_subtype, find_format, lossy
from unisep.files.paths import DEFAULT_TEMPLATE, Template, file_on_the_way, protected
from unisep.weights.hashes import sha256_of

if TYPE_CHECKING:
    from unisep.separation import SeparatedFiles
    from unisep.separator import Separator

FILE_NAME = ".unisep-done.jsonl"
_PIPE = "unisep-pipe-"
Values = Mapping[str, Any]

_SAME_FOR_ALL = (OptionError, PluginError, WeightsError)  # no input would fare better than the first


def separate(arguments: Namespace, console: Console) -> int:
    """Separate all inputs; return 0 when each was separated or had been before, else 1.

    Wrong usage, and what would fail for every input, is raised. "-" is standard input, as the output folder standard
    output; both pass through a folder that is removed afterwards.
    """
    is_to_stdout = str(arguments.out) == "-"
    if "-" not in arguments.inputs and not is_to_stdout:
        return _separate_files(arguments, console)
    _check_pipes(arguments, is_to_stdout)
    with TemporaryDirectory(prefix=_PIPE) as folder:
        place, stdin, stdout = Path(folder), Path(folder, "stdin"), sys.stdout
        if "-" in arguments.inputs:
            with stdin.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        inputs = [str(stdin) if text == "-" else text for text in arguments.inputs]
        if not is_to_stdout:
            return _separate_files(Namespace(**{**vars(arguments), "inputs": inputs}), console)
        with redirect_stdout(io.StringIO()):  # paths are of no use there
            options = {"inputs": inputs, "out": place / "out", "format": "wav"}
            code = _separate_files(Namespace(**{**vars(arguments), **options}), console)
        for path in place.glob("out/*/*.wav"):
            if path.stem != "rest":
                with path.open("rb") as file:
                    shutil.copyfileobj(file, stdout.buffer)
        stdout.flush()
        return code


def _check_pipes(arguments: Namespace, is_to_stdout: bool) -> None:
    """Raise OptionError for what cannot come from standard input, or go to standard output."""
    if "-" in arguments.inputs and (arguments.resume or arguments.inputs.count("-") > 1 or sys.stdin.isatty()):
        raise OptionError("- is one recording from standard input, as of a pipe: give it once, and without --resume.")
    kinds = (
        arguments.query,
        arguments.query_audio,
        arguments.embedding,
        arguments.example_range,
        arguments.stems or (),
    )
    is_plain = not (arguments.json or arguments.resume or arguments.queries or arguments.filename != DEFAULT_TEMPLATE)
    path = Path(arguments.inputs[0])
    is_one = max(map(len, kinds)) == len(arguments.inputs) == 1 and (path.is_file() or not glob.has_magic(str(path)))
    is_one &= not path.is_dir()
    if is_to_stdout and not (is_plain and is_one and arguments.format in (None, "wav") and not sys.stdout.isatty()):
        raise OptionError(
            "-o - writes one result as wav to standard output, for a pipe or a file: give one recording and one question, "
            "or --two-stems STEM, without --json, --resume, --queries, --filename and other formats."
        )


def _separate_files(arguments: Namespace, console: Console) -> int:
    template = Template(arguments.filename)
    _check_writing(arguments)
    ledger = Ledger(arguments.out)
    inputs = expand(arguments.inputs, recursive=arguments.recursive, skip=ledger.is_output)
    recordings = [path for path in inputs if isinstance(path, Path)]
    check_distinct(recordings, template)
    batch = _Batch(arguments, console, ledger, inputs)
    results = []
    with protected(recordings) as protect:
        for index in range(len(inputs)):
            results.append(batch.run(index))
            protect(results[-1].outputs.values())
    counts = {state: sum(result.state == state for result in results) for state in ("done", "skipped", "failed")}
    files = [result.to_json() for result in results]
    console.data({"files": files, **{f"n_{state}": count for state, count in counts.items()}})
    if len(inputs) > 1:
        console.note("unisep: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        for file in files:
            if file["state"] == "failed":
                console.say(f"unisep: failed: {file['input']}: {file['error']}")
    return 1 if counts["failed"] else 0


def separator_of(arguments: Namespace) -> Separator:
    """Return the Separator with the options of the command line."""
    from unisep.separator import Separator

    names = (
        "backend", "query_backend", "encoder", "weights", "query_weights", "licences",
        "device", "precision", "seed", "shifts", "threads", "cascade", "offline",
    )  # fmt: skip
    options = {name: getattr(arguments, name) for name in names}
    return Separator(**options, overlap_fraction=arguments.overlap, segment_seconds=arguments.segment)


@dataclass(frozen=True)
class _Result:
    """What came of one input; `details` are printed, and of a finished one recorded."""

    input: str | Path
    state: Literal["done", "skipped", "failed"]
    outputs: Mapping[str, Path] = field(default_factory=dict)
    details: Values = field(default_factory=dict)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        values = {"input": _printable(self.input), "state": self.state}
        if self.state == "failed":
            return {**values, "error": _printable(self.error)}
        return {**values, "outputs": {name: _printable(path) for name, path in self.outputs.items()}, **self.details}


class _Batch:
    """What all inputs of one call share; the models are loaded for the first one that needs them."""

    def __init__(
        self, arguments: Namespace, console: Console, ledger: Ledger, inputs: list[Path | MissingInput]
    ) -> None:
        self._arguments, self._console, self._ledger, self._inputs = arguments, console, ledger, inputs
        self._progress = BatchProgress(console, [path if isinstance(path, Path) else None for path in inputs])
        stems, route = arguments.stems, arguments.route
        self._question: dict[str, Any] = {"query": questions(arguments), "stems": stems, "route": route}
        self._options = {**deciding_options(arguments, self._question["query"]), "version": unisep.__version__}
        self._any_done = False

    @cached_property
    def _separator(self) -> Separator:
        return separator_of(self._arguments)

    def run(self, index: int) -> _Result:
        """Separate one input, or find that it was done before; an error is said, and kept in the result."""
        source = self._inputs[index]
        if isinstance(source, MissingInput):
            return self._failed(source.text, source.error)
        try:
            result = self._completed(source) or self._separated(index, source)
        except Exception as error:
            is_same_for_all = isinstance(error, _SAME_FOR_ALL) and not isinstance(error, OverwriteError)
            if self._arguments.debug or isinstance(error, Cancelled) or (is_same_for_all and not self._any_done):
                raise
            result = self._failed(source, error, f"{_printable(source)}: ")
        if result.state == "done":
            self._console.lines([_printable(path) for path in result.outputs.values()])
        self._any_done |= result.state != "failed"
        self._progress.ended(index, computed=result.state == "done")
        return result

    def _failed(self, source: str | Path, error: Exception, about: str = "") -> _Result:
        self._console.say(f"unisep: error: {about}{_printable(describe(error))}")
        return _Result(source, "failed", error=describe(error))

    def _completed(self, source: Path) -> _Result | None:
        entry = self._ledger.completed(source, self._basis()) if self._arguments.resume else None
        if entry is None:
            return None
        self._console.note(f"unisep: {_printable(source)}: done before, and intact")
        outputs = {name: self._arguments.out / path for name, (path, _) in entry.outputs.items()}
        return _Result(source, "skipped", outputs, entry.details)

    def _basis(self) -> dict[str, Any]:
        """Return all that decides a result beside the recording: what was asked, and the content of who answers."""
        return {**self._options, "provenance": self._separator.provenance(**self._question)}

    def _separated(self, index: int, source: Path) -> _Result:
        started, sha256, arguments = perf_counter(), _sha256(source), self._arguments
        files = self._separator.separate_file(
            source,
            arguments.out,
            **self._question,
            filename=arguments.filename,
            format=arguments.format,
            subtype=arguments.subtype,
            bitrate_kbps=arguments.bitrate,
            headroom_db=arguments.headroom,
            tags=not arguments.no_tags,
            on_progress=self._progress.of(index, source.name),
        )
        seconds = round(perf_counter() - started, 3)
        outputs = {**files} if files.rest is None else {**files, "rest": files.rest}
        segments = {name: [part._asdict() for part in parts] for name, parts in files.presence_over_time.items()}
        details = {"presence": dict(files.presence), "presence_over_time": segments}
        details |= {"plan": files.plan.to_json(), "gain": files.gain, "nothing_left": files.rest is None}
        self._ledger.add(source, sha256, self._basis(), outputs, details)
        self._report(f"{self._progress.label(index)}{_printable(source)}", files, seconds)
        return _Result(source, "done", outputs, {**details, "seconds": seconds})

    def _report(self, label: str, files: SeparatedFiles, seconds: float) -> None:
        note = self._console.note
        note(f"unisep: {label}: {files.seconds:.1f} s of audio in {seconds:.1f} s")
        names_by_answer: dict[str, list[str]] = {}
        for name, choice in files.plan.items():
            presence = "" if files.presence[name] is None else f" (presence {files.presence[name]:.2f})"
            encoder = f" with {choice.encoder}" if choice.encoder else ""
            names_by_answer.setdefault(f"{choice.backend}{encoder}. {choice.reason}", []).append(f"{name}{presence}")
        for answer, names in names_by_answer.items():
            note(f"unisep:   {', '.join(names)}: {answer}")
        if files.rest is None:
            note("unisep:   these stems leave nothing, so no rest is written")
        if files.gain < files.encoding.gain(0.0):
            needed_db = math.ceil(-20 * math.log10(files.gain))
            advice = f"--float32 keeps the level, --headroom {needed_db} would be the same for every run"
            note(f"unisep:   all files are scaled by {files.gain:.4f}, so that none clips; {advice}")


def _printable(name: str | Path) -> str:
    """Return the name with escapes for bytes that are not UTF-8, and without the place of what came through a pipe."""
    text = str(name).encode(errors="backslashreplace").decode()
    return re.sub(rf"'?[^'\s]*{_PIPE}\w+[/\\]stdin'?", "standard input", text)


def _check_writing(arguments: Namespace) -> None:
    """Raise OptionError for files that cannot be written, before anything is computed."""
    if (obstacle := file_on_the_way(arguments.out)) is not None:
        raise OptionError(f"--out {arguments.out}: {obstacle} is a file. Give a folder.")
    if arguments.wav_subtype is not None:
        arguments.subtype, arguments.format = arguments.wav_subtype, arguments.format or "wav"
    if arguments.format is None:
        if arguments.subtype is not None or arguments.bitrate is not None:
            raise OptionError("--subtype and --bitrate need --format, so that they fit every input.")
        return
    try:
        known = find_format(Path(), arguments.format)
        checked_subtype(known, arguments.subtype)
    except AudioFileError as error:
        raise OptionError(str(error)) from error
    if arguments.bitrate is not None and not lossy(known.name):
        raise OptionError(f"--bitrate is for lossy formats; {known.name} has none.")


@dataclass(frozen=True)
class MissingInput:
    """A text among the inputs that stands for no file, and why."""

    text: str
    error: AudioFileError


def expand(texts: Sequence[str], *, recursive: bool, skip: Callable[[Path], bool]) -> list[Path | MissingInput]:
    """Return the audio files that `texts` (files, folders, patterns) stand for, each once, in order.

    A folder gives its audio files, without those that `skip` knows as results of an earlier run. What stands for no file
    keeps its place as a `MissingInput`, so that the others are still done.
    """
    inputs: dict[str, Path | MissingInput] = {}
    for text in texts:
        try:
            for path in _matches(text, recursive, skip):
                inputs.setdefault(os.path.abspath(path), path)
        except OSError as error:
            reason = f"'{text}' cannot be looked at ({error.strerror or error})."
            inputs[text] = MissingInput(text, AudioFileError(reason))
        except AudioFileError as error:
            inputs[text] = MissingInput(text, error)
    return list(inputs.values())


def _matches(text: str, recursive: bool, skip: Callable[[Path], bool]) -> list[Path]:
    """Return the files that `text` stands for. Raises AudioFileError where there are none."""
    path = Path(text)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*") if recursive else path.glob("*")) if _is_audio_file(file)]
        recordings = [file for file in files if not skip(file)]
        if recordings:
            return recordings
        if files:
            raise AudioFileError(f"All {len(files)} audio files in '{path}' are results of an earlier run.")
        advice = "" if recursive else " With --recursive, folders inside it are searched too."
        raise AudioFileError(f"There is no audio file in the folder '{path}'.{advice}")
    if glob.has_magic(text) and not path.exists():
        files = [file for file in map(Path, sorted(glob.glob(text, recursive=recursive))) if file.is_file()]
        if not files:
            raise AudioFileError(f"No file matches the pattern '{text}'.")
        return files
    return [path]


def _is_audio_file(path: Path) -> bool:
    return path.suffix.lower() in READ_SUFFIXES and not path.name.startswith(".") and path.is_file()


def check_distinct(sources: Iterable[Path], template: Template) -> None:
    """Raise OptionError when two inputs would be written to the same files."""
    sources_by_place: dict[str, Path] = {}
    for source in sources:
        place = str(template.place(source, ["stem"], "ext")["stem"]).casefold()
        other = sources_by_place.setdefault(place, source)
        if other is not source:
            raise OptionError(
                f"The results of '{other}' and '{source}' would have the same names. Tell them apart with "
                "--filename '{folder}/{track}/{stem}.{ext}' or '{track}.{trackext}/{stem}.{ext}'."
            )


@dataclass(frozen=True)
class Entry:
    """One finished input, a line of the record: its path and sha256, the `question`, and what came of it.

    `outputs` are name of the result -> path in the output folder and sha256; `details` are printed: presence, plan, gain.
    """

    input: str
    sha256: str
    question: Values
    outputs: Mapping[str, tuple[str, str]]
    details: Values


class Ledger:
    """The record of one output folder, read once, appended to after each input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._entries = {_key(entry.input, entry.question): entry for entry in _read_entries(self._path)}
        self._outputs = {path for entry in self._entries.values() for path, _ in entry.outputs.values()}

    def is_output(self, path: Path) -> bool:
        """Tell whether an earlier run wrote this file."""
        path, folder = Path(os.path.realpath(path)), Path(os.path.realpath(self._folder))
        return path.is_relative_to(folder) and path.relative_to(folder).as_posix() in self._outputs

    def completed(self, source: Path, question: Values) -> Entry | None:
        """Return the entry of `source`, if the same was asked of it and every file is still what was written."""
        entry = self._entries.get(_key(os.path.realpath(source), question))
        if entry is None or _sha256(source) != entry.sha256:
            return None
        is_intact = all(_sha256(self._folder / path) == sha256 for path, sha256 in entry.outputs.values())
        return entry if is_intact else None

    def add(self, source: Path, sha256: str, question: Values, outputs: Mapping[str, Path], details: Values) -> None:
        """Record that `source`, whose `sha256` was taken before it was read, is done; `outputs` lie in the output folder."""
        written = {name: (path.relative_to(self._folder).as_posix(), _sha256(path)) for name, path in outputs.items()}
        entry = Entry(os.path.realpath(source), sha256, question, written, details)
        values = {"asked" if name == "question" else name: value for name, value in asdict(entry).items()}
        is_torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:  # in ASCII, which holds names that are not UTF-8 too
            file.write(("\n" if is_torn else "") + json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries[_key(entry.input, question)] = entry


def _key(source: str, question: Values) -> tuple[str, str]:
    return source, json.dumps(question, sort_keys=True, default=str)


def _read_entries(path: Path) -> list[Entry]:
    """Return the entries of the lines that are whole."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            values = json.loads(line)
            source, sha256, question, details = (values[key] for key in ("input", "sha256", "asked", "details"))
            outputs = {str(name): (str(place), str(sha256)) for name, (place, sha256) in values["outputs"].items()}
            entries.append(Entry(str(source), str(sha256), question, outputs, {**details}))
    return entries


def _sha256(path: Path) -> str:
    """Return the sha256 of a file; "" where there is none."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
