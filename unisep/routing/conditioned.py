"""Route queries: the backend, and for each query the encoder, the space and the map."""

from __future__ import annotations

import shlex
from dataclasses import replace

from unisep.errors import DownloadError, EmbeddingError, OptionError, PluginError, QueryError
from unisep.query.parsed import ParsedQuery
from unisep.query.space_maps import LEAST_CENTRED_COSINE, LEAST_TOP_5, MapCard
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, rank
from unisep.routing.types import BackendTask, Request, Target, not_here, pull


def can_map(spaces: set[str], backend: BackendEntry, catalog: Catalog) -> bool:
    """Whether each of `spaces` is one that the backend knows, or has a fit map into one."""
    return all(
        space in backend.spec.spaces or any(_fit(space, known, catalog) for known in backend.spec.spaces)
        for space in spaces
    )


def map_into(
    allowed: tuple[str, ...], parsed: ParsedQuery, encoder: EncoderEntry, request: Request, catalog: Catalog
) -> str:
    """The first of the spaces `allowed` that the encoder has a fit map into.

    Raises:
        EmbeddingError: none was fitted, or it was measured and is unfit.
        QueryError: the map is fit, but not for what the query is made of.
        WeightsError: the map is damaged.
    """
    cards = [catalog.map_between(encoder.spec.space, space) for space in allowed]
    fitted = [card for card in cards if card is not None]
    fit = next((card for card in fitted if card.is_fit), None)
    if fit is None:
        raise EmbeddingError(_refusal(allowed, encoder, fitted, request, catalog))
    if not parsed.modalities <= fit.modalities:
        heard = "was not measured" if fit.audio is None else f"is {fit.audio.centred_cosine:.2f}"
        raise QueryError(
            f"The map from the encoder '{encoder.name}' to '{fit.target}' is fit for text only, and '{parsed.name}' needs "
            f"audio (its agreement there {heard}; {LEAST_CENTRED_COSINE} is needed). Ask by text, or fit it on sounds "
            f"of your own: {_command(request)} --clips FOLDER"
        )
    return fit.target


def through_map(encoder: EncoderEntry | None, space: str, catalog: Catalog) -> str:
    """What the plan says of the map that the encoder needs to speak `space`; "" where it needs none."""
    if encoder is None or encoder.spec.space == space:
        return ""
    card = catalog.map_between(encoder.spec.space, space)
    cosine = "" if card is None else f", agreement {card.text.centred_cosine:.2f} on held-out captions"
    return f"The vectors of '{encoder.name}' are mapped from '{encoder.spec.space}' to '{space}'{cosine}."


def _fit(source: str, target: str, catalog: Catalog) -> bool:
    card = catalog.map_between(source, target)
    return card is not None and card.is_fit


def _refusal(
    allowed: tuple[str, ...], encoder: EncoderEntry, fitted: list[MapCard], request: Request, catalog: Catalog
) -> str:
    would_do = [entry.name for entry in catalog.usable_encoders() if entry.spec.space in allowed]
    others = f"Encoders that would do: {', '.join(would_do) or 'none is installed'}."
    what = f"The encoder '{encoder.name}' is of the space '{encoder.spec.space}'"
    if fitted:
        text = fitted[0].text
        return (
            f"{what}, and its map to '{fitted[0].target}' is unfit: on held-out captions its centred cosine is "
            f"{text.centred_cosine:.2f} and its top-5 {text.top_5:.2f}; {LEAST_CENTRED_COSINE} and {LEAST_TOP_5} are "
            f"needed. {others}"
        )
    return (
        f"{what}; {' or '.join(allowed)} is needed, and no map between them was fitted. "
        f"To fit one, run: {_command(request)}. {others}"
    )


def _command(request: Request) -> str:
    backend = f" --query-backend {shlex.quote(request.query_backend)}" if request.query_backend else ""
    return f"unisep align {shlex.quote(str(request.encoder))}{backend}"


def conditioned_tasks(
    parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog
) -> tuple[BackendTask, ...]:
    """The asks as tasks of the conditioned backend, one for each space. Raises as `resolve` does."""
    entry = _query_backend(parsed_queries, request, catalog)
    tasks: dict[str, BackendTask] = {}
    for parsed in parsed_queries:
        encoder, space = _encoder(parsed, entry, request, catalog)
        task = tasks.get(space, BackendTask(entry, (), space))
        through = through_map(encoder, space, catalog)
        target = Target(parsed.name, parsed=parsed, encoder=encoder, through=through, time_range=parsed.time_range)
        tasks[space] = replace(task, targets=(*task.targets, target))
    return tuple(tasks.values())


def _given_spaces(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> set[str]:
    """The spaces that the caller's vectors and encoder leave no choice about."""
    spaces = {embedding.space for parsed in parsed_queries for embedding in parsed.embeddings}
    return spaces | ({catalog.encoder(request.encoder).spec.space} if request.encoder else set())


def _query_backend(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> BackendEntry:
    if request.query_backend is not None:
        entry = catalog.backend(request.query_backend)
        if not entry.spec.spaces:
            able = catalog.names(stems=False)
            raise OptionError(f"'{entry.name}' does not answer queries; give it as backend=. Those that do: {able}.")
        if not entry.is_here and request.offline:
            raise not_here(entry, request)
        return entry
    entries = sorted((entry for entry in catalog.usable_backends() if entry.spec.spaces), key=rank)
    spaces = _given_spaces(parsed_queries, request, catalog)
    knowing = [entry for entry in entries if spaces <= set(entry.spec.spaces)]
    entries = knowing or [entry for entry in entries if can_map(spaces, entry, catalog)] or entries
    if not entries:
        raise PluginError(
            f"No backend that answers queries is installed{catalog.broken_hint()}. Run: pip install unisep-film"
        )
    here = [entry for entry in entries if entry.is_here]
    if not here:
        raise DownloadError(
            f"The weights of '{entries[0].name}' are not here, and routing a query never downloads. "
            f"Run: {pull(entries[0])}"
        )
    return here[0]


def _encoder(
    parsed: ParsedQuery, backend: BackendEntry, request: Request, catalog: Catalog
) -> tuple[EncoderEntry | None, str]:
    """Who encodes the ask, and in which space; None where the ask is all vectors."""
    spaces = {embedding.space for embedding in parsed.embeddings}
    for space in spaces:
        if space not in backend.spec.spaces:
            raise EmbeddingError(_wrong_space(f"The embedding of '{parsed.name}'", space, backend, catalog))
    if len(spaces) > 1:
        raise EmbeddingError(
            f"'{parsed.name}' mixes vectors of the spaces {', '.join(sorted(spaces))}. Give one space."
        )
    if not parsed.modalities:
        return None, spaces.pop()
    allowed = tuple(spaces) or backend.spec.spaces
    if request.encoder is not None:
        return _named_encoder(parsed, allowed, request, catalog)
    fitting = [entry for entry in catalog.usable_encoders() if entry.spec.space in allowed]
    able = [entry for entry in fitting if parsed.modalities <= entry.spec.modalities]
    here = [entry for entry in able if entry.is_here]
    if here:
        best = min(here, key=lambda entry: (allowed.index(entry.spec.space), entry.name))
        return best, best.spec.space
    if able:
        raise DownloadError(
            f"The weights of the encoder '{able[0].name}' are not here, and routing a query never downloads. "
            f"Run: {pull(able[0])}"
        )
    raise _no_encoder(parsed, fitting, allowed, catalog)


def _named_encoder(
    parsed: ParsedQuery, allowed: tuple[str, ...], request: Request, catalog: Catalog
) -> tuple[EncoderEntry, str]:
    entry = catalog.encoder(str(request.encoder))
    spec = entry.spec
    space = spec.space if spec.space in allowed else map_into(allowed, parsed, entry, request, catalog)
    if not parsed.modalities <= spec.modalities:
        raise QueryError(
            f"The encoder '{entry.name}' encodes {' and '.join(sorted(spec.modalities))}, and '{parsed.name}' needs "
            f"{' and '.join(sorted(parsed.modalities))}. Ask differently, or leave encoder= out."
        )
    if not entry.is_here and request.offline:
        raise not_here(entry, request)
    return entry, space


def _wrong_space(what: str, space: str, backend: BackendEntry, catalog: Catalog) -> str:
    spaces = backend.spec.spaces
    would_do = [entry.name for entry in catalog.usable_encoders() if entry.spec.space in spaces]
    return (
        f"{what} is of the space '{space}', which '{backend.name}' does not know (it knows {', '.join(spaces)}). "
        f"Encoders that would do: {', '.join(would_do) or 'none is installed'}."
    )


def _no_encoder(
    parsed: ParsedQuery, fitting: list[EncoderEntry], allowed: tuple[str, ...], catalog: Catalog
) -> PluginError | QueryError:
    if not fitting:
        return PluginError(
            f"No installed encoder gives the space {' or '.join(allowed)}{catalog.broken_hint()}. "
            "Run: pip install unisep-clap"
        )
    return QueryError(
        f"No installed encoder takes {' and '.join(sorted(parsed.modalities))} for '{parsed.name}'. "
        f"Installed: {', '.join(f'{o.name} ({chr(44).join(sorted(o.spec.modalities))})' for o in fitting)}."
    )
