"""Weights files: safetensors whose metadata hold the model's config, read without running anything."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from unisep_htdemucs import eight_bit
from unisep_htdemucs.model import HTDemucs

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, read_safetensors

from .causal import CausalConfig, CausalFilm
from .config import FilmConfig
from .model import FilmHTDemucs
from .stems import StemsHTDemucs

FORMAT = "unisep-film-2"
CAUSAL_FORMAT = "unisep-film-causal-1"
MAX_CONFIG_CHARACTERS = 100_000


def save_model(
    path: Path, model: FilmHTDemucs | CausalFilm, dtype: torch.dtype = torch.float16, *, in_8_bits: bool = False
) -> Path:
    """Write the file at `dtype`, complete or not at all.

    in_8_bits: tensors with two axes or more as whole numbers with scales (`unisep_htdemucs.eight_bit`); `dtype` then
        is that of the rest.
    """
    state = {name: value.detach() for name, value in model.state_dict().items()}
    form = CAUSAL_FORMAT if isinstance(model, CausalFilm) else FORMAT
    metadata = {"format": form, "config": model.config.model_dump_json()}
    large = {name: value for name, value in state.items() if in_8_bits and value.dim() >= 2}
    values = {name: value.to(dtype).contiguous() for name, value in state.items() if name not in large}
    if in_8_bits:
        values |= eight_bit.quantised(large)
        metadata[eight_bit.KEY] = eight_bit.FORMAT
    partial = path.with_name(path.name + ".part")
    save_file(values, partial, metadata=metadata)
    return partial.replace(path)


def load_model(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> FilmHTDemucs:
    """Read the FiLM HT Demucs in a file made by `save_model`, as `read_model` does. Raises WeightsError for a causal model."""
    model = read_model(path, device, dtype)
    if isinstance(model, CausalFilm):
        raise WeightsError(f"{path} holds a causal model. Ask for it by name: the backend 'film-causal'.")
    return model


def read_model(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> FilmHTDemucs | CausalFilm:
    """Read the model in a file made by `save_model`, in evaluation mode; numbers of 8 bits become `dtype` again.

    Raises:
        WeightsError: not a file of this format, damaged, of other parameters than its config says, or not finite.
    """
    state, metadata = read_safetensors(path)
    config = _config(path, metadata)
    if eight_bit.KEY in metadata:
        state = eight_bit.dequantised(path, metadata[eight_bit.KEY], state)

    def make() -> FilmHTDemucs | CausalFilm:
        return CausalFilm(config) if isinstance(config, CausalConfig) else FilmHTDemucs(config)

    return filled(path, make, state, lambda _, value: value.to(device, dtype), "the config in it").to(device)


def found(weights: Path | None, name: str) -> Path:
    """Return the file to read: the one given, or that of the `name` in the folder given. Raises WeightsError for none."""
    if weights is None:
        raise WeightsError("This query model needs weights: a file, or the folder of the embedded ones.")
    file = weights / name if weights.is_dir() else weights
    if not file.is_file():
        raise WeightsError(f"{file} does not exist. Leave the weights out to use the embedded ones.")
    return file


def from_htdemucs(separator: HTDemucs, spaces: dict[str, int], condition_channels: int = 256) -> FilmHTDemucs:
    """Build a new model around `separator`, of which it keeps every parameter; until trained it hears no query."""
    config = FilmConfig(demucs=_as_json(separator), spaces=spaces, condition_channels=condition_channels, film="layers")
    model = FilmHTDemucs(config)
    assert isinstance(model.core, StemsHTDemucs)
    model.core.demucs.load_state_dict(separator.state_dict())
    return model


def _as_json(separator: HTDemucs) -> dict[str, object]:
    fields = dict(vars(separator.config))
    return {**fields, "sources": list(fields["sources"]), "segment": str(fields["segment"])}


def _config(path: Path, metadata: dict[str, str]) -> FilmConfig | CausalConfig:
    form, text = metadata.get("format"), metadata.get("config", "")
    if form not in (FORMAT, CAUSAL_FORMAT) or len(text) > MAX_CONFIG_CHARACTERS:
        raise WeightsError(
            f"{path} is not a weights file of FiLM HT Demucs (format {form!r}, not {FORMAT!r} or {CAUSAL_FORMAT!r})."
        )
    return FilmConfig.from_json(text) if form == FORMAT else CausalConfig.from_json(text)
