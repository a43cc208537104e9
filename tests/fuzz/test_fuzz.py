"""Hostile input: whatever comes in, what comes out is a result or an error of unisep's own.

`make fuzz` does the same with more than 10,000 inputs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisep import Audio, Embedding, Query
from unisep.errors import EmbeddingError, OptionError, UnisepError, WeightsError
from unisep.files.paths import MAX_NAME_BYTES, Template, safe_name, safe_names
from unisep.query.parsed import parse_queries
from unisep.separation import Separation
from unisep.weights.cards import parse_card

FUZZ = Path(__file__).with_name("run.py")
N_EXAMPLES = int(os.environ.get("UNISEP_FUZZ_EXAMPLES", "60"))
many = settings(max_examples=N_EXAMPLES, deadline=None)

NASTY_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/../../b",
    "C:\\Windows\\x",
    "\\\\server\\share",
    "..\\..\\x",
    "a\0b",
    "CON",
    "nul.txt",
    "~root",
    "x" * 5000,
    "‮gnp.exe",
    "a\u202e/\u2044b",
    "file:///etc/passwd",
    "$(touch x)",
    "{stem}",
    "\ud800",
]
names = st.one_of(st.text(), st.sampled_from(NASTY_NAMES))
numbers = st.one_of(st.floats(), st.integers(-3, 3), st.sampled_from([1e308, 2**70]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, names, st.binary(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=6,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_hundreds_of_damaged_files_are_read_or_refused() -> None:
    run = subprocess.run(
        [sys.executable, FUZZ, "--quick"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = re.search(r"(\d+) inputs, 0 failures", run.stdout)
    assert summary is not None and int(summary[1]) >= 500, run.stdout


@given(st.one_of(anything, st.dictionaries(st.sampled_from(sorted(Query.model_fields)), anything, max_size=5)))
@many
def test_any_query_is_understood_or_refused(query: object) -> None:
    try:
        parsed_queries = parse_queries(query)
    except UnisepError:
        return
    assert len({parsed.name for parsed in parsed_queries}) == len(parsed_queries) > 0


@given(st.lists(names, min_size=1, max_size=5))
@many
def test_any_name_becomes_one_part_of_a_path(wanted: list[str]) -> None:
    made = safe_names(wanted)
    assert len({name.casefold() for name in made}) == len(wanted)
    for name in [*made, *map(safe_name, wanted)]:
        assert Path(name).name == name and name not in ("", ".", "..")
        assert not set(name) & set('/\\:\0"*?<>|') and len(name.encode()) <= MAX_NAME_BYTES + 8


@given(st.text(alphabet="{}/.~\\:!abc", max_size=12).map(lambda text: text + "{stem}"), names)
@many
def test_any_template_stays_in_the_output_folder_or_is_refused(pattern: str, name: str) -> None:
    try:
        template = Template(pattern)
    except OptionError:
        return
    out = Path("/out")
    for place in template.place(Path("/in/song.wav"), [name], "wav").values():
        assert Path(os.path.normpath(out / place)).is_relative_to(out)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_nothing_is_written_outside_the_folder_given(name: str, tmp_path: Path) -> None:
    sound = Audio(np.zeros((1, 10), np.float32), 8_000)
    out = tmp_path / "deep" / "out"
    report = Separation({name: sound, "rest of it": sound}, rest=sound, source_name=name).save(out)
    assert all(path.resolve().is_relative_to(out) for path in report.paths)
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(report.paths)


# embeddings and cards, by structure


def saved(path: Path, tensor: np.ndarray, metadata: dict[str, str]) -> Path:
    from safetensors.numpy import save_file

    save_file({"embedding": tensor}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    "provenance", ["[1, 2]", "5", "null", '"text"', "{", "[" * 100_000, '{"a": [1]}', "NaN", '{"a": NaN}']
)
def test_an_embedding_with_a_strange_provenance_is_refused(provenance: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", np.ones(3, np.float32), {"space": "s", "provenance": provenance})
    with pytest.raises(EmbeddingError, match="no unisep embedding"):
        Embedding.load(path)


@pytest.mark.parametrize(
    "tensor", [np.full(3, np.nan), np.zeros(3), np.ones((2, 2)), np.ones(0), np.array([1e300]), np.ones(3, bool)]
)
def test_an_embedding_that_is_no_vector_is_refused(tensor: np.ndarray, tmp_path: Path) -> None:
    try:
        loaded = Embedding.load(saved(tmp_path / "e.safetensors", tensor, {"space": "s"}))
    except EmbeddingError:
        return
    assert loaded.vector.dtype == np.float32 and np.isfinite(loaded.vector).all() and loaded.vector.any()


def test_an_embedding_whose_header_claims_terabytes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"embedding": {"dtype": "F32", "shape": [2**42], "data_offsets": [0, 2**44]}}).encode()
    for size in (len(header), 2**40, 2**63, 0):
        path = tmp_path / "e.safetensors"
        path.write_bytes(size.to_bytes(8, "little") + header)
        with pytest.raises(EmbeddingError):
            Embedding.load(path)


@pytest.mark.parametrize(
    "line",
    [
        "x = " + "[" * 50_000,
        "x = " + "{a=" * 50_000,
        "n_bytes = " + "9" * 10_000,
        "sample_rate_hz = 1e999",
        "sample_rate_hz = nan",
        "sources = 2026-01-01",
        "a" * 100_000 + " = 1",
        "x.y.z" + ".w" * 500 + " = 1",
        "measured = " + "{a = " * 400 + "1" + "}" * 400,
        "\x00",
    ],
)
def test_a_card_that_is_built_to_break_the_reader_is_refused(line: str) -> None:
    with pytest.raises(WeightsError):
        parse_card(f'name = "a"\nsummary = "s"\n{line}\n[[files]]\nname = "f"\nurl = "https://a.org/f"\n', "x")


@given(st.text(alphabet="[]{}=\"\n.#,'a1\\u-", max_size=80))
@many
def test_any_text_is_a_card_or_is_refused(text: str) -> None:
    with pytest.raises(WeightsError):
        parse_card(text, "fuzzed")
