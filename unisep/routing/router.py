"""Who answers: `resolve` decides it for a request, `candidates` lists every way there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from unisep.errors import OptionError, PluginError, UnisepError, arg
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, rank
from unisep.routing.fixed import route_stems
from unisep.routing.licences import permitted_by
from unisep.routing.queries import route_queries
from unisep.routing.specialists import Specialist, level_db, sounds_of, specialists
from unisep.routing.types import Candidate, Request, Route

ROUTES = ("auto", "fixed", "conditioned")
CASCADES = ("auto", "off")


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
    if request.cascade not in CASCADES:
        raise OptionError(f"{arg('cascade', request.cascade)} is unknown. Possible: {', '.join(CASCADES)}.")
    request = _with_query_model(request, catalog)
    if request.parsed_queries is None:
        route = route_stems(request, catalog)
    elif request.stems is not None:
        raise OptionError(f"{arg('stems')} chooses among the fixed stems; leave it out when you give a query.")
    else:
        route = route_queries(request.parsed_queries, request, catalog)
    steps = f"Then: {', '.join(step.title for step in catalog.steps)}." if catalog.steps else ""
    return replace(route, steps=catalog.steps).adding(dict.fromkeys(route.plan, steps))


def candidates(parsed: ParsedQuery | None, request: Request, catalog: Catalog) -> list[Candidate]:
    """List every way to answer one query, or to give the fixed stems (None): able or not, each with its reason.

    Whoever the caller named is set aside. Those that need no download come first, of these the best by their figures.
    """
    listed: dict[tuple[str, str], Candidate] = {}
    sounds = sounds_of(parsed.plain_text, catalog) if parsed is not None and parsed.plain_text else ()
    for backend, encoder, insisting in _insisting(parsed, request, catalog):
        try:
            route = resolve(insisting, catalog)
        except UnisepError as error:
            candidate = Candidate(backend, encoder, str(error), is_able=False)
        else:
            task = route.tasks[0]
            reason = next(iter(route.plan.values())).reason
            encoder = task.targets[0].encoder
            candidate = Candidate(task.backend, encoder, reason, True, level_db(backend, sounds, catalog))
        listed.setdefault(candidate.key, candidate)
    return sorted(listed.values(), key=lambda candidate: (not candidate.is_here, -candidate.level_db))


def stronger(text: str, request: Request, catalog: Catalog) -> list[Specialist]:
    """List who was made for what a text asks for, and is better after a download than who is here, the best first."""
    every = specialists(text, request, permitted_by(request, catalog))
    here_db = max((one.level_db for one in every if one.backend.is_here), default=None)
    away = [one for one in every if one.backend.weights == "missing" and one.is_better]
    return [one for one in away if here_db is None or one.level_db > here_db]


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
        for encoder in encoders if backend.spec.spaces and not backend.spec.only_by_name else ():
            key = None if encoder is None else encoder.key
            yield backend, encoder, replace(request, query_backend=backend.key, encoder=key, route="conditioned")


def _with_query_model(request: Request, catalog: Catalog) -> Request:
    """Return the request; a query model named as `backend` answers by queries, stems too."""
    entry = catalog.backend(request.backend) if request.backend is not None and request.route == "auto" else None
    if entry is None or not entry.spec.spaces or request.stems_of(entry):
        return request
    query_backend = request.query_backend if request.parsed_queries is not None else None
    return replace(request, backend=None, route="conditioned", query_backend=query_backend or request.backend)
