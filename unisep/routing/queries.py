"""Route queries: to a stem that is what they ask for, or to the query model, which may hear less than the recording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unisep.errors import DownloadError, OptionError, arg
from unisep.query.concepts import concepts, named
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.rules import RuleMatch, match_rule
from unisep.routing.specialists import Specialist, concept_of, specialists, taken_out
from unisep.routing.types import BackendTask, Plan, Request, Route, Target, choice, pull

REACH_SECONDS = 12.0  # how far beyond a time range the query model may hear: a segment, and no known one is longer


@dataclass(frozen=True)
class _Decision:
    """What is decided of one query.

    parsed: the query, in the words of the rule if that gives any. backing: the concept whose name was added to them, or "".
    match: the rule that matched. stem: whose stem answers;
    None where the query model does. stronger: who was made for it, and is not here. without: whose stem is taken out of
    what the query model hears.
    """

    parsed: ParsedQuery
    backing: str = ""
    match: RuleMatch | None = None
    stem: Specialist | None = None
    stronger: BackendEntry | None = None
    without: Specialist | None = None


def route_queries(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> Route:
    """Decide who answers each query. Raise as `resolve` does."""
    warnings: list[str] = []
    decisions = [_decide(parsed, request, catalog, warnings) for parsed in parsed_queries]
    removed = _removed(decisions)
    tasks = _fixed_tasks(decisions, removed) + _conditioned_tasks(decisions, removed, request, catalog)
    missed = {decision.parsed.name: decision.stronger for decision in decisions if decision.stronger}
    if missed:
        stronger, weaker = next(iter(missed.values())), tasks[-1].backend.name
        warnings.append(
            f"'{weaker}' answers {', '.join(missed)}; '{stronger.name}' was made for that, and its weights "
            f"are not here. To use it: {pull(stronger)}"
        )
    return Route(tasks, _plan(decisions, tasks), warning=" ".join(dict.fromkeys(warnings)))


def _decide(parsed: ParsedQuery, request: Request, catalog: Catalog, warnings: list[str]) -> _Decision:
    """Decide who answers one query: whoever a rule names, else the best stem that is what it asks for, else the model."""
    match = match_rule(parsed, request, catalog, warnings)
    if match is not None:
        parsed = match.in_its_words(parsed)
        if match.backend is not None:
            return _Decision(
                parsed, "", match, Specialist(match.backend, match.direction.stem, -math.inf, is_better=True)
            )
    if request.route == "conditioned" or (match is not None and match.names_a_model):
        return _Decision(*_backed(parsed, request, catalog), match)
    text = parsed.plain_text
    matches = [] if text is None else specialists(text, request, catalog)
    # Routing a query never downloads; a backend that the caller named may.
    may_download = request.backend is not None and not request.offline and not request.download_failed
    here = [one for one in matches if one.backend.is_here or may_download]
    insists = request.route == "fixed" or request.backend is not None
    if here and (here[0].is_better or insists):
        return _Decision(parsed, "", match, here[0])
    if request.route == "fixed":
        _refuse(parsed, matches, request, catalog)
    missed = [one.backend for one in matches if one.is_better and not one.backend.is_here]
    stronger = None if here else min(missed, key=rank, default=None)
    warnings += _unknown_words(parsed, request, catalog)
    without = taken_out(parsed, request, catalog)
    return _Decision(*_backed(parsed, request, catalog), match, stronger=stronger, without=without)


def _backed(parsed: ParsedQuery, request: Request, catalog: Catalog) -> tuple[ParsedQuery, str]:
    """Return the query with the name of the concept that its one text means beside it, and that name.

    The mean of both is heard better than rare words alone. A query that names a concept stays as it is.
    """
    texts = parsed.query.texts
    if len(texts) != 1 or request.query_backend or request.encoder:
        return parsed, ""
    concept = concept_of(texts[0], catalog)
    if concept is None or concept.name == texts[0].casefold():
        return parsed, ""
    return replace(parsed, query=parsed.query.model_copy(update={"text": [texts[0], concept.name]})), concept.name


def _unknown_words(parsed: ParsedQuery, request: Request, catalog: Catalog) -> list[str]:
    """Return a warning for each text of the query that is far from every known sound, unless the caller chose who answers."""
    if request.query_backend or request.encoder:
        return []
    meanings = {text: catalog.meaning(text) for text in parsed.query.texts if named(text) is None}
    return [
        f"'{text}' is far from all {len(concepts())} sounds that are known by name; the nearest are "
        f"{', '.join(meaning.nearest)}. Trust the result less, and its presence, too."
        for text, meaning in meanings.items()
        if meaning is not None and meaning.concept is None
    ]


def _refuse(parsed: ParsedQuery, matches: list[Specialist], request: Request, catalog: Catalog) -> None:
    if matches:
        entry = matches[0].backend
        raise DownloadError(
            f"{arg('route', 'fixed')}: '{entry.name}' has this stem, and its weights are not here. Run: {pull(entry)}"
        )
    entries = catalog.usable_backends() if request.backend is None else [catalog.backend(request.backend)]
    known = ", ".join(sorted({stem for entry in entries for stem in request.stems_of(entry)})) or "none"
    raise OptionError(
        f"{arg('route', 'fixed')}: '{parsed.name}' names no stem of an installed backend (stems: {known}). "
        f"Use {arg('route', 'auto')} for anything else."
    )


def _removed(decisions: Sequence[_Decision]) -> dict[Specialist, Target]:
    """Return a target for each stem that is taken out, over all times at which somebody hears the recording without it."""
    removed = {}
    for one in dict.fromkeys(decision.without for decision in decisions if decision.without):
        ranges = [decision.parsed.time_range for decision in decisions if decision.without == one]
        known = [times for times in ranges if times is not None]
        hull = None
        if len(known) == len(ranges):
            hull = (
                max(0.0, min(start for start, _ in known) - REACH_SECONDS),
                max(stop for _, stop in known) + REACH_SECONDS,
            )
        removed[one] = Target(f"({one.stem})", stem=one.stem, time_range=hull, is_result=False)
    return removed


def _fixed_tasks(decisions: Sequence[_Decision], removed: dict[Specialist, Target]) -> tuple[BackendTask, ...]:
    """Return a task for each backend whose stems answer, or are taken out."""
    targets = [
        (
            decision.stem.backend,
            Target(decision.parsed.name, stem=decision.stem.stem, time_range=decision.parsed.time_range),
        )
        for decision in decisions
        if decision.stem
    ]
    targets += [(one.backend, target) for one, target in removed.items()]
    tasks: dict[str, BackendTask] = {}
    for entry, target in targets:
        task = tasks.get(entry.key, BackendTask(entry, ()))
        tasks[entry.key] = replace(task, targets=(*task.targets, target))
    return tuple(tasks.values())


def _conditioned_tasks(
    decisions: Sequence[_Decision], removed: dict[Specialist, Target], request: Request, catalog: Catalog
) -> tuple[BackendTask, ...]:
    """Return the tasks of the backends that answer queries: those that rules or the caller name, or the default."""
    groups: dict[tuple[str | None, str | None, Specialist | None], list[ParsedQuery]] = {}
    for one in decisions:
        if one.stem is None:
            backend, encoder = (one.match.direction.backend, one.match.direction.encoder) if one.match else ("", "")
            key = backend or request.query_backend, encoder or request.encoder, one.without
            groups.setdefault(key, []).append(one.parsed)
    return tuple(
        replace(task, without=(removed[without],) if without else ())
        for (backend, encoder, without), group in groups.items()
        for task in conditioned_tasks(tuple(group), replace(request, query_backend=backend, encoder=encoder), catalog)
    )


def _plan(decisions: Sequence[_Decision], tasks: tuple[BackendTask, ...]) -> Plan:
    answers = {target.name: (task.backend, target) for task in tasks for target in task.targets if target.is_result}
    choices = {}
    for one in decisions:
        backend, target = answers[one.parsed.name]
        if one.match is not None and one.match.backend is not None:
            reason = f"'{backend.name}' has the stem '{target.stem}'."
        elif one.stem is not None:
            reason = f"The query asks for the stem {one.stem.title}, which gives it directly."
        elif one.stronger is not None:
            reason = f"'{backend.name}' answers, a weaker model for this stem: the weights of '{one.stronger.name}' are not here."
        else:
            reason = f"'{backend.name}' answers queries."
        first = f"It hears the recording without {one.without.title}." if one.without else ""
        backed = f"Its words are backed by '{one.backing}'." if one.backing else ""
        reasons = [reason, backed, first, target.through, one.match.reason if one.match else ""]
        choices[one.parsed.name] = choice(backend, target.encoder, " ".join(filter(None, reasons)))
    return Plan(choices)
