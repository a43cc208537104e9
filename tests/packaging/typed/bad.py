"""Wrong calls: type checkers find each line that ends with a mark, and no other (tests/packaging/test_types.py)."""

from pathlib import Path

import numpy as np

from unisep import Audio, Embedding, Query, QueryDict, Separator, Statistics, explain

separator = Separator()
song = Path("song.flac")

separator.separate(song, query="bass")
separator.separate(song, query=3)  # error
separator.separate(song, query={"txt": "x"})  # error
separator.separate(song, query={"text": 3})  # error
separator.separate(song, query={"text": "x", "weights": {"txt": 1.0}})  # error
separator.separate(song, query={"text": "x", "time_range": 30})  # error
separator.separate(song, query={"text": "x", "exclude": 3})  # error
separator.separate(song, query=["bass", 3])  # error
separator.separate(song, query=["bass", {"txt": "x"}])  # error
separator.separate(song, query=[{"text": "bass"}, {"text": "x", "nmae": "lead"}])  # error
separator.separate(song, query=Query(text="bass"))
separator.separate(song, query=Query(txt="x"))  # error
separator.separate(song, query=Query(text=3))  # error
separator.separate(song, query=Query("x"))  # error
separator.separate_file(song, "out", query=3)  # error
separator.separate_file(b"bytes", "out")  # error
separator.stream([np.zeros(3)], {"text": "x"}, sample_rate_hz=8_000)
separator.stream([np.zeros(3)], {"txt": "x"}, sample_rate_hz=8_000)  # error
separator.stream(["song.flac"], "x", sample_rate_hz=8_000)  # error
separator.stream([np.zeros(3)], "x")  # error
separator.embed(3)  # error
separator.embed(["bass"])  # error
separator.provenance({"txt": "x"})  # error
explain({"txt": "x"})  # error
explain({"text": "x"})

separator.separate(3)  # error
separator.separate({"left": [0.0]})  # error
separator.separate(["one.flac", "two.flac"])  # error
separator.separate(song.open())  # error
separator.separate(song, sample_rate_hz="44100")  # error
separator.separate(song, stems=3)  # error
separator.separate(song, qurey="bass")  # error
Audio("song.flac", 44_100)  # error
Audio(np.zeros(3))  # error
Statistics.of(3)  # error
Embedding("bass", "clap-mini-1")  # error

result = separator.separate(song, query="bass")
result.target.smaples  # error  # noqa: B018
result["bass"].save(3)  # error
result.plan["bass"].backnd  # error  # noqa: B018
wrong: QueryDict = {"texts": "bass"}  # error
