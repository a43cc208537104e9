"""Turn a question into a vector once, keep it as a file, and ask with it again.

python examples/06_reuse_an_embedding.py [OUT]
"""

import sys
from pathlib import Path

from unisep import Embedding, Separator

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
out.mkdir(parents=True, exist_ok=True)
song = Path(__file__).parent / "audio" / "mixture.flac"
separator = Separator(offline=True)

question = separator.embed("electric guitar")
question.save(out / "electric-guitar.safetensors")  # the vector, its space and where it came from

kept = Embedding.load(out / "electric-guitar.safetensors")
print(kept.dim, "numbers in the space", kept.space)

by_vector = separator.separate(song, query=kept)
by_text = separator.separate(song, query="electric guitar")
print("same as asking in words:", (by_vector.target.samples == by_text.target.samples).all())
