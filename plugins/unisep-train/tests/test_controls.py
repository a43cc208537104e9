"""The measure of exclusions and weights, on tones that a backend with perfect ears takes apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from unisep_train.data import corpus
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.measuring import controls
from unisep_train.mixing.queries import TextAudioEncoder

from unisep import Audio, Backend, BackendInfo, Output, QueryEncoder

RATE_HZ = 8000
SECONDS = 30
HZ = {"kick drum": 100, "hi-hat": 3600, "synth bass": 200, "lead vocal": 700}
ANSWERS = {"drums": ("kick drum", "hi-hat"), "percussion": ("kick drum", "hi-hat"), "bass": ("synth bass",),
           "vocals": ("lead vocal",)}  # fmt: skip
STEMS = {"kick drum": "drums", "hi-hat": "drums", "synth bass": "bass", "lead vocal": "vocals"}


def asked_for(name: str) -> torch.Tensor:
    return torch.tensor([float(label in ANSWERS.get(name, (name,))) for label in HZ])


class LabelEncoder(QueryEncoder):
    """Vectors whose places are the labels: texts by name, clips by what sounds in them."""

    space = "labels"
    dim = len(HZ)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([asked_for(text) for text in texts])

    def encode_audio(self, clips: Sequence[Audio]) -> torch.Tensor:
        rows = []
        for clip in clips:
            spectrum = np.abs(np.fft.rfft(clip.samples[0]))
            heard = [spectrum[round(hz * clip.n_samples / clip.sample_rate_hz)] for hz in HZ.values()]
            rows.append(torch.tensor([float(value > 0.1 * max(heard)) for value in heard]))
        return torch.stack(rows)


class Filters(Backend):
    """Lets each tone through as strongly as the query asks for it, but for what is excluded."""

    info = BackendInfo(sources=(), sample_rate_hz=RATE_HZ, channels=2, segment_seconds=6.0)

    def __init__(self, obeys: bool = True) -> None:
        self.obeys = obeys

    def separate(self, mixture, queries=None, negatives=None):
        spectrum = torch.fft.rfft(mixture)
        hz = torch.linspace(0, RATE_HZ / 2, spectrum.shape[-1])
        targets = []
        for row, query in enumerate(queries):
            wanted = query / query.abs().max()
            if self.obeys and negatives is not None:
                wanted = wanted * (negatives[row] == 0)
            mask = sum(gain * ((hz - centre).abs() < 40) for gain, centre in zip(wanted, HZ.values(), strict=True))
            targets.append(torch.fft.irfft(spectrum * mask, n=mixture.shape[-1]))
        return Output(torch.stack(targets, dim=1), None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("tones")
    time = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    lines = []
    for song in ("some-song", "eif-sodium"):
        for label, hz in HZ.items():
            path = f"{song}-{label}.wav"
            soundfile.write(folder / path, 0.2 * np.sin(2 * np.pi * hz * time), RATE_HZ)
            lines.append({"path": path, "kind": "song", "song": song, "stem": label, "label": label,
                          "four_stem": STEMS[label]})  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path_factory.mktemp("store")
    corpus.build(folder, out, rate_hz=RATE_HZ)
    return Store(str(out))


def asker(**options: bool) -> controls.Asker:
    return controls.Asker(Filters(**options), TextAudioEncoder(LabelEncoder))


@pytest.fixture(scope="module")
def figures(store: Store) -> dict:
    """What is measured of a backend that obeys."""
    return controls.measure_controls(store, asker())


def test_shares_are_those_of_the_sum() -> None:
    rng = np.random.default_rng(0)
    parts = tuple(rng.standard_normal((2, 500)).astype(np.float32) for _ in range(2))
    silent = np.zeros((2, 500), dtype=np.float32)
    found = controls.shares(torch.from_numpy(0.5 * parts[0] - 2 * parts[1]), (*parts, silent))
    np.testing.assert_allclose(found, [0.5, -2, 0], atol=1e-6)


def test_windows_hold_the_part_that_stays_the_part_that_goes_and_the_others(store: Store) -> None:
    windows = list(controls.exclusion_windows(Catalog(store, ("valid",)), "song"))
    assert {(w.first, w.second) for w in windows} >= {("drums", "kick drum"), ("drums", "hi-hat")}
    one = next(w for w in windows if (w.first, w.second) == ("drums", "kick drum"))
    loudest = [np.abs(np.fft.rfft(part[0])).argmax() / 6 for part in one.parts[:2]]
    assert loudest == [HZ["hi-hat"], HZ["kick drum"]]
    np.testing.assert_allclose(one.mixture, sum(one.parts), atol=1e-6)


def test_an_obedient_backend_leaves_out_and_keeps(figures: dict) -> None:
    found = figures["exclusion_over_all"]
    assert found["n_windows"] >= 6 and found["left_out_db"] < -40
    assert abs(found["kept_db"]) < 0.1 and found["si_sdr_gain_db"] > 20


def test_a_deaf_backend_is_found_out(store: Store) -> None:
    found = controls.measure_controls(store, asker(obeys=False))["exclusion_over_all"]
    assert abs(found["left_out_db"]) < 0.1 and abs(found["si_sdr_gain_db"]) < 0.1


def test_the_louder_side_follows_the_weights(figures: dict) -> None:
    levels = figures["first_over_second_db_by_share_of_text"]
    by_share = [levels[f"{share:g}"] for share in controls.TEXT_SHARES]
    assert by_share == sorted(by_share, reverse=True) and by_share[0] > 40 and by_share[-1] < -40
    assert abs(by_share[2]) < 4


def test_the_command_prints_and_writes(store: Store, tmp_path: Path, monkeypatch, capsys, command) -> None:
    monkeypatch.setattr(controls, "load_model", lambda path: SimpleNamespace(config=SimpleNamespace(spaces={})))
    monkeypatch.setattr(controls, "FilmBackend", lambda model: Filters())
    monkeypatch.setattr(controls.TextAudioEncoder, "named", lambda *args: TextAudioEncoder(LabelEncoder))
    out = tmp_path / "controls.json"
    assert not command("controls", store.folder, "--weights", "any.safetensors", "--json", out)
    assert "drums without kick drum" in capsys.readouterr().out
    assert json.loads(out.read_text())["exclusion_over_all"]["left_out_db"] < -40
