"""The door to routing: `resolve`, and which queries go to a backend with fixed stems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unisep.errors import DownloadError, OptionError, PluginError
from unisep.query.parsed import Ask
from unisep.routing.catalog import BackendOffer, Catalogue, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.fixed import fixed_stems, plainly_names
from unisep.routing.rules import Directed, Heading, directed
from unisep.routing.types import Plan, Request, Route, Task, Want, choice, pull

ROUTES = ("auto", "fixed", "conditioned")


def resolve(request: Request, catalogue: Catalogue) -> Route:
    """Who answers the request.

    Raises:
        PluginError: nothing installed can, or the name asked for is unknown, broken or ambiguous.
        OptionError: options that do not go together, or a stem that the backend does not have.
        EmbeddingError: a vector of a space that the backend does not know.
        QueryError: no encoder for what the query is made of.
        DownloadError: the weights asked for are not here and downloads are off.
    """
    if request.route not in ROUTES:
        raise OptionError(f"route={request.route!r} is unknown. Possible: {', '.join(ROUTES)}.")
    if request.asks is None:
        return _with_steps(fixed_stems(request, catalogue), catalogue)
    if request.stems is not None:
        raise OptionError("stems= chooses among the fixed stems; leave it out when you give a query.")
    return _with_steps(_asked(request, directed(request.asks, request, catalogue), catalogue), catalogue)


def default_backend(request: Request, catalogue: Catalogue, *, answers_queries: bool) -> BackendOffer:
    """The backend that the caller's own weights are for: the one named, or the default of its kind.

    Raises:
        PluginError: there is none.
    """
    kind, name = ("query_backend", request.query_backend) if answers_queries else ("backend", request.backend)
    if name is not None:
        return catalogue.backend(name)
    usable = catalogue.usable_backends()
    offers = [offer for offer in usable if (offer.spec.spaces if answers_queries else offer.spec.stems)]
    if not offers:
        raise PluginError(
            f"No backend is installed that could open these weights. Install one and name it: {kind}=."
        )
    return min(offers, key=rank)


def _with_steps(route: Route, catalogue: Catalogue) -> Route:
    """The route with the steps that its results will go through, which the plan tells too."""
    if not catalogue.steps:
        return route
    then = f"Then: {', '.join(step.title for step in catalogue.steps)}."
    plan = {name: replace(made, reason=f"{made.reason} {then}") for name, made in route.plan.items()}
    return replace(route, plan=Plan(plan), steps=catalogue.steps)


def _asked(request: Request, given: Directed, catalogue: Catalogue) -> Route:
    asks = given.asks
    fixed: dict[str, tuple[BackendOffer, str]] = {
        name: (heading.offer, heading.direction.stem)
        for name, heading in given.headings.items()
        if heading.offer is not None
    }
    better: dict[str, BackendOffer] = {}
    for ask in asks if request.route != "conditioned" else ():
        if _is_directed(ask, given):
            continue
        offers = _naming(ask, request, catalogue)
        here = [(offer, stem) for offer, stem in offers if _may_use(offer, request)]
        if here:
            fixed[ask.name] = here[0]
        elif request.route == "fixed":
            raise _no_fixed_answer(ask, [offer for offer, _ in offers], request, catalogue)
        elif offers:
            better[ask.name] = offers[0][0]
    others = tuple(ask for ask in asks if ask.name not in fixed)
    tasks = _fixed_tasks(asks, fixed) + _conditioned_tasks(others, given, request, catalogue)
    plan = _plan(asks, tasks, fixed, better, given.headings)
    return Route(tasks, plan, warning=" ".join([*given.said, _aloud(tasks, better)]).strip())


def _is_directed(ask: Ask, given: Directed) -> bool:
    """Whether a rule says who answers, so that the usual question is not asked."""
    heading = given.headings.get(ask.name)
    return heading is not None and bool(
        heading.offer or heading.direction.backend or heading.direction.encoder
    )


def _conditioned_tasks(
    asks: tuple[Ask, ...], given: Directed, request: Request, catalogue: Catalogue
) -> tuple[Task, ...]:
    """The tasks of the conditioned backends: one that rules or the caller name, or the default."""
    groups: dict[tuple[str | None, str | None], list[Ask]] = {}
    for ask in asks:
        heading = given.headings.get(ask.name)
        backend, encoder = (heading.direction.backend, heading.direction.encoder) if heading else ("", "")
        groups.setdefault((backend or request.query_backend, encoder or request.encoder), []).append(ask)
    return tuple(
        task
        for (backend, encoder), group in groups.items()
        for task in conditioned_tasks(
            tuple(group), replace(request, query_backend=backend, encoder=encoder), catalogue
        )
    )


def _naming(ask: Ask, request: Request, catalogue: Catalogue) -> list[tuple[BackendOffer, str]]:
    """Fixed backends with a stem that the ask plainly names, the caller's own choice or the best first."""
    if ask.plain_text is None:
        return []
    offers = catalogue.usable_backends() if request.backend is None else [catalogue.backend(request.backend)]
    found = []
    for offer in sorted(offers, key=rank):
        stem = next(
            (stem for stem in request.stems_of(offer) if plainly_names(ask.plain_text, stem)),
            None,
        )
        if stem is not None:
            found.append((offer, stem))
    return found


def _may_use(offer: BackendOffer, request: Request) -> bool:
    """Routing a query never downloads; a backend that the caller named may."""
    can_download = request.backend is not None and not request.offline and not request.download_failed
    return offer.is_here or can_download


def _fixed_tasks(asks: tuple[Ask, ...], fixed: dict[str, tuple[BackendOffer, str]]) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for ask in asks:
        if ask.name in fixed:
            offer, stem = fixed[ask.name]
            task = tasks.get(offer.key, Task(offer, ()))
            want = Want(ask.name, stem=stem, time_range=ask.time_range)
            tasks[offer.key] = replace(task, wants=(*task.wants, want))
    return tuple(tasks.values())


def _plan(
    asks: tuple[Ask, ...],
    tasks: tuple[Task, ...],
    fixed: dict[str, tuple[BackendOffer, str]],
    better: dict[str, BackendOffer],
    headings: Mapping[str, Heading],
) -> Plan:
    answers = {want.name: (task, want) for task in tasks for want in task.wants}
    choices = {}
    for ask in asks:
        task, want = answers[ask.name]
        reason = f"'{task.backend.name}' answers queries."
        heading = headings.get(ask.name)
        if heading is not None and heading.offer is not None:
            reason = f"'{task.backend.name}' has the stem '{heading.direction.stem}'."
        elif ask.name in fixed:
            reason = f"The query names the stem '{fixed[ask.name][1]}' of '{task.backend.name}', which is stronger at it."
        elif ask.name in better:
            offer = better[ask.name]
            reason = f"'{task.backend.name}' answers, a weaker model for this stem: the weights of '{offer.name}' are not here."
        said = [reason, want.through, heading.reason if heading else ""]
        reason = " ".join(part for part in said if part)
        choices[ask.name] = choice(task.backend, want.encoder, reason)
    return Plan(choices)


def _aloud(tasks: tuple[Task, ...], better: dict[str, BackendOffer]) -> str:
    if not better:
        return ""
    offer, who = next(iter(better.values())), tasks[-1].backend.name
    names = ", ".join(better)
    return (
        f"'{who}' answers {names}; '{offer.name}' is stronger at that, and its weights are not here. "
        f"To use it: {pull(offer)}"
    )


def _no_fixed_answer(
    ask: Ask, offers: list[BackendOffer], request: Request, catalogue: Catalogue
) -> OptionError | DownloadError:
    if offers:
        return DownloadError(
            f"route='fixed': '{offers[0].name}' has this stem, and its weights are not here. Run: {pull(offers[0])}"
        )
    backends = (
        catalogue.usable_backends() if request.backend is None else [catalogue.backend(request.backend)]
    )
    stems = sorted({stem for offer in backends for stem in request.stems_of(offer)})
    return OptionError(
        f"route='fixed': '{ask.name}' names no stem of an installed backend (stems: {', '.join(stems) or 'none'}). "
        "Use route='auto' for anything else."
    )
