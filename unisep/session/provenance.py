"""What a result rests on beside the recording and the query: models, maps and steps, and their exact content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unisep.plugins.specs import EncoderSpec
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendEntry, EncoderEntry
from unisep.routing.types import Route
from unisep.weights.cards import read_card
from unisep.weights.hashes import content_sha256
from unisep.weights.store import WeightsStore


def provenance(
    route: Route, versions: Mapping[str, str], own_weights: Mapping[str, Path], store: WeightsStore, maps: MapStore
) -> dict[str, str]:
    """Return for every model, map and step on the route the version of its package and a sha256.

    The sha256 is over the files of the weights as they are now; it is left out where there are none.

    Args:
        route: who answers.
        versions: of the installed distributions, by name.
        own_weights: the caller's files and folders, by the key of the entry that loads them.
        store: where all other weights are.
        maps: where the maps between spaces are.
    """
    targets = [(target, task.space) for task in route.tasks for target in task.targets]
    entries: list[BackendEntry | EncoderEntry] = [task.backend for task in route.tasks]
    entries += [target.encoder for target, _ in targets if target.encoder is not None]
    stamps = {
        entry.key: _stamp(versions.get(entry.distribution, ""), _weights_sha256(entry, own_weights, store))
        for entry in entries
    }
    stamps |= {step.title: versions.get(step.distribution, "") for step in route.steps}
    for target, space in targets:
        if target.encoder is not None and target.encoder.spec.space != space:
            card = maps.card(target.encoder.spec.space, space)
            stamps[f"map of {target.encoder.key}"] = _stamp(space, card.tensors_sha256 if card else "")
    return dict(sorted(stamps.items()))


def _weights_sha256(entry: BackendEntry | EncoderEntry, own_weights: Mapping[str, Path], store: WeightsStore) -> str:
    path = own_weights.get(entry.key)
    if path is None:
        return store.sha256(read_card(entry.spec.card)) if entry.spec.card else ""
    if path.exists():
        return content_sha256(path)
    # A name on a hub is no path; the commit is in its name, or its space states it.
    return entry.spec.space if isinstance(entry.spec, EncoderSpec) else ""


def _stamp(*parts: str) -> str:
    return " ".join(part for part in parts if part)
