"""What the plugin tells before any model is loaded."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.resources import files
from typing import Any

import pytest
from unisep_htdemucs import plugin
from unisep_htdemucs.bags import RELEASED

SPECS = {spec.name: spec for spec in plugin.unisep_backends()}


def test_listing_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, unisep_htdemucs.plugin as p; specs = list(p.unisep_backends()); "
        "print(len(specs), [name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "3 []"


def test_each_spec_names_a_function_that_exists() -> None:
    assert set(SPECS) == set(RELEASED)
    for spec in SPECS.values():
        module, function = spec.load.split(":")
        assert callable(getattr(import_module(module), function))


def card(name: str) -> dict[str, Any]:
    package, path = SPECS[name].card.split(":")
    return tomllib.loads((files(package) / path).read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_cards_agree_with_specs_and_bags(name: str) -> None:
    facts = card(name)
    assert facts["name"] == name and facts["licence"] == SPECS[name].licence == "not stated"
    assert tuple(facts["sources"]) == SPECS[name].stems
    assert [file["name"] for file in facts["files"]] == [f"{s}.safetensors" for s in RELEASED[name].signatures]
    for file in facts["files"]:
        assert len(file["sha256"]) == 64 and len(file["revision"]) == 40
        assert file["url"] == f"{facts['source']}/resolve/{file['revision']}/{file['name']}"


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_cards_name_the_repositories_that_demucs_uses(name: str) -> None:
    from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name

    assert card(name)["source"].endswith(f"/{DEFAULT_NAMESPACE}/{hf_repo_name(name)}")
