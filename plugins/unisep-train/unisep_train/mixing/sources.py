"""Readings of the store: one sound, a phrase of single notes, or several stems of a song at one time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisep_train.data.catalogue import Catalog
from unisep_train.mixing import augment
from unisep_train.mixing.augment import Sound


@dataclass(frozen=True)
class Variation:
    """How strongly a drawn sound may be changed.

    respeed_range: as a share, up or down; pitch and tempo change together. repitch_semitones: up or down, at the same tempo;
    with both, tempo and pitch change apart.
    """

    respeed_probability: float = 0.2
    respeed_range: float = 0.1
    colour_probability: float = 0.15
    repitch_probability: float = 0.0
    repitch_semitones: float = 2.0


def one_sound(catalogue: Catalog, index: int, n_samples: int, variation: Variation, rng: np.random.Generator) -> Sound:
    """A sounding window `[2, n_samples]` of one sound; single notes and short sounds are made into a phrase."""
    item = catalogue.items[index]
    if item.kind == "notes":
        sound = note_phrase(catalogue, index, n_samples, rng)
    elif item.n_samples < 0.6 * n_samples:
        sound = _repeated(catalogue, index, n_samples, rng)
    else:
        n_read = varied_length(n_samples, variation, rng)
        sound = catalogue.store.read(item, catalogue.start(index, n_read, rng), n_read)
    return varied(augment.respeed(sound, n_samples), catalogue, variation, rng)


def varied(sound: Sound, catalogue: Catalog, variation: Variation, rng: np.random.Generator) -> Sound:
    """The sound placed in the stereo image, perhaps at another pitch, perhaps coloured."""
    sound = augment.repitch(sound, drawn_semitones(variation, rng))
    if rng.random() < variation.colour_probability:
        sound = augment.colour(sound, catalogue.store.sample_rate_hz, rng)
    return augment.place(sound, rng)


def drawn_semitones(variation: Variation, rng: np.random.Generator) -> float:
    """By how much to change the pitch, 0 mostly; nothing is drawn where it never changes."""
    if not variation.repitch_probability or rng.random() >= variation.repitch_probability:
        return 0.0
    return float(rng.uniform(-variation.repitch_semitones, variation.repitch_semitones))


def note_phrase(catalogue: Catalog, index: int, n_samples: int, rng: np.random.Generator) -> Sound:
    """A phrase `[2, n_samples]` of notes with the label of `index`, on a grid of random tempo.

    Drums and percussion repeat one or two sounds; what has a pitch uses up to six notes.
    """
    alike = [i for i in catalogue.by_name[catalogue.names[index]] if catalogue.items[i].kind == "notes"]
    n_different = int(rng.integers(1, 3)) if "percussion" in catalogue.tags[index] else int(rng.integers(2, 7))
    chosen = [index, *(int(i) for i in rng.choice(alike, size=n_different - 1))]
    out = np.zeros((2, n_samples), dtype=np.float32)
    grid = rng.uniform(0.12, 0.5) * catalogue.store.sample_rate_hz
    onset = rng.uniform(0.0, 0.3) * grid
    while onset < n_samples:
        note = catalogue.items[chosen[rng.integers(len(chosen))]]
        first = int(onset)
        n_read = min(note.n_samples, n_samples - first)
        out[:, first : first + n_read] += catalogue.store.read(note, 0, n_read) * np.float32(rng.uniform(0.4, 1.0))
        onset += grid * rng.choice((1, 1, 2, 2, 4))
    return out


def _repeated(catalogue: Catalog, index: int, n_samples: int, rng: np.random.Generator) -> Sound:
    """A short sound once or a few times at random places."""
    item = catalogue.items[index]
    out = np.zeros((2, n_samples), dtype=np.float32)
    sound = catalogue.store.read(item, 0, item.n_samples)
    for _ in range(int(rng.integers(1, 4))):
        first = int(rng.integers(0, n_samples - item.n_samples))
        out[:, first : first + item.n_samples] += sound * np.float32(rng.uniform(0.5, 1.0))
    return out


def varied_length(n_samples: int, variation: Variation, rng: np.random.Generator) -> int:
    """How many samples to read so that `n_samples` come out, perhaps faster or slower."""
    if rng.random() >= variation.respeed_probability:
        return n_samples
    return round(n_samples * rng.uniform(1 - variation.respeed_range, 1 + variation.respeed_range))


def stems(
    catalogue: Catalog, indices: Sequence[int], start: int, n_samples: int, rng: np.random.Generator, remix_db: float
) -> Sound:
    """The sum `[2, n_samples]` of stems of one song over one window, each with a gain within +-`remix_db`.

    Rendered stems are mostly stored in mono: half of them are panned here (not when `remix_db` is 0).
    """
    out = np.zeros((2, n_samples), dtype=np.float32)
    for index in indices:
        item = catalogue.items[index]
        sound = catalogue.store.read(item, start, n_samples) * augment.gain(rng.uniform(-remix_db, remix_db))
        if remix_db and item.kind == "rendered" and item.n_channels == 1 and rng.random() < 0.5:
            sound = augment.pan(sound, rng)
        out += sound
    return out
