"""The process that computes: it takes calls as lines of JSON on stdin and answers on stdout.

    python -m unisep_studio.worker '{"role": "separate", ...}'

A call is {"call": number, "do": what, ...}. Answers are {"call": number} with "progress", and at the end "result" or
"error". The process ends with its stdin, so that none outlives the server. What it separates goes into a scratch folder
and is renamed as a whole, so that a result is there complete or not at all.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from unisep import files
from unisep.audio import Samples, difference
from unisep.cli.console import describe
from unisep.errors import AudioFileError, Cancelled
from unisep.files.formats import Encoding, checked_subtype, find_format
from unisep.plugins.registry import using
from unisep_studio.schemas import Question, queries_of

PEAK_SAMPLES = 256  # of the finest level; each coarser level has a quarter of the peaks
PROGRESS_SECONDS = 0.1
_BLOCK_SAMPLES = PEAK_SAMPLES * 1024
Call = dict[str, Any]
Report = Callable[[Any], None]


class PeakMeter:
    """Finds the lowest and highest sample of each `PEAK_SAMPLES`, over all channels, in blocks of a multiple of that."""

    def __init__(self) -> None:
        self._parts: list[Samples] = []

    def add(self, block: Samples) -> None:
        """Measure one more block `[channels, samples]`; only the last may be of any length."""
        n_full = -(-block.shape[1] // PEAK_SAMPLES) * PEAK_SAMPLES
        padded = np.pad(block, ((0, 0), (0, n_full - block.shape[1])), mode="edge")
        cells = padded.reshape(len(block), -1, PEAK_SAMPLES)
        self._parts.append(np.stack([cells.min((0, 2)), cells.max((0, 2))], axis=1))

    def save(self, path: Path) -> float:
        """Write the peaks, float32 `[cells, 2]`, and return the largest magnitude."""
        peaks = np.concatenate(self._parts)
        np.save(path, peaks)
        return float(np.abs(peaks).max())


def inspect(call: Call, report: Report) -> dict[str, Any]:
    """Decode an upload to its end, as a separation would, and write its peaks; return what is in it."""
    path, max_seconds, meter, n_samples = Path(call["path"]), float(call["max_seconds"]), PeakMeter(), 0
    with files.opened(path) as opened:
        rate_hz = opened.info.sample_rate_hz
        _check_length(opened.info.seconds or 0.0, max_seconds)
        for block in opened.blocks(_BLOCK_SAMPLES):
            n_samples += block.shape[1]
            _check_length(n_samples / rate_hz, max_seconds)
            meter.add(block)
        info = opened.info
    peak = meter.save(path.parent / "peaks.npy")
    facts = {"sample_rate_hz": rate_hz, "n_channels": info.n_channels, "n_samples": n_samples, "format": info.format}
    return {**facts, "seconds": n_samples / rate_hz, "peak": peak}


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise AudioFileError(f"The recording is longer than the {max_seconds / 60:g} minutes that this server takes.")


def convert(call: Call, report: Report) -> None:
    """Write a file in another format, whole or not at all, with the gain that all files of a result share."""
    source, target = Path(call["source"]), Path(call["target"])
    known = find_format(target, call["format"])
    encoding = Encoding(known.name, checked_subtype(known, None))
    with files.opened(source) as opened:
        info = opened.info
        gain = encoding.gain(float(call["peak"]))
        with files.PartialFile(target, info.sample_rate_hz, info.n_channels, encoding, info.n_samples or 0) as partial:
            for block in opened.blocks(_BLOCK_SAMPLES):
                partial.write(block, gain)
            partial.commit()


class Separating:
    """Separates, with the models loaded once; queries are made into vectors at the same time."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._separator: tuple[dict[str, Any], Any] | None = None
        self._lock = threading.Lock()
        self._cancelled: set[str] = set()

    @cached_property
    def _class(self) -> Any:
        from unisep import Separator

        return Separator

    def warm_up(self) -> None:
        """Import what takes long."""
        assert self._class

    def separator(self, options: dict[str, Any]) -> Any:
        """Return a Separator with these options beside the server's own; the last one is kept."""
        chosen = {key: value for key, value in options.items() if key != "route"}
        with self._lock:
            if self._separator is None or self._separator[0] != chosen:
                if self._separator is not None:
                    self._separator[1].close()
                self._separator = chosen, self._class(**self._options, **chosen)
            return self._separator[1]

    def cancel(self, ids: list[str]) -> None:
        """Let the jobs with these ids end before their next segment."""
        self._cancelled |= set(ids)

    def embed(self, call: Call, report: Report) -> dict[str, Any]:
        """Return the vector of one query."""
        queries = queries_of({"query": [call["query"]]}, _clips(call)) or []
        embedding = self.separator(call["options"]).embed(queries[0])
        return {
            "vector": embedding.vector.tolist(), "space": embedding.space, "provenance": dict(embedding.provenance)
        }  # fmt: skip

    def separate(self, call: Call, report: Report) -> None:
        """Compute the jobs of one pass, each into the folder of its result."""
        ids = [job["id"] for job in call["jobs"]]
        flag = _AllCancelled(ids, self._cancelled)
        try:
            _Pass(call, self.separator(call["jobs"][0]["question"]["options"]), flag, report).run()
        finally:
            self._cancelled -= set(ids)


class _AllCancelled:
    """Set once all jobs of a pass are cancelled."""

    def __init__(self, ids: list[str], cancelled: set[str]) -> None:
        self._ids, self._cancelled = set(ids), cancelled

    def is_set(self) -> bool:
        return self._ids <= self._cancelled


class _Pass:
    """One pass over a recording for all jobs of a call."""

    def __init__(self, call: Call, separator: Any, cancel: _AllCancelled, report: Report) -> None:
        self._separator, self._cancel, self._report = separator, cancel, report
        self._jobs, self._installation = call["jobs"], call["installation"]
        self._recording, self._scratch = Path(call["recording"]), Path(call["scratch"])
        self._clip = _clips(call)
        self._told = "", 0.0

    def run(self) -> None:
        question: Question = self._jobs[0]["question"]
        asked: dict[str, Any] = {"stems": question.get("stems"), "route": question["options"]["route"]}
        names: list[list[tuple[str, str]]] = [[]]  # of each job: name of its result, and what it is called in the pass
        if len(self._jobs) == 1:
            asked["query"] = queries_of(question, self._clip)
        else:
            asked["query"], names = self._joined()
        written = self._separator.separate_file(
            self._recording, self._scratch / "pass", **asked, filename="{stem}.{ext}", format="wav", subtype="FLOAT",
            tags=False, on_progress=self._progress, cancel=self._cancel,
        )  # fmt: skip
        if len(self._jobs) == 1:
            names = [[(name, name) for name in written]]
        for job, own in zip(self._jobs, names, strict=True):
            self._finish(job, own, written)

    def _joined(self) -> tuple[list[Any], list[list[tuple[str, str]]]]:
        """Return the queries of all jobs, each different one once and named by a number."""
        queries: dict[str, Any] = {}
        names = []
        for job in self._jobs:
            own = []
            for query in _named(queries_of(job["question"], self._clip)):
                values = {**query[1], "name": None}
                label = queries.setdefault(
                    json.dumps(values, sort_keys=True, default=repr), (f"{len(queries)}", values)
                )
                own.append((query[0], label[0]))
            names.append(own)
        from unisep import Query

        return [Query(**{**values, "name": label}) for label, values in queries.values()], names

    def _progress(self, progress: Any) -> None:
        """Pass progress on, not more often than anyone can see."""
        now = time.monotonic()
        if progress.stage == self._told[0] and now - self._told[1] < PROGRESS_SECONDS and progress.fraction < 1:
            return
        self._told = progress.stage, now
        self._report({"stage": progress.stage, "progress": progress.fraction, "eta_seconds": progress.eta_seconds})

    def _finish(self, job: dict[str, Any], names: list[tuple[str, str]], written: Any) -> None:
        """Put the files of one job in place, with what is known of them."""
        folder = self._scratch / job["id"]
        folder.mkdir()
        sources = {name: written[label] for name, label in names}
        for index, source in enumerate(sources.values()):
            _place(source, folder / f"{index}.wav")
        if len(self._jobs) > 1:
            self._write_rest([folder / f"{index}.wav" for index in range(len(sources))], folder / "rest.wav")
        elif written.rest is not None:
            _place(written.rest, folder / "rest.wav")
        listed: list[dict[str, Any]] = [
            {"name": name, "file": str(index), "kind": "target"} for index, name in enumerate(sources)
        ]
        listed += [{"name": "rest", "file": "rest", "kind": "rest"}] if (folder / "rest.wav").exists() else []
        for entry in listed:
            entry["peak"] = self._peaks(folder / f"{entry['file']}.wav")
        plan = written.plan.to_json()
        facts = {
            "installation": self._installation,
            "files": listed,
            "plan": {name: plan[label] for name, label in names},
            "presence": {name: written.presence[label] for name, label in names},
            "presence_over_time": {
                name: [tuple(p) for p in written.presence_over_time[label]] for name, label in names
            },
        }
        (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
        target = Path(job["folder"])
        if not (target / "result.json").exists():
            shutil.rmtree(target, ignore_errors=True)  # what was converted of a result that is gone
            folder.rename(target)

    def _write_rest(self, targets: list[Path], path: Path) -> None:
        """Write what these targets leave of the recording, as `Separator.separate` computes it."""
        with ExitStack() as stack:
            mixture = stack.enter_context(files.opened(self._recording))
            parts = [stack.enter_context(files.opened(target)).blocks(_BLOCK_SAMPLES) for target in targets]
            info, encoding = mixture.info, Encoding("wav", "FLOAT")
            partial = files.PartialFile(path, info.sample_rate_hz, info.n_channels, encoding, info.n_samples or 0)
            stack.enter_context(partial)
            for block, *others in zip(mixture.blocks(_BLOCK_SAMPLES), *parts, strict=True):
                partial.write(difference(block, others))
            partial.commit()

    def _peaks(self, path: Path) -> float:
        meter = PeakMeter()
        with files.opened(path) as opened:
            for block in opened.blocks(_BLOCK_SAMPLES):
                meter.add(block)
        return meter.save(path.with_suffix(".npy"))


def _place(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system knows no such thing, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _named(queries: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each result, and the fields of its query."""
    from unisep.query.parsed import parse_queries

    for parsed in parse_queries(queries):
        yield parsed.name, {name: getattr(parsed.query, name) for name in type(parsed.query).model_fields}


def _clips(call: Call) -> Callable[[str], Path]:
    return lambda id: Path(call["clips"][id])


def _work(
    calls: queue.Queue[Call], handlers: dict[str, Callable[[Call, Report], Any]], say: Callable[..., None]
) -> None:
    while True:
        answer(call := calls.get(), handlers[call["do"]], say)


def answer(call: Call, handler: Callable[[Call, Report], Any], say: Callable[..., None]) -> None:
    """Say how a call goes, and at the end what comes of it."""
    number = call["call"]
    try:
        say(call=number, result=handler(call, lambda progress: say(call=number, progress=progress)))
    except Cancelled as error:
        say(call=number, error={"type": "Cancelled", "message": str(error)})
    except Exception as error:
        say(call=number, error={"type": type(error).__name__, "message": describe(error)})


def _read(stdin: IO[str], calls: queue.Queue[Call], separating: Separating | None, say: Callable[..., None]) -> None:
    """Pass calls on; at the end of stdin the server is gone, and so is the process."""
    for line in stdin:
        call: Call = json.loads(line)
        if call["do"] == "cancel" and separating is not None:
            separating.cancel(call["ids"])
        elif call["do"] == "embed" and separating is not None:
            threading.Thread(target=answer, args=(call, separating.embed, say), daemon=True).start()
        else:
            calls.put(call)
    os._exit(0)


def main(argument: str) -> None:
    """Serve calls until stdin ends."""
    options = json.loads(argument)
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")  # whatever else is printed goes to stderr
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(**values: Any) -> None:
        with lock:
            print(json.dumps(values), file=stdout, flush=True)

    with using(*map(Path, options.get("plugins", ()))):
        handlers: dict[str, Callable[[Call, Report], Any]] = {"inspect": inspect, "convert": convert}
        separating = None
        if options["role"] == "separate":
            separating = Separating(options["separator"])
            handlers = {"separate": separating.separate}
        calls: queue.Queue[Call] = queue.Queue()
        threading.Thread(target=_read, args=(sys.stdin, calls, separating, say), daemon=True).start()
        if separating is not None:
            separating.warm_up()
        say(ready=True)
        _work(calls, handlers, say)


if __name__ == "__main__":
    main(sys.argv[1])
