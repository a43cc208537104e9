"""A step of one's own for every result: where a sound is far below the recording, it is silent.

    unisep separate song.flac -q "electric guitar" --plugin gate.py

What the gate takes from a sound goes to the rest: all parts still sum to the recording.
"""

from unisep import ResultSpec, hookimpl

WINDOW_SECONDS = 0.05
LEAST_DB = -30.0


def gate(targets, mixture):
    """Return the targets, each silent in windows where it lies more than 30 dB below the recording."""
    return {name: _gated(target, mixture) for name, target in targets.items()}


def _gated(target, mixture):
    import numpy as np  # here, since the file is read whenever plugins are listed

    from unisep import Audio

    hop_samples = max(1, round(WINDOW_SECONDS * mixture.sample_rate_hz))
    starts = np.arange(0, mixture.n_samples, hop_samples)
    powers = [np.add.reduceat(np.square(audio.samples, dtype=np.float64).sum(0), starts) for audio in (target, mixture)]
    opened = powers[0] >= powers[1] * 10 ** (LEAST_DB / 10)
    gains = np.interp(np.arange(mixture.n_samples), starts + hop_samples / 2, opened.astype(float))
    return Audio((target.samples * gains).astype(np.float32), target.sample_rate_hz)


@hookimpl
def unisep_results():
    return [ResultSpec(name="gate", load="gate:gate", summary="what is far below the recording is silent")]
