"""Every installed model is handed files that are damaged or mean harm: it refuses them, and nothing in them runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from unisep import BackendSpec, EncoderSpec, plugins
from unisep.errors import UnisepError
from unisep.plugins.specs import ModelSpec
from unisep.weights.cards import parse_card, read_card
from unisep.weights.store import WeightsStore

SPECS = [spec for plugin in plugins.installed() for spec in plugin.specs_of(ModelSpec) if spec.card]
EMBEDDED = [spec for spec in SPECS if read_card(spec.card).embedded]
NAMES = ["model.safetensors", "model.th", "model.pt", "model.pth", "model.ckpt", "pytorch_model.bin"]
CPU = torch.device("cpu")


class Touch:
    """Unpickled, it makes a file: the harmless stand-in for anything at all."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def giant_header(_: Path) -> bytes:
    return (2**62).to_bytes(8, "little") + b"{" * 1000


def giant_tensor(_: Path) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**42], "data_offsets": [0, 2**44]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64)


def deep_header(_: Path) -> bytes:
    return (200_000).to_bytes(8, "little") + b'{"__metadata__":' + b"[" * 199_984


def torch_with_code(canary: Path) -> bytes:
    path = canary.with_name("made.pt")
    torch.save({"state": Touch(canary), "klass": Touch(canary)}, path)
    return path.read_bytes()


def old_torch_with_code(canary: Path) -> bytes:
    path = canary.with_name("made.pt")
    torch.save({"state": Touch(canary)}, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


CONTENTS: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda _: b"",
    "a few bytes": lambda _: b"\x08\0\0",
    "noise": lambda _: np.random.default_rng(0).bytes(5_000),
    "tensors of another model": lambda _: save({"weight": np.ones((2, 3), np.float32)}),
    "a giant header": giant_header,
    "a giant tensor": giant_tensor,
    "a deep header": deep_header,
    "a pickle with code": lambda canary: pickle.dumps({"state_dict": Touch(canary)}),
    "a checkpoint with code": torch_with_code,
    "an old checkpoint with code": old_torch_with_code,
}


def load(spec: BackendSpec | EncoderSpec, weights: Path) -> object:
    if isinstance(spec, BackendSpec):
        return plugins.load_backend(spec, weights=weights, device=CPU, dtype=torch.float32)
    return plugins.load_encoder(spec, weights=weights, device=CPU)


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_no_model_loads_what_is_damaged_or_means_harm(
    spec: BackendSpec | EncoderSpec, content: str, tmp_path: Path
) -> None:
    canary = tmp_path / "it ran"
    data = CONTENTS[content](canary)
    card_names = [file.name for file in read_card(spec.card).files]
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in {*NAMES, *card_names}:
        (folder / name).write_bytes(data)
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    for place in [*sorted({folder / name for name in (*NAMES, *card_names)}), folder]:
        with pytest.raises(UnisepError):
            load(spec, place)
    assert not canary.exists(), "code of a weights file was run"


@pytest.mark.parametrize("spec", EMBEDDED, ids=lambda spec: spec.name)
def test_embedded_weights_cut_short_or_changed_are_refused(spec: BackendSpec | EncoderSpec, tmp_path: Path) -> None:
    card = read_card(spec.card)
    folder = WeightsStore(True, tmp_path).path(card)
    file = max(card.files, key=lambda file: file.n_bytes)
    whole = (folder / file.name).read_bytes()
    for name, part in (("half", whole[: len(whole) // 2]), ("one less", whole[:-1]), ("header", whole[:900])):
        path = tmp_path / f"{name}{''.join(Path(file.name).suffixes)}"
        path.write_bytes(part)
        with pytest.raises(UnisepError):
            load(spec, path)


def test_the_harm_is_real(tmp_path: Path) -> None:
    """Else the tests above would show nothing."""
    canary = tmp_path / "it ran"
    pickle.loads(CONTENTS["a pickle with code"](canary))
    assert canary.exists()
    canary.unlink()
    (tmp_path / "x.pt").write_bytes(torch_with_code(canary))
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert canary.exists()


def test_a_card_cannot_name_a_file_outside_its_folder() -> None:
    good = 'name = "{}"\nsummary = "s"\n[[files]]\nname = "{}"\nurl = "https://example.org/f"\n'
    assert parse_card(good.format("a", "f"), "x").files[0].name == "f"
    for name in ("../f", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", ".hidden", "C:x", "a" * 500):
        for card in (good.format("a", name), good.format(name, "f")):
            with pytest.raises(UnisepError):
                parse_card(card, "x")


def test_looking_at_cards_loads_no_model() -> None:
    assert SPECS, "no model is installed, so nothing was tried"
    for spec in SPECS:
        assert find_spec(read_card(spec.card).package) is not None
