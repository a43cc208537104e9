"""Plays notes with a General MIDI soundfont. Needs `tinysoundfont`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from unisep.errors import DatasetError

PERCUSSION_BANK = 128
# Pitch wheel: 8192 is the middle, and its range is two semitones.
WHEEL_CENTRE, WHEEL_PER_SEMITONE = 8192, 4096
# A sample from the start, the synthesizer's method to call there, and what comes after the channel.
Event = tuple[Any, ...]


@final
class Synth:
    """A soundfont, loaded once. After every call all notes end, and `fading_seconds` of what is left are thrown away."""

    def __init__(self, soundfont: Path, sample_rate_hz: int, fading_seconds: float = 0.0) -> None:
        try:
            import tinysoundfont
        except ImportError as error:
            raise DatasetError("Rendering needs tinysoundfont: pip install --no-deps tinysoundfont.") from error
        if not soundfont.is_file():
            raise DatasetError(f"No soundfont at {soundfont}. On Debian: apt install fluidr3mono-gm-soundfont.")
        self._n_fading = round(fading_seconds * sample_rate_hz)
        self._synth = tinysoundfont.Synth(samplerate=sample_rate_hz, gain=-6)
        self._soundfont = self._synth.sfload(str(soundfont))

    def play(self, program: int, is_drums: bool, events: Iterable[Event], n_samples: int) -> NDArray[np.float32]:
        """Return `[n_samples, 2]` of what the events make of a program."""
        self._synth.program_select(0, self._soundfont, PERCUSSION_BANK if is_drums else 0, program, is_drums)
        sound = np.zeros((n_samples, 2), dtype=np.float32)
        position = 0
        for at, method, *values in sorted(events, key=lambda event: event[0]):
            at = min(max(at, position), n_samples)
            sound[position:at] = self._generate(at - position)
            position = at
            getattr(self._synth, method)(0, *values)
        sound[position:] = self._generate(n_samples - position)
        self._synth.pitchbend(0, WHEEL_CENTRE)
        self._synth.sounds_off()
        self._generate(self._n_fading)
        return sound

    def _generate(self, n_samples: int) -> NDArray[np.float32]:
        if not n_samples:
            return np.zeros((0, 2), dtype=np.float32)
        return np.frombuffer(self._synth.generate(n_samples), dtype=np.float32).reshape(-1, 2)[:n_samples]
