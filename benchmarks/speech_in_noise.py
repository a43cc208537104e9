"""How well speech is taken out of noise, or out of music: any folder of speech, mixed with any folder of what disturbs it.

    python benchmarks/speech_in_noise.py --speech recordings/ --noise noises/                # 40 windows of 4 s, 0-10 dB
    python benchmarks/speech_in_noise.py --speech recordings/ --noise songs/ --snr-db -5 5
    python benchmarks/speech_in_noise.py --speech a/ --noise b/ --stems deepfilternet3 umxse --queries htdemucs-film

A window is a stretch of a recording of speech, the loudest of that length, mono at 48 kHz, plus a stretch of a noise, repeated
where it is shorter. The ratio of their energies is drawn evenly from `--snr-db`. Files go round, the seed decides all else.
`--stems` are backends with a stem called speech or vocals, `--queries` backends that are asked for "speech" in words. Printed
are medians over the windows: SI-SDR of the mixture, SI-SDR improvement and SDR of each backend, and the median of how much
better each is than the last one, window by window. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mixing import Samples, at_level, loudest, stretch
from unisep_evaluate.metrics import sdr_db, si_sdr_db

from unisep import Audio, Separator
from unisep.engine.resample import resample
from unisep.files.formats import READ_SUFFIXES
from unisep.files.reading import read

RATE_HZ = 48_000
STEMS = ("speech", "vocals")
Ask = Callable[[Audio], Audio]


@dataclass(frozen=True)
class Window:
    """Speech and what it is mixed with, `[1, samples]`, and the names of their files."""

    speech: Samples
    noise: Samples
    files: tuple[str, str]
    snr_db: float

    @property
    def mixture(self) -> Audio:
        """Both together."""
        return Audio(self.speech + self.noise, RATE_HZ)


def list_files(folder: Path) -> list[Path]:
    """Return the audio files below a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READ_SUFFIXES)
    if not paths:
        raise SystemExit(f"There is no audio below {folder}.")
    return paths


def read_mono(path: Path) -> Samples:
    """Read a file as `[samples]` at 48 kHz, all channels averaged."""
    audio = read(path)
    return resample(audio.samples.mean(axis=0, dtype=np.float32), audio.sample_rate_hz, RATE_HZ)


def make_windows(options: argparse.Namespace) -> Iterator[Window]:
    """Yield the windows, the same for the same folders and seed."""
    rng, n_samples = np.random.default_rng(options.seed), round(options.seconds * RATE_HZ)
    voices, noises = list_files(options.speech), list_files(options.noise)
    rng.shuffle(voices)  # type: ignore[arg-type]
    rng.shuffle(noises)  # type: ignore[arg-type]
    for index in range(options.windows):
        voice, noise = voices[index % len(voices)], noises[index % len(noises)]
        speech = loudest(read_mono(voice), n_samples, RATE_HZ)
        other, snr_db = stretch(read_mono(noise), n_samples, rng), float(rng.uniform(*options.snr_db))
        names = (voice.name, noise.name)
        yield Window(speech[None], at_level(other, speech, -snr_db)[None], names, snr_db)


def make_asks(options: argparse.Namespace) -> dict[str, Ask]:
    """Return for each backend a function that gives its speech in a mixture."""

    def of_stems(name: str) -> Ask:
        separator = Separator(name, offline=True, device=options.device)

        def ask(mixture: Audio) -> Audio:
            parts = separator.separate(mixture)
            return next(parts[stem] for stem in STEMS if stem in parts)

        return ask

    def of_query(name: str) -> Ask:
        separator = Separator(query_backend=name, offline=True, device=options.device)
        return lambda mixture: separator.separate(mixture, query=options.text, route="conditioned").target

    return {name: of_stems(name) for name in options.stems} | {name: of_query(name) for name in options.queries}


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a record for each window: what it was made of, and each backend's figures."""
    asks, records = make_asks(options), []
    for window in make_windows(options):
        mixture = window.mixture
        before = si_sdr_db(mixture.samples, window.speech)
        record: dict[str, object] = {"files": window.files, "snr_db": window.snr_db, "mixture_si_sdr_db": before}
        for name, ask in asks.items():
            estimate = ask(mixture).samples
            gain = si_sdr_db(estimate, window.speech) - before
            record[name] = {"si_sdri_db": gain, "sdr_db": sdr_db(estimate, window.speech)}
        records.append(record)
    return records


def median(records: list[dict[str, object]], name: str, figure: str) -> float:
    """Return the median over the windows of a backend's figure."""
    return statistics.median(record[name][figure] for record in records)  # type: ignore[index]


def main() -> None:
    """Measure, print a table, and write all windows where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="folder of speech")
    parser.add_argument("--noise", type=Path, required=True, help="folder of noises, or of music")
    parser.add_argument("--stems", nargs="*", default=["deepfilternet3"], help="backends with a stem for speech")
    parser.add_argument("--queries", nargs="*", default=["htdemucs-film"], help="backends that are asked in words")
    parser.add_argument("--text", default="speech", help="what they are asked for")
    parser.add_argument("--snr-db", nargs=2, type=float, default=(0.0, 10.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write all windows there")
    options = parser.parse_args()
    records = measure(options)
    names = [*options.stems, *options.queries]
    base = names[-1]
    mixed = statistics.median(record["mixture_si_sdr_db"] for record in records)  # type: ignore[type-var]
    print(f"{len(records)} windows of {options.seconds:g} s; medians; mixture {mixed:.1f} dB SI-SDR")
    for name in names:
        gains = [record[name]["si_sdri_db"] - record[base]["si_sdri_db"] for record in records]  # type: ignore[index]
        line = f"{name:24} SI-SDRi {median(records, name, 'si_sdri_db'):5.2f} dB   SDR {median(records, name, 'sdr_db'):5.2f} dB"
        more = f"   over {base} {statistics.median(gains):+.2f} dB, better in {sum(gain > 0 for gain in gains)}"
        print(line + (more if name != base else ""))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
