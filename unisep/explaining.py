"""Who would answer, why, what else could, under which licences and at what cost; nothing is loaded or run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from unisep.cost import Cost, cost_of, total
from unisep.errors import UnisepError
from unisep.maps import MapStore
from unisep.plugins import given, installed
from unisep.request import Ask, read_asks
from unisep.resolve import BackendOffer, Catalogue, EncoderOffer, Request, Route, catalogue, rank, resolve
from unisep.weights import WeightsStore

if TYPE_CHECKING:
    from unisep.ensemble import Ensemble

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
    found = catalogue(installed(given(plugins)), (), lambda spec: store.state_at(spec.card))
    found = replace(found, map_between=MapStore().card)
    name, found, costs = _assembled(backend, found, store)
    request = Request(
        asks=None if query is None else read_asks(query),
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
    backend: str | Ensemble | None, found: Catalogue, store: WeightsStore
) -> tuple[str | None, Catalogue, dict[str, Cost]]:
    """The name of the backend; where it is an ensemble, the catalogue with it, and what it costs."""
    if backend is None or (isinstance(backend, str) and not backend.startswith("ensemble@")):
        return backend, found, {}
    from unisep.ensemble import as_ensemble, assemble

    ensemble = as_ensemble(backend)
    assert ensemble is not None
    assembly = assemble(ensemble, found)
    offer = assembly.offer
    cost = total([cost_of(member.spec.card, member.weights, store) for member in assembly.offers])
    return offer.key, replace(found, backends=(*found.backends, offer)), {offer.key: cost}


class _Explainer:
    def __init__(
        self, request: Request, found: Catalogue, store: WeightsStore, costs: Mapping[str, Cost]
    ) -> None:
        self._costs = costs
        self._request = request
        self._catalogue = found
        self._store = store

    def explanation(self) -> Explanation:
        chosen = resolve(self._request, self._catalogue)
        asks: Sequence[Ask | None] = self._request.asks or [None]
        alternatives = {None if ask is None else ask.name: self._candidates(ask) for ask in asks}
        answers = [
            self._answer(name, chosen, *alternatives[None if None in alternatives else name])
            for name in chosen.plan
        ]
        rules, steps = self._catalogue.rules, self._catalogue.steps
        titles = [tuple(extra.title for extra in extras) for extras in (rules, steps)]
        return Explanation(tuple(answers), chosen.warning, *titles)

    def _answer(self, name: str, chosen: Route, others: list[Candidate], unable: list[Candidate]) -> Answer:
        first = self._first(name, chosen)
        key = _key(first)
        return Answer(name, first, tuple(other for other in others if _key(other) != key), tuple(unable))

    def _first(self, name: str, route: Route) -> Candidate:
        tasks = [task for task in route.tasks if any(want.name == name for want in task.wants)]
        task = tasks[0] if tasks else route.tasks[0]  # what remains is of whoever gave the others
        want = next((want for want in task.wants if want.name == name), task.wants[0])
        return self._candidate(task.backend, want.encoder, route.plan[name].reason)

    def _candidates(self, ask: Ask | None) -> tuple[list[Candidate], list[Candidate]]:
        """Who could answer, those whose weights are here first; and who cannot."""
        able: dict[tuple[str, str], tuple[bool, Candidate]] = {}
        unable: dict[tuple[str, str], Candidate] = {}
        for offer, encoder, request in self._forced(ask):
            try:
                route = resolve(request, self._catalogue)
            except UnisepError as error:
                refused = self._candidate(offer, encoder, str(error))
                unable.setdefault(_key(refused), refused)
                continue
            name = next(iter(route.plan))
            candidate = self._first(name, route)
            encoders_here = all(want.encoder is None or want.encoder.is_here for want in route.tasks[0].wants)
            able.setdefault(_key(candidate), (offer.is_here and encoders_here, candidate))
        ordered = sorted(able.values(), key=lambda found: not found[0])
        return [candidate for _, candidate in ordered], list(unable.values())

    def _forced(self, ask: Ask | None) -> Iterator[tuple[BackendOffer, EncoderOffer | None, Request]]:
        """Each backend, and each with each encoder, and the request that insists on them."""
        asks = None if ask is None else (ask,)
        request = replace(self._request, asks=asks, backend=None, query_backend=None, encoder=None)
        for offer in sorted(self._catalogue.backends, key=rank):
            if offer.spec.stems:
                yield offer, None, replace(request, backend=offer.key, route="fixed")
        encoders = self._catalogue.encoders if ask is None or ask.modalities else [None]
        for offer in sorted(self._catalogue.backends, key=rank):
            for encoder in encoders if offer.spec.spaces else ():
                key = None if encoder is None else encoder.key
                forced = replace(request, query_backend=offer.key, encoder=key, route="conditioned")
                yield offer, encoder, forced

    def _candidate(self, backend: BackendOffer, encoder: EncoderOffer | None, reason: str) -> Candidate:
        return Candidate(self._part(backend), None if encoder is None else self._part(encoder), reason)

    def _part(self, offer: BackendOffer | EncoderOffer) -> Part:
        cost = self._costs.get(offer.key) or cost_of(offer.spec.card, offer.weights, self._store)
        licence = offer.spec.licence or cost.licence or "not stated"
        return Part(offer.name, offer.distribution, licence, offer.weights, cost)


def _key(candidate: Candidate) -> tuple[str, str]:
    parts = (candidate.backend, candidate.encoder)
    first, second = (f"{part.distribution}:{part.name}" if part else "" for part in parts)
    return first, second
