"""Route queries: the backend, and for each query the encoder, the space and the map."""

from __future__ import annotations

import shlex
from dataclasses import replace

from unisep.errors import DownloadError, EmbeddingError, OptionError, PluginError, QueryError
from unisep.query.parsed import Ask
from unisep.query.space_maps import LEAST_CENTRED_COSINE, LEAST_TOP_5, MapCard
from unisep.routing.catalog import BackendOffer, Catalogue, EncoderOffer, rank
from unisep.routing.types import Request, Task, Want, not_here, pull


def can_map(spaces: set[str], backend: BackendOffer, catalogue: Catalogue) -> bool:
    """Whether each of `spaces` is one that the backend knows, or has a fit map into one."""
    return all(
        space in backend.spec.spaces or any(_fit(space, known, catalogue) for known in backend.spec.spaces)
        for space in spaces
    )


def map_into(
    allowed: tuple[str, ...], ask: Ask, encoder: EncoderOffer, request: Request, catalogue: Catalogue
) -> str:
    """The first of the spaces `allowed` that the encoder has a fit map into.

    Raises:
        EmbeddingError: none was fitted, or it was measured and is unfit.
        QueryError: the map is fit, but not for what the query is made of.
        WeightsError: the map is damaged.
    """
    cards = [catalogue.map_between(encoder.spec.space, space) for space in allowed]
    fitted = [card for card in cards if card is not None]
    fit = next((card for card in fitted if card.is_fit), None)
    if fit is None:
        raise EmbeddingError(_refusal(allowed, encoder, fitted, request, catalogue))
    if not ask.modalities <= fit.modalities:
        heard = "was not measured" if fit.audio is None else f"is {fit.audio.centred_cosine:.2f}"
        raise QueryError(
            f"The map from the encoder '{encoder.name}' to '{fit.target}' is fit for text only, and '{ask.name}' needs "
            f"audio (its agreement there {heard}; {LEAST_CENTRED_COSINE} is needed). Ask by text, or fit it on sounds "
            f"of your own: {_command(request)} --clips FOLDER"
        )
    return fit.target


def through_map(encoder: EncoderOffer | None, space: str, catalogue: Catalogue) -> str:
    """What the plan says of the map that the encoder needs to speak `space`; "" where it needs none."""
    if encoder is None or encoder.spec.space == space:
        return ""
    card = catalogue.map_between(encoder.spec.space, space)
    cosine = "" if card is None else f", agreement {card.text.centred_cosine:.2f} on held-out captions"
    return f"The vectors of '{encoder.name}' are mapped from '{encoder.spec.space}' to '{space}'{cosine}."


def _fit(source: str, target: str, catalogue: Catalogue) -> bool:
    card = catalogue.map_between(source, target)
    return card is not None and card.is_fit


def _refusal(
    allowed: tuple[str, ...],
    encoder: EncoderOffer,
    fitted: list[MapCard],
    request: Request,
    catalogue: Catalogue,
) -> str:
    would_do = [offer.name for offer in catalogue.usable_encoders() if offer.spec.space in allowed]
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
