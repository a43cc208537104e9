"""Route fixed stems: to a backend that has them, or to the query model in its place."""

from __future__ import annotations

from unisep.errors import DownloadError, OptionError, PluginError
from unisep.query.parsed import ParsedQuery
from unisep.query.query import Query
from unisep.routing.catalog import BackendEntry, Catalog, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.types import BackendTask, Plan, Request, Route, Target, choice, not_here, pull

_PLAIN_NAMES = {
    "vocals": ("vocal", "voice", "voices", "singing", "singing voice"),
    "drums": ("drum", "drum kit", "drumkit", "drum set"),
    "bass": (),
    "guitar": ("guitars",),
    "piano": ("pianos",),
}


def plainly_names(text: str, stem: str) -> bool:
    """Whether `text` means the whole stem, not a part or a kind of it.

    >>> plainly_names("The vocals", "vocals"), plainly_names("lead vocals", "vocals")
    (True, False)
    """
    words = " ".join(text.casefold().split()).removeprefix("the ")
    return words in (stem.casefold(), *_PLAIN_NAMES.get(stem, ()))


REMAINDER = "other"


STEMS_BY_QUERY = ("drums", "bass", REMAINDER, "vocals")


def fixed_stems(request: Request, catalog: Catalog) -> Route:
    """Who gives the fixed stems. Raises as `resolve` does."""
    if request.route == "conditioned":
        return _by_query(request, catalog, "as route='conditioned' asks.", "")
    entry = _fixed_backend(request, catalog)
    if entry is None:
        why = "no backend with fixed stems is installed"
        return _by_query(request, catalog, why, f"{why}. Better: pip install unisep-htdemucs")
    if not entry.is_here and (request.offline or request.download_failed):
        why = f"the weights of '{entry.name}' are not here" + (
            f" and could not be downloaded ({request.download_failed})" if request.download_failed else ""
        )
        if request.backend is not None or request.route == "fixed" or _has_more(entry, request):
            raise not_here(entry, request)
        return _by_query(request, catalog, why, f"{why}. Better: {pull(entry)}, then separate again")
    stems = _chosen_stems(request, entry)
    first = entry if request.backend else min(_fixed_offers(request, catalog), key=rank)
    aloud = "" if first is entry else f"'{entry.name}' gives the stems: the weights of '{first.name}' are not here."
    reason = aloud or f"'{entry.name}' gives these stems directly."
    task = BackendTask(entry, tuple(Target(stem, stem=stem) for stem in stems))
    return Route((task,), Plan({stem: choice(entry, None, reason) for stem in stems}), warning=aloud)


def _has_more(entry: BackendEntry, request: Request) -> bool:
    """Whether the offer has all stems that are asked for, and the query model has not."""
    asked = request.stems or ()
    by_query = all(_spelt(stem, STEMS_BY_QUERY) in STEMS_BY_QUERY for stem in asked)
    return not by_query and all(_spelt(stem, entry.spec.stems) in entry.spec.stems for stem in asked)


def _fixed_backend(request: Request, catalog: Catalog) -> BackendEntry | None:
    """The backend to give the stems, or None when none fits and the query model can."""
    if request.backend is not None:
        entry = catalog.backend(request.backend)
        if not entry.spec.stems and not request.own_stems:
            able = catalog.names(stems=True)
            raise OptionError(f"'{entry.name}' has no fixed stems; give it as query_backend=. With stems: {able}.")
        return entry
    entries = _fixed_offers(request, catalog)
    no_download = request.offline or bool(request.download_failed)
    return min(entries, key=lambda entry: rank(entry, here_first=no_download), default=None)


def _fixed_offers(request: Request, catalog: Catalog) -> list[BackendEntry]:
    usable = catalog.usable_backends()
    entries = [entry for entry in usable if entry.spec.stems]
    asked = request.stems or STEMS_BY_QUERY
    fitting = [entry for entry in entries if all(_spelt(stem, entry.spec.stems) in entry.spec.stems for stem in asked)]
    can_query = any(entry.spec.spaces for entry in usable)
    return fitting or ([] if can_query and not request.stems and request.route == "auto" else entries)


def _chosen_stems(request: Request, entry: BackendEntry) -> tuple[str, ...]:
    return _checked_stems(request.stems, request.stems_of(entry), f"'{entry.name}'")


def _checked_stems(asked: tuple[str, ...] | None, known: tuple[str, ...], who: str) -> tuple[str, ...]:
    if asked is None:
        return known
    asked = tuple(_spelt(stem, known) for stem in asked)
    unknown = [stem for stem in asked if stem not in known]
    if unknown or not asked or len(set(asked)) != len(asked):
        problem = f"no stem named {unknown[0]!r}" if unknown else "nothing to give for an empty or doubled list"
        raise OptionError(f"stems={list(asked)}: {who} has {problem}. Its stems: {', '.join(known)}.")
    return asked


def _spelt(stem: str, known: tuple[str, ...]) -> str:
    """The stem as the backend spells it, where only capitals differ."""
    alike = [name for name in known if name.casefold() == str(stem).casefold()]
    return alike[0] if stem not in known and len(alike) == 1 else stem


def _by_query(request: Request, catalog: Catalog, why: str, warning: str) -> Route:
    """Fixed stems from the query model: drums, bass and vocals by name, `other` is what remains."""
    stems = _checked_stems(request.stems, STEMS_BY_QUERY, "the query model")
    needed = STEMS_BY_QUERY if REMAINDER in stems else stems
    parsed_queries = tuple(ParsedQuery(stem, Query(text=stem)) for stem in needed if stem != REMAINDER)
    try:
        tasks = conditioned_tasks(parsed_queries, request, catalog)
    except (PluginError, DownloadError) as error:
        if not warning:
            raise
        raise type(error)(f"Fixed stems: {warning}. And the query model cannot step in: {error}") from error
    entry = tasks[0].backend
    encoder, through = tasks[0].targets[0].encoder, tasks[0].targets[0].through
    reason = f"'{entry.name}' answers by the queries drums, bass and vocals: {why.rstrip('.')}. {through}".rstrip()
    plan = {stem: choice(entry, encoder, reason) for stem in stems}
    aloud = f"The stems come from '{entry.name}', a weaker model, since {warning}." if warning else ""
    return Route(tasks, Plan(plan), REMAINDER if REMAINDER in stems else "", aloud)
