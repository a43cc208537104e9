"""The four fixed stems: drums, bass, other, vocals.

    python examples/05_fixed_stems.py [OUT]

Without the weights of HT Demucs the embedded query model answers instead, and the log says so. With
them (`unisep models pull htdemucs`) the same lines give the stronger stems.
"""

import sys
from pathlib import Path

from unisep import Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
song = Path(__file__).parent / "audio" / "mixture.flac"

stems = Separator(offline=True).separate(song)
for name, stem in stems.items():
    print(f"{name:8} {stem} by {stems.plan[name].backend}")
stems.save(out)
