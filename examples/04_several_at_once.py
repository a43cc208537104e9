"""Several questions in one pass over the song.

python examples/04_several_at_once.py [OUT]
"""

import sys
from pathlib import Path

import numpy as np

from unisep import Query, Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
audio = Path(__file__).parent / "audio"

band = Separator(offline=True).separate(
    audio / "mixture.flac",
    query=[
        "bass guitar",
        Query(text=["choir", "voices singing"], name="choir"),  # several wordings of one sound are averaged
        Query(audio=audio / "example-drums.ogg", name="drum kit"),
    ],
)

for name, sound in band.items():  # a Separation is a mapping from name to Audio, in the order asked
    level_db = 10 * np.log10(np.mean(np.square(sound.samples)) + 1e-12)
    print(f"{name:12} {level_db:6.1f} dB, presence {band.presence[name]:.2f}")
band.save(out)
