"""Ask a Separator about every item and measure the answers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

from unisep.audio import Audio
from unisep.errors import DatasetError, OptionError, suggest
from unisep.query.query import Embedding, Query
from unisep.separation import Separation
from unisep.separator import Separator
from unisep_evaluate import metrics
from unisep_evaluate.items import Item, Song
from unisep_evaluate.passages import Samples, is_silence
from unisep_evaluate.report import Evaluation, Record

T = TypeVar("T")
ASKS = ("text", "audio", "vector", "combined")
OnRecord = Callable[[Record], None]
Judge = Callable[[Separator, Any], list[Record]]
Spread = Callable[[Judge, Iterable[Any]], Iterable[list[Record]]]
_NAME = "target"


@dataclass(frozen=True)
class Asking:
    """How the questions are put.

    Attributes:
        asks: "text" (the class name), "audio" (the item's example), "vector" (that of `vectors`, else of the class
            name), "combined" (text and example, and the vector if `vectors` has one). With "audio" or "combined" among
            them, items without an example are left out of all.
        vectors: Class name -> the vector to ask with.
        weights: Weights of the parts of a combined question.
        route: As `Separator.separate` takes it.
        bsseval: Whether to measure by museval, too.

    Raises:
        OptionError: A way to ask is unknown or repeated, or museval is needed and not installed.
    """

    asks: tuple[str, ...] = ("text",)
    vectors: Mapping[str, Embedding] = field(default_factory=dict)
    weights: dict[Any, float] | None = None
    route: str = "conditioned"
    bsseval: bool = False

    def __post_init__(self) -> None:
        for ask in self.asks:
            if ask not in ASKS:
                raise OptionError(f"There is no way to ask {ask!r}. {suggest(ask, ASKS)}")
        if not self.asks or len(set(self.asks)) != len(self.asks):
            raise OptionError(f"Name each way to ask once: {', '.join(ASKS)}.")
        if self.bsseval:
            metrics.museval_metrics()

    @property
    def needs_example(self) -> bool:
        """Whether items without an example cannot be asked about."""
        return bool({"audio", "combined"} & set(self.asks))


def evaluate(
    separator: Separator,
    items: Iterable[Item],
    asking: Asking | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    on_record: OnRecord | None = None,
    spread: Spread | None = None,
) -> Evaluation:
    """Measure every item, asked in every way. The first question is put once before, to load the models.

    `about` is what else the report should state; `on_record` is called after each question. `spread` computes elsewhere: it
    takes a function of a Separator and an item, and the items, and yields what the function returns, in their order.

    Raises:
        DatasetError: There is no item, or none with an example where examples are asked with.
        UnisepError: As `Separator.separate` raises it.
    """
    asking = asking or Asking()
    n_left_out = 0

    def askable() -> Iterator[Item]:
        nonlocal n_left_out
        for item in items:
            is_askable = item.example is not None or not asking.needs_example
            n_left_out += not is_askable
            if is_askable:
                yield item

    judge = partial(_item_records, asking=asking)
    first = partial(_item_records, separator, asking=replace(asking, asks=asking.asks[:1], bsseval=False))
    records, loading_seconds = _judged(separator, askable(), judge, first, spread, on_record)
    if not records:
        raise DatasetError("There is nothing to measure: no item" + " with an example" * asking.needs_example + ".")
    facts = {"asks": list(asking.asks), "route": asking.route, "n_left_out_without_example": n_left_out}
    return _evaluation("query", records, loading_seconds, {**facts, **(about or {})})


def evaluate_stems(
    separator: Separator,
    songs: Iterable[Song],
    stems: Sequence[str] | None = None,
    *,
    route: str = "auto",
    bsseval: bool = False,
    about: Mapping[str, Any] | None = None,
    on_record: OnRecord | None = None,
    spread: Spread | None = None,
) -> Evaluation:
    """Measure the fixed stems of every song. The first song is separated once before, to load the models.

    A stem that the songs do not have by name counts to their "other", if they have one. `route` is as
    `Separator.separate` takes it; `about` is what else the report should state; `on_record` is called after each stem.
    `spread` is as in `evaluate`.

    Raises:
        DatasetError: There is no song, or none with a stem of the backend's.
        UnisepError: As `Separator.separate` raises it.
    """
    if bsseval:
        metrics.museval_metrics()
    judge = partial(_song_records, stems=stems, route=route, bsseval=bsseval)
    first = partial(_song_records, separator, stems=stems, route=route, bsseval=False)
    records, loading_seconds = _judged(separator, songs, judge, first, spread, on_record)
    if not records:
        raise DatasetError("There is nothing to measure: no song, or none with a stem that the backend gives.")
    return _evaluation("stems", records, loading_seconds, {"route": route, **(about or {})})


def _judged(
    separator: Separator,
    items: Iterable[Any],
    judge: Judge,
    first: Callable[[Any], Any],
    spread: Spread | None,
    on_record: OnRecord | None,
) -> tuple[list[Record], float]:
    """Return the records of all items, and how long `first` took to load the models; NaN where they are loaded elsewhere."""
    records: list[Record] = []
    loading_seconds = math.nan

    def here(judge: Judge, items: Iterable[Any]) -> Iterator[list[Record]]:
        nonlocal loading_seconds
        for item in items:
            if math.isnan(loading_seconds):
                loading_seconds = _timed(partial(first, item))[1]
            yield judge(separator, item)

    for some in (spread or here)(judge, items):
        for record in some:
            records.append(record)
            if on_record is not None:
                on_record(record)
    return records, loading_seconds


def _item_records(separator: Separator, item: Item, asking: Asking) -> list[Record]:
    """Ask about one item in every way."""
    records = []
    for ask in asking.asks:
        query = _query(separator, item, ask, asking)
        separate = partial(separator.separate, item.mixture, query=query, route=asking.route)
        records.append(_record(item, ask, *_timed(separate), asking))
    return records


def _song_records(
    separator: Separator, song: Song, stems: Sequence[str] | None, route: str, bsseval: bool
) -> list[Record]:
    """Measure the stems of one song."""
    separate = partial(separator.separate, song.mixture, stems=stems, route=route)
    return list(_stem_records(song, *_timed(separate), bsseval))


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    started = perf_counter()
    result = call()
    return result, perf_counter() - started


def _evaluation(mode: str, records: list[Record], loading_seconds: float, about: dict[str, Any]) -> Evaluation:
    n_bytes, holder = _peak_memory()
    facts = {"loading_seconds": round(loading_seconds, 3), "peak_memory_bytes": n_bytes, "peak_memory_of": holder}
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "platform": sys.platform}
    return Evaluation(mode, tuple(records), {**about, **facts, **machine})


def _peak_memory() -> tuple[int, str]:
    """Return the most bytes held so far, and by what: torch on the accelerator, else the whole process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated()), torch.cuda.get_device_name()
    try:
        import resource
    except ImportError:  # Windows
        return 0, "not known here"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


def _query(separator: Separator, item: Item, ask: str, asking: Asking) -> Query:
    vector = asking.vectors.get(item.name)
    if ask == "text":
        return Query(text=item.name, name=_NAME)
    if ask == "audio":
        return Query(audio=item.example, name=_NAME)
    if ask == "vector":
        return Query(embedding=vector or separator.embed(item.name), name=_NAME)
    return Query(text=item.name, audio=item.example, embedding=vector, weights=asking.weights, name=_NAME)


def _record(item: Item, ask: str, separation: Separation, seconds: float, asking: Asking) -> Record:
    estimate, mixture = separation.target.samples, item.mixture.samples
    is_present = item.group != "absent"
    figures = (_present_figures if is_present else _absent_figures)(estimate, item.target, mixture)
    if (presence := separation.presence[_NAME]) is not None:
        figures["presence"] = presence
    figures["residual_db"] = metrics.residual_db(mixture, [estimate, separation.rest.samples])
    if is_present and asking.bsseval:
        references = {_NAME: item.target, "rest": mixture - item.target}
        estimates = {_NAME: estimate, "rest": separation.rest.samples}
        figures |= metrics.bsseval_v4(estimates, references, item.mixture.sample_rate_hz)[_NAME]
    window = (item.track, item.name, item.group, ask, item.start_seconds, item.mixture.seconds)
    return Record(*window, seconds, figures, separation.plan[_NAME].backend, separation.plan[_NAME].encoder)


def _present_figures(estimate: Samples, target: Samples, mixture: Samples) -> dict[str, float]:
    sdr, mixture_sdr = metrics.sdr_db(estimate, target), metrics.sdr_db(mixture, target)
    si_sdr, mixture_si_sdr = metrics.si_sdr_db(estimate, target), metrics.si_sdr_db(mixture, target)
    return {
        "sdr_db": sdr,
        "mixture_sdr_db": mixture_sdr,
        "sdri_db": _improvement(sdr, mixture_sdr),
        "si_sdr_db": si_sdr,
        "si_sdri_db": _improvement(si_sdr, mixture_si_sdr),
        "nsdr_db": metrics.nsdr_db(estimate, target),
    }


def _absent_figures(estimate: Samples, target: Samples, mixture: Samples) -> dict[str, float]:
    level_db = metrics.energy_ratio_db(estimate, mixture)
    return {"absent_level_db": level_db, "nsdr_db": metrics.nsdr_db(estimate, target)}


def _improvement(after_db: float, before_db: float) -> float:
    return 0.0 if after_db == before_db else after_db - before_db  # both may be infinite


def _stem_records(song: Song, separation: Separation, seconds: float, bsseval: bool) -> Iterator[Record]:
    estimates = _matched({name: audio.samples for name, audio in separation.items()}, song.references)
    mixture = song.mixture.samples
    residual = metrics.residual_db(mixture, [*(a.samples for a in separation.values()), separation.rest.samples])
    sounding = {name: song.references[name] for name in estimates if not is_silence(song.references[name])}
    bss = _stems_bsseval(estimates, sounding, song, separation.rest) if bsseval and sounding else {}
    for name, estimate in estimates.items():
        judge, group = (_present_figures, "song") if name in sounding else (_absent_figures, "absent")
        figures = judge(estimate, song.references[name], mixture) | {"residual_db": residual} | bss.get(name, {})
        window = (song.track, name, group, "stems", 0.0, song.mixture.seconds)
        yield Record(*window, seconds, figures, separation.plan[name].backend, None)


def _matched(estimates: dict[str, Samples], references: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return the estimates that have a reference; the others are part of "other", where there is one."""
    matched = {name: samples for name, samples in estimates.items() if name in references}
    unknown = [samples for name, samples in estimates.items() if name not in references]
    if "other" in matched and unknown:
        matched["other"] = np.sum([matched["other"], *unknown], axis=0, dtype=np.float32)
    return matched


def _stems_bsseval(
    estimates: Mapping[str, Samples], sounding: Mapping[str, Samples], song: Song, rest: Audio
) -> dict[str, dict[str, float]]:
    """Return BSSEval of the stems that sound; others of the song are one more source, estimated by the rest."""
    judged = {name: estimates[name] for name in sounding}
    references = dict(sounding)
    if not all(name in sounding or is_silence(samples) for name, samples in song.references.items()):
        known = np.sum(list(sounding.values()), axis=0, dtype=np.float32)
        judged[""], references[""] = rest.samples, song.mixture.samples - known
    return metrics.bsseval_v4(judged, references, song.mixture.sample_rate_hz)
