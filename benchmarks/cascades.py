"""What specialists are worth: before the query model, as cascades, and in its place, for speech and vocals.

    python benchmarks/cascades.py CORPUS [CORPUS ...]                 # folders with a manifest.jsonl; 40 minutes on a core
    python benchmarks/cascades.py CORPUS --parts songs vocals --limit 3 --json windows.json

A cascade takes out what was not asked for, and asks the query model about what is left. Windows last 5 s, in stereo, of
what `unisep_train` keeps for validation:

    songs    a part of a song, or a solo phrase over a song, under vocals: the query model hears the mixture, or what
             Spleeter leaves of it without vocals. The song's own vocals, or else solo singing.
    sounds   an everyday sound beside another one, under speech: the same with DeepFilterNet3 and without speech.
    speech   over music without vocals, over one instrument, in everyday noise: who answers "speech" best?
    vocals   of the same songs: the query model or Spleeter?

Songs and sounds come a second time without the voice, where a cascade can only do harm. Targets are within 10 dB of all else.
Printed are medians: SI-SDR of the mixture, SI-SDR improvement / SDR of each way, then how much better in SI-SDR it is
than the first way, window by window, and in how many windows. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RATE_HZ
from mixing import Corpus, Range, Samples, at_level, loudest, stretch
from unisep_evaluate.metrics import energy_ratio_db, sdr_db, si_sdr_db

from unisep import Audio, Separator

PARTS, N_SAMPLES = ("songs", "sounds", "speech", "vocals"), 5 * RATE_HZ
VOICE_DB, SPEECH_DB, BESIDE_DB = Range(-5, 5), Range(-5, 10), Range(-3, 3)  # voices over all else; sounds over others
MAX_DIFFERENCE_DB, LEAST_VOICE_DB, LEAST_ENERGY_DB = 10.0, -15.0, -20.0
NOT_ASKED = ("vocals", "fx", "percussion", "other")
Ask = Callable[[Audio, str], Audio]


@dataclass(frozen=True)
class Window:
    """What is asked for by `text` and all else, `[2, samples]` each; `kind` is a line of the table of a part."""

    part: str
    kind: str
    text: str
    target: Samples
    rest: Samples
    files: tuple[str, ...]


def over(band: Samples, voice: Samples, range_db: Range, rng: np.random.Generator) -> Samples:
    """Return the loudest stretch of a voice, at a level over the band that is drawn."""
    return at_level(loudest(voice, N_SAMPLES, RATE_HZ), band, range_db.draw(rng))


def twice(
    part: str, voices: str, kind: str, text: str, target: Samples, rest: Samples, voice: Samples, files: tuple[str, ...]
) -> Iterator[Window]:
    """Yield a window with the voice and without, where the target is near the level of the rest."""
    for name, other in ((f"{part}, with {voices}", rest + voice), (f"{part}, without {voices}", rest)):
        if abs(energy_ratio_db(target, other)) <= MAX_DIFFERENCE_DB:
            yield Window(name, kind, text, target, other, files)


def song_windows(corpus: Corpus) -> Iterator[Window]:
    """Yield vocals of songs, and parts of songs and solo phrases over songs, under vocals and without."""
    rng, singing = np.random.default_rng(0), cycle(corpus.singing)
    for song in corpus.songs:
        families, whole = corpus.families(song), corpus.band(song)
        for start in range(0, whole.shape[-1] - N_SAMPLES + 1, N_SAMPLES):
            here = slice(start, start + N_SAMPLES)
            band, files = whole[:, here], (song, str(start))
            own = families["vocals"][1][:, here] if "vocals" in families else None
            voice = over(band, corpus.read(next(singing)), VOICE_DB, rng) if own is None else own
            if energy_ratio_db(voice, band) < LEAST_VOICE_DB:
                continue
            yield Window("vocals", "solo singing" if own is None else "the song's own", "vocals", voice, band, files)
            for family, (text, samples) in families.items():
                if family not in NOT_ASKED:
                    part = samples[:, here]
                    yield from twice("songs", "vocals", family, text, part, band - part, voice, files)
    for solo, song in zip(corpus.solos * 2, cycle(corpus.songs), strict=False):
        row = corpus.rows[solo]
        band = stretch(corpus.band(song, without=row.family), N_SAMPLES, rng)
        part = at_level(stretch(corpus.read(solo), N_SAMPLES, rng), band, BESIDE_DB.draw(rng))
        voice = over(band + part, corpus.read(next(singing)), VOICE_DB, rng)
        yield from twice("songs", "vocals", row.family, row.label, part, band, voice, (solo, song))


def sound_windows(corpus: Corpus) -> Iterator[Window]:
    """Yield an everyday sound beside another one, under speech and without."""
    rng = np.random.default_rng(1)
    for number, (path, speech) in enumerate(zip(corpus.sounds, cycle(corpus.speech), strict=False)):
        row, beside = corpus.rows[path], corpus.sounds[(number * 7 + 3) % len(corpus.sounds)]
        if corpus.rows[beside].label != row.label:
            other = stretch(corpus.read(beside), N_SAMPLES, rng)
            target = at_level(stretch(corpus.read(path), N_SAMPLES, rng), other, BESIDE_DB.draw(rng))
            voice = over(target + other, corpus.read(speech), VOICE_DB, rng)
            yield from twice("sounds", "speech", row.family, row.label, target, other, voice, (path, beside))


def speech_windows(corpus: Corpus) -> Iterator[Window]:
    """Yield speech over music, over one instrument and in noise."""
    backgrounds = {"over music": corpus.songs, "over one instrument": corpus.solos, "in noise": corpus.sounds}
    for kind, paths in backgrounds.items():
        rng = np.random.default_rng(2)
        for path, speech, _ in zip(cycle(paths), cycle(corpus.speech), range(60), strict=False):
            rest = stretch(corpus.band(path) if path in corpus.songs else corpus.read(path), N_SAMPLES, rng)
            if energy_ratio_db(rest, np.ones(1)) > LEAST_ENERGY_DB:  # not a gap in a song
                target = over(rest, corpus.read(speech), SPEECH_DB, rng)
                yield Window("speech", kind, "speech", target, rest, (speech, path))


def make_ways() -> dict[str, dict[str, Ask]]:
    """Return for each part the ways to answer, the plain one first."""
    asked = Separator(query_backend="htdemucs-film", device="cpu", offline=True)
    spleeter, enhancer = (Separator(name, device="cpu", offline=True) for name in ("spleeter-2stems", "deepfilternet3"))

    def ask(mixture: Audio, text: str) -> Audio:
        return asked.separate(mixture, query=text, route="conditioned").target

    def take(mixture: Audio) -> Audio:
        return spleeter.separate(mixture, stems="vocals").target

    def enhance(mixture: Audio) -> Audio:
        return enhancer.separate(mixture, stems="speech").target

    vocals: dict[str, Ask] = {"query model": ask, "Spleeter": lambda mixture, _: take(mixture)}
    enhanced: dict[str, Ask] = {
        "DeepFilterNet3": lambda mixture, _: enhance(mixture),
        "DeepFilterNet3 of Spleeter": lambda mixture, _: enhance(take(mixture)),
    }
    return {
        "songs": {
            "mixture": ask,
            "without vocals": lambda m, text: ask(spleeter.separate(m, stems="vocals").rest, text),
        },
        "sounds": {
            "mixture": ask,
            "without speech": lambda m, text: ask(enhancer.separate(m, stems="speech").rest, text),
        },
        "speech": vocals | enhanced,
        "vocals": vocals,
    }


def measure(window: Window, ways: dict[str, Ask]) -> dict[str, Any]:
    """Return what a window was made of, and the figures of each way."""
    mixture, figures = Audio(window.target + window.rest, RATE_HZ), {}
    before = si_sdr_db(mixture.samples, window.target)
    for name, ask in ways.items():
        estimate = ask(mixture, window.text).samples
        gain = max(si_sdr_db(estimate, window.target), -60.0) - before  # a silent estimate has no SI-SDR
        figures[name] = {"si_sdri_db": gain, "sdr_db": sdr_db(estimate, window.target)}
    facts = {"part": window.part, "kind": window.kind, "text": window.text, "files": window.files}
    return facts | {"mixture_si_sdr_db": before, "ways": figures}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown of records of one part: a line for each kind, and one for all."""
    names, kinds = list(records[0]["ways"]), sorted({record["kind"] for record in records})
    lines = [f"| {records[0]['part']} | n | SI-SDR | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for kind in [*kinds, "all"]:
        some = [record for record in records if kind in ("all", record["kind"])]
        cells = [kind, str(len(some)), f"{statistics.median(record['mixture_si_sdr_db'] for record in some):.1f}"]
        first = [record["ways"][names[0]]["si_sdri_db"] for record in some]
        for name in names:
            gains, sdrs = ([record["ways"][name][figure] for record in some] for figure in ("si_sdri_db", "sdr_db"))
            better = [gain - plain for gain, plain in zip(gains, first, strict=True)]
            more = (
                f"; {statistics.median(better):+.1f}, {np.mean(np.array(better) > 0):.0%}" if name != names[0] else ""
            )
            cells.append(f"{statistics.median(gains):.1f} / {statistics.median(sdrs):.1f}{more}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print tables, and write all windows where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="+", help="folders with a manifest.jsonl")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--limit", type=int, default=10**9, help="so many windows of each kind")
    parser.add_argument("--json", type=Path, help="write all windows there")
    options = parser.parse_args()
    corpus, ways = Corpus(options.corpus), make_ways()
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for window in (window for make in (song_windows, sound_windows, speech_windows) for window in make(corpus)):
        part, records = window.part.split(",")[0], tables[window.part]
        if part in options.parts and sum(record["kind"] == window.kind for record in records) < options.limit:
            records.append(measure(window, ways[part]))
    print("\n\n".join(table(records) for records in tables.values() if records))
    if options.json:
        options.json.write_text(json.dumps([record for records in tables.values() for record in records], indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
