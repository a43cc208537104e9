"""What a result rests on beside the recording and the question: models, maps and steps, and their exact content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from unisep.plugins.plugin import Plugin
from unisep.plugins.specs import EncoderSpec
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendOffer, EncoderOffer
from unisep.routing.types import Route
from unisep.weights.cards import read_card
from unisep.weights.hashes import content_sha256
from unisep.weights.store import WeightsStore


def provenance(
    route: Route,
    plugins: Iterable[Plugin],
    own_weights: Mapping[str, Path],
    store: WeightsStore,
    maps: MapStore,
) -> dict[str, str]:
    """For every model, map and step on the route: its name -> the version of its package and a sha256.

    The sha256 is over the files of the weights as they are now; it is left out where there are none.
    own_weights: the caller's files and folders, by the key of the offer that loads them.
    """
    versions = {plugin.distribution: plugin.version for plugin in plugins}
    offers: list[BackendOffer | EncoderOffer] = [*(task.backend for task in route.tasks), *_encoders(route)]
    found = {
        offer.key: _stamp(versions.get(offer.distribution, ""), _weights(offer, own_weights, store))
        for offer in offers
    }
    found |= {step.title: _stamp(versions.get(step.distribution, "")) for step in route.steps}
    for task in route.tasks:
        for want in task.wants:
            if want.encoder is not None and want.encoder.spec.space != task.space:
                card = maps.card(want.encoder.spec.space, task.space)
                found[f"map of {want.encoder.key}"] = _stamp(task.space, card.tensors_sha256 if card else "")
    return dict(sorted(found.items()))


def _encoders(route: Route) -> list[EncoderOffer]:
    return [want.encoder for task in route.tasks for want in task.wants if want.encoder is not None]


def _weights(offer: BackendOffer | EncoderOffer, own_weights: Mapping[str, Path], store: WeightsStore) -> str:
    own = own_weights.get(offer.key)
    if own is not None:  # a name on a hub is no path; the commit is in its name, or its space states it
        return content_sha256(own) if own.exists() else _space_of(offer)
    return store.sha256(read_card(offer.spec.card)) if offer.spec.card else ""


def _space_of(offer: BackendOffer | EncoderOffer) -> str:
    spec = offer.spec
    return spec.space if isinstance(spec, EncoderSpec) else ""


def _stamp(*parts: str) -> str:
    return " ".join(part for part in parts if part)
