"""Measures what exclusions and weights do, on held-out songs: whether they do what they say.

    python -m unisep_train.measuring.controls STORE --weights model.safetensors --json controls.json

*Exclusion*: windows in which a name is answered by stems with and without a narrower or another name ("drums"
with and without "kick drum"), both heard. The output is projected on the true stems that are kept, left out and
neither (least squares); the share of the stem that is left out is compared with and without the exclusion.
*Weights*: windows that hold two sounds; one is asked for by text and the other by an example, in one query, with
shares of the text from 1 to 0; the level of one against the other in the output should follow.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from unisep_film.backend import FilmBackend
from unisep_film.checkpoints import load_model

from unisep import Backend
from unisep.errors import UnisepError
from unisep_train.data import labels
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.measuring.windows import SongWindows
from unisep_train.mixing.encoders import add_encoder, asked_encoder
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.mixing.sources import Variation, one_sound
from unisep_train.trainer.losses import si_sdr_db

WINDOW_SECONDS = 6.0
MAX_DIFFERENCE_DB = 10.0
N_WINDOWS = 8  # at most, of a pair of names
LEAST_WINDOWS = 3  # of a pair, or it is left out
MAIN = ("drums", "bass", "vocals")
TEXT_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
UNCHANGED = Variation(respeed_probability=0.0, colour_probability=0.0)
Sound = NDArray[np.float32]


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


def exclusion_windows(catalogue: Catalog, group: str, n_windows: int = N_WINDOWS) -> Iterator[Parts]:
    """Windows of all pairs (name, what it is asked without) with kept, left out and other stems as parts."""
    windows = _windows(catalogue)
    for name, without in _pairs(catalogue):
        found = {song: _split(catalogue, windows, name, without, song) for song in sorted(catalogue.songs)}
        near = [
            windows.between(song, kept, left_out, MAX_DIFFERENCE_DB, unclear)
            for song, (kept, left_out, _, unclear) in found.items()
        ]
        chosen = windows.spread(near, n_windows)
        for window in chosen if len(chosen) >= LEAST_WINDOWS else []:
            three = tuple(windows.read(stems, window.start) for stems in found[window.song][:3])
            yield Parts(group, name, without, three)


def _windows(catalogue: Catalog) -> SongWindows:
    return SongWindows(catalogue, round(WINDOW_SECONDS * catalogue.store.sample_rate_hz))


def _pairs(catalogue: Catalog) -> list[tuple[str, str]]:
    """Names of which some stems of one song answer to a second name, and others do not; one pair for the same stems."""
    kept: dict[tuple[frozenset[int], frozenset[int]], tuple[str, str]] = {}
    names = sorted({tag for tags in catalogue.tags for tag in tags} - labels.NOT_PROMPTS, key=_plain_first)
    for name, without in itertools.permutations(names, 2):
        both, alone = set(), set()
        for song in catalogue.songs.values():
            answering = [i for i in song if name in catalogue.tags[i]]
            left_out = {i for i in answering if without in catalogue.tags[i]}
            if left_out and set(answering) - left_out:
                both |= left_out
                alone |= set(answering) - left_out
        if both:
            kept.setdefault((frozenset(both), frozenset(alone)), (name, without))
    return sorted(kept.values())


def _plain_first(name: str) -> tuple[bool, int, str]:
    return name not in MAIN, len(name), name


def _split(
    catalogue: Catalog, windows: SongWindows, name: str, without: str, song: str
) -> tuple[list[int], list[int], list[int], list[int]]:
    """A song's stems: kept, left out, others, and those that might belong to either."""
    stems, tags = windows.stems(name, song), catalogue.tags
    left_out = [i for i in stems.matching if without in tags[i]]
    kept = [i for i in stems.matching if without not in tags[i]]
    doubtful = [i for i in kept if labels.unclear(without, catalogue.items[i].label, tags[i])]
    return [i for i in kept if i not in doubtful], left_out, stems.others, stems.unclear + doubtful


def weight_windows(catalogue: Catalog, n_windows: int = N_WINDOWS) -> Iterator[Parts]:
    """Windows of songs with two of drums, bass and vocals, and the other stems."""
    windows = _windows(catalogue)
    for first, second in itertools.permutations(MAIN, 2):
        found = {}
        for song in sorted(catalogue.songs):
            a, b = (windows.stems(name, song).matching for name in (first, second))
            found[song] = a, b, [i for i in catalogue.songs[song] if i not in {*a, *b}]
        near = [windows.between(song, a, b, MAX_DIFFERENCE_DB) for song, (a, b, _) in found.items()]
        for window in windows.spread(near, n_windows):
            three = tuple(windows.read(stems, window.start) for stems in found[window.song])
            yield Parts("weights", first, second, three)


def shares(estimate: Tensor, parts: tuple[Sound, ...]) -> NDArray[np.float64]:
    """How much of each part is in the estimate `[2, samples]`: least squares over both channels."""
    columns = np.stack([part.reshape(-1) for part in parts], axis=1).astype(np.float64)
    sounding = np.flatnonzero(np.abs(columns).max(axis=0) > 0)
    found, *_ = np.linalg.lstsq(columns[:, sounding], estimate.numpy().reshape(-1).astype(np.float64), rcond=None)
    out = np.zeros(len(parts))
    out[sounding] = found
    return out


def _db(ratio: float) -> float:
    return float(20 * np.log10(abs(ratio) + 1e-6))


class Asker:
    """Asks a model about windows."""

    def __init__(self, backend: Backend, encoder: TextAudioEncoder) -> None:
        self.backend, self.encoder = backend, encoder

    def answer(self, mixture: Sound, queries: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Targets `[queries, 2, samples]`."""
        return self.backend.separate(torch.from_numpy(mixture)[None], queries, negatives).sources[0]

    def exclusion(self, window: Parts) -> dict[str, float]:
        """What excluding changed, in dB: the part left out, the part kept, and SI-SDR against the kept part."""
        name, without = F.normalize(self.encoder.texts([window.first, window.second]), dim=-1)
        negatives = torch.stack([torch.zeros_like(without), without])
        plain, excluded = self.answer(window.mixture, torch.stack([name, name]), negatives)
        before, after = shares(plain, window.parts), shares(excluded, window.parts)
        wanted = torch.from_numpy(window.parts[0]).flatten()
        gain = si_sdr_db(excluded.flatten(), wanted) - si_sdr_db(plain.flatten(), wanted)
        return {
            "left_out_db": _db(after[1]) - _db(before[1]),
            "kept_db": _db(after[0]) - _db(before[0]),
            "si_sdr_gain_db": float(gain),
        }

    def weights(self, window: Parts, example: Sound, rate_hz: int) -> dict[str, float]:
        """Level of the first against the second in the output, in dB, for each share of the text."""
        text = F.normalize(self.encoder.texts([window.first])[0], dim=-1)
        audio = F.normalize(self.encoder.clips([example], rate_hz)[0], dim=-1)
        blends = torch.stack([F.normalize(w * text + (1 - w) * audio, dim=-1) for w in TEXT_SHARES])
        energies = [float(np.square(part).sum()) for part in window.parts[:2]]
        out = {}
        for share, estimate in zip(TEXT_SHARES, self.answer(window.mixture, blends), strict=True):
            first, second = shares(estimate, window.parts)[:2]
            out[f"{share:g}"] = _db(first) - _db(second) + 10 * float(np.log10(energies[0] / energies[1]))
        return out


def _examples(training: Catalog, name: str, number: int) -> Sound:
    """A mono clip of `name` from the training split."""
    rng = np.random.default_rng((5, number))
    n_samples = round(3.0 * training.store.sample_rate_hz)
    sound = one_sound(training, training.draw(training.by_tag[name], rng), n_samples, UNCHANGED, rng)
    return sound.mean(axis=0)


def measure_controls(store: Store, asker: Asker) -> dict[str, Any]:
    """Medians over windows: a row a pair of names and over all for exclusion; levels by share for weights."""
    recorded = sorted({item.kind for item in store.items} - {"rendered"})
    held_out = Catalog(store, ("valid",), recorded)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    groups = {"song": held_out}
    if any(item.kind == "rendered" and item.split == "valid" for item in store.items):
        groups["rendered"] = Catalog(store, ("valid",), ["rendered"])
    for group, catalogue in groups.items():
        for window in exclusion_windows(catalogue, group):
            rows[f"{group}: {window.first} without {window.second}"].append(asker.exclusion(window))
    training = Catalog(store, ("train",), recorded)
    levels = [
        asker.weights(window, _examples(training, window.second, number), store.sample_rate_hz)
        for number, window in enumerate(weight_windows(held_out))
    ]
    everything = [row for found in rows.values() for row in found]
    return {
        "exclusion": {key: _medians(found) for key, found in sorted(rows.items())},
        "exclusion_over_all": _medians(everything),
        "first_over_second_db_by_share_of_text": _medians(levels),
    }


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {"n_windows": len(rows)}
    return out | {key: round(median(row[key] for row in rows), 2) for key in (rows[0] if rows else ())}


def main(given: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    add_encoder(parser)
    args = parser.parse_args(given)
    try:
        model = load_model(args.weights)
        asker = Asker(FilmBackend(model), asked_encoder(args, model.config.spaces))
        found = measure_controls(Store(args.store), asker)
    except UnisepError as error:
        raise SystemExit(str(error)) from error
    for key, row in found["exclusion"].items():
        print(f"{key:50s} " + "  ".join(f"{name} {value:6.2f}" for name, value in row.items()))
    for key in ("exclusion_over_all", "first_over_second_db_by_share_of_text"):
        print(f"{key:50s} " + "  ".join(f"{name} {value:6.2f}" for name, value in found[key].items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
