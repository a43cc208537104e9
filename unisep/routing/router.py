"""The door to routing: `resolve`, and which queries go to a backend with fixed stems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unisep.errors import DownloadError, OptionError, PluginError
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.fixed import fixed_stems, plainly_names
from unisep.routing.rules import RuleMatch, RuleMatches, directed
from unisep.routing.types import BackendTask, Plan, Request, Route, Target, choice, pull

ROUTES = ("auto", "fixed", "conditioned")


def resolve(request: Request, catalog: Catalog) -> Route:
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
    if request.parsed_queries is None:
        return _with_steps(fixed_stems(request, catalog), catalog)
    if request.stems is not None:
        raise OptionError("stems= chooses among the fixed stems; leave it out when you give a query.")
    return _with_steps(_asked(request, directed(request.parsed_queries, request, catalog), catalog), catalog)


def default_backend(request: Request, catalog: Catalog, *, answers_queries: bool) -> BackendEntry:
    """The backend that the caller's own weights are for: the one named, or the default of its kind.

    Raises:
        PluginError: there is none.
    """
    kind, name = ("query_backend", request.query_backend) if answers_queries else ("backend", request.backend)
    if name is not None:
        return catalog.backend(name)
    usable = catalog.usable_backends()
    entries = [entry for entry in usable if (entry.spec.spaces if answers_queries else entry.spec.stems)]
    if not entries:
        raise PluginError(f"No backend is installed that could open these weights. Install one and name it: {kind}=.")
    return min(entries, key=rank)


def _with_steps(route: Route, catalog: Catalog) -> Route:
    """The route with the steps that its results will go through, which the plan tells too."""
    if not catalog.steps:
        return route
    then = f"Then: {', '.join(step.title for step in catalog.steps)}."
    plan = {name: replace(made, reason=f"{made.reason} {then}") for name, made in route.plan.items()}
    return replace(route, plan=Plan(plan), steps=catalog.steps)


def _asked(request: Request, given: RuleMatches, catalog: Catalog) -> Route:
    parsed_queries = given.parsed_queries
    fixed: dict[str, tuple[BackendEntry, str]] = {
        name: (heading.entry, heading.direction.stem)
        for name, heading in given.headings.items()
        if heading.entry is not None
    }
    better: dict[str, BackendEntry] = {}
    for parsed in parsed_queries if request.route != "conditioned" else ():
        if _is_directed(parsed, given):
            continue
        entries = _naming(parsed, request, catalog)
        here = [(entry, stem) for entry, stem in entries if _may_use(entry, request)]
        if here:
            fixed[parsed.name] = here[0]
        elif request.route == "fixed":
            raise _no_fixed_answer(parsed, [entry for entry, _ in entries], request, catalog)
        elif entries:
            better[parsed.name] = entries[0][0]
    others = tuple(parsed for parsed in parsed_queries if parsed.name not in fixed)
    tasks = _fixed_tasks(parsed_queries, fixed) + _conditioned_tasks(others, given, request, catalog)
    plan = _plan(parsed_queries, tasks, fixed, better, given.headings)
    return Route(tasks, plan, warning=" ".join([*given.said, _aloud(tasks, better)]).strip())


def _is_directed(parsed: ParsedQuery, given: RuleMatches) -> bool:
    """Whether a rule says who answers, so that the usual question is not asked."""
    heading = given.headings.get(parsed.name)
    return heading is not None and bool(heading.entry or heading.direction.backend or heading.direction.encoder)


def _conditioned_tasks(
    parsed_queries: tuple[ParsedQuery, ...], given: RuleMatches, request: Request, catalog: Catalog
) -> tuple[BackendTask, ...]:
    """The tasks of the conditioned backends: one that rules or the caller name, or the default."""
    groups: dict[tuple[str | None, str | None], list[ParsedQuery]] = {}
    for parsed in parsed_queries:
        heading = given.headings.get(parsed.name)
        backend, encoder = (heading.direction.backend, heading.direction.encoder) if heading else ("", "")
        groups.setdefault((backend or request.query_backend, encoder or request.encoder), []).append(parsed)
    return tuple(
        task
        for (backend, encoder), group in groups.items()
        for task in conditioned_tasks(tuple(group), replace(request, query_backend=backend, encoder=encoder), catalog)
    )


def _naming(parsed: ParsedQuery, request: Request, catalog: Catalog) -> list[tuple[BackendEntry, str]]:
    """Fixed backends with a stem that the ask plainly names, the caller's own choice or the best first."""
    if parsed.plain_text is None:
        return []
    entries = catalog.usable_backends() if request.backend is None else [catalog.backend(request.backend)]
    found = []
    for entry in sorted(entries, key=rank):
        stem = next((stem for stem in request.stems_of(entry) if plainly_names(parsed.plain_text, stem)), None)
        if stem is not None:
            found.append((entry, stem))
    return found


def _may_use(entry: BackendEntry, request: Request) -> bool:
    """Routing a query never downloads; a backend that the caller named may."""
    can_download = request.backend is not None and not request.offline and not request.download_failed
    return entry.is_here or can_download


def _fixed_tasks(
    parsed_queries: tuple[ParsedQuery, ...], fixed: dict[str, tuple[BackendEntry, str]]
) -> tuple[BackendTask, ...]:
    tasks: dict[str, BackendTask] = {}
    for parsed in parsed_queries:
        if parsed.name in fixed:
            entry, stem = fixed[parsed.name]
            task = tasks.get(entry.key, BackendTask(entry, ()))
            target = Target(parsed.name, stem=stem, time_range=parsed.time_range)
            tasks[entry.key] = replace(task, targets=(*task.targets, target))
    return tuple(tasks.values())


def _plan(
    parsed_queries: tuple[ParsedQuery, ...],
    tasks: tuple[BackendTask, ...],
    fixed: dict[str, tuple[BackendEntry, str]],
    better: dict[str, BackendEntry],
    headings: Mapping[str, RuleMatch],
) -> Plan:
    answers = {target.name: (task, target) for task in tasks for target in task.targets}
    choices = {}
    for parsed in parsed_queries:
        task, target = answers[parsed.name]
        reason = f"'{task.backend.name}' answers queries."
        heading = headings.get(parsed.name)
        if heading is not None and heading.entry is not None:
            reason = f"'{task.backend.name}' has the stem '{heading.direction.stem}'."
        elif parsed.name in fixed:
            reason = (
                f"The query names the stem '{fixed[parsed.name][1]}' of '{task.backend.name}', which is stronger at it."
            )
        elif parsed.name in better:
            entry = better[parsed.name]
            reason = f"'{task.backend.name}' answers, a weaker model for this stem: the weights of '{entry.name}' are not here."
        said = [reason, target.through, heading.reason if heading else ""]
        reason = " ".join(part for part in said if part)
        choices[parsed.name] = choice(task.backend, target.encoder, reason)
    return Plan(choices)


def _aloud(tasks: tuple[BackendTask, ...], better: dict[str, BackendEntry]) -> str:
    if not better:
        return ""
    entry, who = next(iter(better.values())), tasks[-1].backend.name
    names = ", ".join(better)
    return (
        f"'{who}' answers {names}; '{entry.name}' is stronger at that, and its weights are not here. "
        f"To use it: {pull(entry)}"
    )


def _no_fixed_answer(
    parsed: ParsedQuery, entries: list[BackendEntry], request: Request, catalog: Catalog
) -> OptionError | DownloadError:
    if entries:
        return DownloadError(
            f"route='fixed': '{entries[0].name}' has this stem, and its weights are not here. Run: {pull(entries[0])}"
        )
    backends = catalog.usable_backends() if request.backend is None else [catalog.backend(request.backend)]
    stems = sorted({stem for entry in backends for stem in request.stems_of(entry)})
    return OptionError(
        f"route='fixed': '{parsed.name}' names no stem of an installed backend (stems: {', '.join(stems) or 'none'}). "
        "Use route='auto' for anything else."
    )
