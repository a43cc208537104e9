"""Who answers queries: the backend, and for each query the encoder and the space."""

from __future__ import annotations

from dataclasses import replace

from unisep.errors import DownloadError, EmbeddingError, OptionError, PluginError, QueryError
from unisep.request import Ask
from unisep.resolve.catalogue import BackendOffer, Catalogue, EncoderOffer, rank
from unisep.resolve.mapped import can_map, map_into, through_map
from unisep.resolve.route import Request, Task, Want, not_here, pull


def conditioned_tasks(asks: tuple[Ask, ...], request: Request, catalogue: Catalogue) -> tuple[Task, ...]:
    """The asks as tasks of the conditioned backend, one for each space. Raises as `resolve` does."""
    offer = _query_backend(asks, request, catalogue)
    tasks: dict[str, Task] = {}
    for ask in asks:
        encoder, space = _encoder(ask, offer, request, catalogue)
        task = tasks.get(space, Task(offer, (), space))
        through = through_map(encoder, space, catalogue)
        want = Want(ask.name, ask=ask, encoder=encoder, through=through, time_range=ask.time_range)
        tasks[space] = replace(task, wants=(*task.wants, want))
    return tuple(tasks.values())


def _given_spaces(asks: tuple[Ask, ...], request: Request, catalogue: Catalogue) -> set[str]:
    """The spaces that the caller's vectors and encoder leave no choice about."""
    spaces = {embedding.space for ask in asks for embedding in ask.embeddings}
    return spaces | ({catalogue.encoder(request.encoder).spec.space} if request.encoder else set())


def _query_backend(asks: tuple[Ask, ...], request: Request, catalogue: Catalogue) -> BackendOffer:
    if request.query_backend is not None:
        offer = catalogue.backend(request.query_backend)
        if not offer.spec.spaces:
            able = catalogue.names(stems=False)
            raise OptionError(
                f"'{offer.name}' does not answer queries; give it as backend=. Those that do: {able}."
            )
        if not offer.is_here and request.offline:
            raise not_here(offer, request)
        return offer
    offers = sorted((offer for offer in catalogue.usable_backends() if offer.spec.spaces), key=rank)
    spaces = _given_spaces(asks, request, catalogue)
    knowing = [offer for offer in offers if spaces <= set(offer.spec.spaces)]
    offers = knowing or [offer for offer in offers if can_map(spaces, offer, catalogue)] or offers
    if not offers:
        raise PluginError(
            f"No backend that answers queries is installed{catalogue.broken_hint()}. Run: pip install unisep-film"
        )
    here = [offer for offer in offers if offer.is_here]
    if not here:
        raise DownloadError(
            f"The weights of '{offers[0].name}' are not here, and routing a query never downloads. "
            f"Run: {pull(offers[0])}"
        )
    return here[0]


def _encoder(
    ask: Ask, backend: BackendOffer, request: Request, catalogue: Catalogue
) -> tuple[EncoderOffer | None, str]:
    """Who encodes the ask, and in which space; None where the ask is all vectors."""
    spaces = {embedding.space for embedding in ask.embeddings}
    for space in spaces:
        if space not in backend.spec.spaces:
            raise EmbeddingError(_wrong_space(f"The embedding of '{ask.name}'", space, backend, catalogue))
    if len(spaces) > 1:
        raise EmbeddingError(
            f"'{ask.name}' mixes vectors of the spaces {', '.join(sorted(spaces))}. Give one space."
        )
    if not ask.modalities:
        return None, spaces.pop()
    allowed = tuple(spaces) or backend.spec.spaces
    if request.encoder is not None:
        return _named_encoder(ask, allowed, request, catalogue)
    fitting = [offer for offer in catalogue.usable_encoders() if offer.spec.space in allowed]
    able = [offer for offer in fitting if ask.modalities <= offer.spec.modalities]
    here = [offer for offer in able if offer.is_here]
    if here:
        best = min(here, key=lambda offer: (allowed.index(offer.spec.space), offer.name))
        return best, best.spec.space
    if able:
        raise DownloadError(
            f"The weights of the encoder '{able[0].name}' are not here, and routing a query never downloads. "
            f"Run: {pull(able[0])}"
        )
    raise _no_encoder(ask, fitting, allowed, catalogue)


def _named_encoder(
    ask: Ask, allowed: tuple[str, ...], request: Request, catalogue: Catalogue
) -> tuple[EncoderOffer, str]:
    offer = catalogue.encoder(str(request.encoder))
    spec = offer.spec
    space = spec.space if spec.space in allowed else map_into(allowed, ask, offer, request, catalogue)
    if not ask.modalities <= spec.modalities:
        raise QueryError(
            f"The encoder '{offer.name}' encodes {' and '.join(sorted(spec.modalities))}, and '{ask.name}' needs "
            f"{' and '.join(sorted(ask.modalities))}. Ask differently, or leave encoder= out."
        )
    if not offer.is_here and request.offline:
        raise not_here(offer, request)
    return offer, space


def _wrong_space(what: str, space: str, backend: BackendOffer, catalogue: Catalogue) -> str:
    spaces = backend.spec.spaces
    would_do = [offer.name for offer in catalogue.usable_encoders() if offer.spec.space in spaces]
    return (
        f"{what} is of the space '{space}', which '{backend.name}' does not know (it knows {', '.join(spaces)}). "
        f"Encoders that would do: {', '.join(would_do) or 'none is installed'}."
    )


def _no_encoder(
    ask: Ask, fitting: list[EncoderOffer], allowed: tuple[str, ...], catalogue: Catalogue
) -> PluginError | QueryError:
    if not fitting:
        return PluginError(
            f"No installed encoder gives the space {' or '.join(allowed)}{catalogue.broken_hint()}. "
            "Run: pip install unisep-clap"
        )
    return QueryError(
        f"No installed encoder takes {' and '.join(sorted(ask.modalities))} for '{ask.name}'. "
        f"Installed: {', '.join(f'{o.name} ({chr(44).join(sorted(o.spec.modalities))})' for o in fitting)}."
    )
