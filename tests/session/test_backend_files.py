"""A backend asked for as "name@file" has the stems or spaces of the file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from unisep import Backend, BackendInfo, BackendSpec, Embedding, Output, Separator, hookimpl
from unisep.errors import OptionError, PluginError, QueryError, WeightsError
from unisep.testing import ToyBackend, noise, toy_plugin


class Reader(Backend):
    """Takes its stems, or a space in brackets, from a file, a line each."""

    def __init__(self, lines: list[str]) -> None:
        spaces = tuple(line.strip("[]") for line in lines if line.startswith("["))
        stems = () if spaces else tuple(lines)
        self.info = BackendInfo(sources=stems, sample_rate_hz=8000, channels=1, segment_seconds=1.0, spaces=spaces)

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        n_outputs = len(self.info.sources) if queries is None else len(queries)
        return Output(mixture[:, None].expand(-1, n_outputs, -1, -1) / max(1, n_outputs))


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    if weights is None:
        raise WeightsError("give a file")
    return Reader(weights.read_text().split())


class Plugin:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [BackendSpec(name="reader", load="backend_files:load", summary="reads a file", reads_files=True)]


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("backend_files")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "backend_files", module)


def separator(**options: Any) -> Separator:
    return Separator(plugins=[Plugin()], **options)


def test_stems_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("left right")
    (tmp_path / "b.txt").write_text("voice")
    one, other = (separator(backend=f"reader@{tmp_path / name}.txt") for name in "ab")
    song = noise(0.5, 8000, 1)
    assert list(one.separate(song)) == ["left", "right"] and list(other.separate(song)) == ["voice"]
    assert f"reader@{tmp_path / 'a.txt'}" in one.separate(song).plan["left"].backend
    with pytest.raises(OptionError, match="drums"):
        one.separate(song, stems=["drums"])


def test_spaces_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("[toy-1]")
    asked = separator(query_backend=f"reader@{path}")
    result = asked.separate(noise(0.5, 8000, 1), query=Embedding(np.eye(4, dtype=np.float32)[0], "toy-1"))
    assert result.target.n_samples == 4000
    with pytest.raises(QueryError, match="other-1"):
        asked.separate(noise(0.5, 8000, 1), query=Embedding(np.eye(4, dtype=np.float32)[0], "other-1"))


@pytest.mark.parametrize("name", ["reader", "reader@"])
def test_without_a_file_the_error_says_how_to_write_it(name: str) -> None:
    with pytest.raises(OptionError, match="reader@"):
        separator(backend=name)


def test_a_file_that_is_not_there_and_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.txt"):
        separator(backend=f"reader@{tmp_path}/gone.txt")
    with pytest.raises(PluginError, match="nobody"):
        separator(backend=f"nobody@{tmp_path}")


def test_what_reads_files_takes_no_part_without_one() -> None:
    with toy_plugin():
        asked = separator(backend="toy-pan", query_backend="toy", encoder="toy")
        assert "reader" not in str(asked.separate(noise(0.5, 44_100), query="bass").plan)


def test_a_backend_that_offers_no_module_says_so() -> None:
    from unisep.errors import BackendError

    with pytest.raises(BackendError, match="ToyBackend cannot be exported"):
        ToyBackend().exportable()
