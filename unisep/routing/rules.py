"""What the routing rules of plugins say of a query, and whether it can be followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unisep.errors import FAILURES, PluginError, UnisepError
from unisep.plugins.loading import load_function
from unisep.plugins.specs import Direction, Question, RouteSpec
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, Extra, rank
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.types import Request

Rule = Extra[RouteSpec]


@dataclass(frozen=True)
class RuleMatch:
    """The direction that one query takes, the rule that gave it, and the backend whose stem answers, if one does."""

    rule: Rule
    direction: Direction
    entry: BackendEntry | None = None

    @property
    def reason(self) -> str:
        """What the plan says of it."""
        why = self.direction.reason.strip().rstrip(".")
        return f"The rule {self.rule.title} sent it there{f': {why}' if why else ''}."


@dataclass(frozen=True)
class RuleMatches:
    """The asks, some in other words; the heading of each that has one, by name; what must be said aloud."""

    parsed_queries: tuple[ParsedQuery, ...]
    headings: Mapping[str, RuleMatch] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def directed(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> RuleMatches:
    """What the rules say of the asks: of each, the first answer that can be followed."""
    if not catalog.rules:
        return RuleMatches(parsed_queries)
    found: list[ParsedQuery] = []
    headings: dict[str, RuleMatch] = {}
    said: list[str] = []
    for parsed in parsed_queries:
        heading = _heading(parsed, request, catalog, said)
        if heading is not None:
            headings[parsed.name] = heading
        found.append(parsed if heading is None else _in_other_words(parsed, heading.direction.text))
    return RuleMatches(tuple(found), headings, tuple(dict.fromkeys(said)))


def question_of(parsed: ParsedQuery, request: Request, catalog: Catalog) -> Question:
    """What a rule may know of the ask."""
    stems = {entry.name: request.stems_of(entry) for entry in catalog.usable_backends() if entry.spec.stems}
    return Question(parsed.name, parsed.query.texts, parsed.query.parts, bool(parsed.query.exclude), stems)


def _heading(parsed: ParsedQuery, request: Request, catalog: Catalog, said: list[str]) -> RuleMatch | None:
    question = question_of(parsed, request, catalog)
    for rule in catalog.rules:
        try:
            direction = _answer(rule, question)
            heading = None if direction is None else _followed(RuleMatch(rule, direction), parsed, request, catalog)
        except PluginError as error:
            said.append(f"The rule {rule.title} was left out for '{parsed.name}': {error}")
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


def _followed(heading: RuleMatch, parsed: ParsedQuery, request: Request, catalog: Catalog) -> RuleMatch | None:
    """The heading as far as it can be followed; what the caller chose stays. Raises PluginError if it cannot."""
    asked = heading.direction
    if asked.text and "text" not in parsed.query.parts:
        raise PluginError("it gives other words for a query without any")
    if asked.stem and request.route != "conditioned":
        return replace(heading, entry=_with_stem(asked, request, catalog))
    if asked.stem or request.route == "fixed":
        asked = replace(asked, stem="", backend="", encoder="")
    backend = "" if request.query_backend else asked.backend
    encoder = "" if request.encoder else asked.encoder
    if backend and not (catalog.backend(backend).spec.spaces and catalog.backend(backend).is_here):
        raise PluginError(f"'{backend}' answers no queries, or its weights are not here")
    if encoder and not catalog.encoder(encoder).is_here:
        raise PluginError(f"the weights of '{encoder}' are not here")
    kept = replace(asked, backend=backend, encoder=encoder)
    if kept.backend or kept.encoder:
        own = replace(request, query_backend=backend or request.query_backend, encoder=encoder or request.encoder)
        try:
            conditioned_tasks((_in_other_words(parsed, kept.text),), own, catalog)
        except UnisepError as error:
            raise PluginError(str(error)) from error
    return replace(heading, direction=kept) if kept.text or kept.backend or kept.encoder else None


def _with_stem(asked: Direction, request: Request, catalog: Catalog) -> BackendEntry:
    name = request.backend or asked.backend
    entries = [catalog.backend(name)] if name else sorted(catalog.usable_backends(), key=rank)
    here = [entry for entry in entries if asked.stem in request.stems_of(entry) and entry.is_here]
    if not here:
        who = f"'{name}'" if name else "no backend whose weights are here"
        raise PluginError(f"{who} has {'no ' if name else 'the '}stem '{asked.stem}' ready")
    return here[0]


def _in_other_words(parsed: ParsedQuery, text: str) -> ParsedQuery:
    return replace(parsed, query=parsed.query.model_copy(update={"text": text})) if text.strip() else parsed
