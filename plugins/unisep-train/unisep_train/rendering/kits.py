"""Recorded drum kits in the format of Hydrogen: one sample a hit, chosen by how hard it is struck.

Debian's `hydrogen-drumkits` has fourteen, under /usr/share/hydrogen/data/drumkits.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from unisep.errors import DatasetError
from unisep_train.data.corpus import decode

DRUMKIT_FILE = "drumkit.xml"
# What an instrument is called that plays these percussion keys of General MIDI; of several that fit a song takes one.
NAMES = {
    (35, 36): r"kick|bass ?drum|thump", (37,): r"stick|rim ?click", (38, 40): r"snare", (39,): r"clap", (54,): r"tambourine",
    (42,): r"(closed|hat).*(closed| cl\b|low|ring)|closed|hi-?hat$", (44,): r"hat.*pedal|pedal hh|\bpd\b", (46,): r"open|\bop\b",
    (49, 57): r"^(?!.*ride).*crash|cymbal", (51, 59): r"ride", (41, 43): r"floor|low tom|tom low", (45,): r"tom ?(low|mid|2)|middle tom|^tom$",
    (48, 50): r"tom ?(hi|1)|high tom|^tom$", (56,): r"cow ?bell", (60,): r"bongo hi", (61,): r"bongo lo", (70, 82): r"maraca|shaker",
    (62, 63, 64): r"conga|djembe", (75,): r"clave",
}  # fmt: skip
_NOT = re.compile(r"roll|choke|flink|bell mute|whistle", re.IGNORECASE)
HATS = frozenset({42, 44, 46})
CHOKE_SECONDS = 0.03
LOUDEST_PEAK = 0.7  # of a kit's samples: beside the other parts it is then about as loud as the kits of soundfonts


@dataclass(frozen=True)
class Hit:
    """A sample of an instrument: `[samples, channels]`, up to which velocity (0 to 1) it is for, and its gain."""

    samples: NDArray[np.float32]
    up_to: float
    gain: float


@final
class Kit:
    """A drum kit, with all its samples in memory.

    Args:
        folder: of drumkit.xml and its samples.
        sample_rate_hz: to play at.

    Raises:
        DatasetError: no kit there, or one that cannot be read.
    """

    def __init__(self, folder: Path, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        try:
            root = ET.fromstring(re.sub(rb' xmlns="[^"]*"', b"", (folder / DRUMKIT_FILE).read_bytes()))
        except (OSError, ET.ParseError) as error:
            raise DatasetError(f"{folder} holds no drum kit of Hydrogen ({error}).") from error
        named = [(row.findtext("name") or "", self._hits(folder, row)) for row in root.iter("instrument")]
        self.instruments = {name: hits for name, hits in named if hits and not _NOT.search(name)}
        self._playing = {key: playing for keys, p in NAMES.items() if (playing := self._named(p)) for key in keys}
        if not self._playing:
            raise DatasetError(f"No instrument of the drum kit {folder} has a name that is known here.")
        played = [hit for playing in self._playing.values() for name in playing for hit in self.instruments[name]]
        self._gain = LOUDEST_PEAK / max(float(np.abs(hit.samples).max()) * hit.gain for hit in played)

    def _hits(self, folder: Path, instrument: ET.Element) -> list[Hit]:
        """Read the layers of an instrument, or its one sample in older kits; files that are missing are left out."""
        hits = [
            Hit(decode(path, self.sample_rate_hz), float(row.findtext("max") or 1), float(row.findtext("gain") or 1))
            for row in list(instrument.iter("layer")) or [instrument]
            if (file := row.findtext("filename")) and (path := folder / file).is_file()
        ]
        return sorted(hits, key=lambda hit: hit.up_to)

    def _named(self, pattern: str) -> list[str]:
        return [name for name in self.instruments if re.search(pattern, name, re.IGNORECASE)]

    def keys(self) -> frozenset[int]:
        """Return the percussion keys of General MIDI that the kit has a sound for."""
        return frozenset(self._playing)

    def play(
        self, hits: Iterable[tuple[int, int, int]], n_samples: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return `[n_samples, 2]` of hits: sample, key, velocity. One instrument plays a key throughout; a hi-hat ends the one before."""
        out = np.zeros((n_samples, 2), dtype=np.float32)
        ordered = sorted(hits)
        keys = sorted({key for _, key, _ in ordered} & self.keys())
        plays = {key: str(rng.choice(self._playing[key])) for key in keys}
        for number, (first, key, velocity) in enumerate(ordered):
            if key not in plays or first >= n_samples:
                continue
            layers = self.instruments[plays[key]]
            hit = next((layer for layer in layers if velocity / 127 <= layer.up_to), layers[-1])
            sound = hit.samples[: n_samples - first] * np.float32(self._gain * hit.gain * (velocity / 127) ** 1.5)
            following = (at for at, other, _ in ordered[number + 1 :] if other in HATS)
            if key in HATS and (end := next(following, None)) is not None:
                sound = self._ended(sound, end - first)
            out[first : first + len(sound)] += sound
        return out

    def _ended(self, sound: NDArray[np.float32], n_samples: int) -> NDArray[np.float32]:
        n_fade = round(CHOKE_SECONDS * self.sample_rate_hz)
        sound = sound[: n_samples + n_fade].copy()
        tail = sound[n_samples:]
        tail *= np.linspace(1, 0, n_fade, dtype=np.float32)[: len(tail), None]
        return sound


def is_kit(path: Path) -> bool:
    """Tell whether a path is the folder of a drum kit of Hydrogen."""
    return (path / DRUMKIT_FILE).is_file()
