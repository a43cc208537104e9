"""Brings another encoder's space to the one that a query backend was trained in, in closed form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from unisep import __version__
from unisep.engine.device import Precision, find_device
from unisep.errors import OptionError
from unisep.plugins.encoder import QueryEncoder
from unisep.progress import OnProgress, ProgressReporter
from unisep.query.parsed import parse_queries
from unisep.query.space_maps import MapCard, MapStore, SpaceMap
from unisep.routing.catalog import EncoderEntry
from unisep.routing.router import resolve
from unisep.routing.types import Request
from unisep.session.models import ModelPool
from unisep.weights.store import WeightsStore
from unisep_align.captions import captions
from unisep_align.encoding import Count, hear, read_texts
from unisep_align.fit import Clips, Fit, fit
from unisep_align.ridge import Pairs
from unisep_align.sounds import N_MADE, clip_files


def align(
    encoder: str,
    *,
    clips: str | Path | None = None,
    query_backend: str | None = None,
    device: str = "auto",
    offline: bool | None = None,
    on_progress: OnProgress | None = None,
) -> MapCard:
    """What was measured of the map from `encoder`'s space to the query backend's; kept for later use if it is fit.

    encoder: "clap", or with weights of your own "clap@./folder" and "clap@owner/name".
    clips: a folder of recordings, of the kind you will ask with, to fit and measure the audio side on.
    query_backend: whose space to map into; the default one without. device, offline: as in `Separator`.

    An unfit map is never used: the card says so in `is_fit` and `modalities`, and asking through it is refused.

    Raises:
        OptionError: the encoder needs no map, or reads no text.
        PluginError, WeightsError: an encoder or a backend that is not here.
        EncoderError, AudioFileError: an encoder that fails, or too few clips.
    """
    reporter = ProgressReporter(on_progress)
    pool = ModelPool(WeightsStore(offline), Precision("float32", find_device(device)))
    try:
        theirs = pool.open_encoder(encoder, reporter)
        ours, target = _trained_with(pool, query_backend)
        _check_needed(theirs, target)
        pair = pool.encoder(theirs, reporter), pool.encoder(ours, reporter)
        hears = "audio" in theirs.spec.modalities & ours.spec.modalities
        with torch.inference_mode():
            card, found = fit_map(*pair, clips=clips, hears=hears, on_progress=on_progress)
    finally:
        pool.close()
    return MapStore().save(card, found)


def fit_map(
    source: QueryEncoder,
    target: QueryEncoder,
    *,
    clips: str | Path | None = None,
    hears: bool = True,
    on_progress: OnProgress | None = None,
) -> tuple[MapCard, SpaceMap]:
    """The map from the space of `source` to that of `target`, and what was measured of it; not kept.

    clips: folder of recordings, or None for sounds made by rule. hears: whether both encoders take audio.
    Raises as `align` does.
    """
    if clips is not None and not hears:
        raise OptionError("One of the encoders takes no audio, so clips are of no use here. Leave them out.")
    shipped = captions()
    texts = [caption.text for caption in shipped]
    paths = None if clips is None else clip_files(clips)
    n_clips = 0 if not hears else N_MADE if paths is None else len(paths)
    count = Count(on_progress, 2 * len(texts) + n_clips)
    pairs = Pairs(read_texts(source, texts, count), read_texts(target, texts, count))
    heard = hear((source, target), clips, paths, count) if hears else None
    found = fit(shipped, pairs, heard)
    card = _card(source, target, found, heard, texts)
    return card, _usable(found.found, card)


def _trained_with(pool: ModelPool, query_backend: str | None) -> tuple[EncoderEntry, str]:
    """The encoder that a text query would be answered with, if nobody chose one, and its space."""
    parsed_queries = parse_queries("any sound")
    request = Request(
        parsed_queries=parsed_queries, query_backend=query_backend, route="conditioned", offline=pool.offline
    )
    task = resolve(request, pool.catalog()).tasks[0]
    encoder = task.targets[0].encoder
    assert encoder is not None  # a text needs one
    return encoder, task.space


def _check_needed(theirs: EncoderEntry, target: str) -> None:
    if theirs.spec.space == target:
        raise OptionError(f"'{theirs.name}' is of the space '{target}' already: it needs no map.")
    if "text" not in theirs.spec.modalities:
        raise OptionError(f"'{theirs.name}' reads no text, and a map is fitted on captions. Use another encoder.")


def _card(source: QueryEncoder, target: QueryEncoder, found: Fit, heard: Clips | None, texts: Sequence[str]) -> MapCard:
    return MapCard(
        source=source.space,
        target=target.space,
        text=found.text,
        audio=found.audio,
        clips="none" if heard is None else "own" if heard.own else "synthetic",
        n_captions=len(texts),
        n_clips=0 if heard is None else len(heard.pairs),
        captions_sha256=hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        ridge_strength=found.ridge_strength,
        unisep_version=__version__,
    )


def _usable(found: SpaceMap, card: MapCard) -> SpaceMap:
    """The map without what it is unfit for."""
    kept = card.modalities or {"text"}
    return SpaceMap(found.matrix, {kind: means for kind, means in found.means.items() if kind in kept})
