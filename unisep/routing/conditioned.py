"""Route queries: the backend, and for each query the encoder, the space and the map."""

from __future__ import annotations

import shlex
from dataclasses import replace

from unisep.errors import DownloadError, EmbeddingError, OptionError, PluginError, QueryError, UnisepError, arg
from unisep.query.parsed import ParsedQuery
from unisep.query.space_maps import LEAST_CENTRED_COSINE, LEAST_TOP_5, MapCard
from unisep.routing.catalog import BackendEntry, Catalog, CatalogEntry, EncoderEntry, SpecT
from unisep.routing.types import BackendTask, Request, Target, not_here, pull


def conditioned_tasks(
    parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog
) -> tuple[BackendTask, ...]:
    """Return the queries as tasks of one backend, one for each space. Raise as `resolve` does."""
    backend = _query_backend(parsed_queries, request, catalog)
    tasks: dict[str, BackendTask] = {}
    for parsed in parsed_queries:
        encoder, space = _encoder(parsed, backend, request, catalog)
        through = _through_map(encoder, space, catalog)
        target = Target(parsed.name, parsed=parsed, encoder=encoder, through=through, time_range=parsed.time_range)
        task = tasks.get(space, BackendTask(backend, (), space))
        tasks[space] = replace(task, targets=(*task.targets, target))
    return tuple(tasks.values())


def _query_backend(parsed_queries: tuple[ParsedQuery, ...], request: Request, catalog: Catalog) -> BackendEntry:
    if request.query_backend is not None:
        entry = catalog.backend(request.query_backend)
        if not entry.spec.spaces:
            able = catalog.names(stems=False)
            raise OptionError(
                f"'{entry.name}' does not answer queries; give it as {arg('backend')}. Those that do: {able}."
            )
        if not entry.is_here and request.offline:
            raise not_here(entry, request)
        return entry
    entries = [entry for entry in catalog.usable_backends() if entry.spec.spaces]
    entries = [entry for entry in entries if request.live or not entry.spec.only_by_name]
    # The spaces that the caller's vectors and encoder leave no choice about.
    spaces = {embedding.space for parsed in parsed_queries for embedding in parsed.embeddings}
    spaces |= {catalog.encoder(request.encoder).spec.space} if request.encoder else set()
    knowing = [entry for entry in entries if spaces <= set(entry.spec.spaces)]
    entries = knowing or [entry for entry in entries if _reaches_all(spaces, entry, catalog)] or entries
    if not entries:
        raise PluginError(
            f"No backend that answers queries is installed{catalog.broken_hint()}. Run: pip install unisep-film"
        )
    return _first_here(entries, f"The weights of '{entries[0].name}'", catalog)


def _encoder(
    parsed: ParsedQuery, backend: BackendEntry, request: Request, catalog: Catalog
) -> tuple[EncoderEntry | None, str]:
    """Return who encodes the query, and in which space; None where the query is all vectors."""
    spaces = {embedding.space for embedding in parsed.embeddings}
    for space in spaces - set(backend.spec.spaces):
        raise EmbeddingError(
            f"The embedding of '{parsed.name}' is of the space '{space}', which '{backend.name}' does not know (it knows "
            f"{', '.join(backend.spec.spaces)}). Encoders that would do: {catalog.encoders_of(backend.spec.spaces)}."
        )
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
    if not able:
        raise _no_encoder(parsed, fitting, allowed, catalog)
    able.sort(key=lambda entry: (allowed.index(entry.spec.space), entry.name))
    best = _first_here(able, f"The weights of the encoder '{able[0].name}'", catalog)
    return best, best.spec.space


def _first_here(entries: list[CatalogEntry[SpecT]], what: str, catalog: Catalog) -> CatalogEntry[SpecT]:
    """Return the first whose weights are here. Raise DownloadError where none's are."""
    for entry in entries:
        if entry.is_here:
            return entry
    hint = catalog.broken_hint()
    raise DownloadError(f"{what} are not here, and routing a query never downloads{hint}. Run: {pull(entries[0])}")


def _named_encoder(
    parsed: ParsedQuery, allowed: tuple[str, ...], request: Request, catalog: Catalog
) -> tuple[EncoderEntry, str]:
    entry = catalog.encoder(str(request.encoder))
    spec = entry.spec
    space = spec.space if spec.space in allowed else _map_into(allowed, parsed, entry, request, catalog)
    if not parsed.modalities <= spec.modalities:
        raise QueryError(
            f"The encoder '{entry.name}' encodes {' and '.join(sorted(spec.modalities))}, and '{parsed.name}' needs "
            f"{' and '.join(sorted(parsed.modalities))}. Ask differently, or leave {arg('encoder')} out."
        )
    if not entry.is_here and request.offline:
        raise not_here(entry, request)
    return entry, space


def _no_encoder(
    parsed: ParsedQuery, fitting: list[EncoderEntry], allowed: tuple[str, ...], catalog: Catalog
) -> UnisepError:
    if not fitting:
        return PluginError(
            f"No installed encoder gives the space {' or '.join(allowed)}{catalog.broken_hint()}. "
            "Run: pip install unisep-clap"
        )
    installed = ", ".join(f"{entry.name} ({','.join(sorted(entry.spec.modalities))})" for entry in fitting)
    return QueryError(
        f"No installed encoder takes {' and '.join(sorted(parsed.modalities))} for '{parsed.name}'. "
        f"Installed: {installed}."
    )


def _reaches_all(spaces: set[str], backend: BackendEntry, catalog: Catalog) -> bool:
    """Tell whether each of `spaces` is one that the backend knows, or has a fit map into one."""

    def is_fit(source: str, target: str) -> bool:
        card = catalog.map_between(source, target)
        return card is not None and card.is_fit

    known = backend.spec.spaces
    return all(space in known or any(is_fit(space, target) for target in known) for space in spaces)


def _map_into(
    allowed: tuple[str, ...], parsed: ParsedQuery, encoder: EncoderEntry, request: Request, catalog: Catalog
) -> str:
    """Return the first of the spaces `allowed` that the encoder has a fit map into.

    Raises:
        EmbeddingError: none was fitted, or it was measured and is unfit.
        QueryError: the map is fit, but not for what the query is made of.
        WeightsError: the map is damaged.
    """
    cards = [catalog.map_between(encoder.spec.space, space) for space in allowed]
    fitted = [card for card in cards if card is not None]
    fit = next((card for card in fitted if card.is_fit), None)
    if fit is None:
        raise EmbeddingError(_no_map(allowed, encoder, fitted, request, catalog))
    if not parsed.modalities <= fit.modalities:
        agreement = "was not measured" if fit.audio is None else f"is {fit.audio.centred_cosine:.2f}"
        raise QueryError(
            f"The map from the encoder '{encoder.name}' to '{fit.target}' is fit for text only, and '{parsed.name}' needs "
            f"audio (its agreement there {agreement}; {LEAST_CENTRED_COSINE} is needed). Ask by text, or fit it on sounds "
            f"of your own: {_align_command(request)} --clips FOLDER"
        )
    return fit.target


def _no_map(
    allowed: tuple[str, ...], encoder: EncoderEntry, fitted: list[MapCard], request: Request, catalog: Catalog
) -> str:
    others = f"Encoders that would do: {catalog.encoders_of(allowed)}."
    what = f"The encoder '{encoder.name}' is of the space '{encoder.spec.space}'"
    if not fitted:
        return (
            f"{what}; {' or '.join(allowed)} is needed, and no map between them was fitted. "
            f"To fit one, run: {_align_command(request)}. {others}"
        )
    text = fitted[0].text
    return (
        f"{what}, and its map to '{fitted[0].target}' is unfit: on held-out captions its centred cosine is "
        f"{text.centred_cosine:.2f} and its top-5 {text.top_5:.2f}; {LEAST_CENTRED_COSINE} and {LEAST_TOP_5} are "
        f"needed. {others}"
    )


def _through_map(encoder: EncoderEntry | None, space: str, catalog: Catalog) -> str:
    """Return what the plan says of the map that the encoder needs to speak `space`; "" where it needs none."""
    if encoder is None or encoder.spec.space == space:
        return ""
    card = catalog.map_between(encoder.spec.space, space)
    agreement = "" if card is None else f", agreement {card.text.centred_cosine:.2f} on held-out captions"
    return f"The vectors of '{encoder.name}' are mapped from '{encoder.spec.space}' to '{space}'{agreement}."


def _align_command(request: Request) -> str:
    backend = f" --query-backend {shlex.quote(request.query_backend)}" if request.query_backend else ""
    return f"unisep align {shlex.quote(str(request.encoder))}{backend}"
