"""Sounds of a store, read and changed so that they stay what they are: level, place, polarity, speed and colour.

Sounds are `[2, samples]` float32; everything that is drawn comes from the generator that is handed over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep_train.data.catalogue import Catalog
from unisep_train.mixing.config import Variation

Sound = NDArray[np.float32]

# A sparse sound (one drum hit) is levelled by its peak, as if its crest factor were no more than this.
MAX_CREST_FACTOR = 12.0


def one_sound(catalogue: Catalog, index: int, n_samples: int, variation: Variation, rng: np.random.Generator) -> Sound:
    """Read a sounding window `[2, n_samples]` of one sound; single notes and short sounds are made into a phrase."""
    item = catalogue.items[index]
    if item.kind == "notes":
        sound = note_phrase(catalogue, index, n_samples, rng)
    elif item.n_samples < 0.6 * n_samples:
        sound = _repeated(catalogue, index, n_samples, rng)
    else:
        n_read = varied_length(n_samples, variation, rng)
        sound = catalogue.store.read(item, catalogue.start(index, n_read, rng), n_read)
    return varied(respeed(sound, n_samples), catalogue, variation, rng)


def varied(sound: Sound, catalogue: Catalog, variation: Variation, rng: np.random.Generator) -> Sound:
    """Place the sound in the stereo image, perhaps coloured."""
    if rng.random() < variation.colour_probability:
        sound = colour(sound, catalogue.store.sample_rate_hz, rng)
    return place(sound, rng)


def note_phrase(catalogue: Catalog, index: int, n_samples: int, rng: np.random.Generator) -> Sound:
    """Make a phrase `[2, n_samples]` of notes with the label of `index`, on a grid of random tempo.

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
    """Put a short sound at one or a few random places."""
    item = catalogue.items[index]
    out = np.zeros((2, n_samples), dtype=np.float32)
    sound = catalogue.store.read(item, 0, item.n_samples)
    for _ in range(int(rng.integers(1, 4))):
        first = int(rng.integers(0, n_samples - item.n_samples))
        out[:, first : first + item.n_samples] += sound * np.float32(rng.uniform(0.5, 1.0))
    return out


def varied_length(n_samples: int, variation: Variation, rng: np.random.Generator) -> int:
    """Draw how many samples to read so that `n_samples` come out, perhaps faster or slower."""
    if rng.random() >= variation.respeed_probability:
        return n_samples
    return round(n_samples * rng.uniform(1 - variation.respeed_range, 1 + variation.respeed_range))


def stems(
    catalogue: Catalog, indices: Sequence[int], start: int, n_samples: int, rng: np.random.Generator, remix_db: float
) -> Sound:
    """Sum up stems of one song over one window `[2, n_samples]`, each with a gain within +-`remix_db`.

    Rendered stems are mostly stored in mono: half of them are panned here (not when `remix_db` is 0).
    """
    out = np.zeros((2, n_samples), dtype=np.float32)
    for index in indices:
        item = catalogue.items[index]
        sound = catalogue.store.read(item, start, n_samples) * gain(rng.uniform(-remix_db, remix_db))
        if remix_db and item.kind == "rendered" and item.n_channels == 1 and rng.random() < 0.5:
            sound = pan(sound, rng)
        out += sound
    return out


def gain(decibels: float) -> np.float32:
    """Return the factor of a gain in dB."""
    return np.float32(10.0 ** (decibels / 20))


def level_db(sound: Sound) -> float:
    """Return the RMS level in dBFS over all channels; -200 for silence."""
    power = float(np.vdot(sound, sound)) / max(sound.size, 1)
    return 10.0 * np.log10(max(power, 1e-20))


def to_level(sound: Sound, decibels: float) -> Sound:
    """Bring the sound to an RMS of `decibels` dBFS; sparse ones are held lower, so that a hit stays a hit."""
    return sound * gain(decibels - max(loudness_db(sound), -140.0))


def loudness_db(sound: Sound) -> float:
    """Return the RMS level in dBFS, of a sparse sound as if its crest factor were no more than `MAX_CREST_FACTOR`."""
    peak = float(np.abs(sound).max(initial=0.0))
    return max(level_db(sound), 20.0 * math.log10(max(peak / MAX_CREST_FACTOR, 1e-10)))


def place(sound: Sound, rng: np.random.Generator) -> Sound:
    """Give the sound a random place in the stereo image: swapped, narrowed, panned or upside down."""
    if rng.random() < 0.5:
        sound = sound[::-1]
    if rng.random() < 0.2:
        sound = np.broadcast_to(sound.mean(axis=0, keepdims=True), sound.shape)
    if rng.random() < 0.4:
        sound = pan(sound, rng)
    return -sound if rng.random() < 0.5 else sound


def pan(sound: Sound, rng: np.random.Generator) -> Sound:
    """Move the sound to one side, up to 6 dB, at about the same power."""
    angle = rng.uniform(0.15, 0.35) * np.pi
    return sound * (np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]])).astype(np.float32)


def respeed(sound: Sound, n_samples: int) -> Sound:
    """Play the sound so that it lasts `n_samples`: pitch and tempo change together."""
    if sound.shape[1] == n_samples:
        return sound
    out = soxr.resample(sound.T, sound.shape[1], n_samples, quality="QQ").T[:, :n_samples]
    return np.pad(out, ((0, 0), (0, n_samples - out.shape[1])))


def colour(sound: Sound, sample_rate_hz: int, rng: np.random.Generator, range_db: float = 6.0) -> Sound:
    """Pass the sound through a smooth random equaliser of five points within +-`range_db`."""
    points_hz = [60.0, 250.0, 1000.0, 4000.0, 12000.0]
    return equalise(sound, sample_rate_hz, points_hz, rng.uniform(-range_db, range_db, len(points_hz)))


def equalise(sound: Sound, sample_rate_hz: int, points_hz: Sequence[float], gains_db: NDArray[np.float64]) -> Sound:
    """Filter the sound by a curve of gains through these points, straight over the logarithm of frequency."""
    n_fft = fast_length(sound.shape[1])
    spectrum = np.fft.rfft(sound, n_fft, axis=1)
    frequencies_hz = np.linspace(0.0, sample_rate_hz / 2, spectrum.shape[1])
    curve_db = np.interp(np.log(frequencies_hz + 1.0), np.log(points_hz), gains_db)
    shaped = spectrum * (10.0 ** (curve_db / 20)).astype(np.float32)
    return np.fft.irfft(shaped, n_fft, axis=1)[:, : sound.shape[1]].astype(np.float32)


def fast_length(n_samples: int) -> int:
    """Return a length not below `n_samples` whose Fourier transform is quick: a power of two times 1, 3, 5 or 9."""
    return min(factor * 2 ** math.ceil(math.log2(max(n_samples / factor, 1))) for factor in (1, 3, 5, 9))
