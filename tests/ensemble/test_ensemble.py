"""Ensembles: weights, equality with means taken by hand, members that differ, definitions that are wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Separator, hookimpl
from unisep.ensemble.backend import EnsembleBackend, EnsemblePart, spectrogram_mean
from unisep.ensemble.definition import Ensemble, read_ensemble
from unisep.errors import BackendError, EnsembleError, OptionError
from unisep.plugins.registry import registered
from unisep.testing import BackendContract, signals

RATE_HZ = 8_000


class Split(Backend):
    """Gives `gain` times the mixture as `low`, the rest as `high`; counts how often and how long it is asked."""

    def __init__(self, gain: float = 0.5, **facts: object) -> None:
        known = {"sources": ("low", "high"), "sample_rate_hz": RATE_HZ, "channels": 2, "segment_seconds": 0.25}
        self.info = BackendInfo(**(known | facts))  # type: ignore[arg-type]
        self.gain = gain
        self.lengths: list[int] = []
        self.closed = 0

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        self.lengths.append(mixture.shape[-1])
        outputs = {"low": mixture * self.gain, "high": mixture * (1 - self.gain), "loud": mixture.abs()}
        return Output(torch.stack([outputs[name] for name in self.info.sources], dim=1))

    def close(self) -> None:
        self.closed += 1


class Offering:
    """Hooks that offer backends called `names`, which a module named `offered` loads."""

    def __init__(self, names: Iterable[str], stems: tuple[str, ...]) -> None:
        self._specs = [
            BackendSpec(name=n, load=f"offered:{n}", summary="", stems=stems, licence=f"licence of {n}") for n in names
        ]

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return self._specs


def entry(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Backend]) -> None:
    module = ModuleType("offered")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "offered", module)


def part(backend: Backend, stems: dict[str, str] | None = None, **weights: float) -> EnsemblePart:
    return EnsemblePart(backend, weights, stems or {}, "a part")


def recording(seconds: float = 0.25, channels: int = 2) -> Tensor:
    return torch.from_numpy(signals.noise(seconds, RATE_HZ, channels).samples)[None]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


# -- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.01, 1000.0])
def test_weights_of_a_stem_are_divided_by_their_sum(scale: float) -> None:
    parts = [part(Split(0.2), low=3 * scale, high=scale), part(Split(0.8), low=scale, high=0)]
    ensemble, mixture = EnsembleBackend(parts), recording()
    sources = ensemble.separate(mixture).sources
    assert ensemble.info.sources == ("low", "high")
    assert distance(sources[:, 0], mixture * (0.75 * 0.2 + 0.25 * 0.8)) < 1e-6
    assert torch.equal(sources[:, 1], mixture * (1 - 0.2))


def test_equal_members_give_what_one_gives() -> None:
    for domain in ("waveform", "spectrogram"):
        ensemble = EnsembleBackend([part(Split(), low=w, high=w) for w in (1, 2, 0.3)], domain=domain)
        mixture = recording()
        assert distance(ensemble.separate(mixture).sources, Split().separate(mixture).sources) < 1e-5


@pytest.mark.parametrize("weights", [{"low": 0.0}, {}])
def test_a_stem_for_which_nobody_counts_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(EnsembleError, match="No member counts"):
        EnsembleBackend([part(Split(), **weights)])
    with pytest.raises(EnsembleError, match="'high'"):
        EnsembleBackend(
            [part(Split(), low=1.0, **weights)] if not weights else [part(Split(), low=1.0)], ("low", "high")
        )


def test_a_part_that_lacks_its_stem_is_refused() -> None:
    with pytest.raises(EnsembleError, match=r"gives no 'vocals'.*low, high"):
        EnsembleBackend([part(Split(), vocals=1.0)])
    renamed = EnsembleBackend([part(Split(0.3), {"vocals": "high"}, vocals=1.0)])
    assert distance(renamed.separate(recording()).sources[:, 0], recording() * 0.7) < 1e-6


def test_the_spectrogram_mean_keeps_what_differs_in_phase() -> None:
    tone = torch.sin(torch.arange(16_000) / 10)[None, None]
    against = -0.5 * tone
    assert float((spectrogram_mean([tone, against], [0.5, 0.5])).abs().max()) > 0.7
    assert float(((tone + against) / 2).abs().max()) < 0.3
    quiet = torch.zeros(2, 2, 1)
    assert torch.equal(spectrogram_mean([quiet, quiet], [0.5, 0.5]), quiet)


# -- only what is needed ------------------------------------------------------------------------------------


def test_only_parts_that_count_are_run() -> None:
    one, other = Split(0.2), Split(0.8)
    ensemble = EnsembleBackend([part(one, low=1.0), part(other, high=1.0)])
    low = ensemble.for_sources(("low",))
    assert low.info.sources == ("low",)
    assert torch.equal(low.separate(recording()).sources[:, 0], recording() * 0.2)
    assert (len(one.lengths), len(other.lengths)) == (1, 0)
    assert ensemble.for_sources(("kazoo",)) is ensemble
    ensemble.close()
    assert (one.closed, other.closed) == (1, 1)


# -- members that differ ------------------------------------------------------------------------------------


def test_segments_are_the_longest_and_others_get_shorter_ones() -> None:
    short, long, any_length = Split(0.1, segment_seconds=0.1), Split(0.2), Split(0.3, segment_seconds=None)
    ensemble = EnsembleBackend([part(each, low=1.0) for each in (short, long, any_length)])
    assert ensemble.info.segment_seconds == 0.25
    mixture = recording()
    assert distance(ensemble.separate(mixture).sources[:, 0], mixture * 0.2) < 1e-5
    assert max(short.lengths) == 800 and len(short.lengths) > 2
    assert long.lengths == any_length.lengths == [2000]


def test_other_rates_and_channels_are_converted_for() -> None:
    slow_mono = Split(0.6, sample_rate_hz=4_000, channels=1, segment_seconds=None)
    ensemble = EnsembleBackend([part(slow_mono, low=1.0), part(Split(0.2), low=1.0)])
    assert (ensemble.info.sample_rate_hz, ensemble.info.channels) == (RATE_HZ, 2)
    seconds = torch.arange(2000) / RATE_HZ
    tone = torch.sin(2 * torch.pi * 440 * seconds).repeat(2, 2, 1)
    found = ensemble.separate(tone).sources[:, 0]
    assert slow_mono.lengths == [1000, 1000]
    assert distance(found[..., 300:-300], 0.4 * tone[..., 300:-300]) < 1e-3


def test_members_that_normalise_and_members_that_do_not_work_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`loud` is no linear function, so that a mean or a deviation taken elsewhere would show."""
    facts = {"sources": ("loud",)}
    plain = Split(**facts)
    scaled = Split(normalisation="song", segment_seconds=0.1, **facts)
    both = EnsembleBackend([part(plain, loud=1.0), part(scaled, loud=3.0)])
    assert (both.info.normalisation, both.info.segment_seconds) == ("none", None)
    audio = Audio(recording(0.6)[0].numpy() * 0.3 + 0.05, RATE_HZ)
    entry(monkeypatch, a=lambda **_: plain, b=lambda **_: scaled, c=lambda **_: both)
    with registered(Offering("abc", ("loud",)), "offering"):
        a, b, c = (Separator(name).separate(audio)["loud"].samples for name in "abc")
    assert np.abs(c - (0.25 * a + 0.75 * b)).max() < 1e-5 * np.abs(c).max()


def test_all_normalise_then_the_host_does() -> None:
    ensemble = EnsembleBackend([part(Split(normalisation="song"), low=1.0) for _ in range(2)])
    assert ensemble.info.normalisation == "song" and ensemble.info.segment_seconds == 0.25


def test_queries_and_parts_that_break_the_contract_are_refused() -> None:
    with pytest.raises(BackendError, match="queries"):
        EnsembleBackend([part(Split(), low=1.0)]).separate(recording(), torch.zeros(1, 4))
    backend = Split()
    ensemble = EnsembleBackend([part(backend, low=1.0)])
    backend.info = BackendInfo(sources=("low",), sample_rate_hz=RATE_HZ, channels=2)
    backend.separate = lambda mixture, *_: Output(mixture[:, None, :, :-1])  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="a part"):
        ensemble.separate(recording())


class TestWaveformEnsemble(BackendContract):
    def load_backend(self) -> Backend:
        parts = [part(Split(0.2), low=1.0, high=1.0), part(Split(0.6, sample_rate_hz=4_000), low=2.0)]
        return EnsembleBackend(parts)


class TestSpectrogramEnsemble(BackendContract):
    def load_backend(self) -> Backend:
        parts = [part(Split(0.2), low=1.0, high=1.0), part(Split(0.6, channels=1), low=2.0)]
        return EnsembleBackend(parts, domain="spectrogram")


# -- by the Separator ---------------------------------------------------------------------------------------


_loaded: list[tuple[str, Path | None]] = []


def load_soft(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    _loaded.append(("soft", weights))
    return Split(0.2 if weights is None else float(weights.read_text()))


def load_strong(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    _loaded.append(("strong", weights))
    return Split(0.8)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    _loaded.clear()
    entry(monkeypatch, soft=load_soft, strong=load_strong)
    with registered(Offering(("soft", "strong"), ("low", "high")), "two"):
        yield


TOML = """
summary = "Both"
[[members]]
backend = "soft"
weights = { low = 3, high = 1 }
[[members]]
backend = "strong"
weights = { low = 1 }
"""


def song() -> Audio:
    return signals.noise(0.7, RATE_HZ, 2)


def test_a_file_separates_as_the_mean_of_its_members(two: None, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    result = Separator(f"ensemble@{path}").separate(song())
    soft, strong = Separator("soft").separate(song()), Separator("strong").separate(song())
    expected = 0.75 * soft["low"].samples + 0.25 * strong["low"].samples
    assert list(result) == ["low", "high"]
    assert np.abs(result["low"].samples - expected).max() < 1e-6
    assert np.array_equal(result["high"].samples, soft["high"].samples)
    total = result["low"].samples + result["high"].samples + result.rest.samples
    assert np.allclose(total, song().samples, atol=1e-6)
    assert result.plan["low"].backend == f"ensemble@{path}"
    assert result.plan["low"].licence == "licence of soft; licence of strong"


def test_one_stem_loads_only_who_counts_for_it(two: None) -> None:
    ensemble = Ensemble(
        members=[{"backend": "soft", "weights": {"low": 1}}, {"backend": "strong", "weights": {"high": 1}}]
    )
    separator = Separator(ensemble)
    assert _loaded == []
    separator.separate(song(), stems="high")
    separator.separate(song(), query="high")
    assert _loaded == [("strong", None)]
    separator.separate(song())
    assert _loaded == [("strong", None), ("soft", None)]


def test_members_with_weights_of_their_own(two: None, tmp_path: Path) -> None:
    (tmp_path / "gain.txt").write_text("0.9")
    path = tmp_path / "own.toml"
    path.write_text(
        '[[members]]\nbackend = "soft"\npath = "gain.txt"\nweights = {low = 1}\n[[members]]\nbackend = "soft"\n'
    )
    result = Separator(f"ensemble@{path}").separate(song())
    assert np.allclose(result["low"].samples, song().samples * 0.55, atol=1e-6)
    assert np.allclose(result["high"].samples, song().samples * 0.8, atol=1e-6)


def test_provenance_tells_the_members_and_the_definition(two: None) -> None:
    members = [{"backend": "soft", "weights": {"low": 1}}, {"backend": "strong", "weights": {"low": 1}}]
    told = [Separator(Ensemble(members=members, domain=domain)).provenance() for domain in ("waveform", "spectrogram")]
    assert set(told[0]) == {"unisep:ensemble", "registered:soft", "registered:strong"}
    assert told[0]["unisep:ensemble"] != told[1]["unisep:ensemble"]


def test_weights_beside_an_ensemble_are_refused(two: None, tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="no weights of its own"):
        Separator(Ensemble(members=[{"backend": "soft"}]), weights=tmp_path)


def test_numbers_and_sources_choose_the_stems(two: None) -> None:
    ensemble = Ensemble(members=[{"backend": "soft", "weights": 2}, {"backend": "strong"}], sources=["high"])
    result = Separator(ensemble).separate(song())
    assert list(result) == ["high"]
    assert np.allclose(result["high"].samples, song().samples * (0.8 * 2 + 0.2) / 3, atol=1e-6)


# -- wrong definitions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("members = [", "cannot be read"),
        ("", "members"),
        ("members = []", "members"),
        ("speed = 3\n" + TOML, "unknown field 'speed'"),
        ("name = 'x'\n" + TOML, "named by its file"),
        ("domain = 'cepstrum'\n" + TOML, "domain"),
        ("sources = ['low', 'low']\n" + TOML, "twice"),
        ("sources = ['low']\n" + TOML, "'high', which is not in sources"),
        (TOML.replace("low = 1", "low = -1"), "weights"),
        (TOML.replace("low = 1", "low = nan"), "weights"),
        (TOML.replace("low = 1", "low = 'much'"), "weights"),
        (TOML.replace("low = 1", "vocals = 1"), "gives no 'vocals'"),
        (TOML.replace("low = 3, high = 1", "low = 0"), None),
        (TOML.replace("low = 3, high = 1", "low = 0").replace("low = 1", "low = 0"), "No member counts"),
        (TOML.replace('"strong"', '"strnog"'), "Did you mean 'strong'"),
        (TOML.replace('"strong"', '"ensemble@a.toml"'), "installed backend"),
        (TOML + 'path = "nowhere.th"\n', "where nothing is"),
        (TOML + 'path = "a"\ncard = "b"\nfile = "c"\n', "give `path`"),
        (TOML + 'card = "strong"\n', "give `path`"),
        (TOML + 'card = "strong"\nfile = "x"\n', "card='strong'"),
    ],
)
def test_what_is_wrong_is_said(two: None, tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    if message is None:
        Separator(f"ensemble@{path}")
        return
    with pytest.raises(EnsembleError, match=message):
        Separator(f"ensemble@{path}")


def test_missing_and_absurd_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="cannot be read"):
        read_ensemble(tmp_path / "none.toml")
    (tmp_path / "big.toml").write_text("#" * 70_000)
    with pytest.raises(EnsembleError, match="larger"):
        read_ensemble(tmp_path / "big.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EnsembleError, match="cannot be read"):
        read_ensemble(tmp_path / "binary.toml")
    with pytest.raises(EnsembleError, match="incomplete"):
        Separator("ensemble@")
    assert issubclass(EnsembleError, OptionError)
