"""Backends and encoders, loaded once and kept until they are closed."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from unisep import plugins
from unisep.engine.device import Precision
from unisep.engine.malloc import give_back
from unisep.ensemble.assembly import Assembly, assemble
from unisep.ensemble.definition import Ensemble, as_ensemble
from unisep.errors import FAILURES, WeightsError
from unisep.files.paths import is_there
from unisep.plugins.backend import Backend
from unisep.plugins.encoder import QueryEncoder
from unisep.plugins.specs import BackendSpec, EncoderSpec
from unisep.progress import ProgressReporter
from unisep.query.encode import AlignedEncoder
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, catalog
from unisep.routing.types import BackendTask, Route
from unisep.session.provenance import provenance
from unisep.weights.cards import read_card
from unisep.weights.hub import find_place, split_place
from unisep.weights.store import FileProgress, WeightsStore

T = TypeVar("T")


_CPU = torch.device("cpu")


class ModelPool:
    """What one Separator has loaded. Loading is under one lock; what is loaded is shared freely.

    own_weights: files or folders of the caller, by the key of the backend that loads them.
    given: plugins of this Separator alone, beside those that are installed.
    """

    def __init__(self, store: WeightsStore, precision: Precision, given: tuple[plugins.Plugin, ...] = ()) -> None:
        self.own_weights: dict[str, Path] = {}
        self._store = store
        self._given = given
        self._maps = MapStore()
        self._device = precision.device
        self._precision = precision
        self._lock = threading.RLock()
        self._backends: dict[tuple[str, bool], Backend] = {}
        self._views: dict[tuple[str, str, tuple[str, ...], bool], Backend] = {}
        self._encoders: dict[str, QueryEncoder] = {}
        self._aligned: dict[tuple[str, str, str], AlignedEncoder] = {}
        self._own_encoders: dict[str, EncoderEntry] = {}
        self._ensembles: dict[str, Assembly] = {}

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        return self._store.offline

    def catalog(self) -> Catalog:
        """What is installed now, with the state of its weights."""
        found = catalog(plugins.installed(self._given), self.own_weights, self._weights_state)
        encoders = (*found.encoders, *self._own_encoders.values())
        backends = (*found.backends, *(ensemble.entry for ensemble in self._ensembles.values()))
        return replace(found, backends=backends, encoders=encoders, map_between=self._maps.card)

    def provenance(self, route: Route) -> dict[str, str]:
        """What the results of `route` rest on: see `unisep.session.provenance`."""
        installed, own = plugins.installed(self._given), dict(self.own_weights)
        whole = route
        for task in route.tasks:
            if task.backend.key in self._ensembles:
                ensemble = self._ensembles[task.backend.key]
                whole = replace(whole, tasks=(*whole.tasks, *(BackendTask(each, ()) for each in ensemble.entries)))
                own |= {key: self._store.path(card) / card.files[0].name for key, card in ensemble.cards.items()}
        found = provenance(whole, installed, own, self._store, self._maps)
        made = {key: each.sha256 for key, each in self._ensembles.items() if key in found}
        return found | made

    def open_backend(self, asked: str | Ensemble | None) -> str | None:
        """The name to ask the catalogue for: an ensemble is put together and added to it, any other name is itself.

        Raises:
            EnsembleError: the ensemble cannot be read, or its members are not to be had.
        """
        ensemble = as_ensemble(asked)
        if ensemble is None:
            return asked  # type: ignore[return-value]  # what is no name is refused by the catalogue
        assembly = assemble(ensemble, self.catalog())
        self.own_weights |= assembly.paths
        self._ensembles[assembly.entry.key] = assembly
        return assembly.entry.key

    def open_encoder(self, asked: str, reporter: ProgressReporter) -> EncoderEntry:
        """The encoder called `asked`. That of "name@place" is loaded, since only then its space is known.

        Raises:
            OptionError, PluginError: no such encoder. WeightsError: nothing that it can load there.
        """
        name, place = split_place(asked)
        entry = self.catalog().encoder(name)
        if not place:
            return entry
        own = replace(entry, place=place, weights="local")
        if own.key not in self._own_encoders:
            with self._lock:
                self.own_weights[own.key] = find_place(place, offline=self.offline)
                encoder = self.encoder(own, reporter)
                own = replace(own, spec=replace(own.spec, space=encoder.space))
                self._own_encoders[own.key] = own
        return self._own_encoders[own.key]

    def backend(self, entry: BackendEntry, reporter: ProgressReporter, *, on_cpu: bool = False) -> Backend:
        """The loaded backend; its weights are downloaded if they are missing.

        on_cpu: in float32 on the CPU, whatever device was chosen.
        """

        def load() -> Backend:
            weights = self._weights(entry, reporter)
            reporter.stage("loading")
            device = _CPU if on_cpu else self._device
            dtype = torch.float32 if on_cpu else self._precision.dtype_for(entry.spec)
            return plugins.load_backend(entry.spec, weights=weights, device=device, dtype=dtype)

        return self._once(self._backends, (entry.key, on_cpu), load)

    def backend_for(
        self,
        entry: BackendEntry,
        space: str,
        stems: tuple[str, ...],
        reporter: ProgressReporter,
        *,
        on_cpu: bool = False,
    ) -> Backend:
        """The backend, ready for queries of `space`, or to give at least `stems`."""

        def member(found: BackendEntry, own_stems: tuple[str, ...]) -> Backend:
            return self.backend_for(found, "", own_stems, reporter, on_cpu=on_cpu)

        def view() -> Backend:
            if entry.key in self._ensembles:
                return self._ensembles[entry.key].backend(stems, member)
            backend = self.backend(entry, reporter, on_cpu=on_cpu)
            return plugins.backend_view(entry.name, backend, space, stems)

        return self._once(self._views, (entry.key, space, stems, on_cpu), view)

    def encoder(self, entry: EncoderEntry, reporter: ProgressReporter) -> QueryEncoder:
        """The loaded encoder; its weights are downloaded if they are missing.

        In place of mps, which lacks operators and types, it gets the CPU: a text or a clip is soon encoded there.
        """

        def load() -> QueryEncoder:
            weights = self._weights(entry, reporter)
            reporter.stage("loading")
            unknown = bool(entry.place) and entry.key not in self._own_encoders
            device = _CPU if self._device.type == "mps" else self._device
            return plugins.load_encoder(entry.spec, weights=weights, device=device, any_space=unknown)

        return self._once(self._encoders, entry.key, load)

    def encoder_for(self, entry: EncoderEntry, space: str, reporter: ProgressReporter) -> QueryEncoder:
        """The encoder, speaking `space`: by itself, or through the map that was fitted for it.

        Raises WeightsError for a map that is damaged, or was removed meanwhile.
        """
        encoder = self.encoder(entry, reporter)
        if encoder.space == space:
            return encoder

        card = self._maps.card(encoder.space, space)
        if card is None or not card.is_fit:
            raise WeightsError(
                f"There is no fitted map from '{encoder.space}' to '{space}' any more. Run: unisep align {entry.name}"
            )

        def through() -> AlignedEncoder:
            return AlignedEncoder(encoder, self._maps.load(card), space)

        return self._once(self._aligned, (entry.key, space, card.tensors_sha256), through)

    def close(self) -> None:
        """Close and forget everything; what is asked for later is loaded again."""
        with self._lock:
            loaded: list[Backend | QueryEncoder] = [*self._backends.values(), *self._encoders.values()]
            for store in (self._backends, self._views, self._encoders, self._aligned):
                store.clear()
        failed: list[str] = []
        while loaded:
            one = loaded.pop()
            try:
                one.close()
            except FAILURES as error:  # the others must be closed all the same
                failed.append(f"{type(one).__name__}: {type(error).__name__}: {error}")
            del one
        _free(self._device)
        if failed:
            warnings.warn(f"Closing failed: {'; '.join(failed)}. All others are closed.", stacklevel=3)

    def _once(self, pool: dict, key: object, load: Callable[[], T]) -> T:
        with self._lock:
            if key not in pool:
                pool[key] = load()
            found: T = pool[key]
            return found

    def _weights(self, entry: BackendEntry | EncoderEntry, reporter: ProgressReporter) -> Path | None:
        if entry.key in self.own_weights:
            return self.own_weights[entry.key]

        def report(progress: FileProgress) -> None:
            reporter.downloaded(progress.n_bytes_done, progress.n_bytes_total)

        for ensemble in self._ensembles.values():
            if entry.key in ensemble.cards:  # one file of a card
                card = ensemble.cards[entry.key]
                return self._store.ensure(card, report) / card.files[0].name
        return self._store.ensure(read_card(entry.spec.card), report) if entry.spec.card else None

    def _weights_state(self, spec: BackendSpec | EncoderSpec) -> str:
        return self._store.state_at(spec.card)


def _free(device: torch.device) -> None:
    """Nothing; memory that is free but kept for later use, by torch or by the C library, goes to the system."""
    gc.collect()  # what ran may be part of a cycle that still holds a model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back()


def existing(path: str | Path, option: str) -> Path:
    """The path. Raises WeightsError when there is no file or folder."""
    if not isinstance(path, str | os.PathLike):
        raise WeightsError(f"{option}={path!r:.300}: give the path of a file or folder.")
    found = Path(path)
    if not is_there(found):
        raise WeightsError(f"{option}={str(path)!r:.300}: there is no such file or folder.")
    return found
