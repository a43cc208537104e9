"""Isolate what sounds like a clip, without a word for it.

python examples/02_example_query.py [OUT]
"""

import sys
from pathlib import Path

from unisep import Query, Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
audio = Path(__file__).parent / "audio"
separator = Separator(offline=True)

# A Path (or an array, or an Audio) is an example; it need not come from the song.
like_the_clip = separator.separate(audio / "mixture.flac", query=audio / "example-electric-guitar.ogg")
print(like_the_clip.target)

# Or part of the song itself is the example: "what plays alone in the first two seconds".
like_the_intro = separator.separate(audio / "mixture.flac", query=Query(example_range=(0, 2), name="intro"))
like_the_intro.save(out)
print(list(like_the_intro), "and the rest")
