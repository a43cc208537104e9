"""Explain who would answer, why, what else could, under which licences and at what cost; nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.errors import WeightsError
from unisep.plugins.registry import given, installed
from unisep.query.parsed import parse_queries
from unisep.query.query import QueryLike
from unisep.query.space_maps import MapStore
from unisep.routing import types
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, build_catalog
from unisep.routing.licences import checked_licences
from unisep.routing.router import candidates, resolve
from unisep.routing.types import Request, Route
from unisep.weights.cards import Card, read_card
from unisep.weights.store import WeightsStore

if TYPE_CHECKING:
    from unisep.ensemble.definition import Ensemble
    from unisep.plugins.plugin import Plugin
    from unisep.session.models import ModelPool

Costs = Callable[[BackendEntry | EncoderEntry], "Cost"]
OVERLAP_FRACTION = 0.25
_LONGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Cost:
    """What a model costs, as far as its card and its files tell without loading it; None: not known.

    n_parameters: as the card states. n_values: the numbers in its safetensors files, buffers included, if they are here.
    """

    n_download_bytes: int | None = None
    n_weight_bytes: int | None = None
    n_parameters: int | None = None
    n_values: int | None = None
    segment_seconds: float | None = None
    sample_rate_hz: int | None = None
    licence: str = field(default="", repr=False)


@dataclass(frozen=True)
class Part:
    """A backend or an encoder in an explanation.

    weights: "none", "embedded", "present", "missing", "broken", or "local" (an ensemble, whose members have them).
    """

    name: str
    distribution: str
    licence: str
    weights: str
    cost: Cost


@dataclass(frozen=True)
class Candidate:
    """A way to answer, and the reason why it was chosen, or could be, or cannot be.

    level_db: how well it gives what is asked for, by published figures brought to one scale; None where there are none.
    """

    backend: Part
    encoder: Part | None
    reason: str
    level_db: float | None = None


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
        """Return the explanation as plain values."""
        return asdict(self)


def explain(
    query: QueryLike | None = None,
    *,
    backend: str | Ensemble | None = None,
    query_backend: str | None = None,
    encoder: str | None = None,
    licences: str | Sequence[str] | None = None,
    sample_rate_hz: float | None = None,
    stems: str | Sequence[str] | None = None,
    route: str = "auto",
    cascade: str = "auto",
    offline: bool | None = None,
    plugins: object = (),
) -> Explanation:
    """Say who would answer `query` (None: the fixed stems) if a `Separator` of these options were asked.

    No plugin's model is imported, no weights are read or downloaded; but for words that no list of concepts has, an encoder
    is loaded. All arguments are as of `Separator` and `Separator.separate`.

    Raises:
        UnisepError: as `Separator.separate` would, where nobody can answer.
    """
    store = WeightsStore(offline)
    catalog = current_catalog(store, given(plugins))
    allowed = checked_licences(licences)
    name, catalog, ensemble_costs = _with_ensemble(backend, catalog, store, allowed)
    request = Request(
        parsed_queries=None if query is None else parse_queries(query, sample_rate_hz),
        stems=(stems,) if isinstance(stems, str) else None if stems is None else tuple(stems),
        route=route,
        cascade=cascade,
        backend=name,
        query_backend=query_backend,
        encoder=encoder,
        offline=store.offline,
        licences=allowed,
    )
    if request.may_substitute:
        request = replace(request, download_failed=store.recent_failure())
    chosen = resolve(request, catalog)

    def costs(entry: BackendEntry | EncoderEntry) -> Cost:
        return ensemble_costs.get(entry.key) or cost_of(entry.spec.card, entry.weights, store)

    by_name = {parsed.name: parsed for parsed in request.parsed_queries or ()}
    whole = request if by_name else replace(request, stems=tuple(chosen.plan))  # who has other stems is no candidate
    listed = {parsed: candidates(parsed, whole, catalog) for parsed in by_name.values() or [None]}
    answers = [_answer(name, chosen, listed[by_name.get(name)], costs) for name in chosen.plan]
    rules, steps = ([extension.title for extension in some] for some in (catalog.rules, catalog.steps))
    return Explanation(tuple(answers), chosen.warning, tuple(rules), tuple(steps))


def current_catalog(store: WeightsStore, plugins: tuple[Plugin, ...] = ()) -> Catalog:
    """Return what is installed, and `plugins`; an encoder is loaded only to tell what words mean that no list has."""
    catalog = build_catalog(installed(plugins), (), lambda spec: store.state_at(spec.card))
    return replace(catalog, map_between=MapStore().card, meaning=lambda text: _pool(store, plugins).meaning(text))


@cache
def _pool(store: WeightsStore, plugins: tuple[Plugin, ...]) -> ModelPool:
    """Return the pool of the encoder that tells what words mean."""
    from unisep.engine.device import Precision, find_device  # loads torch
    from unisep.session.models import ModelPool

    return ModelPool(store, Precision("float32", find_device("cpu")), plugins)


def n_segments(seconds: float, segment_seconds: float | None) -> int:
    """Return how many segments a recording of `seconds` is cut into, at the usual overlap.

    >>> n_segments(60, 7.8)
    11
    """
    hop_seconds = seconds if segment_seconds is None else segment_seconds * (1 - OVERLAP_FRACTION)
    return max(1, math.ceil(seconds / hop_seconds)) if hop_seconds > 0 else 1


def cost_of(card_place: str, weights: str, store: WeightsStore) -> Cost:
    """Return the cost of the model whose card is at `card_place` ("" for none), its weights in the state `weights`."""
    if not card_place:
        return Cost(n_download_bytes=0, n_weight_bytes=0)
    try:
        card = read_card(card_place)
        folder = store.path(card)
    except WeightsError:
        return Cost()
    n_bytes = card.n_bytes or None
    return Cost(
        n_download_bytes=n_bytes if weights == "missing" else 0,
        n_weight_bytes=n_bytes,
        n_parameters=card.n_parameters or None,
        n_values=_n_values(card, folder),
        segment_seconds=card.segment_seconds or None,
        sample_rate_hz=card.sample_rate_hz or None,
        licence=card.licence,
    )


def n_numbers(path: Path) -> int | None:
    """Count the numbers in a safetensors file by its header alone; None for what is no such file."""
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


def _n_values(card: Card, folder: Path) -> int | None:
    """Count the numbers in all safetensors files of the card; None unless all are here."""
    counts = [n_numbers(folder / file.name) for file in card.files if file.name.endswith(".safetensors")]
    return sum(count or 0 for count in counts) if counts and all(counts) else None


def _with_ensemble(
    backend: str | Ensemble | None, catalog: Catalog, store: WeightsStore, licences: tuple[str, ...]
) -> tuple[str | None, Catalog, dict[str, Cost]]:
    """Return the name of the backend; where it is an ensemble, the catalog with it, and what it costs, by its key."""
    if backend is None or (isinstance(backend, str) and not backend.startswith("ensemble@")):
        return backend, catalog, {}
    from unisep.ensemble.assembly import assemble  # loads torch
    from unisep.ensemble.definition import as_ensemble

    ensemble = as_ensemble(backend)
    assert ensemble is not None
    assembly = assemble(ensemble, catalog, licences)
    costs = [cost_of(member.spec.card, member.weights, store) for member in assembly.entries]
    entry = assembly.entry
    return entry.key, replace(catalog, backends=(*catalog.backends, entry)), {entry.key: _total(costs)}


def _total(costs: Sequence[Cost]) -> Cost:
    """Add costs; what is not known of one is not known of all."""

    def added(name: str) -> int | None:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values)

    return Cost(added("n_download_bytes"), added("n_weight_bytes"), added("n_parameters"), added("n_values"))


def _answer(name: str, route: Route, listed: Sequence[types.Candidate], costs: Costs) -> Answer:
    tasks = [task for task in route.tasks if any(target.name == name for target in task.targets)]
    task = tasks[0] if tasks else route.tasks[0]  # what remains is of whoever gave the others
    target = next((target for target in task.targets if target.name == name), task.targets[0])
    levels = {candidate.backend.key: candidate.level_db for candidate in listed}
    level_db = levels.get(task.backend.key, -math.inf)
    chosen = types.Candidate(task.backend, target.encoder, route.plan[name].reason, True, level_db)
    others = [candidate for candidate in listed if candidate.is_able and candidate.key != chosen.key]
    unable = [candidate for candidate in listed if not candidate.is_able]
    first, *rest = (_described(candidate, costs) for candidate in (chosen, *others, *unable))
    return Answer(name, first, tuple(rest[: len(others)]), tuple(rest[len(others) :]))


def _part(entry: BackendEntry | EncoderEntry, costs: Costs) -> Part:
    return Part(entry.name, entry.distribution, entry.licence, entry.weights, costs(entry))


def _described(candidate: types.Candidate, costs: Costs) -> Candidate:
    encoder = None if candidate.encoder is None else _part(candidate.encoder, costs)
    level_db = candidate.level_db if math.isfinite(candidate.level_db) else None
    return Candidate(_part(candidate.backend, costs), encoder, candidate.reason, level_db)
