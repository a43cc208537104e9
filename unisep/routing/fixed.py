"""Route fixed stems: to a backend that has them, or to the query model in its place."""

from __future__ import annotations

from unisep.errors import DownloadError, OptionError, PluginError
from unisep.query.parsed import Ask
from unisep.query.query import Query
from unisep.routing.catalog import BackendOffer, Catalogue, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.types import Plan, Request, Route, Task, Want, choice, not_here, pull

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


def fixed_stems(request: Request, catalogue: Catalogue) -> Route:
    """Who gives the fixed stems. Raises as `resolve` does."""
    if request.route == "conditioned":
        return _by_query(request, catalogue, "as route='conditioned' asks.", "")
    offer = _fixed_backend(request, catalogue)
    if offer is None:
        why = "no backend with fixed stems is installed"
        return _by_query(request, catalogue, why, f"{why}. Better: pip install unisep-htdemucs")
    if not offer.is_here and (request.offline or request.download_failed):
        why = f"the weights of '{offer.name}' are not here" + (
            f" and could not be downloaded ({request.download_failed})" if request.download_failed else ""
        )
        if request.backend is not None or request.route == "fixed" or _has_more(offer, request):
            raise not_here(offer, request)
        return _by_query(request, catalogue, why, f"{why}. Better: {pull(offer)}, then separate again")
    stems = _chosen_stems(request, offer)
    first = offer if request.backend else min(_fixed_offers(request, catalogue), key=rank)
    aloud = (
        ""
        if first is offer
        else f"'{offer.name}' gives the stems: the weights of '{first.name}' are not here."
    )
    reason = aloud or f"'{offer.name}' gives these stems directly."
    task = Task(offer, tuple(Want(stem, stem=stem) for stem in stems))
    return Route((task,), Plan({stem: choice(offer, None, reason) for stem in stems}), warning=aloud)


def _has_more(offer: BackendOffer, request: Request) -> bool:
    """Whether the offer has all stems that are asked for, and the query model has not."""
    asked = request.stems or ()
    by_query = all(_spelt(stem, STEMS_BY_QUERY) in STEMS_BY_QUERY for stem in asked)
    return not by_query and all(_spelt(stem, offer.spec.stems) in offer.spec.stems for stem in asked)


def _fixed_backend(request: Request, catalogue: Catalogue) -> BackendOffer | None:
    """The backend to give the stems, or None when none fits and the query model can."""
    if request.backend is not None:
        offer = catalogue.backend(request.backend)
        if not offer.spec.stems and not request.own_stems:
            able = catalogue.names(stems=True)
            raise OptionError(
                f"'{offer.name}' has no fixed stems; give it as query_backend=. With stems: {able}."
            )
        return offer
    offers = _fixed_offers(request, catalogue)
    no_download = request.offline or bool(request.download_failed)
    return min(offers, key=lambda offer: rank(offer, here_first=no_download), default=None)


def _fixed_offers(request: Request, catalogue: Catalogue) -> list[BackendOffer]:
    usable = catalogue.usable_backends()
    offers = [offer for offer in usable if offer.spec.stems]
    asked = request.stems or STEMS_BY_QUERY
    fitting = [
        offer for offer in offers if all(_spelt(stem, offer.spec.stems) in offer.spec.stems for stem in asked)
    ]
    can_query = any(offer.spec.spaces for offer in usable)
    return fitting or ([] if can_query and not request.stems and request.route == "auto" else offers)


def _chosen_stems(request: Request, offer: BackendOffer) -> tuple[str, ...]:
    return _checked_stems(request.stems, request.stems_of(offer), f"'{offer.name}'")


def _checked_stems(asked: tuple[str, ...] | None, known: tuple[str, ...], who: str) -> tuple[str, ...]:
    if asked is None:
        return known
    asked = tuple(_spelt(stem, known) for stem in asked)
    unknown = [stem for stem in asked if stem not in known]
    if unknown or not asked or len(set(asked)) != len(asked):
        problem = (
            f"no stem named {unknown[0]!r}" if unknown else "nothing to give for an empty or doubled list"
        )
        raise OptionError(f"stems={list(asked)}: {who} has {problem}. Its stems: {', '.join(known)}.")
    return asked


def _spelt(stem: str, known: tuple[str, ...]) -> str:
    """The stem as the backend spells it, where only capitals differ."""
    alike = [name for name in known if name.casefold() == str(stem).casefold()]
    return alike[0] if stem not in known and len(alike) == 1 else stem


def _by_query(request: Request, catalogue: Catalogue, why: str, warning: str) -> Route:
    """Fixed stems from the query model: drums, bass and vocals by name, `other` is what remains."""
    stems = _checked_stems(request.stems, STEMS_BY_QUERY, "the query model")
    needed = STEMS_BY_QUERY if REMAINDER in stems else stems
    asks = tuple(Ask(stem, Query(text=stem)) for stem in needed if stem != REMAINDER)
    try:
        tasks = conditioned_tasks(asks, request, catalogue)
    except (PluginError, DownloadError) as error:
        if not warning:
            raise
        raise type(error)(f"Fixed stems: {warning}. And the query model cannot step in: {error}") from error
    offer = tasks[0].backend
    encoder, through = tasks[0].wants[0].encoder, tasks[0].wants[0].through
    reason = (
        f"'{offer.name}' answers by the queries drums, bass and vocals: {why.rstrip('.')}. {through}".rstrip()
    )
    plan = {stem: choice(offer, encoder, reason) for stem in stems}
    aloud = f"The stems come from '{offer.name}', a weaker model, since {warning}." if warning else ""
    return Route(tasks, Plan(plan), REMAINDER if REMAINDER in stems else "", aloud)
