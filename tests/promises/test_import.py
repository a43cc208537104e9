from __future__ import annotations

import subprocess
import sys

import pytest

import unisep


def loaded_by(code: str) -> list[str]:
    heavy = "('torch', 'numpy', 'pydantic', 'soundfile', 'soxr', 'transformers', 'matplotlib')"
    script = f"import sys; {code}; print(*[m for m in {heavy} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_importing_unisep_loads_nothing_heavy() -> None:
    assert loaded_by("import unisep") == []


def test_what_a_hook_module_needs_loads_nothing_heavy() -> None:
    assert loaded_by("from unisep import BackendSpec, EncoderSpec, hookimpl; BackendSpec, EncoderSpec") == []


def test_routing_needs_no_torch() -> None:
    assert "torch" not in loaded_by("import unisep.routing.router")


def test_every_public_name_is_there_and_listed() -> None:
    for name in unisep.__all__:
        assert getattr(unisep, name) is not None
        assert name in dir(unisep)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Separater'"):
        unisep.Separater  # noqa: B018
