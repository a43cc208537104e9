"""Measure what exclusions and weights do, on held-out songs: whether they do what they say.

    python -m unisep_train controls STORE --weights model.safetensors --json controls.json

*Exclusion*: a name is asked with and without a narrower or another name ("drums" without "kick drum"); the output is
projected on the true stems that are kept, left out and neither (least squares).
*Weights*: of two sounds one is asked for by text and the other by an example, in one query; the level of one against the
other in the output should follow the share of the text.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from unisep_evaluate import vocabulary
from unisep_film.backend import FilmBackend
from unisep_film.checkpoints import load_model

from unisep import Backend
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.measuring.measure import medians, print_table
from unisep_train.measuring.validation import (
    MAIN_NAMES,
    MAX_DIFFERENCE_DB,
    Groups,
    SongWindows,
    ValidationConfig,
    catalogues,
    example_clip,
    plain_first,
)
from unisep_train.mixing.queries import EMBEDDED, TextAudioEncoder
from unisep_train.mixing.sounds import Sound
from unisep_train.trainer.losses import si_sdr_db

LEAST_WINDOWS = 3  # of a pair, or it is left out
TEXT_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class Parts:
    """A window as its parts `[2, samples]`: `mixture` is their sum. `first` and `second` are what they are called."""

    group: str
    first: str
    second: str
    parts: tuple[Sound, ...]

    @property
    def mixture(self) -> Sound:
        """All parts together."""
        return np.sum(self.parts, axis=0, dtype=np.float32)


def exclusion_windows(catalogue: Catalog, group: str) -> Iterator[Parts]:
    """Read windows of all pairs (name, what it is asked without) with kept, left out and other stems as parts."""
    return _windows(catalogue, group, _pairs(catalogue), _split, LEAST_WINDOWS)


def weight_windows(catalogue: Catalog) -> Iterator[Parts]:
    """Read windows of songs with two of drums, bass and vocals, and the other stems."""

    def split(windows: SongWindows, first: str, second: str, song: str) -> Groups:
        a, b = (windows.stems(name, song)[0] for name in (first, second))
        return a, b, [i for i in catalogue.songs[song] if i not in {*a, *b}], []

    return _windows(catalogue, "weights", itertools.permutations(MAIN_NAMES, 2), split, 1)


def _windows(
    catalogue: Catalog, group: str, pairs: Iterable[tuple[str, str]], split: Callable[..., Groups], n_least: int
) -> Iterator[Parts]:
    """Read windows for each pair of names, whose parts are what `split` makes of a song's stems, but for the last group."""
    windows = SongWindows(catalogue, ValidationConfig.segment_seconds)
    for pair in pairs:
        chosen = windows.chosen(partial(split, windows, *pair), MAX_DIFFERENCE_DB, ValidationConfig.n_per_name)
        for window, stems in chosen if len(chosen) >= n_least else []:
            yield Parts(group, *pair, tuple(windows.read(some, window.start) for some in stems[:-1]))


def _pairs(catalogue: Catalog) -> list[tuple[str, str]]:
    """List names of which some stems of one song answer to a second name, and others do not; once for the same stems."""
    kept: dict[tuple[frozenset[int], frozenset[int]], tuple[str, str]] = {}
    names = sorted({tag for tags in catalogue.tags for tag in tags} - vocabulary.NOT_PROMPTS, key=plain_first)
    for name, without in itertools.permutations(names, 2):
        both, alone = frozenset[int](), frozenset[int]()
        for song in catalogue.songs.values():
            answering = {i for i in song if name in catalogue.tags[i]}
            left_out = {i for i in answering if without in catalogue.tags[i]}
            if left_out and answering - left_out:
                both, alone = both | left_out, alone | (answering - left_out)
        if both:
            kept.setdefault((both, alone), (name, without))
    return sorted(kept.values())


def _split(windows: SongWindows, name: str, without: str, song: str) -> Groups:
    """Return a song's stems: kept, left out, others, and those that might belong to either."""
    (matching, others, unclear), catalogue = windows.stems(name, song), windows.catalogue
    left_out = [i for i in matching if without in catalogue.tags[i]]
    doubtful = [i for i in matching if i not in left_out and catalogue.is_unclear(without, i)]
    return [i for i in matching if i not in {*left_out, *doubtful}], left_out, others, unclear + doubtful


def shares(estimate: Tensor, parts: tuple[Sound, ...]) -> NDArray[np.float64]:
    """Return how much of each part is in the estimate `[2, samples]`: least squares over both channels."""
    columns = np.stack([part.reshape(-1) for part in parts], axis=1).astype(np.float64)
    sounding = np.flatnonzero(np.abs(columns).max(axis=0) > 0)
    out = np.zeros(len(parts))
    waveform = estimate.numpy().reshape(-1).astype(np.float64)
    out[sounding] = np.linalg.lstsq(columns[:, sounding], waveform, rcond=None)[0]
    return out


def _db(ratio: float) -> float:
    return float(20 * np.log10(abs(ratio) + 1e-6))


@dataclass(frozen=True)
class Asker:
    """Asks a model about windows."""

    backend: Backend
    encoder: TextAudioEncoder

    def answer(self, mixture: Sound, queries: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Return targets `[queries, 2, samples]`."""
        return self.backend.separate(torch.from_numpy(mixture)[None], queries, negatives).sources[0]

    def exclusion(self, window: Parts) -> dict[str, float]:
        """Return what excluding changed, in dB: the part left out, the part kept, and SI-SDR against the kept part."""
        name, without = F.normalize(self.encoder.texts([window.first, window.second]), dim=-1)
        negatives = torch.stack([torch.zeros_like(without), without])
        plain, excluded = self.answer(window.mixture, torch.stack([name, name]), negatives)
        before, after = shares(plain, window.parts), shares(excluded, window.parts)
        wanted = torch.from_numpy(window.parts[0]).flatten()
        gain = si_sdr_db(excluded.flatten(), wanted) - si_sdr_db(plain.flatten(), wanted)
        left_out_db, kept_db = (_db(after[part]) - _db(before[part]) for part in (1, 0))
        return {"left_out_db": left_out_db, "kept_db": kept_db, "si_sdr_gain_db": float(gain)}

    def weights(self, window: Parts, example: Sound, rate_hz: int) -> dict[str, float]:
        """Return the level of the first against the second in the output, in dB, for each share of the text."""
        text = F.normalize(self.encoder.texts([window.first])[0], dim=-1)
        audio = F.normalize(self.encoder.clips([example], rate_hz)[0], dim=-1)
        blends = torch.stack([F.normalize(w * text + (1 - w) * audio, dim=-1) for w in TEXT_SHARES])
        energies = [float(np.square(part).sum()) for part in window.parts[:2]]
        out = {}
        for share, estimate in zip(TEXT_SHARES, self.answer(window.mixture, blends), strict=True):
            first, second = shares(estimate, window.parts)[:2]
            out[f"{share:g}"] = _db(first) - _db(second) + 10 * float(np.log10(energies[0] / energies[1]))
        return out


def measure_controls(store: Store, asker: Asker) -> dict[str, Any]:
    """Return medians over windows: a row a pair of names and over all for exclusion; levels by share for weights."""
    groups = catalogues(store)
    held_out, training = groups["song"]
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for group, (catalogue, _) in groups.items():
        for window in exclusion_windows(catalogue, group):
            rows[f"{group}: {window.first} without {window.second}"].append(asker.exclusion(window))
    levels = []
    for number, window in enumerate(weight_windows(held_out)):
        rng = np.random.default_rng((5, number))
        example = example_clip(training, training.by_tag[window.second], ValidationConfig.example_seconds, rng)
        levels.append(asker.weights(window, example, store.sample_rate_hz))
    return {
        "exclusion": {key: medians(of_pair) for key, of_pair in sorted(rows.items())},
        "exclusion_over_all": medians([row for of_pair in rows.values() for row in of_pair]),
        "first_over_second_db_by_share_of_text": medians(levels),
    }


def controls_command(
    store: str, *, weights: Path, json_: Path | None = None, encoder: str = EMBEDDED, encoder_weights: Path | None = None
) -> None:  # fmt: skip
    """Measure a query model.

    Args:
        store: folder made by `corpus`.
        weights: of the query model.
        json_: write the figures here too.
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.
    """
    model = load_model(weights)
    asker = Asker(FilmBackend(model), TextAudioEncoder.named(encoder, encoder_weights, model.config.spaces))
    figures = measure_controls(Store(store), asker)
    over_all = {key: row for key, row in figures.items() if key != "exclusion"}
    print_table(figures["exclusion"] | over_all, 50, 6)
    if json_:
        json_.write_text(json.dumps(figures, indent=1), encoding="utf-8")
