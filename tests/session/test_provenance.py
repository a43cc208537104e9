"""What a result rests on is told by content: another file under the same name is another provenance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unisep import Backend, BackendSpec, EncoderSpec, QueryEncoder, Separator, hookimpl, plugins
from unisep.errors import PluginError
from unisep.testing.toy import SPACE, ToyBackend, ToyEncoder, toy_plugin
from unisep.weights.hashes import content_sha256, joint_sha256, known_sha256


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    with toy_plugin(), plugins.registered(Hooks(), "mine"):
        yield


def load_own(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    return ToyBackend()


def load_own_encoder(*, weights: Path | None, device: torch.device) -> QueryEncoder:
    return ToyEncoder()


class Hooks:
    def __init__(self, backend: str = "mine", card: str = "") -> None:
        self.backend, self.card = backend, card

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        name, stems = f"{__name__}:load_own", ToyBackend.info.sources
        return [BackendSpec(name=self.backend, load=name, summary="", stems=stems, card=self.card)]

    @hookimpl
    def unisep_encoders(self) -> list[EncoderSpec]:
        return [EncoderSpec(name="mine", load=f"{__name__}:load_own_encoder", space=SPACE)]


def test_who_answers_is_named_with_its_package() -> None:
    separator = Separator("toy", query_backend="toy", encoder="toy", offline=True)
    assert list(separator.provenance()) == ["registered:toy"]
    assert list(separator.provenance("oboe")) == ["registered:toy"]
    with pytest.raises(PluginError):
        Separator("toy", query_backend="nobody")


def test_the_content_of_ones_own_weights_counts(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    separator = Separator("mine", weights=path)
    first = separator.provenance()
    assert first["registered:mine"].endswith(content_sha256(path))
    path.write_bytes(b"two")
    assert separator.provenance() != first
    path.write_bytes(b"one")
    assert separator.provenance() == first


def test_every_file_of_an_encoders_folder_counts(tmp_path: Path) -> None:
    folder = tmp_path / "tower"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "model.bin").write_bytes(b"weights")
    separator = Separator("toy", query_backend="toy", encoder=f"mine@{folder}")
    first = separator.provenance("oboe")
    assert any(str(folder) in name for name in first)
    (folder / ".cache").write_text("hidden files do not count")
    assert separator.provenance("oboe") == first
    (folder / "sub" / "model.bin").write_bytes(b"retrained")
    assert separator.provenance("oboe") != first


def test_embedded_weights_are_told_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "carded_for_provenance"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "w.bin").write_bytes(b"one")
    (package / "card.toml").write_text('name = "mine"\nsummary = "s"\n[[files]]\nname = "w.bin"\nresource = "w.bin"\n')
    monkeypatch.syspath_prepend(package.parent)
    with plugins.registered(Hooks("carded", "carded_for_provenance:card.toml"), "carded"):
        separator = Separator("carded", offline=True)
        first = separator.provenance()["registered:carded"]
        (package / "w.bin").write_bytes(b"two")
        second = separator.provenance()["registered:carded"]
        (package / "w.bin").unlink()
        assert len({first, second, separator.provenance()["registered:carded"]}) == 3


def test_a_folder_is_told_by_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    whole = content_sha256(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    renamed = content_sha256(tmp_path)
    (tmp_path / "a").write_text("9")
    assert len({whole, renamed, content_sha256(tmp_path), content_sha256(tmp_path / "a")}) == 4
    assert content_sha256(tmp_path / "missing") == ""
    assert joint_sha256({"a": tmp_path / "a", "x": tmp_path / "x"}) == ""


def test_a_file_is_read_once_as_long_as_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    first = known_sha256(path)
    monkeypatch.setattr("unisep.weights.hashes.sha256_of", lambda _: pytest.fail("read again"))
    assert known_sha256(path) == first
