"""Who answers: `resolve` decides it for a request, `candidates` lists every way there is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from unisep.errors import DownloadError, OptionError, PluginError, UnisepError, arg
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.fixed import plainly_names, route_stems
from unisep.routing.licences import permitted_by
from unisep.routing.rules import RuleMatch, match_rule
from unisep.routing.types import BackendTask, Candidate, Plan, Request, Route, Target, choice, pull

ROUTES = ("auto", "fixed", "conditioned")


def resolve(request: Request, catalog: Catalog) -> Route:
    """Decide who answers the request.

    Raises:
        PluginError: nothing installed can, or the name asked for is unknown, broken or ambiguous.
        OptionError: options that do not go together, a stem that the backend does not have, or a licence not allowed.
        EmbeddingError: a vector of a space that the backend does not know.
        QueryError: no encoder for what the query is made of.
        DownloadError: the weights asked for are not here and downloads are off.
    """
    permitted = permitted_by(request, catalog)
    route = _resolved(request, permitted)
    try:
        others = _resolved(request, catalog).plan if permitted.left_out else {}
    except UnisepError:  # with all licences nobody would answer
        return route
    hints = {name: permitted.left_out_hint({other.backend, other.encoder}) for name, other in others.items()}
    return route.adding({name: f"{hint}." for name, hint in hints.items() if hint})


def _resolved(request: Request, catalog: Catalog) -> Route:
    if request.route not in ROUTES:
        raise OptionError(f"{arg('route', request.route)} is unknown. Possible: {', '.join(ROUTES)}.")
    request = _with_query_model(request, catalog)
    if request.parsed_queries is None:
        route = route_stems(request, catalog)
    elif request.stems is not None:
        raise OptionError(f"{arg('stems')} chooses among the fixed stems; leave it out when you give a query.")
    else:
        route = _route_queries(request.parsed_queries, request, catalog)
    steps = f"Then: {', '.join(step.title for step in catalog.steps)}." if catalog.steps else ""
    return replace(route, steps=catalog.steps).adding(dict.fromkeys(route.plan, steps))


def candidates(parsed: ParsedQuery | None, request: Request, catalog: Catalog) -> list[Candidate]:
    """List every way to answer one query, or to give the fixed stems (None): able or not, each with its reason.

    Whoever the caller named is set aside. Those that need no download come first.
    """
    listed: dict[tuple[str, str], Candidate] = {}
    for backend, encoder, insisting in _insisting(parsed, request, catalog):
        try:
            route = resolve(insisting, catalog)
        except UnisepError as error:
            candidate = Candidate(backend, encoder, str(error), is_able=False)
        else:
            task = route.tasks[0]
            reason = next(iter(route.plan.values())).reason
            candidate = Candidate(task.backend, task.targets[0].encoder, reason, is_able=True)
        listed.setdefault(candidate.key, candidate)
    return sorted(listed.values(), key=lambda candidate: not candidate.is_here)


def stronger(parsed: ParsedQuery, request: Request, catalog: Catalog) -> list[tuple[BackendEntry, str]]:
    """List who was made for the query, with the stem, and is better after a download than who is here, the best first."""

    def figure_db(item: tuple[BackendEntry, str]) -> float:
        return catalog.quality(item[0].spec.card).get(item[1], -math.inf)

    entries = [entry for entry in permitted_by(request, catalog).usable_backends() if not entry.spec.only_by_name]
    named = [(entry, stem) for entry in entries for stem in entry.spec.stems if _names(parsed, stem)]
    here_db = [figure_db(item) for item in named if item[0].is_here]
    away = [item for item in named if item[0].weights == "missing"]
    return sorted((item for item in away if not here_db or figure_db(item) > max(here_db)), key=figure_db, reverse=True)


def default_backend(request: Request, catalog: Catalog, *, answers_queries: bool) -> BackendEntry:
    """Return the backend that the caller's own weights are for: the one named, or the default of its kind.

    Raises:
        PluginError: there is none.
    """
    kind, name = ("query_backend", request.query_backend) if answers_queries else ("backend", request.backend)
    if name is not None:
        return catalog.backend(name)
    for entry in catalog.usable_backends():
        if entry.spec.spaces if answers_queries else entry.spec.stems:
            return entry
    raise PluginError(f"No backend is installed that could open these weights. Install one and name it: {arg(kind)}.")


def _insisting(
    parsed: ParsedQuery | None, request: Request, catalog: Catalog
) -> Iterator[tuple[BackendEntry, EncoderEntry | None, Request]]:
    """Yield each backend, and each with each encoder, with the request that insists on them."""
    parsed_queries = None if parsed is None else (parsed,)
    request = replace(request, parsed_queries=parsed_queries, backend=None, query_backend=None, encoder=None)
    backends = sorted(catalog.backends, key=rank)
    for backend in backends:
        if backend.spec.stems:
            yield backend, None, replace(request, backend=backend.key, route="fixed")
    encoders = catalog.encoders if parsed is None or parsed.modalities else [None]
    for backend in backends:
        for encoder in encoders if backend.spec.spaces else ():
            key = None if encoder is None else encoder.key
            yield backend, encoder, replace(request, query_backend=backend.key, encoder=key, route="conditioned")


def _with_query_model(request: Request, catalog: Catalog) -> Request:
    """Return the request; a query model named as `backend` answers by queries, stems too."""
    entry = catalog.backend(request.backend) if request.backend is not None and request.route == "auto" else None
    if entry is None or not entry.spec.spaces or request.stems_of(entry):
        return request
    query_backend = request.query_backend if request.parsed_queries is not None else None
    return replace(request, backend=None, route="conditioned", query_backend=query_backend or request.backend)


@dataclass
class _Decisions:
    """What is decided of queries, by name: rules that matched, stems that answer, stronger models that are not here."""

    matches: dict[str, RuleMatch] = field(default_factory=dict)
    fixed: dict[str, tuple[BackendEntry, str]] = field(default_factory=dict)
    stronger: dict[str, BackendEntry] = field(default_factory=dict)


def _route_queries(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> Route:
    decisions, worded = _Decisions(), []
    warnings: list[str] = []
    for parsed in parsed_queries:
        match = match_rule(parsed, request, catalog, warnings)
        if match is not None:
            decisions.matches[parsed.name] = match
            parsed = match.in_its_words(parsed)
        _decide(parsed, match, request, catalog, decisions)
        worded.append(parsed)
    conditioned = [parsed for parsed in worded if parsed.name not in decisions.fixed]
    tasks = _fixed_tasks(worded, decisions.fixed) + _conditioned_tasks(conditioned, decisions.matches, request, catalog)
    if decisions.stronger:
        stronger, weaker = next(iter(decisions.stronger.values())), tasks[-1].backend.name
        warnings.append(
            f"'{weaker}' answers {', '.join(decisions.stronger)}; '{stronger.name}' was made for that, and its weights "
            f"are not here. To use it: {pull(stronger)}"
        )
    return Route(tasks, _plan(worded, tasks, decisions), warning=" ".join(dict.fromkeys(warnings)))


def _decide(
    parsed: ParsedQuery, match: RuleMatch | None, request: Request, catalog: Catalog, decisions: _Decisions
) -> None:
    """Decide whether a stem answers the query: by a rule, or since the query plainly names it."""
    if match is not None and match.backend is not None:
        decisions.fixed[parsed.name] = match.backend, match.direction.stem
    if request.route == "conditioned" or (match is not None and match.names_a_model):
        return
    usable = catalog.usable_backends()
    if request.route == "auto" and any(entry.spec.spaces for entry in usable):  # somebody else can answer
        usable = [entry for entry in usable if not entry.spec.only_by_name]
    named = usable if request.backend is None else [catalog.backend(request.backend)]
    stems = [
        (entry, stem)
        for entry in named
        for stem in [next(filter(lambda stem: _names(parsed, stem), request.stems_of(entry)), None)]
        if stem is not None
    ]
    # Routing a query never downloads; a backend that the caller named may.
    may_download = request.backend is not None and not request.offline and not request.download_failed
    here = [(entry, stem) for entry, stem in stems if entry.is_here or may_download]
    if here:
        decisions.fixed[parsed.name] = here[0]
    elif request.route == "fixed" and stems:
        entry = stems[0][0]
        raise DownloadError(
            f"{arg('route', 'fixed')}: '{entry.name}' has this stem, and its weights are not here. Run: {pull(entry)}"
        )
    elif request.route == "fixed":
        known = ", ".join(sorted({stem for entry in named for stem in request.stems_of(entry)})) or "none"
        raise OptionError(
            f"{arg('route', 'fixed')}: '{parsed.name}' names no stem of an installed backend (stems: {known}). "
            f"Use {arg('route', 'auto')} for anything else."
        )
    elif stems:
        decisions.stronger[parsed.name] = stems[0][0]


def _names(parsed: ParsedQuery, stem: str) -> bool:
    return parsed.plain_text is not None and plainly_names(parsed.plain_text, stem)


def _fixed_tasks(
    parsed_queries: list[ParsedQuery], fixed: Mapping[str, tuple[BackendEntry, str]]
) -> tuple[BackendTask, ...]:
    """Return a task for each backend whose stems answer."""
    tasks: dict[str, BackendTask] = {}
    for parsed in parsed_queries:
        if parsed.name in fixed:
            entry, stem = fixed[parsed.name]
            task = tasks.get(entry.key, BackendTask(entry, ()))
            target = Target(parsed.name, stem=stem, time_range=parsed.time_range)
            tasks[entry.key] = replace(task, targets=(*task.targets, target))
    return tuple(tasks.values())


def _conditioned_tasks(
    parsed_queries: list[ParsedQuery], matches: Mapping[str, RuleMatch], request: Request, catalog: Catalog
) -> tuple[BackendTask, ...]:
    """Return the tasks of the backends that answer queries: those that rules or the caller name, or the default."""
    groups: dict[tuple[str | None, str | None], list[ParsedQuery]] = {}
    for parsed in parsed_queries:
        match = matches.get(parsed.name)
        backend, encoder = (match.direction.backend, match.direction.encoder) if match else ("", "")
        groups.setdefault((backend or request.query_backend, encoder or request.encoder), []).append(parsed)
    return tuple(
        task
        for (backend, encoder), group in groups.items()
        for task in conditioned_tasks(tuple(group), replace(request, query_backend=backend, encoder=encoder), catalog)
    )


def _plan(parsed_queries: list[ParsedQuery], tasks: tuple[BackendTask, ...], decisions: _Decisions) -> Plan:
    answers = {target.name: (task.backend, target) for task in tasks for target in task.targets}
    choices = {}
    for name in (parsed.name for parsed in parsed_queries):
        backend, target = answers[name]
        match = decisions.matches.get(name)
        if match is not None and match.backend is not None:
            reason = f"'{backend.name}' has the stem '{target.stem}'."
        elif target.stem:
            reason = f"The query names the stem '{target.stem}' of '{backend.name}', which gives it directly."
        elif name in decisions.stronger:
            away = decisions.stronger[name].name
            reason = f"'{backend.name}' answers, a weaker model for this stem: the weights of '{away}' are not here."
        else:
            reason = f"'{backend.name}' answers queries."
        reasons = [reason, target.through, match.reason if match else ""]
        choices[name] = choice(backend, target.encoder, " ".join(filter(None, reasons)))
    return Plan(choices)
