"""Isolate a sound by its name.

python examples/01_text_query.py [OUT]
"""

import sys
from pathlib import Path

from unisep import Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
song = Path(__file__).parent / "audio" / "mixture.flac"

separator = Separator(offline=True)  # device, backends and encoder are chosen for you
guitar = separator.separate(song, query="electric guitar")

print(f"is it there at all, 0 to 1: {guitar.presence['electric guitar']:.2f}")
choice = guitar.plan["electric guitar"]
print(f"answered by {choice.backend} with {choice.encoder}: {choice.reason}")
for path in guitar.save(out).paths:  # the guitar, and the rest; they sum back to the song
    print("written:", path)
