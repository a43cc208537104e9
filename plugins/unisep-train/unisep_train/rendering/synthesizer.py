"""A subtractive synthesizer: detuned oscillators, a resonant low-pass filter that opens and closes, an envelope.

Every note is read from wavetables of its own without harmonics above half the rate; the filter moves between tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

N_TABLE = 2048
N_CUTOFFS = 8
LOWEST_CUTOFF_HZ, HIGHEST_CUTOFF_HZ = 120.0, 16000.0


@dataclass(frozen=True)
class Patch:
    """A sound of the synthesizer; times in seconds.

    Attributes:
        pulse: share of a period that a pulse is up; None for a sawtooth.
        detune_cents: between the outermost of the `n_unison` oscillators.
        sub: level of a sine an octave below.
        sweep_octaves: by which the filter is open further at the onset.
        resonance_db: at the cutoff.
    """

    pulse: float | None
    n_unison: int
    detune_cents: float
    sub: float
    cutoff_hz: float
    sweep_octaves: float
    sweep_seconds: float
    resonance_db: float
    attack_seconds: float
    decay_seconds: float
    sustain: float
    release_seconds: float
    vibrato_cents: float

    @classmethod
    def drawn(cls, role: str, rng: np.random.Generator) -> Self:
        """Draw a sound that suits a role: slow ones for pads, short ones for arpeggios, and single low voices for a bass."""
        patch = cls(
            pulse=None if rng.random() < 0.55 else rng.uniform(0.1, 0.5), n_unison=int(rng.choice((1, 2, 3, 5, 7))),
            detune_cents=rng.uniform(4, 35), sub=rng.choice((0.0, 0.0, 0.4)), cutoff_hz=np.exp(rng.uniform(*np.log((400, 6000)))),
            sweep_octaves=rng.uniform(0, 3.5), sweep_seconds=np.exp(rng.uniform(*np.log((0.04, 0.8)))),
            resonance_db=rng.uniform(0, 14), attack_seconds=rng.uniform(0.001, 0.02),
            decay_seconds=np.exp(rng.uniform(*np.log((0.08, 1.0)))), sustain=rng.uniform(0.2, 1.0),
            release_seconds=rng.uniform(0.03, 0.3), vibrato_cents=rng.choice((0.0, 0.0, rng.uniform(3, 25))),
        )  # fmt: skip
        if role == "pad":
            return replace(
                patch,
                attack_seconds=rng.uniform(0.05, 0.6),
                sustain=rng.uniform(0.7, 1.0),
                n_unison=max(patch.n_unison, 3),
            )
        if role == "arpeggio":
            return replace(patch, sustain=rng.uniform(0.0, 0.3), decay_seconds=rng.uniform(0.06, 0.3))
        if role == "bass":
            return replace(
                patch, n_unison=min(patch.n_unison, 3), sub=rng.uniform(0.0, 0.8), cutoff_hz=rng.uniform(200, 1500)
            )
        return patch

    def play(
        self, notes: Iterable[tuple[int, int, int, int]], n_samples: int, rate_hz: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return `[n_samples, 2]` of notes: first sample, end, MIDI key, velocity."""
        out = np.zeros((n_samples, 2), dtype=np.float32)
        tables = cache(lambda key: self._tables(_hz(key), rate_hz))
        for first, end, key, velocity in notes:
            n_note = min(end - first + round(self.release_seconds * rate_hz), n_samples - first)
            if n_note > 0:
                loud = np.float32((velocity / 127) ** 1.2)
                out[first : first + n_note] += loud * self._note(
                    _hz(key), tables(key), end - first, n_note, rate_hz, rng
                )
        return out

    def _note(
        self,
        pitch_hz: float,
        tables: NDArray[np.float32],
        n_held: int,
        n_note: int,
        rate_hz: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        seconds = np.arange(n_note, dtype=np.float32) / rate_hz
        octaves = np.log2(self.cutoff_hz / LOWEST_CUTOFF_HZ) + self.sweep_octaves * np.exp(
            -seconds / self.sweep_seconds
        )
        place = np.clip(octaves / np.log2(HIGHEST_CUTOFF_HZ / LOWEST_CUTOFF_HZ) * (N_CUTOFFS - 1), 0, N_CUTOFFS - 1.001)
        lower = place.astype(np.int64)
        upper_share = (place - lower).astype(np.float32)[:, None]
        vibrato = self.vibrato_cents * np.sin(2 * np.pi * 5.5 * seconds) if self.vibrato_cents else 0.0
        out = np.zeros((n_note, 2), dtype=np.float32)
        for cents in np.linspace(-0.5, 0.5, self.n_unison) * self.detune_cents if self.n_unison > 1 else (0.0,):
            turns = (
                np.cumsum(np.broadcast_to(pitch_hz / rate_hz * 2 ** ((cents + vibrato) / 1200), n_note)) + rng.random()
            )
            at = (turns % 1.0 * N_TABLE).astype(np.int64) % N_TABLE
            side = 0.5 + (cents / self.detune_cents) * 0.8
            voice = tables[lower, at][:, None] * (1 - upper_share) + tables[lower + 1, at][:, None] * upper_share
            out += voice * np.array([np.sqrt(1 - side), np.sqrt(side)], dtype=np.float32)
        out /= np.sqrt(self.n_unison)
        if self.sub:
            out += np.float32(self.sub) * np.sin(np.pi * pitch_hz * seconds, dtype=np.float32)[:, None]
        return out * self._envelope(seconds, n_held / rate_hz)[:, None]

    def _tables(self, pitch_hz: float, rate_hz: int) -> NDArray[np.float32]:
        """Return one period of a note for each cutoff, `[N_CUTOFFS, N_TABLE]`."""
        cutoffs_hz = np.geomspace(LOWEST_CUTOFF_HZ, HIGHEST_CUTOFF_HZ, N_CUTOFFS)
        return np.stack([self._table(pitch_hz, cutoff_hz, rate_hz) for cutoff_hz in cutoffs_hz])

    def _table(self, pitch_hz: float, cutoff_hz: float, rate_hz: int) -> NDArray[np.float32]:
        """Return one period `[N_TABLE]` through the filter: 12 dB an octave above its cutoff, and a peak there."""
        n_harmonics = min(int(0.5 * rate_hz / pitch_hz), N_TABLE // 2 - 1)
        number = np.arange(1, n_harmonics + 1)
        harmonics = 1 / number if self.pulse is None else 2 * np.sin(np.pi * number * self.pulse) / number
        octaves = np.log2(number * pitch_hz / cutoff_hz)
        gain_db = -12 * np.maximum(octaves, 0) + self.resonance_db * np.exp(-((octaves / 0.25) ** 2))
        spectrum = np.zeros(N_TABLE // 2 + 1, dtype=np.complex128)
        spectrum[1 : n_harmonics + 1] = -0.5j * N_TABLE * harmonics * 10 ** (gain_db / 20)
        return (np.fft.irfft(spectrum) / np.pi).astype(np.float32)

    def _envelope(self, seconds: NDArray[np.floating], held_seconds: float) -> NDArray[np.float32]:
        """Return the level at each time: up, down to `sustain`, and from the note's end to nothing."""
        level = self.sustain + (1 - self.sustain) * np.exp(
            -np.maximum(seconds - self.attack_seconds, 0) / self.decay_seconds
        )
        fall = np.exp(-5 * np.maximum(seconds - held_seconds, 0) / self.release_seconds)
        end = np.clip((seconds[-1] - seconds) / 0.002, 0, 1)  # no click where the tail is cut
        return (np.minimum(seconds / self.attack_seconds, 1) * level * fall * end).astype(np.float32)


def _hz(key: int) -> float:
    return float(440.0 * 2 ** ((key - 69) / 12))
