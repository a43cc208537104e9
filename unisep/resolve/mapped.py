"""Encoders that reach a backend's space through a fitted map, and what is said where there is none."""

from __future__ import annotations

import shlex

from unisep.errors import EmbeddingError, QueryError
from unisep.maps import LEAST_CENTRED_COSINE, LEAST_TOP_5, MapCard
from unisep.request import Ask
from unisep.resolve.catalogue import BackendOffer, Catalogue, EncoderOffer
from unisep.resolve.route import Request


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
