"""The model pool: backends and encoders of one Separator, loaded once and kept until it is closed."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from unisep.engine.cpu import give_back, in_one_thread
from unisep.engine.device import Precision
from unisep.ensemble.assembly import Assembly, assemble
from unisep.ensemble.definition import Ensemble, as_ensemble
from unisep.errors import FAILURES, OptionError, WeightsError, arg
from unisep.files.paths import is_there
from unisep.plugins.backend import Backend, LiveBackend
from unisep.plugins.encoder import QueryEncoder
from unisep.plugins.loading import backend_view, load_backend, load_encoder
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import installed
from unisep.plugins.specs import EncoderSpec
from unisep.progress import ProgressReporter
from unisep.query.concepts import Meaning
from unisep.query.encode import AlignedEncoder, Words
from unisep.query.space_maps import MapStore
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry, build_catalog
from unisep.routing.types import Route
from unisep.weights.cards import read_card
from unisep.weights.hashes import content_sha256
from unisep.weights.hub import find_place, split_place
from unisep.weights.store import FileProgress, WeightsStore

T = TypeVar("T")
_CPU = torch.device("cpu")


class ModelPool:
    """The models of one Separator. Loading is under one lock; what is loaded is shared freely.

    Attributes:
        own_weights: files or folders of the caller, by the key of the entry that loads them.
        store: the weights on this machine.
        wrap: returns what is used in place of a backend that is ready.
    """

    def __init__(self, store: WeightsStore, precision: Precision, plugins: tuple[Plugin, ...] = ()) -> None:
        """Start empty, with `plugins` of this Separator alone beside those that are installed."""
        self.own_weights: dict[str, Path] = {}
        self.store = store
        self.wrap: Callable[[Backend], Backend] = lambda backend: backend
        self._plugins = plugins
        self._maps = MapStore()
        self._precision = precision
        self._device = precision.device
        self._lock = threading.RLock()
        self._backends: dict[tuple[str, bool], Backend] = {}
        self._views: dict[tuple[str, str, tuple[str, ...], bool], Backend] = {}
        self._encoders: dict[str, QueryEncoder] = {}
        self._aligned: dict[tuple[str, str, str], AlignedEncoder] = {}
        self._words: dict[str, Words] = {}
        self._own_encoders: dict[str, EncoderEntry] = {}
        self._own_backends: dict[str, BackendEntry] = {}
        self._ensembles: dict[str, Assembly] = {}
        self._catalog: tuple[tuple[tuple[Plugin, ...], int], Catalog] | None = None

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        return self.store.offline

    def catalog(self) -> Catalog:
        """Return what is installed, with the state of its weights; read anew only when plugins or weights have changed."""
        state, cached = (installed(self._plugins), self.store.last_change_ns()), self._catalog
        if cached is None or cached[0] != state:
            built = build_catalog(state[0], self.own_weights, lambda spec: self.store.state_at(spec.card))
            ensembles = [ensemble.entry for ensemble in list(self._ensembles.values())]
            backends = (*built.backends, *ensembles, *list(self._own_backends.values()))
            encoders = (*built.encoders, *list(self._own_encoders.values()))
            built = replace(
                built, backends=backends, encoders=encoders, map_between=self._maps.card, meaning=self.meaning
            )
            self._catalog = cached = state, built
        return cached[1]

    def meaning(self, text: str) -> Meaning | None:
        """Return what a text means by the vectors of the first encoder that can tell and is here; None where none can."""
        encoders = (entry for entry in self.catalog().usable_encoders() if entry.spec.same_meaning and entry.is_here)
        if (entry := next(encoders, None)) is None:
            return None
        make = partial(Words, self.encoder(entry, ProgressReporter()), entry.spec.same_meaning)
        words = self._once(self._words, entry.key, lambda: in_one_thread(make))
        return in_one_thread(partial(words.meaning, text))

    def provenance(self, route: Route) -> dict[str, str]:
        """Return what the results of `route` rest on: for every model, map and step the version of its package and a sha256."""
        versions = {plugin.distribution: plugin.version for plugin in installed(self._plugins)}
        targets = [(target, task.space) for task in route.tasks for target in task.targets]
        ensembles = {task.backend.key for task in route.tasks} & self._ensembles.keys()
        entries: list[BackendEntry | EncoderEntry] = [task.backend for task in route.tasks]
        entries += [target.encoder for target, _ in targets if target.encoder is not None]
        entries += [entry for key in ensembles for entry in self._ensembles[key].entries]
        stamps = {entry.key: _stamp(versions.get(entry.distribution, ""), self._sha256(entry)) for entry in entries}
        stamps |= {step.title: versions.get(step.distribution, "") for step in route.steps}
        for target, space in targets:
            if target.encoder is not None and target.encoder.spec.space != space:
                card = self._maps.card(target.encoder.spec.space, space)
                stamps[f"map of {target.encoder.key}"] = _stamp(space, card.tensors_sha256 if card else "")
        return dict(sorted(stamps.items())) | {key: self._ensembles[key].sha256 for key in ensembles}

    def open_backend(self, backend: str | Ensemble | None, licences: tuple[str, ...] = ()) -> str | None:
        """Return the name to ask the catalog for: an ensemble is put together, "name@file" opened, and added to it first.

        Raises:
            EnsembleError, OptionError, WeightsError: ensemble or file cannot be read, or members are not to be had, or not allowed.
        """
        ensemble = as_ensemble(backend)
        if ensemble is None:
            return self._opened(backend) if isinstance(backend, str) else backend  # type: ignore[return-value]
        assembly = assemble(ensemble, self.catalog(), licences)
        for key, path in assembly.paths.items():
            self.use_weights(key, path)
        self._ensembles[assembly.entry.key] = assembly
        self._catalog = None
        return assembly.entry.key

    def _opened(self, backend: str) -> str:
        """Return the key of "name@file", which is loaded, since only then its stems and spaces are known; else the name."""
        name, at, place = backend.partition("@")
        entry = self.catalog().backend(name)
        if not at and not entry.spec.reads_files:
            return backend
        if not place:
            raise OptionError(f"{arg('backend', backend)} is incomplete. Write '{name}@./file'.")
        entry = replace(entry, place=place, weights="local")
        self.use_weights(entry.key, existing(os.path.expanduser(place), "backend").resolve())
        loaded = self.backend(entry, ProgressReporter())
        info, live = loaded.info, isinstance(loaded, LiveBackend)
        spaces = () if info.sources else info.spaces or entry.spec.spaces
        spec = replace(entry.spec, stems=info.sources, spaces=spaces, live=live, reads_files=False)
        self._own_backends[entry.key] = replace(entry, spec=spec)
        return entry.key

    def open_encoder(self, name: str, reporter: ProgressReporter) -> EncoderEntry:
        """Return the encoder called `name`. That of "name@place" is loaded, since only then its space is known.

        Raises:
            OptionError, PluginError: no such encoder.
            WeightsError: nothing that it can load there.
        """
        name, place = split_place(name)
        entry = self.catalog().encoder(name)
        if not place:
            return entry
        entry = replace(entry, place=place, weights="local")
        with self._lock:
            if entry.key not in self._own_encoders:
                self.use_weights(entry.key, find_place(place, offline=self.offline))
                space = self.encoder(entry, reporter).space
                self._own_encoders[entry.key] = replace(entry, spec=replace(entry.spec, space=space))
                self._catalog = None
            return self._own_encoders[entry.key]

    def use_weights(self, key: str, path: Path) -> None:
        """Load the entry of this key with the caller's own weights from now on."""
        self.own_weights[key] = path
        self._catalog = None

    def backend(self, entry: BackendEntry, reporter: ProgressReporter, *, on_cpu: bool = False) -> Backend:
        """Return the loaded backend; its weights are downloaded if they are missing.

        Args:
            entry: of the catalog.
            reporter: told of a download and of loading.
            on_cpu: in float32 on the CPU, whatever device was chosen.
        """

        def load() -> Backend:
            weights = self._weights(entry, reporter)
            reporter.stage("loading")
            device = _CPU if on_cpu else self._device
            dtype = torch.float32 if on_cpu else self._precision.dtype_for(entry.spec)
            return load_backend(entry.spec, weights=weights, device=device, dtype=dtype)

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
        """Return the backend, ready for queries of `space`, or to give at least `stems`; the rest is as in `backend`."""

        def member(other: BackendEntry, its_stems: tuple[str, ...]) -> Backend:
            return self.backend_for(other, "", its_stems, reporter, on_cpu=on_cpu)

        def view() -> Backend:
            if entry.key in self._ensembles:
                return self._ensembles[entry.key].backend(stems, member)
            return backend_view(entry.name, self.backend(entry, reporter, on_cpu=on_cpu), space, stems)

        return self._once(self._views, (entry.key, space, stems, on_cpu), lambda: self.wrap(view()))

    def encoder(self, entry: EncoderEntry, reporter: ProgressReporter) -> QueryEncoder:
        """Return the loaded encoder; its weights are downloaded if they are missing.

        In place of mps, which lacks operators and types, it gets the CPU: a text or a clip is soon encoded there.
        """

        def load() -> QueryEncoder:
            weights = self._weights(entry, reporter)
            reporter.stage("loading")
            any_space = bool(entry.place) and entry.key not in self._own_encoders
            device = _CPU if self._device.type == "mps" else self._device
            return load_encoder(entry.spec, weights=weights, device=device, any_space=any_space)

        return self._once(self._encoders, entry.key, load)

    def encoder_for(self, entry: EncoderEntry, space: str, reporter: ProgressReporter) -> QueryEncoder:
        """Return the encoder, speaking `space`: by itself, or through the map that was fitted for it.

        Raises:
            WeightsError: the map is damaged, or was removed meanwhile.
        """
        encoder = self.encoder(entry, reporter)
        if encoder.space == space:
            return encoder
        card = self._maps.card(encoder.space, space)
        if card is None or not card.is_fit:
            raise WeightsError(
                f"There is no fitted map from '{encoder.space}' to '{space}' any more. Run: unisep align {entry.name}"
            )
        key = (entry.key, space, card.tensors_sha256)
        return self._once(self._aligned, key, lambda: AlignedEncoder(encoder, self._maps.load(card), space))

    def close(self) -> None:
        """Close and forget everything; what is asked for later is loaded again."""
        with self._lock:
            models: list[Backend | QueryEncoder] = [*self._backends.values(), *self._encoders.values()]
            for loaded in (self._backends, self._views, self._encoders, self._aligned, self._words):
                loaded.clear()
            self._catalog = None
        failures: list[str] = []
        while models:
            model = models.pop()
            try:
                model.close()
            except FAILURES as error:  # the others must be closed all the same
                failures.append(f"{type(model).__name__}: {type(error).__name__}: {error}")
            del model
        gc.collect()  # what ran may be part of a cycle that still holds a model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        give_back()
        if failures:
            warnings.warn(f"Closing failed: {'; '.join(failures)}. All others are closed.", stacklevel=3)

    def _once(self, loaded: dict[Any, T], key: object, load: Callable[[], T]) -> T:
        with self._lock:
            if key not in loaded:
                loaded[key] = load()
            return loaded[key]

    def _sha256(self, entry: BackendEntry | EncoderEntry) -> str:
        path = self.own_weights.get(entry.key)
        for ensemble in self._ensembles.values():
            if entry.key in ensemble.cards:
                card = ensemble.cards[entry.key]
                path = self.store.path(card) / card.files[0].name
        if path is None:
            return self.store.sha256(read_card(entry.spec.card)) if entry.spec.card else ""
        if path.exists():
            return content_sha256(path)
        # A name on a hub is no path; the commit is in its name, or its space states it.
        return entry.spec.space if isinstance(entry.spec, EncoderSpec) else ""

    def _weights(self, entry: BackendEntry | EncoderEntry, reporter: ProgressReporter) -> Path | None:
        if entry.key in self.own_weights:
            return self.own_weights[entry.key]
        if not entry.is_here:
            self._catalog = None  # what is missing will be here

        def report(progress: FileProgress) -> None:
            reporter.downloaded(progress.n_bytes_done, progress.n_bytes_total)

        for ensemble in self._ensembles.values():
            if entry.key in ensemble.cards:  # one file of a card
                card = ensemble.cards[entry.key]
                return self.store.ensure(card, report) / card.files[0].name
        return self.store.ensure(read_card(entry.spec.card), report) if entry.spec.card else None


def _stamp(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def existing(path: str | Path, name: str) -> Path:
    """Return the path. Raise WeightsError when there is no file or folder."""
    if not isinstance(path, str | os.PathLike):
        raise WeightsError(f"{arg(name, path)}: give the path of a file or folder.")
    if not is_there(Path(path)):
        raise WeightsError(f"{arg(name, str(path))}: there is no such file or folder.")
    return Path(path)
