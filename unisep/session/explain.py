"""Explain who would answer, why, what else could, under which licences and at what cost; nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.errors import UnisepError, WeightsError
from unisep.plugins.registry import given, installed
from unisep.query.parsed import ParsedQuery, parse_queries
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, catalog, rank
from unisep.routing.router import resolve
from unisep.routing.types import Request, Route
from unisep.weights.cards import Card, read_card
from unisep.weights.store import WeightsStore

if TYPE_CHECKING:
    from unisep.ensemble.definition import Ensemble


_LONGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Cost:
    """None: not known. n_download_bytes is 0 where nothing has to be downloaded.

    n_parameters: as the card states. n_values: the numbers in its safetensors files, if those are here; with buffers.
    segment_seconds, sample_rate_hz: what it takes at once, and at which rate.
    """

    n_download_bytes: int | None = None
    n_weight_bytes: int | None = None
    n_parameters: int | None = None
    n_values: int | None = None
    segment_seconds: float | None = None
    sample_rate_hz: int | None = None
    licence: str = field(default="", repr=False)


def cost_of(place: str, weights: str, store: WeightsStore) -> Cost:
    """The cost of the model whose card is at `place` ("" for none) and whose weights are in the state `weights`."""
    if not place:
        return Cost(n_download_bytes=0, n_weight_bytes=0)
    try:
        card = read_card(place)
        folder = store.path(card)
    except WeightsError:
        return Cost()
    n_bytes = card.n_bytes or None
    return Cost(
        n_download_bytes=n_bytes if weights == "missing" else 0,
        n_weight_bytes=n_bytes,
        n_parameters=card.n_parameters or None,
        n_values=_counted(card, folder),
        segment_seconds=card.segment_seconds or None,
        sample_rate_hz=card.sample_rate_hz or None,
        licence=card.licence,
    )


def total(costs: Sequence[Cost]) -> Cost:
    """The cost of all together; what is not known of one is not known of all."""

    def summed(name: str) -> int | None:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values)

    return Cost(summed("n_download_bytes"), summed("n_weight_bytes"), summed("n_parameters"), summed("n_values"))


def _counted(card: Card, folder: Path) -> int | None:
    """The numbers in all safetensors files of the card; None unless all are here."""
    paths = [folder / file.name for file in card.files if file.name.endswith(".safetensors")]
    counts = [n_numbers(path) for path in paths]
    return sum(count or 0 for count in counts) if counts and all(counts) else None


def n_numbers(path: Path) -> int | None:
    """How many numbers a safetensors file holds, by its header alone; None for what is no such file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


OVERLAP_FRACTION = 0.25


@dataclass(frozen=True)
class Part:
    """A backend or an encoder in an explanation. weights: "none", "embedded", "present", "missing", "broken", or
    "local" (an ensemble, whose members have them).
    """

    name: str
    distribution: str
    licence: str
    weights: str
    cost: Cost


@dataclass(frozen=True)
class Candidate:
    """A way to answer. reason: why it was chosen, or could be, or why it cannot."""

    backend: Part
    encoder: Part | None
    reason: str


@dataclass(frozen=True)
class Answer:
    """One result: who would answer, who else could, and who cannot."""

    name: str
    chosen: Candidate
    others: tuple[Candidate, ...] = ()
    unable: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """All answers; what would be warned of; the rules that were asked, and the steps that results go through."""

    answers: tuple[Answer, ...]
    warning: str = ""
    rules: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain values."""
        return asdict(self)


def explain(
    query: Any = None,
    *,
    backend: str | Ensemble | None = None,
    query_backend: str | None = None,
    encoder: str | None = None,
    stems: Sequence[str] | None = None,
    route: str = "auto",
    offline: bool | None = None,
    plugins: Sequence[Any] = (),
) -> Explanation:
    """Who would answer `query` (None: the fixed stems) if a `Separator` of these options were asked.

    plugins: as of a `Separator`. No plugin's model is imported, no weights are read or downloaded.

    Raises:
        UnisepError: as `Separator.separate` would, where nobody can answer.
    """
    store = WeightsStore(offline)
    found = catalog(installed(given(plugins)), (), lambda spec: store.state_at(spec.card))
    found = replace(found, map_between=MapStore().card)
    name, found, costs = _assembled(backend, found, store)
    request = Request(
        parsed_queries=None if query is None else parse_queries(query),
        stems=None if stems is None else tuple(stems),
        route=route,
        backend=name,
        query_backend=query_backend,
        encoder=encoder,
        offline=store.offline,
    )
    return _Explainer(request, found, store, costs).explanation()


def n_segments(seconds: float, segment_seconds: float | None) -> int:
    """How many segments a recording of `seconds` is cut into, at the usual overlap.

    >>> n_segments(60, 7.8)
    11
    """
    hop_seconds = seconds if segment_seconds is None else segment_seconds * (1 - OVERLAP_FRACTION)
    return max(1, math.ceil(seconds / hop_seconds)) if hop_seconds > 0 else 1


def _assembled(
    backend: str | Ensemble | None, found: Catalog, store: WeightsStore
) -> tuple[str | None, Catalog, dict[str, Cost]]:
    """The name of the backend; where it is an ensemble, the catalogue with it, and what it costs."""
    if backend is None or (isinstance(backend, str) and not backend.startswith("ensemble@")):
        return backend, found, {}
    from unisep.ensemble.assembly import assemble
    from unisep.ensemble.definition import as_ensemble

    ensemble = as_ensemble(backend)
    assert ensemble is not None
    assembly = assemble(ensemble, found)
    entry = assembly.entry
    cost = total([cost_of(member.spec.card, member.weights, store) for member in assembly.entries])
    return entry.key, replace(found, backends=(*found.backends, entry)), {entry.key: cost}


class _Explainer:
    def __init__(self, request: Request, found: Catalog, store: WeightsStore, costs: Mapping[str, Cost]) -> None:
        self._costs = costs
        self._request = request
        self._catalogue = found
        self._store = store

    def explanation(self) -> Explanation:
        chosen = resolve(self._request, self._catalogue)
        parsed_queries: Sequence[ParsedQuery | None] = self._request.parsed_queries or [None]
        alternatives = {None if parsed is None else parsed.name: self._candidates(parsed) for parsed in parsed_queries}
        answers = [
            self._answer(name, chosen, *alternatives[None if None in alternatives else name]) for name in chosen.plan
        ]
        rules, steps = self._catalogue.rules, self._catalogue.steps
        titles = [tuple(extra.title for extra in extras) for extras in (rules, steps)]
        return Explanation(tuple(answers), chosen.warning, *titles)

    def _answer(self, name: str, chosen: Route, others: list[Candidate], unable: list[Candidate]) -> Answer:
        first = self._first(name, chosen)
        key = _key(first)
        return Answer(name, first, tuple(other for other in others if _key(other) != key), tuple(unable))

    def _first(self, name: str, route: Route) -> Candidate:
        tasks = [task for task in route.tasks if any(target.name == name for target in task.targets)]
        task = tasks[0] if tasks else route.tasks[0]  # what remains is of whoever gave the others
        target = next((target for target in task.targets if target.name == name), task.targets[0])
        return self._candidate(task.backend, target.encoder, route.plan[name].reason)

    def _candidates(self, parsed: ParsedQuery | None) -> tuple[list[Candidate], list[Candidate]]:
        """Who could answer, those whose weights are here first; and who cannot."""
        able: dict[tuple[str, str], tuple[bool, Candidate]] = {}
        unable: dict[tuple[str, str], Candidate] = {}
        for entry, encoder, request in self._forced(parsed):
            try:
                route = resolve(request, self._catalogue)
            except UnisepError as error:
                refused = self._candidate(entry, encoder, str(error))
                unable.setdefault(_key(refused), refused)
                continue
            name = next(iter(route.plan))
            candidate = self._first(name, route)
            encoders_here = all(target.encoder is None or target.encoder.is_here for target in route.tasks[0].targets)
            able.setdefault(_key(candidate), (entry.is_here and encoders_here, candidate))
        ordered = sorted(able.values(), key=lambda found: not found[0])
        return [candidate for _, candidate in ordered], list(unable.values())

    def _forced(self, parsed: ParsedQuery | None) -> Iterator[tuple[BackendEntry, EncoderEntry | None, Request]]:
        """Each backend, and each with each encoder, and the request that insists on them."""
        parsed_queries = None if parsed is None else (parsed,)
        request = replace(self._request, parsed_queries=parsed_queries, backend=None, query_backend=None, encoder=None)
        for entry in sorted(self._catalogue.backends, key=rank):
            if entry.spec.stems:
                yield entry, None, replace(request, backend=entry.key, route="fixed")
        encoders = self._catalogue.encoders if parsed is None or parsed.modalities else [None]
        for entry in sorted(self._catalogue.backends, key=rank):
            for encoder in encoders if entry.spec.spaces else ():
                key = None if encoder is None else encoder.key
                forced = replace(request, query_backend=entry.key, encoder=key, route="conditioned")
                yield entry, encoder, forced

    def _candidate(self, backend: BackendEntry, encoder: EncoderEntry | None, reason: str) -> Candidate:
        return Candidate(self._part(backend), None if encoder is None else self._part(encoder), reason)

    def _part(self, entry: BackendEntry | EncoderEntry) -> Part:
        cost = self._costs.get(entry.key) or cost_of(entry.spec.card, entry.weights, self._store)
        licence = entry.spec.licence or cost.licence or "not stated"
        return Part(entry.name, entry.distribution, licence, entry.weights, cost)


def _key(candidate: Candidate) -> tuple[str, str]:
    parts = (candidate.backend, candidate.encoder)
    first, second = (f"{part.distribution}:{part.name}" if part else "" for part in parts)
    return first, second
