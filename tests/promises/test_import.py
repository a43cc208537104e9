from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_python_may_turn_warnings_into_errors(tmp_path: Path) -> None:
    """What a Separator has to say goes to the log, which is standard error where nobody set one up; each message once."""
    script = (
        "from unisep import Separator\n"
        "from unisep.testing import noise\n"
        "separator = Separator(offline=True)\n"
        "for _ in range(2): separator.separate(noise(0.3), query='drums'), separator.separate(noise(0.3))\n"
    )
    environment = {**os.environ, "UNISEP_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert [line.split(";")[0].split(",")[0] for line in told] == [
        "'htdemucs-film' answers drums",
        "The stems come from 'htdemucs-film'",
    ]


def test_every_public_name_is_there_and_listed() -> None:
    for name in unisep.__all__:
        assert getattr(unisep, name) is not None
        assert name in dir(unisep)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Separater'"):
        unisep.Separater  # noqa: B018
