"""What a result rests on beside the recording and the question: models, maps and steps, and their exact content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from unisep.plugins.plugin import Plugin
from unisep.plugins.specs import EncoderSpec
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendEntry, EncoderEntry
from unisep.routing.types import Route
from unisep.weights.cards import read_card
from unisep.weights.hashes import content_sha256
from unisep.weights.store import WeightsStore


def provenance(
    route: Route, plugins: Iterable[Plugin], own_weights: Mapping[str, Path], store: WeightsStore, maps: MapStore
) -> dict[str, str]:
    """For every model, map and step on the route: its name -> the version of its package and a sha256.

    The sha256 is over the files of the weights as they are now; it is left out where there are none.
    own_weights: the caller's files and folders, by the key of the offer that loads them.
    """
    versions = {plugin.distribution: plugin.version for plugin in plugins}
    entries: list[BackendEntry | EncoderEntry] = [*(task.backend for task in route.tasks), *_encoders(route)]
    found = {
        entry.key: _stamp(versions.get(entry.distribution, ""), _weights(entry, own_weights, store))
        for entry in entries
    }
    found |= {step.title: _stamp(versions.get(step.distribution, "")) for step in route.steps}
    for task in route.tasks:
        for target in task.targets:
            if target.encoder is not None and target.encoder.spec.space != task.space:
                card = maps.card(target.encoder.spec.space, task.space)
                found[f"map of {target.encoder.key}"] = _stamp(task.space, card.tensors_sha256 if card else "")
    return dict(sorted(found.items()))


def _encoders(route: Route) -> list[EncoderEntry]:
    return [target.encoder for task in route.tasks for target in task.targets if target.encoder is not None]


def _weights(entry: BackendEntry | EncoderEntry, own_weights: Mapping[str, Path], store: WeightsStore) -> str:
    own = own_weights.get(entry.key)
    if own is not None:  # a name on a hub is no path; the commit is in its name, or its space states it
        return content_sha256(own) if own.exists() else _space_of(entry)
    return store.sha256(read_card(entry.spec.card)) if entry.spec.card else ""


def _space_of(entry: BackendEntry | EncoderEntry) -> str:
    spec = entry.spec
    return spec.space if isinstance(spec, EncoderSpec) else ""


def _stamp(*parts: str) -> str:
    return " ".join(part for part in parts if part)
