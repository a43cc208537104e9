"""LAION's checkpoints, read without running anything that they name, and laion-clap's model built for them.

Importing `laion_clap` fetches three tokenizers, changes `sys.path`, and building its model fetches RoBERTa; asked for a
checkpoint, it downloads into its own folder. Here only the modules that define the network are loaded, under another
name, and RoBERTa starts empty, as every parameter comes from the checkpoint.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unisep.errors import EncoderError, WeightsError
from unisep.weights.checkpoints import check_finite, read_torch_file
from unisep.weights.hashes import known_sha256

TOKENIZER_FILE = "tokenizer.json"
_PREFIX = "module."
# A counter that transformers no longer keeps as a parameter.
_DROPPED = "text_branch.embeddings.position_ids"
_NETWORK_NAME = "_unisep_laion_clap_network"
_HEAD_WIDTH = 64
_building = threading.Lock()
# Width of the first layer of the audio tower, by which its two sizes are told apart.
_AUDIO_MODELS = {96: "HTSAT-tiny", 128: "HTSAT-base"}
_WORDS = "text_branch.embeddings.word_embeddings.weight"
_POSITIONS = "text_branch.embeddings.position_embeddings.weight"
_FEED_FORWARD = "text_branch.encoder.layer.0.intermediate.dense.weight"
_PATCHES = "audio_branch.patch_embed.proj.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, the tokenizer beside it, and the name of the space that they span."""

    weights: Path
    tokenizer: Path
    space: str


def find(weights: Path | None) -> Checkpoint:
    """Find the checkpoint at `weights`: a folder with one `.pt` file and a tokenizer, or the file with that beside it.

    Raises:
        WeightsError: Something is missing, or more than one would do.
    """
    if weights is None:
        raise WeightsError(
            "laion-clap has no weights here. Run `unisep models pull laion-clap`, or give a folder with one .pt file "
            f"and {TOKENIZER_FILE}."
        )
    paths = sorted(weights.glob("*.pt")) if weights.is_dir() else [weights]
    if len(paths) != 1 or not paths[0].is_file():
        raise WeightsError(f"{weights} should be a .pt file or a folder with one; found {len(paths)}.")
    tokenizer = paths[0].parent / TOKENIZER_FILE
    if not tokenizer.is_file():
        raise WeightsError(
            f"{TOKENIZER_FILE} is missing beside {paths[0]}. Put there that of RoBERTa (roberta-base), which every "
            "LAION CLAP was trained with."
        )
    return Checkpoint(paths[0], tokenizer, f"{paths[0].stem}@{known_sha256(paths[0])}")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the parameters in a file, by the names that laion-clap's model gives them.

    Raises:
        WeightsError: The file is damaged, names anything but tensors, plain values and NumPy numbers, or holds no CLAP.
    """
    # Mapped, so that the optimiser's state is never read.
    content = read_torch_file(path, mapped=True)
    stored = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in stored.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    state.pop(_DROPPED, None)
    if "logit_scale_a" not in state:
        raise WeightsError(f"{path} is no checkpoint of laion-clap: it lacks 'logit_scale_a'.")
    check_finite(path, state)
    return state


def build(state: Mapping[str, Tensor], label: str) -> nn.Module:
    """Build laion-clap's model with the parameters `state`, ready to encode; `label` names their file in messages.

    Raises:
        EncoderError: laion-clap is not installed, or cannot be imported here.
        WeightsError: The parameters are of another model, or of one with fusion.
    """
    module, folder = network_module()
    if any(".fusion_model." in name for name in state):
        raise WeightsError(f"{label} is a CLAP with fusion, which is not supported. Use one without.")
    try:
        width = state[_PATCHES].shape[0]
        options = json.loads((folder / "model_configs" / f"{_AUDIO_MODELS[width]}.json").read_text("utf-8"))
        text_branch = _empty_roberta(state)
    except (KeyError, IndexError, OSError, ValueError) as error:
        raise WeightsError(f"{label} is no CLAP that laion-clap knows ({type(error).__name__}: {error}).") from error
    options["text_cfg"]["model_type"] = "roberta"
    with _building:  # the module is shared, and the next checkpoint may be of another size
        module.RobertaModel = text_branch  # in our own copy of the module only
        model: nn.Module = module.CLAP(**options, enable_fusion=False, fusion_type="None")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{label} does not fit laion-clap's model: {str(error)[:300]}") from error
    return model.eval().requires_grad_(False)


def network_module() -> tuple[Any, Path]:
    """Import the module of laion-clap that defines the network, and return it with the folder it lies in.

    Raises:
        EncoderError: laion-clap is not installed, or cannot be imported here.
    """
    try:
        spec = find_spec("laion_clap")
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise ModuleNotFoundError("No module named 'laion_clap'")
        folder = Path(places[0]) / "clap_module"
        if _NETWORK_NAME not in sys.modules:
            package = ModuleType(_NETWORK_NAME)
            package.__path__ = [str(folder)]
            sys.modules[_NETWORK_NAME] = package
        return import_module(f"{_NETWORK_NAME}.model"), folder
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise EncoderError(
            f"This encoder needs the package laion-clap, which cannot be imported here ({type(error).__name__}: {error}). "
            "Install it with: pip install 'unisep-laion-clap[laion]', in an environment of its own if NumPy 2 is needed "
            "here, or use the encoder clap."
        ) from error


def _empty_roberta(state: Mapping[str, Tensor]) -> Any:
    """Return what laion-clap asks RoBERTa from: it gives one of the checkpoint's size, and fetches nothing."""
    from transformers import RobertaConfig, RobertaModel

    n_words, width = state[_WORDS].shape
    layers = {name.split(".")[3] for name in state if name.startswith("text_branch.encoder.layer.")}
    config = RobertaConfig(
        vocab_size=n_words,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // _HEAD_WIDTH,
        intermediate_size=state[_FEED_FORWARD].shape[0],
        max_position_embeddings=state[_POSITIONS].shape[0],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )

    class Roberta:
        @staticmethod
        def from_pretrained(_name: str) -> nn.Module:
            model: nn.Module = RobertaModel(config)
            return model.to(torch.float32)

    return Roberta
