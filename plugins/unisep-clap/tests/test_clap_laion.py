"""`clap`: a small random ClapModel, saved and loaded as LAION's are."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from unisep_clap import checkpoints, laion
from unisep_clap.checkpoints import DEFAULT_NAME, DEFAULT_SPACE, find

from unisep import Audio
from unisep.errors import DownloadError, EncoderError, QueryError, WeightsError
from unisep.testing import EncoderContract

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
TEXTS = ["electric guitar", "a dog barking"]


def tokenizer(folder: Path) -> None:
    """A byte-level BPE like RoBERTa's, without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = marks + sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>",
        sep_token="</s>", mask_token="<mask>", model_max_length=512,
    ).save_pretrained(folder)  # fmt: skip


def model(fusion: bool) -> transformers.ClapModel:
    text = {
        "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "projection_dim": 24,
    }  # fmt: skip
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "window_size": 2, "hidden_size": 32, "patch_embeds_hidden_size": 8,
        "depths": [1, 1, 1], "num_attention_heads": [1, 2, 4], "num_hidden_layers": 3, "num_classes": 5, "projection_dim": 24,
        "enable_fusion": fusion, "fusion_type": "aff_2d" if fusion else None,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    return transformers.ClapModel(config)


def save(folder: Path, fusion: bool = False) -> Path:
    model(fusion).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=1, truncation="fusion" if fusion else "rand_trunc", padding="repeatpad"
    ).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("clap") / "small-clap")


class TestContract(EncoderContract):
    plugin_module = "unisep_clap.plugin"

    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        type(self).folder = folder

    def load_encoder(self):
        return laion.load(weights=self.folder, device=CPU)


@pytest.fixture(scope="module")
def encoder(folder):
    return laion.load(weights=folder, device=CPU)


def noise(seconds: float, rate_hz: int = 48000, seed: int = 0) -> Audio:
    return Audio(np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)) * 0.1, rate_hz)


def test_space_is_the_folder_and_the_hash_of_its_weights(folder, encoder):
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert encoder.space == f"small-clap@{digest}"


def test_text_equals_the_model_called_by_hand(folder, encoder):
    theirs = transformers.ClapModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = theirs.get_text_features(**tokens).pooler_output
    vectors = encoder.encode_text(TEXTS)
    assert vectors.shape == (2, encoder.dim) == (2, 24)
    assert torch.allclose(vectors, wanted, atol=1e-5)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_audio_equals_the_model_called_by_hand(folder, encoder):
    theirs = transformers.ClapModel.from_pretrained(folder).eval()
    clip = noise(0.4)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        wanted = theirs.get_audio_features(**extractor(clip.samples[0], sampling_rate=48000, return_tensors="pt"))
    assert torch.allclose(encoder.encode_audio([clip]), wanted.pooler_output, atol=1e-5)


def test_long_audio_is_the_mean_of_its_windows(encoder):
    clip = noise(2.0)
    n = 48000
    windows = [Audio(clip.samples[:, start : start + n], 48000) for start in (0, n // 2, n)]
    mean = torch.nn.functional.normalize(encoder.encode_audio(windows).mean(0), dim=-1)
    assert torch.allclose(encoder.encode_audio([clip])[0], mean, atol=1e-5)


def test_pauses_are_left_out(encoder):
    clip = noise(1.0)
    paused = Audio(np.pad(clip.samples, ((0, 0), (2 * 48000, 0))), 48000)
    loud = [Audio(paused.samples[:, start : start + 48000], 48000) for start in (72000, 96000)]
    mean = torch.nn.functional.normalize(encoder.encode_audio(loud).mean(0), dim=-1)
    assert torch.allclose(encoder.encode_audio([paused])[0], mean, atol=1e-5)


@pytest.mark.parametrize("fusion", [False, True])
def test_deterministic_and_leaves_numpys_generator_alone(tmp_path, fusion):
    encoder = laion.load(weights=save(tmp_path / "clap", fusion), device=CPU)
    clips = [noise(0.3), noise(1.7, 22050, 1), noise(1.0, 8000, 2)]
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    first, second = encoder.encode_audio(clips), encoder.encode_audio(clips)
    assert np.array_equal(before, np.random.get_state()[1])
    assert torch.equal(first, second)
    assert torch.equal(first, torch.cat([encoder.encode_audio([clip]) for clip in clips]))
    assert torch.equal(encoder.encode_text(TEXTS), torch.cat([encoder.encode_text([text]) for text in TEXTS]))


@pytest.mark.parametrize("n_samples", [1, 2, 48000, 48001])
def test_any_length_and_silence_is_finite(encoder, n_samples):
    assert torch.isfinite(encoder.encode_audio([Audio(np.zeros(n_samples), 48000)])).all()


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_a_text_without_a_word_is_refused(encoder, text):
    with pytest.raises(QueryError, match="names no sound"):
        encoder.encode_text([text])


def test_a_very_long_text_is_cut(encoder):
    assert torch.isfinite(encoder.encode_text(["guitar " * 500])).all()


def test_weights_in_torchs_format_are_read_without_running_them(folder, encoder, tmp_path):
    plain = tmp_path / "plain"
    save(plain)
    (plain / "model.safetensors").unlink()
    torch.save(transformers.ClapModel.from_pretrained(folder).state_dict(), plain / "pytorch_model.bin")
    assert torch.allclose(
        laion.load(weights=plain, device=CPU).encode_text(TEXTS), encoder.encode_text(TEXTS), atol=1e-5
    )


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "write", [lambda trap, file: torch.save({"w": trap}, file), lambda trap, file: file.write_bytes(pickle.dumps(trap))]
)
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, write):
    folder = save(tmp_path / "trap")
    (folder / "model.safetensors").unlink()
    write(_Trap(tmp_path / "ran"), folder / "pytorch_model.bin")
    with pytest.raises(WeightsError):
        laion.load(weights=folder, device=CPU)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "cut")
    state = load_file(folder / "model.safetensors")
    del state["text_projection.linear1.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="missing"):
        laion.load(weights=folder, device=CPU)


def test_damaged_values_are_reported(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = save(tmp_path / "nan")
    state = load_file(folder / "model.safetensors")
    state["text_projection.linear1.weight"].fill_(float("nan"))
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="not finite"):
        laion.load(weights=broken, device=CPU).encode_text(["piano"])


def test_an_empty_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="save_pretrained"):
        find(tmp_path)
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(WeightsError, match="no folder"):
        find(file)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="needs config"):
        laion.load(weights=tmp_path, device=CPU)


def test_offline_without_a_copy_says_what_to_do(tmp_path):
    code = (
        "from pathlib import Path\nfrom unisep_clap.checkpoints import find\nfrom unisep.errors import DownloadError\n"
        "for asked in (None, Path('laion/larger_clap_music')):\n"
        "    try:\n        find(asked)\n"
        "    except DownloadError as error:\n        print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout
    assert "HF_HUB_OFFLINE" in lines
    assert DEFAULT_NAME in lines and "laion/larger_clap_music at revision main" in lines
    assert lines.count("clap-mini") == 2


def test_without_a_connection_it_is_said_at_once_and_nothing_is_unset_that_was_not_set(tmp_path):
    code = (
        "import time\nfrom pathlib import Path\nfrom unisep_clap.checkpoints import find\n"
        "from unisep.errors import DownloadError\nstarted = time.monotonic()\n"
        "try:\n    find(Path('laion/larger_clap_music'))\nexcept DownloadError as error:\n    print(error)\n"
        "print(time.monotonic() - started)\n"
    )
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    said, seconds = done.stdout.strip().splitlines()
    assert "http://127.0.0.1:9 does not answer" in said and "clap-mini" in said
    assert "HF_HUB_OFFLINE" not in said and "Retrying" not in done.stderr
    assert float(seconds) < 7, "the first of five pauses would be over, and the second"


class _Hub:
    """Stands in for the hub: answers from a folder as its cache would."""

    def __init__(self, source: Path, cache: Path, commit: str) -> None:
        self.source, self.cache, self.commit = source, cache, commit
        self.asked: list[tuple[str, str, str]] = []

    def download(self, name: str, file: str, revision: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        self.asked.append((name, file, revision))
        if not (self.source / file).exists():
            raise EntryNotFoundError(file)
        target = self.cache / self.commit / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((self.source / file).read_bytes())
        return str(target)


def test_a_hub_name_with_revision_gives_its_commit_as_space(folder, encoder, tmp_path, monkeypatch):
    hub = _Hub(folder, tmp_path, "c0ffee")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    monkeypatch.setattr(checkpoints, "check_reachable", lambda name, revision: None)
    loaded = laion.load(weights=Path("someone/their-clap@v2"), device=CPU)
    assert loaded.space == "someone/their-clap@c0ffee"
    assert {(name, revision) for name, _, revision in hub.asked} == {("someone/their-clap", "v2")}
    assert torch.allclose(loaded.encode_text(TEXTS), encoder.encode_text(TEXTS), atol=1e-5)


def test_the_default_is_pinned_and_verified(folder, tmp_path, monkeypatch):
    hub = _Hub(folder, tmp_path, DEFAULT_SPACE.split("@")[1])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.download)
    monkeypatch.setattr(checkpoints, "check_reachable", lambda name, revision: None)
    with pytest.raises(WeightsError, match="sha256 differs"):
        find(None)
    assert {(name, revision) for name, _, revision in hub.asked} == {tuple(DEFAULT_SPACE.split("@"))}


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r"unisep-clap\[transformers\]"):
        laion.load(weights=None, device=CPU)


def test_errors_are_the_ones_promised():
    assert issubclass(DownloadError, WeightsError)
