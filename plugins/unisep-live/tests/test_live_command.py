"""The command `unisep live`: pipes, devices that are pretended, gains, and what goes wrong."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_live import keys, pipe
from unisep_live.mixer import Mixer

from unisep import Audio, BackendInfo, BackendSpec, LiveBackend, Output, Separation, hookimpl, plugins
from unisep.cli import main

RATE_HZ = 8_000


class Quarter(LiveBackend):
    """A quarter of the recording, 64 samples later."""

    info = BackendInfo(sources=("quarter",), sample_rate_hz=RATE_HZ, channels=1)
    hop_samples, latency_samples = 32, 64

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        return Output(0.25 * mixture[:, None])

    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> Tensor:
        return torch.zeros(1, 64)

    def push(self, state: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        heard = torch.cat([state, block], dim=1)
        return 0.25 * heard[None, :, : block.shape[1]], heard[:, block.shape[1] :].clone()


class Plugin:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [BackendSpec(name="quarter", load="quarter_live:Quarter", summary="", stems=("quarter",), live=True)]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "quarter_live", SimpleNamespace(Quarter=Quarter))  # type: ignore[arg-type]
    with plugins.using(Plugin()):
        yield


class Pipe(io.BytesIO):
    """Gives what it has in pieces of odd sizes, as a pipe does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(777, size or 0))


def through(monkeypatch: pytest.MonkeyPatch, data: bytes, *options: str) -> tuple[int, bytes]:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(data)))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out, write=lambda text: None, flush=lambda: None))
    code = main(["live", "--backend", "quarter", "--rate", str(RATE_HZ), "--quiet", *options])
    return code, out.getvalue()


@pytest.mark.parametrize("form", ["s16le", "s32le", "f32le"])
@pytest.mark.parametrize("n_samples", [0, 1, 1_000, 1_024])
def test_a_pipe_gives_as_many_samples_as_it_gets_in_step(
    monkeypatch: pytest.MonkeyPatch, form: str, n_samples: int
) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (1, n_samples)).astype(np.float32)
    data = pipe.encoded(sound, form)
    code, out = through(monkeypatch, data + b"\0", "--raw", form, "--channels", "1", "--block", "100")
    assert code == 0 and len(out) == len(data)
    assert np.allclose(pipe.decoded(out, form, 1), 0.25 * sound, atol=2e-5)


def test_gains_make_the_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 2_000)).astype(np.float32)
    data = sound.T.tobytes()
    _, out = through(monkeypatch, data, "--raw", "f32le", "--rest-gain", "0")
    assert np.allclose(pipe.decoded(out, "f32le", 2), sound, atol=1e-6)
    _, rest = through(monkeypatch, data, "--raw", "f32le", "--rest-gain", "0", "--target-gain", "off")
    _, target = through(monkeypatch, data, "--raw", "f32le")
    total = pipe.decoded(rest, "f32le", 2) + pipe.decoded(target, "f32le", 2)
    assert np.allclose(total, pipe.decoded(out, "f32le", 2), atol=1e-6)


def test_whole_numbers_clip_and_come_back() -> None:
    values = np.array([[-2.0, -1.0, -0.5, 0.0, 0.5, 2.0]], dtype=np.float32)
    for form in ("s16le", "s32le"):
        back = pipe.decoded(pipe.encoded(values, form), form, 1)
        assert np.allclose(back, [[-1, -1, -0.5, 0, 0.5, 1]], atol=4e-5)


def separation(n_samples: int = 64) -> Separation:
    ones = np.ones((1, n_samples), dtype=np.float32)
    return Separation({"a": Audio(ones, RATE_HZ), "b": Audio(ones, RATE_HZ)}, rest=Audio(ones / 2, RATE_HZ))


def test_a_gain_is_reached_without_a_step() -> None:
    mixer = Mixer()
    assert np.allclose(mixer.mix(separation()), 2)
    for _ in range(60):
        assert mixer.press("s") and mixer.press("e")
    assert (mixer.target_db, mixer.rest_db) == (-60, 0)
    ramp = mixer.mix(separation())[0]
    assert np.abs(np.diff(ramp)).max() < 0.03 and ramp[-1] == 0.5
    assert np.allclose(mixer.mix(separation()), 0.5)
    mixer.press("b")
    mixer.mix(separation())
    assert np.allclose(mixer.mix(separation()), 2.5)
    assert not mixer.press("q") and mixer.press("t") and mixer.rest_db == -60
    assert mixer.meters() == f"target  +0 dB [{'#' * 20}]  rest    off [{'#' * 18}..]"


class PortAudio(SimpleNamespace):
    """Pretends to be sounddevice with a device that plays as many blocks as it is told."""

    class PortAudioError(Exception):
        pass

    class CallbackAbort(Exception):
        pass

    def __init__(self, blocks: list[np.ndarray]) -> None:
        super().__init__(default=SimpleNamespace(device=(0, 1)), played=[], blocks=blocks, options={})

    def query_devices(self, device: Any = None, kind: str = "") -> Any:
        one = {"name": "Mic", "max_input_channels": 1, "max_output_channels": 0, "default_samplerate": float(RATE_HZ)}
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return one if kind else [one, {**one, "name": "Out", "max_input_channels": 0, "max_output_channels": 2}]

    def Stream(self, **options: Any) -> Any:
        if options["channels"] > 1:
            raise self.PortAudioError("Invalid number of channels")
        self.options = options

        class Opened:
            def __enter__(opened) -> None:
                for block in self.blocks:
                    played = np.zeros_like(block)
                    try:
                        options["callback"](block, played, len(block), None, None)
                    except self.CallbackAbort:
                        break
                    self.played.append(played)

            def __exit__(opened, *_: object) -> None:
                pass

        return Opened()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> PortAudio:
    blocks = [np.full((64, 1), 0.5, dtype=np.float32)] * 30
    library = PortAudio(blocks)
    monkeypatch.setitem(sys.modules, "sounddevice", library)  # type: ignore[arg-type]
    answers = iter(["w", "", "q"])
    monkeypatch.setattr(keys, "_none", lambda seconds: next(answers))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return library


def test_from_device_to_device(device: PortAudio, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--channels", "1", "--block", "64", "--target-gain", "0", "--rest-gain", "0", "--json"]
    assert main(["live", "--backend", "quarter", *options]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (device.options["samplerate"], device.options["blocksize"]) == (RATE_HZ, 64)
    joined = np.concatenate(device.played)[:, 0]
    assert not joined[: result["latency_samples"]].any() and np.allclose(joined[result["latency_samples"] :], 0.5)
    assert result["plan"]["quarter"]["backend"] == "quarter"
    assert "quarter by quarter; 16 ms behind, 8 of them by the model" in captured.err


def test_devices_are_listed(device: PortAudio, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--list-devices"]) == 0
    assert "Mic" in capsys.readouterr().out
    assert main(["live", "--list-devices", "--json"]) == 0
    assert [row["outputs"] for row in json.loads(capsys.readouterr().out)] == [0, 2]


def test_what_goes_wrong_in_a_device_is_told(device: PortAudio, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--backend", "quarter", "--channels", "2"]) == 2
    assert "Invalid number of channels" in capsys.readouterr().err
    assert main(["live", "--backend", "quarter", "--input", "nothing"]) == 2
    assert "There is no input device nothing" in capsys.readouterr().err
    device.blocks = [np.full((64, 1), np.nan, dtype=np.float32)]
    assert main(["live", "--backend", "quarter", "--channels", "1", "--block", "64"]) == 1
    assert "NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lack", "advice"), [(None, "unisep-live"), (OSError("PortAudio library not found"), "libportaudio2")]
)
def test_without_sounddevice_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lack: Exception | None, advice: str
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice" and lack is not None:
                raise lack

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    if lack is None:
        monkeypatch.setitem(sys.modules, "sounddevice", None)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert main(["live", "--list-devices"]) == 2
    assert advice in capsys.readouterr().err


def test_wrong_options_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--raw", "s16le"]) == 2
    assert "--rate" in capsys.readouterr().err
    assert main(["live", "--raw", "s16le", "--rate", "8000", "--backend", "quarter", "--block", "0"]) == 2
    assert "block" in capsys.readouterr().err
    assert main(["live", "--rest-gain", "loud"]) == 2


def test_keys_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with keys.pressed() as pressed:
            threading.Thread(target=os.write, args=(master, b"wq")).start()
            assert [pressed(30), pressed(30), pressed(0)] == ["w", "q", ""]
    os.close(master)
