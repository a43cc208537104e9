"""The shipped demo recording: what it promises, and that its builder keeps the promise on any samples."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile as sf

EXAMPLES = Path(__file__).parents[2] / "examples"
STEMS = ("drums", "bass", "electric-guitar", "choir")


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_demo", EXAMPLES / "build_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def residual_db(folder: Path) -> float:
    mixture, _ = sf.read(folder / "mixture.flac")
    residual = mixture - sum(sf.read(folder / f"{name}.ogg")[0] for name in STEMS)
    return 10 * np.log10(np.sum(residual**2) / np.sum(mixture**2))


def test_shipped_stems_sum_to_the_mixture() -> None:
    assert residual_db(EXAMPLES / "audio") < -60


def test_shipped_recording_is_small_stereo_and_unclipped() -> None:
    assert sum(path.stat().st_size for path in (EXAMPLES / "audio").iterdir()) < 2_000_000
    info = sf.info(EXAMPLES / "audio" / "mixture.flac")
    assert (info.channels, info.samplerate, info.duration) == (2, 44_100, 20.0)
    assert np.abs(sf.read(EXAMPLES / "audio" / "mixture.flac")[0]).max() < 1


def test_every_source_is_named_in_the_licence() -> None:
    licence = (EXAMPLES / "audio" / "LICENCE.md").read_text()
    assert all(name in licence and page in licence for name, (_, page) in builder().SOURCES.items())


def test_example_clips_are_not_in_the_mixture() -> None:
    module = builder()
    played = {event.sample for events in module.STEMS.values() for event in events()}
    assert played.isdisjoint({sample for sample, _ in module.CLIPS.values()})


def test_builder_is_deterministic_and_exact(tmp_path: Path) -> None:
    module, samples = builder(), tmp_path / "samples"
    samples.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(module.SOURCES):
        tone = np.sin(np.arange(66_150) * (0.01 + 0.003 * i)) * np.exp(-np.arange(66_150) / 20_000)
        sf.write(samples / f"{name}.flac", 0.3 * tone + 0.01 * rng.standard_normal(66_150), 44_100)
    module.build(samples, tmp_path / "a")
    module.build(samples, tmp_path / "b")
    assert residual_db(tmp_path / "a") < -60
    for name in ("mixture.flac", *(f"{stem}.ogg" for stem in STEMS)):
        assert np.array_equal(sf.read(tmp_path / "a" / name)[0], sf.read(tmp_path / "b" / name)[0])


def test_builder_names_missing_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build_demo.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"lacks loop_breakbeat.*sonic-pi-samples"):
        builder().main()
