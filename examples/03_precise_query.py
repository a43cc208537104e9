"""Words and a clip weighed together, a sound to leave out, and a part of the song.

python examples/03_precise_query.py [OUT]
"""

import sys
from pathlib import Path

import numpy as np

from unisep import Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
audio = Path(__file__).parent / "audio"

exact = Separator(offline=True).separate(
    audio / "mixture.flac",
    query={
        "text": "electric guitar",
        "audio": audio / "example-electric-guitar.ogg",
        "weights": {"text": 0.7, "audio": 0.3},
        "exclude": "choir",
        "time_range": (4, 12),  # seconds of the song; outside it the target is silent and nothing is computed
    },
)

rate_hz = exact.target.sample_rate_hz
inside, outside = exact.target.samples[:, 4 * rate_hz : 12 * rate_hz], exact.target.samples[:, 13 * rate_hz :]
print("loudest sample from 4 to 12 s:", np.abs(inside).max(), "and after 13 s:", np.abs(outside).max())
exact.save(out)
