"""What the routing rules of plugins say of a query, and whether it can be followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unisep.errors import FAILURES, PluginError, UnisepError
from unisep.plugins.loading import load_function
from unisep.plugins.specs import Direction, Question, RouteSpec
from unisep.query.parsed import Ask
from unisep.routing.catalog import BackendOffer, Catalogue, Extra, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.types import Request

Rule = Extra[RouteSpec]


@dataclass(frozen=True)
class Heading:
    """The direction that one query takes, the rule that gave it, and the backend whose stem answers, if one does."""

    rule: Rule
    direction: Direction
    offer: BackendOffer | None = None

    @property
    def reason(self) -> str:
        """What the plan says of it."""
        why = self.direction.reason.strip().rstrip(".")
        return f"The rule {self.rule.title} sent it there{f': {why}' if why else ''}."


@dataclass(frozen=True)
class Directed:
    """The asks, some in other words; the heading of each that has one, by name; what must be said aloud."""

    asks: tuple[Ask, ...]
    headings: Mapping[str, Heading] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def directed(asks: tuple[Ask, ...], request: Request, catalogue: Catalogue) -> Directed:
    """What the rules say of the asks: of each, the first answer that can be followed."""
    if not catalogue.rules:
        return Directed(asks)
    found: list[Ask] = []
    headings: dict[str, Heading] = {}
    said: list[str] = []
    for ask in asks:
        heading = _heading(ask, request, catalogue, said)
        if heading is not None:
            headings[ask.name] = heading
        found.append(ask if heading is None else _in_other_words(ask, heading.direction.text))
    return Directed(tuple(found), headings, tuple(dict.fromkeys(said)))


def question_of(ask: Ask, request: Request, catalogue: Catalogue) -> Question:
    """What a rule may know of the ask."""
    stems = {offer.name: request.stems_of(offer) for offer in catalogue.usable_backends() if offer.spec.stems}
    return Question(ask.name, ask.query.texts, ask.query.parts, bool(ask.query.exclude), stems)


def _heading(ask: Ask, request: Request, catalogue: Catalogue, said: list[str]) -> Heading | None:
    question = question_of(ask, request, catalogue)
    for rule in catalogue.rules:
        try:
            direction = _answer(rule, question)
            heading = (
                None if direction is None else _followed(Heading(rule, direction), ask, request, catalogue)
            )
        except PluginError as error:
            said.append(f"The rule {rule.title} was left out for '{ask.name}': {error}")
            continue
        if heading is not None:
            return heading
    return None


def _answer(rule: Rule, question: Question) -> Direction | None:
    function = load_function(rule.spec)
    try:
        direction = function(question)
    except UnisepError as error:
        raise PluginError(str(error)) from error
    except FAILURES as error:
        raise PluginError(f"it failed with {type(error).__name__}: {error}") from error
    if direction is None:
        return None
    texts = [*vars(direction).values()] if type(direction) is Direction else [None]
    if not all(isinstance(text, str) for text in texts):
        raise PluginError(f"it returned {direction!r}, which is neither a Direction of texts nor None")
    return direction


def _followed(heading: Heading, ask: Ask, request: Request, catalogue: Catalogue) -> Heading | None:
    """The heading as far as it can be followed; what the caller chose stays. Raises PluginError if it cannot."""
    asked = heading.direction
    if asked.text and "text" not in ask.query.parts:
        raise PluginError("it gives other words for a query without any")
    if asked.stem and request.route != "conditioned":
        return replace(heading, offer=_with_stem(asked, request, catalogue))
    if asked.stem or request.route == "fixed":
        asked = replace(asked, stem="", backend="", encoder="")
    backend = "" if request.query_backend else asked.backend
    encoder = "" if request.encoder else asked.encoder
    if backend and not (catalogue.backend(backend).spec.spaces and catalogue.backend(backend).is_here):
        raise PluginError(f"'{backend}' answers no queries, or its weights are not here")
    if encoder and not catalogue.encoder(encoder).is_here:
        raise PluginError(f"the weights of '{encoder}' are not here")
    kept = replace(asked, backend=backend, encoder=encoder)
    if kept.backend or kept.encoder:
        own = replace(
            request, query_backend=backend or request.query_backend, encoder=encoder or request.encoder
        )
        try:
            conditioned_tasks((_in_other_words(ask, kept.text),), own, catalogue)
        except UnisepError as error:
            raise PluginError(str(error)) from error
    return replace(heading, direction=kept) if kept.text or kept.backend or kept.encoder else None


def _with_stem(asked: Direction, request: Request, catalogue: Catalogue) -> BackendOffer:
    name = request.backend or asked.backend
    offers = [catalogue.backend(name)] if name else sorted(catalogue.usable_backends(), key=rank)
    here = [offer for offer in offers if asked.stem in request.stems_of(offer) and offer.is_here]
    if not here:
        who = f"'{name}'" if name else "no backend whose weights are here"
        raise PluginError(f"{who} has {'no ' if name else 'the '}stem '{asked.stem}' ready")
    return here[0]


def _in_other_words(ask: Ask, text: str) -> Ask:
    return replace(ask, query=ask.query.model_copy(update={"text": text})) if text.strip() else ask
