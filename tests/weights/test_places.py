"""Encoders with the caller's own weights: "name@folder" and "name@owner/repository"."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unisep import EncoderSpec, Separator, hookimpl, plugins
from unisep.errors import DownloadError, EncoderError, OptionError, PluginError, WeightsError
from unisep.testing import mix, tone
from unisep.testing.toy import SPACE, ToyEncoder, toy_plugin
from unisep.weights.hub import find_place, split_place

SONG = mix(tone(100, 1.0), tone(8_000, 1.0))
COMMIT = "c" * 40
seen: list[str] = []


class Probe(ToyEncoder):
    """The toy encoder, of the space that the file `space` in its folder names."""

    def __init__(self, weights: Path | None) -> None:
        seen.append("" if weights is None else weights.as_posix())
        file = None if weights is None else weights / "space"
        self.space = file.read_text() if file is not None and file.is_file() else SPACE


class ProbePlugin:
    @hookimpl
    def unisep_encoders(self) -> list[EncoderSpec]:
        return [EncoderSpec(name="probe", load="place_probe:load", space="probe-space")]


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    module = ModuleType("place_probe")
    module.load = lambda *, weights, device: Probe(weights)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "place_probe", module)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    seen.clear()
    with toy_plugin(), plugins.registered(ProbePlugin(), "probe"):
        yield


def folder(path: Path, space: str = SPACE) -> Path:
    path.mkdir(parents=True)
    (path / "space").write_text(space)
    return path


def separator(encoder: str, offline: bool = True) -> Separator:
    return Separator("toy", query_backend="toy", encoder=encoder, offline=offline)


@pytest.mark.parametrize("name", ["probe", "registered:probe"])
def test_a_folder_of_weights_is_loaded_at_once_and_its_space_is_what_it_states(name: str, tmp_path: Path) -> None:
    own = folder(tmp_path / "own")
    with separator(f"{name}@{own}") as loaded:
        assert seen == [own.resolve().as_posix()]
        result = loaded.separate(SONG, "bass")
        assert (result.plan["bass"].encoder, loaded.embed("bass").space) == (f"probe@{own}", SPACE)
    assert len(seen) == 1
    loaded.embed("bass")  # closed, and loaded again
    assert len(seen) == 2


def test_a_relative_folder_is_found_from_anywhere_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    loaded = separator("probe@./own")
    loaded.close()
    monkeypatch.chdir("/")
    assert loaded.embed("bass").space == SPACE
    assert set(seen) == {(tmp_path / "own").resolve().as_posix()}


def test_weights_that_change_their_space_behind_our_back_are_refused(tmp_path: Path) -> None:
    own = folder(tmp_path / "own")
    loaded = separator(f"probe@{own}")
    loaded.close()
    (own / "space").write_text("another")
    with pytest.raises(EncoderError, match="'another'"):
        loaded.embed("bass")


def test_a_repository_goes_to_the_plugin_by_name_when_online(tmp_path: Path) -> None:
    separator("probe@owner/name", offline=False)
    separator("probe@owner/name@v1", offline=False)
    assert seen == ["owner/name", "owner/name@v1"]


def test_offline_a_repository_is_pinned_to_what_the_cache_holds(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="'owner/name' is not in the hub's cache"):
        separator("probe@owner/name")
    cache = tmp_path / "hf" / "hub" / "models--owner--name"
    (cache / "snapshots" / COMMIT).mkdir(parents=True)
    assert find_place("owner/name", offline=True).as_posix() == f"owner/name@{COMMIT}"  # the only one there
    (cache / "snapshots" / ("d" * 40)).mkdir()
    with pytest.raises(DownloadError):
        find_place("owner/name", offline=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    assert find_place("owner/name", offline=True).as_posix() == f"owner/name@{COMMIT}"
    assert find_place(f"owner/name@{'d' * 40}", offline=True).as_posix() == f"owner/name@{'d' * 40}"
    with pytest.raises(DownloadError):
        find_place(f"owner/name@{'e' * 40}", offline=True)


@pytest.mark.parametrize("place", ["./owner/name", "/owner/name", "~owner/name", "a/b/c", "name", "a b/c"])
def test_what_looks_like_a_path_is_never_taken_for_a_repository(place: str) -> None:
    with pytest.raises(WeightsError, match="no file or folder"):
        find_place(place, offline=False)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("probe@", OptionError, "incomplete"),
        ("@./folder", OptionError, "incomplete"),
        (Path("folder"), OptionError, "such as 'clap@folder'"),
        ("prob@./folder", PluginError, "Did you mean 'probe'"),
        ("probe@./nowhere", WeightsError, "no file or folder './nowhere'"),
    ],
)
def test_names_that_lead_nowhere(asked: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        separator(asked)


def test_the_first_at_sign_separates() -> None:
    assert split_place("dist:clap@owner/name@v1") == ("dist:clap", "owner/name@v1")


def test_own_weights_must_state_a_space() -> None:
    spec = EncoderSpec(name="probe", load="place_probe:load", space="probe-space")
    sys.modules["place_probe"].load = lambda *, weights, device: Stateless()  # type: ignore[attr-defined]
    with pytest.raises(EncoderError, match="'probe-space'"):
        plugins.load_encoder(spec, weights=None, device=torch.device("cpu"), any_space=True)


class Stateless(ToyEncoder):
    space = ""
