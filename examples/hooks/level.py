"""A command of one's own: how loud recordings are.

unisep level song.flac --plugin level.py
"""

import argparse

from unisep import CommandSpec, hookimpl


def level(arguments: list[str]) -> int:
    """Print the peak and the mean level of each file; 0 is full scale."""
    import numpy as np

    from unisep import files

    parser = argparse.ArgumentParser(prog="unisep level", description="Say how loud recordings are.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    for path in parser.parse_args(arguments).inputs:
        samples = files.read(path).samples
        peak, mean = np.abs(samples).max(), np.sqrt(np.square(samples, dtype=np.float64).mean())
        print(f"{path}: peak {_db(peak):.1f} dB, mean {_db(mean):.1f} dB")
    return 0


def _db(amplitude: float) -> float:
    from math import log10

    return 20 * log10(max(float(amplitude), 1e-10))


@hookimpl
def unisep_commands():
    return [CommandSpec(name="level", load="level:level", summary="say how loud recordings are")]
