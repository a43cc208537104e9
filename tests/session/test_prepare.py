"""What is looked up once: the catalog, a query, its clips, its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile

from unisep import BackendSpec, Separator, hookimpl, plugins
from unisep.cli import main
from unisep.testing import ToyEncoder, noise, tone, toy_plugin


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    with toy_plugin():
        yield


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often catalogs are built, cards read, clips decoded, and texts and clips encoded."""
    counted: Counter[str] = Counter()

    def count(target: str, name: str) -> None:
        module, _, function = target.rpartition(".")
        original = getattr(__import__("importlib").import_module(module), function)

        def counting(*arguments, **options):
            counted[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(target, counting)

    count("unisep.session.models.build_catalog", "catalog")
    count("unisep.weights.store.read_card", "card")
    count("unisep.files.reading.read_with_info", "decoded")
    for method in ("encode_text", "encode_audio"):
        original = getattr(ToyEncoder, method)

        def encode(self, items, original=original, method=method):
            counted[method] += 1
            return original(self, items)

        monkeypatch.setattr(ToyEncoder, method, encode)
    return counted


def test_the_catalog_is_read_once_and_again_when_plugins_change(counts: Counter[str]) -> None:
    spec = BackendSpec(name="later", load="unisep.testing.toy:load_pan_backend", summary="", stems=("left", "right"))
    module = SimpleNamespace(unisep_backends=hookimpl(lambda: [spec]))
    with Separator("toy-pan", query_backend="toy", encoder="toy") as separator:
        for query in (None, "bass", ["bass", "hat"]):
            separator.separate(noise(0.2), query)
        n_built, n_cards = counts["catalog"], counts["card"]
        for _ in range(5):
            separator.separate(noise(0.2), "bass")
            separator.provenance("bass")
        assert (counts["catalog"], counts["card"]) == (n_built, n_cards)
        assert n_built <= 3, "one to begin with, and one after each model was loaded"
        with plugins.registered(module, "later"):
            assert "later" in [entry.name for entry in separator._pool.catalog().backends]
        assert "later" not in [entry.name for entry in separator._pool.catalog().backends]


def test_weights_that_were_fetched_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"weights": "missing"}
    monkeypatch.setattr("unisep.weights.store.WeightsStore.state_at", lambda self, card: state["weights"])
    with Separator(query_backend="toy", encoder="toy") as separator:
        assert separator._pool.catalog().backend("toy").weights == "missing"
        state["weights"] = "present"
        separator.separate(noise(0.2), "bass", route="conditioned")
        assert separator._pool.catalog().backend("toy").weights == "present"


def test_weights_that_another_process_fetched_are_seen(counts: Counter[str]) -> None:
    with Separator("toy-pan") as separator:
        pool = separator._pool
        assert pool.catalog() is pool.catalog()
        before = pool.catalog()
        (pool.store.folder / "fetched").mkdir(parents=True)
        assert pool.catalog() is not before
        before = pool.catalog()
        (pool.store.folder / "fetched" / "model.safetensors").write_bytes(b"x")
        assert pool.catalog() is not before


def test_a_clip_is_decoded_and_encoded_once_a_call(counts: Counter[str], tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, tone(200, 0.2).samples.T, 44_100)
    with Separator(query_backend="toy", encoder="toy") as separator:
        query = [{"text": "bass", "audio": clip}, {"text": ("bass", "hat"), "name": "two"}]
        separator.separate(noise(1.5), query, route="conditioned")
    assert counts["decoded"] == 1
    assert (counts["encode_text"], counts["encode_audio"]) == (1, 1)


def test_a_clip_is_decoded_once_a_batch(counts: Counter[str], tmp_path: Path) -> None:
    for name in ("clip", "one", "two", "three"):
        soundfile.write(tmp_path / f"{name}.wav", tone(200, 0.5).samples.T, 44_100)
    songs = [str(tmp_path / f"{name}.wav") for name in ("one", "two", "three")]
    asked = ["--query-audio", str(tmp_path / "clip.wav"), "--query-backend", "toy", "--encoder", "toy"]
    assert main(["separate", *songs, *asked, "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 6
    assert counts["decoded"] == 1
