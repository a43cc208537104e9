"""Ask the routing rules of plugins, and check whether what they say can be followed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unisep.errors import FAILURES, PluginError, UnisepError
from unisep.plugins.loading import load_function
from unisep.plugins.specs import Direction, Question, RouteSpec
from unisep.query.parsed import ParsedQuery
from unisep.routing.catalog import BackendEntry, Catalog, Extension
from unisep.routing.conditioned import conditioned_tasks
from unisep.routing.types import Request


@dataclass(frozen=True)
class RuleMatch:
    """What a rule says of one query, as far as it can be followed; `backend` is the one whose stem answers, if any."""

    rule: Extension[RouteSpec]
    direction: Direction
    backend: BackendEntry | None = None

    @property
    def names_a_model(self) -> bool:
        """Whether it says who answers, and not only in which words to ask."""
        return bool(self.backend or self.direction.backend or self.direction.encoder)

    @property
    def reason(self) -> str:
        """What the plan says of it."""
        why = self.direction.reason.strip().rstrip(".")
        return f"The rule {self.rule.title} sent it there{f': {why}' if why else ''}."

    def in_its_words(self, parsed: ParsedQuery) -> ParsedQuery:
        """Return the query in the words of the rule, if it gives any."""
        return _reworded(parsed, self.direction.text)


def match_rule(parsed: ParsedQuery, request: Request, catalog: Catalog, warnings: list[str]) -> RuleMatch | None:
    """Return the first answer of a rule that can be followed; what cannot is told in `warnings`."""
    for rule in catalog.rules:
        try:
            direction = _ask(rule, question_of(parsed, request, catalog))
            match = None if direction is None else _followed(RuleMatch(rule, direction), parsed, request, catalog)
        except PluginError as error:
            warnings.append(f"The rule {rule.title} was left out for '{parsed.name}': {error}")
            continue
        if match is not None:
            return match
    return None


def question_of(parsed: ParsedQuery, request: Request, catalog: Catalog) -> Question:
    """Return what a rule may know of the query."""
    stems = {entry.name: request.stems_of(entry) for entry in catalog.usable_backends() if entry.spec.stems}
    return Question(parsed.name, parsed.query.texts, parsed.query.parts, bool(parsed.query.exclude), stems)


def _ask(rule: Extension[RouteSpec], question: Question) -> Direction | None:
    function = load_function(rule.spec)
    try:
        direction = function(question)
    except UnisepError as error:
        raise PluginError(str(error)) from error
    except FAILURES as error:
        raise PluginError(f"it failed with {type(error).__name__}: {error}") from error
    if direction is None:
        return None
    if type(direction) is not Direction or not all(isinstance(text, str) for text in vars(direction).values()):
        raise PluginError(f"it returned {direction!r}, which is neither a Direction of texts nor None")
    return direction


def _followed(match: RuleMatch, parsed: ParsedQuery, request: Request, catalog: Catalog) -> RuleMatch | None:
    """Return the match as far as it can be followed; what the caller chose stays. Raise PluginError if it cannot."""
    direction = match.direction
    if hint := catalog.left_out_hint({direction.backend, direction.encoder}):
        raise PluginError(hint)
    if direction.text and "text" not in parsed.query.parts:
        raise PluginError("it gives other words for a query without any")
    if direction.stem and request.route != "conditioned":
        return replace(match, backend=_with_stem(direction, request, catalog))
    if direction.stem or request.route == "fixed":
        direction = replace(direction, stem="", backend="", encoder="")
    backend = "" if request.query_backend else direction.backend
    encoder = "" if request.encoder else direction.encoder
    if backend and not (catalog.backend(backend).spec.spaces and catalog.backend(backend).is_here):
        raise PluginError(f"'{backend}' answers no queries, or its weights are not here")
    if encoder and not catalog.encoder(encoder).is_here:
        raise PluginError(f"the weights of '{encoder}' are not here")
    if backend or encoder:
        narrowed = replace(request, query_backend=backend or request.query_backend, encoder=encoder or request.encoder)
        try:
            conditioned_tasks((_reworded(parsed, direction.text),), narrowed, catalog)
        except UnisepError as error:
            raise PluginError(str(error)) from error
    followed = replace(direction, backend=backend, encoder=encoder)
    return replace(match, direction=followed) if direction.text or backend or encoder else None


def _with_stem(direction: Direction, request: Request, catalog: Catalog) -> BackendEntry:
    name = request.backend or direction.backend
    for entry in [catalog.backend(name)] if name else catalog.usable_backends():
        if direction.stem in request.stems_of(entry) and entry.is_here:
            return entry
    who = f"'{name}'" if name else "no backend whose weights are here"
    raise PluginError(f"{who} has {'no ' if name else 'the '}stem '{direction.stem}' ready")


def _reworded(parsed: ParsedQuery, text: str) -> ParsedQuery:
    return replace(parsed, query=parsed.query.model_copy(update={"text": text})) if text.strip() else parsed
