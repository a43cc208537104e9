"""The encoder against the laion-clap package; needs that package, so `make test-plugins` runs it.

The model is the smaller of LAION's two (HTSAT-tiny), its RoBERTa with two layers, its parameters random.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from unisep_laion_clap.encoder import load

from unisep import Audio, Separator
from unisep.errors import EncoderError, QueryError, WeightsError
from unisep.testing import EncoderContract

if find_spec("laion_clap") is None:
    pytest.skip("laion-clap is not installed here", allow_module_level=True)

import transformers

CPU = torch.device("cpu")
TEXTS = ["electric guitar", "a dog barking, far away", "Schlagzeug"]


@pytest.fixture(scope="session")
def peer(tmp_path_factory, write_tokenizer):
    """laion-clap's own module with random parameters, offline, and a folder with its checkpoint."""
    folder = tmp_path_factory.mktemp("laion")
    n_words = write_tokenizer(folder / "tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    config = transformers.RobertaConfig(
        vocab_size=n_words, hidden_size=768, num_hidden_layers=2, num_attention_heads=12, intermediate_size=256,
        max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    place = pytest.MonkeyPatch()
    for name in ("BertTokenizer", "RobertaTokenizer", "BartTokenizer"):
        place.setattr(getattr(transformers, name), "from_pretrained", lambda *_args, **_kwargs: tokenizer)
    place.setattr(transformers.RobertaModel, "from_pretrained", lambda *_args: transformers.RobertaModel(config))
    torch.manual_seed(0)
    from laion_clap import CLAP_Module

    module = CLAP_Module(enable_fusion=False, device="cpu", amodel="HTSAT-tiny")
    place.undo()
    own = module.model.state_dict()
    state = {f"module.{name}": value for name, value in own.items() if "position_ids" not in name}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    optimiser = {"state": {}, "param_groups": [{"lr": np.float64(1e-4)}]}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": optimiser}, folder / "random.pt")
    return SimpleNamespace(module=module, folder=folder)


@pytest.fixture(scope="session")
def encoder(peer):
    return load(weights=peer.folder, device=CPU)


def noise(seconds: float, seed: int = 0, peak: float = 0.2) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 48_000)) * peak).astype(np.float32)


def test_text_equals_laion_claps_own(peer, encoder):
    wanted = peer.module.get_text_embedding(TEXTS)
    found = encoder.encode_text(TEXTS).numpy()
    assert found.shape == (3, encoder.dim) == (3, 512)
    assert float(np.abs(found - wanted).max()) <= 1e-5
    assert float(np.abs(wanted[0] - wanted[1]).max()) > 1e-3


@pytest.mark.parametrize("seconds", [0.5, 3.3, 10.0])
def test_audio_equals_laion_claps_own(peer, encoder, seconds):
    samples = noise(seconds, peak=0.5)  # beyond 1 in places, where both clip
    wanted = peer.module.get_audio_embedding_from_data(samples[None])
    found = encoder.encode_audio([Audio(samples, 48_000)]).numpy()
    assert float(np.abs(found - wanted).max()) <= 1e-5
    other = encoder.encode_audio([Audio(noise(1.0, seed=1) * np.linspace(0, 1, 48_000, dtype=np.float32), 48_000)])
    assert float(np.abs(other.numpy() - wanted).max()) > 1e-4


def test_a_long_clip_is_the_mean_of_its_windows(encoder):
    samples = noise(15.0)
    parts = [Audio(samples[start : start + 480_000], 48_000) for start in (0, 240_000)]
    mean = torch.nn.functional.normalize(encoder.encode_audio(parts).mean(0), dim=-1)
    assert torch.allclose(encoder.encode_audio([Audio(samples, 48_000)])[0], mean, atol=1e-5)


def test_the_package_itself_is_not_imported(peer):
    code = (
        "import sys; from pathlib import Path; import torch; from unisep_laion_clap.encoder import load; "
        f"before = list(sys.path); load(weights=Path({str(peer.folder)!r}), device=torch.device('cpu')); "
        "print('laion_clap' in sys.modules, 'clap_module' in sys.modules, before == sys.path)"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False False True"


def test_nothing_is_written_into_the_package(peer):
    package = Path(find_spec("laion_clap").submodule_search_locations[0])
    assert not list(package.rglob("*.pt"))


def changed(peer, folder: Path, change) -> Path:
    held = torch.load(peer.folder / "random.pt", weights_only=False)
    change(held["state_dict"])
    torch.save(held, folder / "changed.pt")
    (folder / "tokenizer.json").write_bytes((peer.folder / "tokenizer.json").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.text_projection.0.bias"), "does not fit"),
        (lambda state: state.update({"module.audio_branch.patch_embed.fusion_model.w": torch.ones(1)}), "fusion"),
        (lambda state: state.update({"module.audio_branch.patch_embed.proj.weight": torch.ones(7, 1)}), "no CLAP"),
    ],
)
def test_another_model_is_refused(peer, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        load(weights=changed(peer, tmp_path, change), device=CPU)


def test_parameters_that_overflow_are_reported(peer, tmp_path):
    def huge(state):
        state["module.text_projection.0.weight"] = torch.full_like(state["module.text_projection.0.weight"], 3e38)

    broken = load(weights=changed(peer, tmp_path, huge), device=CPU)
    with pytest.raises(EncoderError, match="not finite"):
        broken.encode_text(["piano"])


def test_texts_without_words_are_refused(encoder):
    with pytest.raises(QueryError):
        encoder.encode_text(["..."])


class TestContract(EncoderContract):
    plugin_module = "unisep_laion_clap.plugin"

    @pytest.fixture(autouse=True)
    def _ready(self, encoder):
        type(self)._loaded = encoder

    def load_encoder(self):
        return self._loaded


def test_answers_audiosep_behind_a_separator(peer, tmp_path):
    """A text goes through laion-clap into AudioSep, the whole way: both with random parameters and a space of their own."""
    backend = pytest.importorskip("unisep_audiosep.backend")
    from unisep_audiosep.model import AudioSep, AudioSepConfig

    from unisep import BackendSpec, hookimpl
    from unisep.plugins.registry import registered

    space = load(weights=peer.folder, device=CPU).space
    torch.manual_seed(0)
    model = AudioSep(AudioSepConfig(widths=(4,) * 7, n_fft=256))
    torch.save({f"ss_model.{name}": value for name, value in model.state_dict().items()}, tmp_path / "small.pt")

    class Offer:
        @hookimpl
        def unisep_backends(self):
            return [BackendSpec(name="small", load=f"{backend.__name__}:load", summary="", spaces=(space,))]

    song = Audio(np.stack([noise(1.0), noise(1.0, seed=1)]), 48_000)
    with registered(Offer(), "small"):
        separator = Separator(
            query_backend="small",
            query_weights=tmp_path / "small.pt",
            encoder=f"laion-clap@{peer.folder}",
            device="cpu",
        )
        parts = separator.separate(song, query="a dog", route="conditioned")
    assert parts.target.samples.shape == song.samples.shape
    assert float(np.abs(parts.target.samples).max()) > 1e-3
