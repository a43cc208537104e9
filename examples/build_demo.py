"""Build the demo recording in `audio/` from the CC0 samples that Sonic Pi ships.

    apt-get install sonic-pi-samples
    python build_demo.py /usr/share/sonic-pi/samples

Four stems of recorded material (drums, bass, electric guitar, choir), 20 s at 120 beats a minute in
E minor, and two example clips played on other instruments than those in the mixture. Stems and clips
are Ogg Vorbis, since 2 MB do not hold five lossless stereo files; the mixture is FLAC and is the sum of
the stems *as they decode*, rounded to 13 bits (67 dB below the music). So the stems are the mixture's exact parts
to that rounding, although they are lossy: what a separation is measured against is really in the mixture.
The same samples give the same audio every time; only the serial number in the Ogg pages differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 44_100
BEAT_SAMPLES = SAMPLE_RATE_HZ // 2  # 120 beats a minute: the tempo of the guitar's own echoes
BEATS_PER_BAR = 4
N_BARS = 10
FADE_SECONDS = 0.01
VORBIS_COMPRESSION = 0.8  # 60 to 80 kbit/s a stem
MIXTURE_BITS = 13
PEAK = 0.89

Samples = NDArray[np.float64]  # [2, samples]


@dataclass(frozen=True)
class Event:
    """One sample played at a place: `n_beats` long, faded in and out, resampled by `semitones`."""

    sample: str
    bar: float
    n_beats: float
    semitones: float = 0.0
    gain_db: float = 0.0
    pan: float = 0.0
    fade_seconds: float = FADE_SECONDS


# name: (author, page it was taken from), as Debian's copyright file of sonic-pi-samples states them; all are CC0.
SOURCES = {
    "loop_breakbeat": ("Snapper4298, 2012", "freesound.org/people/Snapper4298/sounds/160354/"),
    "loop_compus": ("godspine, 2013", "freesound.org/people/godspine/sounds/212288/"),
    "drum_splash_hard": ("menegass, 2010", "freesound.org/people/menegass/sounds/100060/"),
    "drum_cymbal_closed": ("menegass, 2010", "freesound.org/people/menegass/sounds/100053/"),
    "drum_tom_hi_hard": ("menegass, 2010", "freesound.org/people/menegass/sounds/100062/"),
    "drum_tom_mid_hard": ("menegass, 2010", "freesound.org/people/menegass/sounds/100066/"),
    "drum_tom_lo_hard": ("menegass, 2010", "freesound.org/people/menegass/sounds/100064/"),
    "drum_bass_hard": ("menegass, 2010", "freesound.org/people/menegass/sounds/100051/"),
    "bass_woodsy_c": ("ani_music, 2012", "freesound.org/people/ani_music/sounds/165322/"),
    "guit_em9": ("Sub-d, 2008", "freesound.org/people/Sub-d/sounds/46992/"),
    "guit_e_fifths": ("Sub-d, 2008", "freesound.org/people/Sub-d/sounds/46990/"),
    "guit_e_slide": ("Suva, 2005", "freesound.org/people/Suva/sounds/2410/"),
    "ambi_choir": ("Exsomniel, 2013", "freesound.org/people/Exsomniel/sounds/207809/"),
}
LICENCE = """# Licence of the demo recording

Everything in this folder is made by `../build_demo.py` from samples that Sonic Pi ships (Debian package
`sonic-pi-samples`, folder `etc/samples` of the source). Each was published under the Creative Commons 0
dedication (CC0-1.0, https://creativecommons.org/publicdomain/zero/1.0/), as the package's copyright file states
one by one. The recording, its stems and the example clips are CC0-1.0 too. None of it is in the training or
validation data of the embedded weights.

| sample | author | source |
|---|---|---|
"""
ORIGIN_BPM = {"loop_breakbeat": 126.0}  # loops are resampled from their own tempo to that of the song
SUB_BASS_HZ = {"loop_breakbeat": 100.0}  # it drones on at 52 Hz, which no listener would call drums


def drum_events() -> Iterator[Event]:
    """Play hi-hat and a tom fill in bar 1, then the loop doubled by a kick, a crash on every change, a last hit."""
    for eighth in range(4):
        yield Event("drum_cymbal_closed", 1 + eighth / 8, 0.5, gain_db=-3, pan=0.3)
    toms = [
        ("drum_tom_hi_hard", -0.4),
        ("drum_tom_hi_hard", -0.4),
        ("drum_tom_mid_hard", 0.0),
        ("drum_tom_lo_hard", 0.4),
    ]
    for i, (tom, pan) in enumerate(toms):
        yield Event(tom, 1.5 + i / 8, 1, gain_db=1, pan=pan)
    for bar in range(2, 9):
        yield Event("loop_breakbeat", bar, BEATS_PER_BAR, gain_db=7)
        for beat in (0, 1.5, 2.5):
            yield Event("drum_bass_hard", bar + beat / BEATS_PER_BAR, 0.7, gain_db=-4)
    for bar in (2, 4, 6, 9):
        yield Event("drum_splash_hard", bar, 6, gain_db=-4, pan=-0.3, fade_seconds=0.3)
    yield Event("drum_bass_hard", 9, 1.5, gain_db=-3)


def bass_events() -> Iterator[Event]:
    """Play roots under the guitar's E minor: E, C, A, D and home; a push on the last eighth of each bar."""
    roots = {2: -8, 3: -8, 4: 0, 5: 0, 6: -3, 7: 2, 8: -8}  # bar: semitones from the sample's C2
    for bar, semitones in roots.items():
        for eighth, n_beats in ((0, 1.4), (3, 0.9), (5, 0.9), (7, 0.5)):
            octave = 12 if eighth == 7 and semitones < 0 else 0
            yield Event("bass_woodsy_c", bar + eighth / 8, n_beats, semitones + octave, -4, fade_seconds=0.02)
    yield Event("bass_woodsy_c", 9, 4, -8, -4, fade_seconds=1.0)


def guitar_events() -> Iterator[Event]:
    """Play a rolled E minor ninth chord and an E-B-F sharp figure in turn, each cut by the next; a last chord."""
    for bar in range(0, 9):
        chord = "guit_em9" if bar % 2 == 0 else "guit_e_fifths"
        yield Event(chord, bar, BEATS_PER_BAR, gain_db=3, fade_seconds=0.03)
    yield Event("guit_em9", 9, 4, gain_db=3, fade_seconds=1.2)


def choir_events() -> Iterator[Event]:
    """Play a pad from bar 4 on: two voices a minor third apart, retuned to each bar's harmony."""
    # The sample sounds C and E flat, both half a semitone sharp.
    thirds = {4: 3.5, 5: -1.5, 6: -3.5, 7: 5.5, 8: 3.5, 9: 3.5}
    for bar, semitones in thirds.items():
        n_steps = 2 if bar == 9 else 4
        for step in range(n_steps):
            yield Event("ambi_choir", bar + step / 4, 2, semitones, 5, fade_seconds=0.45)


STEMS = {"drums": drum_events, "bass": bass_events, "electric-guitar": guitar_events, "choir": choir_events}
CLIPS = {"example-electric-guitar": ("guit_e_slide", 4.3), "example-drums": ("loop_compus", 4.9)}


def load(folder: Path, name: str) -> Samples:
    """Read a sample as `[2, samples]`; a mono sample is put on both channels."""
    samples, sample_rate_hz = sf.read(folder / f"{name}.flac", always_2d=True)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise SystemExit(f"{name}.flac has {sample_rate_hz} Hz; the samples of sonic-pi-samples have 44100 Hz.")
    return np.repeat(samples, 2, axis=1).T if samples.shape[1] == 1 else samples.T


def retuned(samples: Samples, speed: float) -> Samples:
    """Return samples played `speed` times as fast, pitch and all, as on a tape."""
    if speed == 1.0:
        return samples
    return soxr.resample(samples.T, speed * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, quality="VHQ").T


def without_sub_bass(samples: Samples, lowest_hz: float) -> Samples:
    """Fade out all below `lowest_hz` over a third of an octave of a loop (circular, as a loop is)."""
    spectrum = np.fft.rfft(samples)
    frequencies_hz = np.fft.rfftfreq(samples.shape[1], 1 / SAMPLE_RATE_HZ)
    octaves = np.log2(np.maximum(frequencies_hz, 1.0) / lowest_hz)
    return np.fft.irfft(spectrum * np.clip(1 + 3 * octaves, 0, 1), samples.shape[1])


def shaped(samples: Samples, event: Event) -> Samples:
    """Return one event's samples: cut to its length, faded, panned (constant power) and scaled."""
    n_samples = round(event.n_beats * BEAT_SAMPLES)
    out = samples[:, :n_samples].copy()
    n_fade = min(round(event.fade_seconds * SAMPLE_RATE_HZ), out.shape[1] // 2)
    ramp = np.sin(np.linspace(0, np.pi / 2, n_fade)) ** 2
    out[:, out.shape[1] - n_fade :] *= ramp[::-1]
    if event.sample == "ambi_choir":  # a pad swells; everything else keeps its attack
        out[:, :n_fade] *= ramp
    angle = (event.pan + 1) * np.pi / 4
    gains = np.sqrt(2) * np.array([np.cos(angle), np.sin(angle)]) * 10 ** (event.gain_db / 20)
    return out * gains[:, None]


def render(folder: Path, events: Iterator[Event]) -> Samples:
    """Return a stem `[2, samples]`: the sum of its events."""
    stem = np.zeros((2, N_BARS * BEATS_PER_BAR * BEAT_SAMPLES))
    song_bpm = 60 * SAMPLE_RATE_HZ / BEAT_SAMPLES
    for event in events:
        speed = 2 ** (event.semitones / 12) * song_bpm / ORIGIN_BPM.get(event.sample, song_bpm)
        sample = load(folder, event.sample)
        if event.sample in SUB_BASS_HZ:
            sample = without_sub_bass(sample, SUB_BASS_HZ[event.sample])
        piece = shaped(retuned(sample, speed), event)
        start = round(event.bar * BEATS_PER_BAR * BEAT_SAMPLES)
        piece = piece[:, : stem.shape[1] - start]
        stem[:, start : start + piece.shape[1]] += piece
    return stem


def write_vorbis(path: Path, samples: Samples) -> Samples:
    """Write samples as Ogg Vorbis to `path` and return them as they decode again."""
    with sf.SoundFile(
        path, "w", SAMPLE_RATE_HZ, samples.shape[0], "VORBIS", format="OGG", compression_level=VORBIS_COMPRESSION
    ) as file:
        for block in np.array_split(samples.T, 200):  # libsndfile's encoder overflows its stack on long writes
            file.write(block)
    return sf.read(path, always_2d=True)[0].T


def write_licence(path: Path) -> None:
    """Write who recorded what, and under which licence."""
    rows = "".join(f"| `{name}` | {author} | http://{page} |\n" for name, (author, page) in SOURCES.items())
    path.write_text(LICENCE + rows, encoding="utf-8")


def build(samples_folder: Path, out: Path) -> None:
    """Write stems, mixture and example clips to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    stems = {name: render(samples_folder, events()) for name, events in STEMS.items()}
    gain = PEAK / np.abs(sum(stems.values())).max()
    decoded = {name: write_vorbis(out / f"{name}.ogg", gain * stem) for name, stem in stems.items()}
    mixture = np.sum(list(decoded.values()), axis=0)
    steps = 2.0 ** (MIXTURE_BITS - 1)  # FLAC stores no bits that are zero throughout
    sf.write(out / "mixture.flac", np.round(mixture.T * steps) / steps, SAMPLE_RATE_HZ, "PCM_16", compression_level=1.0)
    write_licence(out / "LICENCE.md")
    for name, (sample, seconds) in CLIPS.items():
        clip = load(samples_folder, sample)[:, : round(seconds * SAMPLE_RATE_HZ)]
        write_vorbis(out / f"{name}.ogg", clip.mean(0, keepdims=True))


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Build the demo recording from the folder of sonic-pi-samples.")
    parser.add_argument("samples", type=Path, help="folder with loop_breakbeat.flac and the others")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "audio")
    arguments = parser.parse_args()
    missing = [name for name in SOURCES if not (arguments.samples / f"{name}.flac").is_file()]
    if missing:
        raise SystemExit(f"{arguments.samples} lacks {', '.join(missing)}. Install Debian's sonic-pi-samples.")
    build(arguments.samples, arguments.out)
    total_kb = sum(path.stat().st_size for path in arguments.out.iterdir()) / 1000
    print(f"{arguments.out}: {total_kb:.0f} kB")


if __name__ == "__main__":
    main()
