"""clap-mini: open vocabulary, steady, offline, small."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from unisep_clap.mini import SPACE, MiniEncoder, load, load_mini

from unisep import Audio
from unisep.errors import AudioError, QueryError, WeightsError
from unisep.testing import EncoderContract

DATA = Path(str(resources.files("unisep_clap").joinpath("data")))


class TestContract(EncoderContract):
    plugin_module = "unisep_clap.plugin"

    def load_encoder(self):
        return load(weights=None, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def encoder() -> MiniEncoder:
    return load_mini()


def tone(hz: float, seconds: float, rate_hz: int) -> Audio:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return Audio(0.3 * np.sin(2 * np.pi * hz * t), rate_hz)


def nearest(encoder: MiniEncoder, text: str, names: list[str]) -> str:
    return names[int((encoder.encode_text(names) @ encoder.encode_text([text])[0]).argmax())]


def test_vectors_are_unit_rows_in_the_space(encoder):
    vectors = encoder.encode_text(["electric guitar", "Hi-hat", "a dog barking far away"])
    assert encoder.space == SPACE
    assert vectors.shape == (3, encoder.dim) == (3, 256)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_no_queries_give_no_rows(encoder):
    assert encoder.encode_text([]).shape == (0, 256)
    assert encoder.encode_audio([]).shape == (0, 256)


@pytest.mark.parametrize("template", ["the sound of a {}", "isolate the {}", "{} in a song"])
def test_wrapping_a_name_changes_little(encoder, template):
    bare, wrapped = encoder.encode_text(["electric guitar", template.format("electric guitar")])
    assert float(bare @ wrapped) > 0.95


@pytest.mark.parametrize(
    ("query", "same", "other"),
    [
        ("drums", "drum kit", "bass guitar"),
        ("vocals", "lead vocal", "speech"),
        ("bass", "bass guitar", "fish"),
        ("singing voice", "vocals", "synthesizer"),
    ],
)
def test_synonyms_lie_closer_than_other_sounds(encoder, query, same, other):
    first, second, third = encoder.encode_text([query, same, other])
    assert float(first @ second) > float(first @ third) + 0.3


def test_case_and_accents_do_not_matter(encoder):
    vectors = encoder.encode_text(["Electric Guitar", "electric guitar", "élèctric guitar"])
    assert torch.equal(vectors[0], vectors[1]) and torch.equal(vectors[0], vectors[2])


def test_batch_equals_singles_and_repeats(encoder):
    texts = ["drums", "the quick brown fox played an extremely long kazoo solo", "bass"]
    together = encoder.encode_text(texts)
    assert torch.equal(together, torch.cat([encoder.encode_text([text]) for text in texts]))
    clips = [tone(440, 0.5, 44100), tone(80, 7.3, 22050)]
    heard = encoder.encode_audio(clips)
    assert torch.equal(heard, torch.cat([encoder.encode_audio([clip]) for clip in clips]))


@pytest.mark.parametrize("text", ["", "   ", "!?", "\n"])
def test_a_text_without_a_word_is_refused(encoder, text):
    with pytest.raises(QueryError, match="names no sound"):
        encoder.encode_text([text])


def test_a_very_long_text_is_cut_not_refused(encoder):
    assert torch.isfinite(encoder.encode_text(["guitar " * 500])).all()


@pytest.mark.parametrize("n_samples", [1, 2, 100, 96000, 96001, 400000])
@pytest.mark.parametrize("rate_hz", [8000, 32000, 96000])
def test_any_length_and_rate_is_heard(encoder, n_samples, rate_hz):
    samples = np.random.default_rng(0).standard_normal(n_samples) * 0.1
    vector = encoder.encode_audio([Audio(samples, rate_hz)])
    assert vector.shape == (1, 256) and torch.isfinite(vector).all()


def test_silence_is_finite(encoder):
    assert torch.isfinite(encoder.encode_audio([Audio(np.zeros(32000), 32000)])).all()


def test_nan_is_refused_before_the_encoder():
    with pytest.raises(AudioError, match="NaN"):
        Audio(np.array([0.0, np.nan]), 32000)


def test_level_and_stereo_do_not_matter(encoder):
    clip = tone(440, 2.0, 32000)
    stereo = Audio(np.concatenate([clip.samples, clip.samples]) * 0.01, 32000)
    first, second = encoder.encode_audio([clip, stereo])
    assert float(first @ second) > 0.999


def test_pauses_do_not_blur_a_clip(encoder):
    clip = tone(440, 3.0, 32000)
    paused = Audio(np.pad(clip.samples, ((0, 0), (0, 9 * 32000))), 32000)
    first, second = encoder.encode_audio([clip, paused])
    # The last window in which the tone sounds still holds half of it.
    assert float(first @ second) > 0.9


def test_the_input_is_left_alone(encoder):
    clip = tone(440, 1.0, 44100)
    before = clip.samples.copy()
    encoder.encode_audio([clip])
    assert np.array_equal(before, clip.samples)


def test_everything_embedded_is_at_most_16_mb_and_as_the_card_says():
    card = tomllib.loads((DATA / "clap-mini.toml").read_text(encoding="utf-8"))
    for file in card["files"]:
        content = (DATA.parent / file["resource"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["n_bytes"]
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 16e6
    assert {file["resource"] for file in card["files"]} == {"data/clap_mini.safetensors", "data/vocab.txt"}


def test_imports_no_sentence_encoder_library():
    code = (
        "import sys\nfrom unisep_clap.mini import load_mini\nload_mini().encode_text(['piano'])\n"
        "print([m for m in ('transformers', 'sentence_transformers', 'tokenizers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_from_a_file_or_folder(encoder, tmp_path):
    for name in ("clap_mini.safetensors", "vocab.txt"):
        (tmp_path / name).symlink_to(DATA / name)
    device = torch.device("cpu")
    for weights in (tmp_path, DATA / "clap_mini.safetensors"):
        loaded = load(weights=weights, device=device)
        assert torch.equal(loaded.encode_text(["harp"]), encoder.encode_text(["harp"]))


def test_loading_takes_no_random_numbers():
    before = torch.get_rng_state()
    load_mini()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("content", [None, b"", b"no tensors here"])
def test_bad_weights_are_refused(tmp_path, content):
    file = tmp_path / "clap_mini.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_mini(file)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    good, file = load_file(DATA / "clap_mini.safetensors"), tmp_path / "clap_mini.safetensors"
    name = next(name for name in good if name.startswith("audio.") and name.endswith("weight"))
    for state, why in (
        ({key: value for key, value in good.items() if key != name}, "1 parameters missing.*embedded ones"),
        (good | {name: good[name] * float("nan")}, f"{name} holds numbers that are not finite"),
    ):
        save_file(state, file)
        with pytest.raises(WeightsError, match=why):
            load_mini(file)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"vocab.txt is no vocabulary"):
        load_mini(file)
