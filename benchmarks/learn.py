"""How much better a learnt vector finds a sound than the plain example, on parts of recordings that it was not learnt from.

    python benchmarks/learn.py ../corpus --json learn.json

The corpus is a folder with `manifest.jsonl`, a line a file: path, kind, song, label. The 20 sounds are of recordings that the
embedded weights were not trained on: 13 stems of three songs, and 7 labels of single recordings. Of each sound five clips of
five seconds come from its first half (of its energy); it is asked for in mixtures of its second half: stems in their own song,
at its level where that is within 10 dB of the rest, else 3 dB below; single recordings in one of the songs, within 5 dB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from unisep import Audio, Embedding, Separator
from unisep.engine.resample import to_model
from unisep.files import read
from unisep.session import learn

Samples = NDArray[np.float32]
Mixed = tuple[Samples, Samples]  # a target, and the rest
RATE_HZ, CLIP_SECONDS, N_CLIPS, TEST_SECONDS, N_TESTS = 44_100, 5, 5, 4, 6
HELD_OUT = {"eif-sodium", "lmms-capdan-reggaetry", "lmms-oglsdl-pptrip"}
STEMS = [
    "eif-sodium/vox-lead", "eif-sodium/bgvox-outro", "eif-sodium/slow-beat", "eif-sodium/pluck",
    "lmms-capdan-reggaetry/1-e-piano", "lmms-capdan-reggaetry/2-bass-slap-02", "lmms-capdan-reggaetry/4-strings-low",
    "lmms-capdan-reggaetry/7-snare-06", "lmms-capdan-reggaetry/9-closed-hihhat-03",
    "lmms-oglsdl-pptrip/12-bassdrum04-ogg", "lmms-oglsdl-pptrip/17-mute-bass-ds", "lmms-oglsdl-pptrip/5-analogtimes-2",
    "lmms-oglsdl-pptrip/9-rock-organ",
]  # fmt: skip
LABELS = [
    "humming voice", "speech in russian", "female speech", "electric guitar", "shaker", "birds singing", "balloon squeak",
]  # fmt: skip


class Corpus:
    """The held-out recordings of a corpus."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]

    def song(self, name: str) -> dict[str, Samples]:
        """Return the stems of a song, equally long, by the names of their files."""
        paths = [Path(row["path"]) for row in self._rows if row["song"] == name]
        stems = {path.stem: self._read(path) for path in paths}
        longest = max(stem.shape[1] for stem in stems.values())
        return {name: np.pad(stem, ((0, 0), (0, longest - stem.shape[1]))) for name, stem in stems.items()}

    def single(self, label: str) -> Samples:
        """Return all held-out single recordings with a label, one after the other."""
        rows = [row for row in self._rows if row["label"] == label and row["kind"] != "song"]
        held_out = [row for row in rows if hashlib.md5(row["path"].encode()).hexdigest()[-1] in "01"]
        return np.concatenate([self._read(Path(row["path"])) for row in held_out], axis=1)

    def _read(self, path: Path) -> Samples:
        audio = read(self._folder / path)
        assert audio.sample_rate_hz in (RATE_HZ, 48_000)
        return stereo(audio)


def stereo(audio: Audio) -> Samples:
    """Return the audio at the rate of the query model, in stereo."""
    return to_model(audio.samples, audio.sample_rate_hz, RATE_HZ, 2)


def mixed(stems: list[Samples]) -> Samples:
    """Return the sum of equally long stems."""
    return np.sum(np.stack(stems), axis=0, dtype=np.float32)


def level(samples: Samples) -> float:
    """Return the root of the mean energy, never 0."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) + 1e-9


def starts(sound: Samples, begin: int, end: int, n_samples: int, n_starts: int) -> list[int]:
    """Return where windows begin in which the sound is heard, spread evenly over those that there are."""
    grid = np.arange(begin, max(begin + 1, end - n_samples), n_samples // 4)
    levels = np.array([level(sound[:, start : start + n_samples]) for start in grid])
    heard = grid[levels > 0.3 * np.quantile(levels, 0.9)]
    return [int(heard[round(index)]) for index in np.linspace(0, len(heard) - 1, n_starts)]


def halves(sound: Samples) -> int:
    """Return where half of the energy is over, but not before one clip is."""
    energy = np.cumsum(np.square(sound, dtype=np.float64).sum(0))
    return max(CLIP_SECONDS * RATE_HZ, int(np.searchsorted(energy, energy[-1] / 2)))


def case(corpus: Corpus, name: str) -> tuple[list[Samples], list[Samples], list[Mixed]]:
    """Return clips of a sound, clips of what it is heard with, and targets with their rests to try it on."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    n_clip, n_test = CLIP_SECONDS * RATE_HZ, TEST_SECONDS * RATE_HZ
    if "/" in name:
        song, _, stem = name.partition("/")
        stems = corpus.song(song)
        sound, rest = stems[stem], mixed([other for key, other in stems.items() if key != stem])
        middle = halves(sound)
        places = starts(sound, 0, middle, n_clip, N_CLIPS)
        tests = starts(sound, middle, sound.shape[1], n_test, N_TESTS)
        pairs = [(sound[:, at : at + n_test], rest[:, at : at + n_test]) for at in tests]
        others = [rest[:, at : at + n_clip] for at in places]
        return [sound[:, at : at + n_clip] for at in places], others, [leveled(*pair, None) for pair in pairs]
    sound, songs = corpus.single(name), [mixed(list(corpus.song(song).values())) for song in sorted(HELD_OUT)]
    middle = halves(sound)
    clips = [sound[:, at : at + n_clip] for at in starts(sound, 0, middle, n_clip, N_CLIPS)]
    others = [part(songs[index % 3], 0.0, n_clip, random) for index in range(N_CLIPS)]
    pairs = []
    for index, at in enumerate(starts(sound, middle, sound.shape[1], n_test, N_TESTS)):
        rest = part(songs[index % 3], 0.5, n_test, random)
        pairs.append(leveled(sound[:, at : at + n_test], rest, random.uniform(-5, 5)))
    return clips, others, pairs


def part(song: Samples, begin: float, n_samples: int, random: Generator) -> Samples:
    """Return a part of that half of a song which begins at this share of it."""
    first = round(begin * song.shape[1])
    at = starts(song, first, first + song.shape[1] // 2, n_samples, 9)[int(random.integers(9))]
    return song[:, at : at + n_samples]


def leveled(target: Samples, rest: Samples, over_rest_db: float | None) -> Mixed:
    """Return both at -22 dB together, the target so far over the rest; for None as it is, if within 10 dB, else -3."""
    own_db = 20 * np.log10(level(target) / level(rest))
    wanted_db = own_db if abs(own_db) <= 10 else -3.0
    gain = 10 ** (((wanted_db if over_rest_db is None else over_rest_db) - own_db) / 20)
    target = target * np.float32(gain)
    scale = np.float32(10 ** (-22 / 20) / level(target + rest))
    return target * scale, rest * scale


def si_sdr(estimate: Samples, target: Samples) -> float:
    """Return the scale-invariant signal-to-distortion ratio in decibels (Le Roux et al. 2019)."""
    return sdr(estimate, target * (np.vdot(estimate, target) / np.vdot(target, target)))


def sdr(estimate: Samples, target: Samples) -> float:
    """Return the plain signal-to-distortion ratio in decibels."""
    return 20 * float(np.log10(level(target) / level(estimate - target)))


def gains(separator: Separator, query: Embedding, tests: list[Mixed]) -> tuple[float, float]:
    """Return the medians of SI-SDR improvement and SDR of what the query finds."""
    rows = []
    for target, rest in tests:
        estimate = separator.separate(Audio(target + rest, RATE_HZ), query).target.samples
        rows.append((si_sdr(estimate, target) - si_sdr(target + rest, target), sdr(estimate, target)))
    return statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)


def measured(corpus: Corpus, name: str, kinds: list[str]) -> dict[str, Any]:
    """Return the figures of one sound, of the plain example and of what is learnt without and with others."""
    clips, others, tests = case(corpus, name)
    sounds = [Audio(np.ascontiguousarray(clip), RATE_HZ) for clip in clips]
    separator = Separator(query_backend="htdemucs-film", encoder="clap-mini")
    vectors = np.stack([separator.embed({"audio": clip}).vector for clip in sounds])
    space = separator.embed({"audio": sounds[0]}).space
    row: dict[str, Any] = {"name": name, "plain": gains(separator, Embedding(vectors.mean(0), space), tests)}
    for kind in kinds:
        begin, began = time.process_time(), time.perf_counter()
        beside = [Audio(np.ascontiguousarray(other), RATE_HZ) for other in others] if kind == "others" else None
        learnt = separator.learn(sounds, beside, name=name)
        row[f"{kind} seconds"] = time.process_time() - begin, time.perf_counter() - began
        row[kind], row[f"{kind} said"] = gains(separator, learnt, tests), learnt.provenance["learnt"]
    return row


def main() -> None:
    """Print a line a sound, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--sounds", type=int, nargs="*", help="which of the 20, by number")
    parser.add_argument("--kinds", nargs="+", default=["rule", "others"], choices=["rule", "others"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--always", action="store_true", help="never keep the plain example")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.always:
        learn.LEAST_GAIN_DB = -1e3
    names, rows = STEMS + LABELS, []
    for index in range(len(names)) if arguments.sounds is None else arguments.sounds:
        rows.append(measured(Corpus(arguments.corpus), names[index], arguments.kinds))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    for kind in arguments.kinds:
        differences = sorted(row[kind][0] - row["plain"][0] for row in rows)
        print(f"{kind}: median {statistics.median(differences):+.2f} dB, worst {differences[0]:+.2f} dB SI-SDR")


if __name__ == "__main__":
    main()
