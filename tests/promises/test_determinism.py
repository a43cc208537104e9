"""Two runs give the same bytes, other settings the same sound; what belongs to the caller is left alone.

With the embedded models, so that it is shown for real ones; short segments keep it quick.
"""

from __future__ import annotations

import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Separation, Separator, files, hookimpl, plugins
from unisep.engine.device import Options
from unisep.testing import mix, noise, tone

RATE_HZ = 44_100
QUESTIONS = ["electric guitar", {"audio": tone(220, 0.3), "exclude": "voice", "name": "tone"}]
EMBEDDED = {"query_backend": "htdemucs-film", "encoder": "clap-mini", "offline": True, "segment_seconds": 1.0}


@pytest.fixture(scope="module")
def song() -> Audio:
    return mix(noise(1.6, RATE_HZ), tone(220, 1.6, RATE_HZ))


@pytest.fixture(scope="module")
def separator() -> Iterator[Separator]:
    pytest.importorskip("unisep_film")
    pytest.importorskip("unisep_clap")
    with Separator(**EMBEDDED) as found:  # type: ignore[arg-type]
        yield found


def asked(separator: Separator, song: Audio) -> Separation:
    return separator.separate(song, QUESTIONS, route="conditioned")


@pytest.fixture(scope="module")
def reference(separator: Separator, song: Audio) -> Separation:
    return asked(separator, song)


def assert_same_bits(one: Separation, other: Separation) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].samples.tobytes() == other[name].samples.tobytes()
    assert one.rest.samples.tobytes() == other.rest.samples.tobytes()
    assert one.presence == other.presence


def assert_close(one: Separation, other: Separation, song: Audio) -> None:
    peak = float(np.abs(song.samples).max())
    for name in one:
        assert np.abs(one[name].samples - other[name].samples).max() <= 1e-5 * peak
        assert np.abs(one[name].samples).max() > 1e-3 * peak, "silence would agree with anything"


# the same again


def test_a_second_run_gives_the_same_bits(separator: Separator, song: Audio, reference: Separation) -> None:
    assert_same_bits(asked(separator, song), reference)


def test_a_second_separator_gives_the_same_bits(song: Audio, reference: Separation) -> None:
    with Separator(**EMBEDDED) as fresh:  # type: ignore[arg-type]
        assert_same_bits(asked(fresh, song), reference)


def test_what_was_separated_before_leaves_no_trace(separator: Separator, song: Audio, reference: Separation) -> None:
    separator.separate(noise(0.4, 16_000, 1, seed=5), "drums", route="conditioned")
    assert_same_bits(asked(separator, song), reference)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(song: Audio, tmp_path: Path) -> None:
    pytest.importorskip("unisep_film")
    source = files.write(tmp_path / "song.wav", song)
    written = []
    for run in ("1", "2"):
        command = [sys.executable, "-m", "unisep", "separate", str(source), "-q", "electric guitar", "--quiet"]
        command += ["--segment", "1", "--route", "conditioned", "-o", str(tmp_path / run)]
        env = {**os.environ, "PYTHONHASHSEED": run, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        written.append({path.name: path.read_bytes() for path in (tmp_path / run / "song").iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"electric guitar.wav", "rest.wav"}


# other settings


@pytest.mark.parametrize("batch_segments", [2, 3])
def test_the_batch_size_changes_next_to_nothing(
    batch_segments: int, separator: Separator, song: Audio, reference: Separation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Options, "n_at_once", batch_segments)
    assert_close(reference, asked(separator, song), song)


def test_the_number_of_threads_inside_one_segment_changes_next_to_nothing(separator: Separator) -> None:
    song = mix(noise(0.7, RATE_HZ), tone(220, 0.7, RATE_HZ))
    alone = asked(separator, song)
    with Separator(**EMBEDDED, threads=torch.get_num_threads() + 1) as other:  # type: ignore[arg-type]
        assert_close(alone, asked(other, song), song)
    assert_same_bits(asked(separator, song), alone)


class Level(Backend):
    """Its outputs depend on the whole segment, so that a shifted grid can be heard; it notes what it gets."""

    info = BackendInfo(sources=("a", "b"), sample_rate_hz=8_000, channels=2, segment_seconds=0.25)
    batches: list[tuple[int, ...]]

    def __init__(self) -> None:
        self.batches = []

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.batches.append(tuple(mixture.shape))
        first = mixture * mixture.abs().mean((1, 2), keepdim=True)
        return Output(torch.stack([first, mixture - first], dim=1))


level = Level()


def load_level(**_: object) -> Level:
    return level


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        load = f"{__name__}:load_level"
        return [BackendSpec(name="level", load=load, summary="", stems=Level.info.sources)]


@pytest.fixture
def level_plugin() -> Iterator[None]:
    level.batches.clear()
    with plugins.registered(Hooks(), "level"):
        yield


@pytest.mark.usefixtures("level_plugin")
def test_on_the_cpu_a_backend_gets_one_segment_a_call() -> None:
    for shifts in (0, 2):
        Separator("level", device="cpu", shifts=shifts).separate(noise(2.0, 8_000))
    assert len(level.batches) > 20
    assert set(level.batches) == {(1, 2, 2_000)}


@pytest.mark.usefixtures("level_plugin")
def test_shifts_follow_the_seed_and_nothing_else() -> None:
    def shifted(seed: int, shifts: int = 2) -> bytes:
        random.seed()  # what the caller does with the global generators must not matter
        np.random.seed(None)
        torch.seed()
        stems = Separator("level", seed=seed, shifts=shifts).separate(noise(2.0, 8_000))
        return stems["a"].samples.tobytes()

    assert shifted(1) == shifted(1)
    assert shifted(1) != shifted(2)
    assert shifted(1, shifts=0) == shifted(2, shifts=0)


# what belongs to the caller


def belongings() -> dict[str, Any]:
    """All that a library could change behind its caller's back."""
    numpy_state = np.random.get_state()
    root = logging.getLogger()
    return {
        "python's random state": random.getstate(),
        "numpy's random state": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),  # type: ignore[index, union-attr]
        "torch's random state": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matmul precision": torch.get_float32_matmul_precision(),
        "warnings filters": list(warnings.filters),
        "how warnings are shown": warnings.showwarning,
        "numpy's error handling": np.geterr(),
        "logging": (root.level, list(root.handlers), logging.getLogger("unisep").handlers[:]),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "streams": (sys.stdout, sys.stderr, sys.excepthook),
    }


@pytest.mark.parametrize("kind", ["grad", "no_grad", "inference"])
def test_whatever_belongs_to_the_caller_is_left_alone(kind: str, song: Audio, separator: Separator) -> None:
    modes = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}
    samples = song.samples.copy()
    example = noise(0.2, seed=3).samples
    before_example = example.copy()
    with modes[kind]():
        before = belongings()
        shown = list(separator.separate(samples, [example, "oboe"], sample_rate_hz=RATE_HZ))
        separator.embed("oboe")
        after = belongings()
    assert shown == ["example-1", "oboe"]
    for what, value in before.items():
        assert after[what] == value, what
    assert np.array_equal(samples, song.samples) and np.array_equal(example, before_example)


def test_a_failing_run_leaves_everything_alone_too(song: Audio, separator: Separator) -> None:
    before = belongings()
    cancel = threading.Event()
    cancel.set()
    for arguments in ({"query": "oboe", "cancel": cancel}, {"query": {"text": "a", "time_range": (90, 99)}}):
        with pytest.raises(Exception, match=r"stopped on request|time_range"):
            separator.separate(song, **arguments)
    assert belongings() == before


def test_nothing_is_printed(song: Audio, separator: Separator, capfd: pytest.CaptureFixture[str]) -> None:
    separator.separate(song, "oboe", route="conditioned")
    assert capfd.readouterr() == ("", "")


def test_results_are_the_callers_to_change(song: Audio, separator: Separator) -> None:
    first = separator.separate(song, "oboe", route="conditioned")
    kept = first.target.samples.copy()
    first.target.samples[:] = 0
    again = separator.separate(song, "oboe", route="conditioned")
    assert np.array_equal(again.target.samples, kept)
