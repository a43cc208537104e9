"""Route fixed stems: to a backend that has them, or to the query model in its place."""

from __future__ import annotations

import math
from dataclasses import replace

from unisep.errors import DownloadError, OptionError, PluginError, arg
from unisep.query.parsed import ParsedQuery
from unisep.query.query import Query
from unisep.routing.catalog import BackendEntry, Catalog, rank
from unisep.routing.queries import route_queries
from unisep.routing.types import BackendTask, Plan, Request, Route, Target, choice, not_here, pull

REMAINDER = "other"
STEMS_BY_QUERY = ("drums", "bass", REMAINDER, "vocals")


def route_stems(request: Request, catalog: Catalog) -> Route:
    """Choose who gives the fixed stems. Raise as `resolve` does."""
    if request.route == "conditioned":
        return _by_query(request, catalog, "as asked", "")
    entry = _backend_with_stems(request, catalog)
    if entry is None:
        reason = f"no backend with fixed stems is {'allowed' if catalog.left_out else 'installed'}"
        better = "" if catalog.left_out else ". Better: pip install unisep-htdemucs"
        return _by_query(request, catalog, reason, f"{reason}{catalog.broken_hint()}{better}")
    if not entry.is_here and (request.offline or request.download_failed):
        failed = f" and could not be downloaded ({request.download_failed})" if request.download_failed else ""
        reason = f"the weights of '{entry.name}' are not here{failed}"
        if request.backend is not None or request.route == "fixed" or _alone_has_them(entry, request):
            raise not_here(entry, request)
        return _by_query(request, catalog, reason, f"{reason}. Better: {pull(entry)}, then separate again")
    stems = _checked_stems(request.stems, request.stems_of(entry), f"'{entry.name}'")
    best = entry if request.backend else min(_backends_with_stems(request, catalog), key=rank)
    is_weaker = not _is_as_good(entry, best, catalog)
    warning = f"'{entry.name}' gives the stems: the weights of '{best.name}' are not here." if is_weaker else ""
    reason = warning or f"'{entry.name}' gives these stems directly."
    task = BackendTask(entry, tuple(Target(stem, stem=stem) for stem in stems))
    plan = Plan({stem: choice(entry, None, reason) for stem in stems}, is_complete=request.stems is None)
    return Route((task,), plan, warning=warning)


def _backend_with_stems(request: Request, catalog: Catalog) -> BackendEntry | None:
    """Return the backend to give the stems, or None when none fits and the query model can."""
    if request.backend is not None:
        entry = catalog.backend(request.backend)
        if not entry.spec.stems and not request.own_stems:
            raise OptionError(
                f"'{entry.name}' has no fixed stems; give it as {arg('query_backend')}. "
                f"With stems: {catalog.names(stems=True)}."
            )
        return entry
    default = min(entries := _backends_with_stems(request, catalog), key=rank, default=None)
    if default is None or default.is_here:
        return default
    here = [entry for entry in entries if entry.is_here]
    best = min(here, key=lambda entry: (-_quality_db(entry, catalog), rank(entry)), default=default)
    is_good = request.offline or request.download_failed or _is_as_good(best, default, catalog)
    return best if is_good else default


def _quality_db(entry: BackendEntry, catalog: Catalog) -> float:
    """Return the mean of the published figures of the four stems; minus infinity unless all are known."""
    figures = catalog.quality(entry.spec.card)
    return sum(figures.get(stem, -math.inf) for stem in STEMS_BY_QUERY) / len(STEMS_BY_QUERY)


def _is_as_good(entry: BackendEntry, other: BackendEntry, catalog: Catalog) -> bool:
    """Tell whether `entry` is `other`, or is known to be no weaker."""
    return entry is other or _quality_db(entry, catalog) >= _quality_db(other, catalog) > -math.inf


def _backends_with_stems(request: Request, catalog: Catalog) -> list[BackendEntry]:
    """Return the backends that have all the stems; where none has, all with stems, or none if queries can step in."""
    entries = [entry for entry in catalog.usable_backends() if entry.spec.stems]
    fitting = [entry for entry in entries if _has_all(request.stems or STEMS_BY_QUERY, entry.spec.stems)]
    can_query = any(entry.spec.spaces for entry in catalog.usable_backends())
    return fitting or ([] if can_query and not request.stems and request.route == "auto" else entries)


def _alone_has_them(entry: BackendEntry, request: Request) -> bool:
    """Tell whether `entry` has all stems that are asked for, and the query model has not."""
    stems = request.stems or ()
    return _has_all(stems, entry.spec.stems) and not _has_all(stems, STEMS_BY_QUERY)


def _has_all(stems: tuple[str, ...], known: tuple[str, ...]) -> bool:
    return all(_spelt(stem, known) in known for stem in stems)


def _spelt(stem: str, known: tuple[str, ...]) -> str:
    """Return the stem as the backend spells it, where only capitals differ."""
    alike = [name for name in known if name.casefold() == str(stem).casefold()]
    return alike[0] if stem not in known and len(alike) == 1 else stem


def _checked_stems(stems: tuple[str, ...] | None, known: tuple[str, ...], who: str) -> tuple[str, ...]:
    if stems is None:
        return known
    stems = tuple(_spelt(stem, known) for stem in stems)
    unknown = [stem for stem in stems if stem not in known]
    if unknown or not stems or len(set(stems)) != len(stems):
        problem = f"no stem named {unknown[0]!r}" if unknown else "nothing to give for an empty or doubled list"
        raise OptionError(f"{arg('stems', list(stems))}: {who} has {problem}. Its stems: {', '.join(known)}.")
    return stems


def _by_query(request: Request, catalog: Catalog, why: str, better: str) -> Route:
    """Route stems as the queries drums, bass and vocals, with or without specialists; `other` is what remains.

    Args:
        request: for stems.
        catalog: what is installed.
        why: it is not a backend with fixed stems, for the plan.
        better: how to do better, for a warning; "" where the caller wanted it so.
    """
    stems = _checked_stems(request.stems, STEMS_BY_QUERY, "the query model")
    needed = STEMS_BY_QUERY if REMAINDER in stems else stems
    parsed_queries = tuple(ParsedQuery(stem, Query(text=stem)) for stem in needed if stem != REMAINDER)
    try:
        routed = route_queries(parsed_queries, replace(request, route="auto" if better else request.route), catalog)
    except (PluginError, DownloadError) as error:
        if not better:
            raise
        raise type(error)(f"Fixed stems: {better}. And the query model cannot step in: {error}") from error
    last = routed.tasks[-1]
    first = last.targets[0]
    left = choice(
        last.backend, first.encoder, f"'{last.backend.name}' and the other models leave it. {first.through}".rstrip()
    )
    reason = f"In place of a backend with all stems: {why}."
    choices = {stem: routed.plan.get(stem, left) for stem in stems}
    plan = Plan(
        {stem: replace(one, reason=f"{one.reason} {reason}") for stem, one in choices.items()},
        is_complete=request.stems is None,
    )
    models = " and ".join(f"'{name}'" for name in dict.fromkeys(task.backend.name for task in routed.tasks))
    warning = f"The stems come from {models}, weaker than a model for all stems, since {better}." if better else ""
    return Route(routed.tasks, plan, REMAINDER if REMAINDER in stems else "", warning)
