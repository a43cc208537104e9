"""`clap` with weights of one's own, and its map to the space of `clap-mini`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from unisep_align import alignment
from unisep_align.captions import captions
from unisep_clap import laion, mini

from unisep import Backend, BackendInfo, BackendSpec, Output, Separator, hookimpl, plugins
from unisep.errors import EmbeddingError, WeightsError
from unisep.query.space_maps import MapStore
from unisep.testing import noise

transformers = pytest.importorskip("transformers")
SONG = noise(0.5)


class Whole(Backend):
    """Gives the whole mixture, whatever is asked."""

    info = BackendInfo(sources=(), sample_rate_hz=44_100, channels=2, segment_seconds=None)

    def separate(self, mixture, queries=None, negatives=None):
        assert queries.shape[1] == 256
        return Output(mixture[:, None].expand(-1, len(queries), -1, -1))


def load_whole(**_):
    return Whole()


class WholePlugin:
    @hookimpl
    def unisep_backends(self):
        return [BackendSpec(name="whole", load="clap_whole:load", summary="", spaces=(mini.SPACE,))]


@pytest.fixture(autouse=True)
def whole(monkeypatch, tmp_path):
    module = ModuleType("clap_whole")
    module.load = load_whole
    monkeypatch.setitem(sys.modules, "clap_whole", module)
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(alignment, "captions", lambda: captions()[::5])
    with plugins.registered(WholePlugin(), "whole"):
        yield


def save_random_clap(folder: Path) -> Path:
    """A ClapModel that was never trained, with a tokenizer of single bytes, as a folder of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    text = {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    audio = {
        "spec_size": 64, "num_mel_bins": 16, "window_size": 2, "hidden_size": 32, "patch_embeds_hidden_size": 8,
        "depths": [1, 1, 1], "num_attention_heads": [1, 2, 4], "num_hidden_layers": 3, "num_classes": 5,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ClapConfig(
            text_config={**text, "projection_dim": 24}, audio_config={**audio, "projection_dim": 24}, projection_dim=24
        )
        transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=1, truncation="rand_trunc", padding="repeatpad"
    ).save_pretrained(folder)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_clap(tmp_path_factory.mktemp("clap") / "random-clap")


def test_a_clap_that_was_never_trained_is_unfit_and_refused(folder, monkeypatch):
    monkeypatch.setattr(alignment, "captions", lambda: captions()[::10])
    card = alignment.align(f"clap@{folder}", query_backend="whole", offline=True)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (card.source, card.target) == (f"random-clap@{digest}", mini.SPACE)
    assert card.text.centred_cosine < 0.3 and card.audio.centred_cosine < 0.3
    assert not card.is_fit
    with pytest.raises(EmbeddingError, match="unfit"):
        Separator(query_backend="whole", encoder=f"clap@{folder}", offline=True).separate(SONG, "oboe")


class Turned(mini.MiniEncoder):
    """clap-mini in a coordinate system of its own, with a constant added: what a map must undo."""

    space = "turned"

    def _turn(self, vectors):
        n = vectors.shape[1]
        turn = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1)))[0]
        return torch.nn.functional.normalize(vectors @ turn + 0.05 * turn[0], dim=1)

    def encode_text(self, texts):
        return self._turn(super().encode_text(texts))

    def encode_audio(self, clips):
        return self._turn(super().encode_audio(clips))


@pytest.fixture
def turned(monkeypatch):
    """`clap` gives clap-mini, turned."""

    def load(*, weights, device):
        encoder = mini.load_mini(None, device)
        encoder.__class__ = Turned
        encoder.space = f"turned@{weights.name}"
        return encoder

    monkeypatch.setattr(laion, "load", load)


def test_after_aligning_clap_in_a_folder_serves_the_backend(turned, tmp_path):
    (tmp_path / "v1").mkdir()
    name = f"clap@{tmp_path / 'v1'}"
    with pytest.raises(EmbeddingError, match="unisep align"):
        Separator(query_backend="whole", encoder=name, offline=True).separate(SONG, "oboe")
    card = alignment.align(name, query_backend="whole", offline=True)
    assert card.modalities == {"text", "audio"}
    assert card.text.cosine > 0.95 and card.audio.cosine > 0.95
    mapped = Separator(query_backend="whole", encoder=name, offline=True)
    result = mapped.separate(SONG, "oboe")
    assert result.plan["oboe"].encoder == name
    assert f"mapped from 'turned@v1' to '{mini.SPACE}'" in result.plan.reason
    plain = Separator(query_backend="whole", encoder="clap-mini", offline=True)
    for query in ("a mellow oboe", noise(1.0, seed=4)):
        assert mapped.embed(query).vector @ plain.embed(query).vector > 0.95


def test_a_place_that_holds_no_clap_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="Save the model there"):
        Separator(encoder=f"clap@{tmp_path}", offline=True)
    assert not MapStore().folder.exists()
