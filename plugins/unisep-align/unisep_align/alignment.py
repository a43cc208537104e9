"""Bring another encoder's space to the one that a query backend was trained in, in closed form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.numpy import save

from unisep import __version__
from unisep.audio import Audio
from unisep.engine.device import Precision, find_device
from unisep.errors import OptionError, WeightsError
from unisep.files.paths import write_whole
from unisep.plugins.encoder import QueryEncoder
from unisep.progress import OnProgress, Progress, ProgressReporter
from unisep.query.encode import call_encoder
from unisep.query.parsed import parse_queries
from unisep.query.space_maps import RECORD, MapCard, MapStore, SpaceMap
from unisep.routing.catalog import EncoderEntry
from unisep.routing.router import resolve
from unisep.routing.types import Request
from unisep.session.models import ModelPool
from unisep.weights.store import WeightsStore
from unisep_align.captions import captions
from unisep_align.fit import Clips, Matrix, Pairs, fit
from unisep_align.sounds import N_MADE, check_enough, clip_files, made_sounds, read_clip

_N_AT_ONCE = 64


def align(
    encoder: str,
    *,
    clips: str | Path | None = None,
    query_backend: str | None = None,
    device: str = "auto",
    offline: bool | None = None,
    on_progress: OnProgress | None = None,
) -> MapCard:
    """Map `encoder`'s space to that of the query backend, measure the map, and keep it for later use if it is fit.

    An unfit map is never used: the card says so in `is_fit` and `modalities`, and asking through it is refused.

    Args:
        encoder: "clap", or with weights of your own "clap@./folder" and "clap@owner/name".
        clips: A folder of recordings, of the kind you will ask with, to fit and measure the audio side on.
        query_backend: The backend whose space to map into; the default one without.
        device: As in `Separator`.
        offline: As in `Separator`.
        on_progress: As in `Separator`.

    Returns:
        What was measured.

    Raises:
        OptionError: The encoder needs no map, or reads no text.
        AudioFileError: There are too few clips.
        UnisepError: An encoder or the backend is missing, or fails.
    """
    reporter = ProgressReporter(on_progress)
    pool = ModelPool(WeightsStore(offline), Precision("float32", find_device(device)))
    try:
        theirs = pool.open_encoder(encoder, reporter)
        ours, space = _trained_with(pool, query_backend)
        if theirs.spec.space == space:
            raise OptionError(f"'{theirs.name}' is of the space '{space}' already: it needs no map.")
        if "text" not in theirs.spec.modalities:
            raise OptionError(f"'{theirs.name}' reads no text, and a map is fitted on captions. Use another encoder.")
        source, target = pool.encoder(theirs, reporter), pool.encoder(ours, reporter)
        hears = "audio" in theirs.spec.modalities & ours.spec.modalities
        with torch.inference_mode():
            card, space_map = fit_map(source, target, clips=clips, hears=hears, on_progress=on_progress)
    finally:
        pool.close()
    return keep_map(MapStore(), card, space_map)


def _trained_with(pool: ModelPool, query_backend: str | None) -> tuple[EncoderEntry, str]:
    """Return the encoder that a text query is answered with, if nobody chose one, and its space."""
    queries = parse_queries("any sound")
    request = Request(parsed_queries=queries, query_backend=query_backend, route="conditioned", offline=pool.offline)
    task = resolve(request, pool.catalog()).tasks[0]
    encoder = task.targets[0].encoder
    assert encoder is not None  # a text needs one
    return encoder, task.space


def fit_map(
    source: QueryEncoder,
    target: QueryEncoder,
    *,
    clips: str | Path | None = None,
    hears: bool = True,
    on_progress: OnProgress | None = None,
) -> tuple[MapCard, SpaceMap]:
    """Map the space of `source` to that of `target`, and measure the map. It is not kept.

    `clips` is a folder of recordings, or None for sounds made by rule; `hears` says whether both encoders take audio.

    Raises:
        OptionError: Clips are given, and one of the encoders takes no audio.
        AudioFileError: There are too few clips.
    """
    if clips is not None and not hears:
        raise OptionError("One of the encoders takes no audio, so clips are of no use here. Leave them out.")
    shipped = captions()
    texts = [caption.text for caption in shipped]
    paths = None if clips is None else clip_files(clips)
    n_clips = 0 if not hears else N_MADE if paths is None else len(paths)
    counter = _Counter(on_progress, 2 * len(texts) + n_clips)
    pairs = Pairs(_encode_texts(source, texts, counter), _encode_texts(target, texts, counter))
    clip_pairs = None
    if hears:
        sounds = made_sounds() if paths is None else map(read_clip, paths)
        rows = _encode_clips((source, target), sounds, counter)
        check_enough(str(clips), len(rows))
        clip_pairs = Clips(Pairs(*(np.stack(side) for side in zip(*rows, strict=True))), own=paths is not None)
    fitted = fit(shipped, pairs, clip_pairs)
    card = MapCard(
        source=source.space,
        target=target.space,
        text=fitted.text,
        audio=fitted.audio,
        clips="none" if clip_pairs is None else "own" if clip_pairs.own else "synthetic",
        n_captions=len(texts),
        n_clips=0 if clip_pairs is None else len(clip_pairs.pairs),
        captions_sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        ridge_strength=fitted.ridge_strength,
        unisep_version=__version__,
    )
    usable = card.modalities or {"text"}  # the map goes without what it is unfit for
    means = {kind: pair for kind, pair in fitted.space_map.means.items() if kind in usable}
    return card, SpaceMap(fitted.space_map.matrix, means)


@dataclass
class _Counter:
    """Reports how far the encoding is."""

    on_progress: OnProgress | None
    n_all: int
    n_done: int = 0

    def add(self, n: int) -> None:
        self.n_done += n
        if self.on_progress is not None:
            self.on_progress(Progress(self.n_done / self.n_all, 0.0, 0.0, None, "encoding"))


def _encode_texts(encoder: QueryEncoder, texts: Sequence[str], counter: _Counter) -> Matrix:
    """Return vectors `[n, dim]` of `n` texts, a few encoded at a time."""
    rows = []
    for start in range(0, len(texts), _N_AT_ONCE):
        some = list(texts[start : start + _N_AT_ONCE])
        rows.append(_vectors(encoder, "encode_text", encoder.encode_text, some))
        counter.add(len(some))
    return np.concatenate(rows)


def _encode_clips(
    encoders: tuple[QueryEncoder, QueryEncoder], sounds: Iterable[Audio | None], counter: _Counter
) -> list[list[Matrix]]:
    """Return the vectors of each clip in both spaces, one clip in memory at a time; None is left out."""
    rows = []
    for clip in sounds:
        if clip is not None:
            rows.append([_vectors(encoder, "encode_audio", encoder.encode_audio, [clip])[0] for encoder in encoders])
        counter.add(1)
    return rows


def _vectors(encoder: QueryEncoder, method: str, call: Callable[..., torch.Tensor], items: list) -> Matrix:
    vectors: Matrix = call_encoder(encoder, method, call, items).numpy().astype(np.float64)
    return vectors


def keep_map(store: MapStore, card: MapCard, space_map: SpaceMap) -> MapCard:
    """Save a map in place of an older one and return its card; tensors are kept only where it is fit.

    Raises:
        WeightsError: the folder cannot be written.
    """
    if card.is_fit:
        content = save(_tensors(space_map))
        digest = hashlib.sha256(content).hexdigest()
        card = card.model_copy(update={"tensors": f"{digest[:16]}.safetensors", "tensors_sha256": digest})
    folder = store.place(card.source, card.target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if card.is_fit:
                write_whole(folder / card.tensors, content)
            write_whole(folder / RECORD, card.model_dump_json(indent=1).encode())
            for old in folder.glob("*.safetensors"):
                if old.name != card.tensors:
                    old.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"The map cannot be kept in {folder} ({error}). Free some space, or set UNISEP_HOME."
        ) from error
    return card


def _tensors(space_map: SpaceMap) -> dict[str, NDArray[np.float32]]:
    tensors = {"matrix": space_map.matrix}
    for modality, (source_mean, target_mean) in space_map.means.items():
        tensors |= {f"{modality}.source_mean": source_mean, f"{modality}.target_mean": target_mean}
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
