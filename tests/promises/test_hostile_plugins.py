"""What plugins do wrong becomes a typed error that names them; nothing of it ends the host, or others."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unisep import Audio, Backend, BackendInfo, BackendSpec, EncoderSpec, Output, Separator, hookimpl, plugins
from unisep.ensemble.backend import EnsembleBackend, EnsemblePart
from unisep.ensemble.definition import Ensemble, EnsembleMember
from unisep.errors import BackendError, EncoderError, EnsembleError, OptionError, PluginError, WeightsError
from unisep.plugins.plugin import Plugin, read
from unisep.plugins.specs import ResultSpec
from unisep.query.encode import call_encoder, encode_queries
from unisep.query.parsed import parse_queries
from unisep.testing import noise
from unisep.testing.toy import SPACE, ToyEncoder

MODULE = "hostile_plugin"
INFO = BackendInfo(sources=("a", "b"), sample_rate_hz=8_000, channels=2, segment_seconds=0.5)
song = noise(1.0, 8_000)


class Halves(Backend):
    """Two halves, or what `answer` makes of the mixture."""

    def __init__(self, info: Any = INFO, answer: Any = None, view: Any = None, closing: Any = None) -> None:
        self.info = info
        self._answer, self._view, self._closing = answer, view, closing

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        n = len(self.info.sources) if queries is None else queries.shape[0]
        out = Output(torch.stack([mixture / 2] * n, dim=1))
        return self._answer(out) if self._answer else out  # type: ignore[no-any-return]

    def for_sources(self, names: tuple[str, ...]) -> Backend:
        return self._view() if self._view else self  # type: ignore[no-any-return]

    def close(self) -> None:
        if self._closing:
            self._closing()


@pytest.fixture
def module() -> Iterator[Any]:
    found: Any = types.ModuleType(MODULE)
    sys.modules[MODULE] = found
    yield found
    del sys.modules[MODULE]


def using(module: Any, name: str = "halves", **made: Any) -> Separator:
    """A Separator whose backend is made of these arguments."""
    setattr(module, name, lambda **_: Halves(**made))
    spec = BackendSpec(name=name, load=f"{MODULE}:{name}", summary="", stems=("a", "b"))
    return Separator(name, plugins=[SimpleNamespace(unisep_backends=hookimpl(lambda: [spec]))])


def leave(*_: Any, **__: Any) -> Any:
    sys.exit(0)


def test_a_backend_that_exits_is_an_error(module: Any) -> None:
    with pytest.raises(BackendError, match=r"halves.*SystemExit"):
        using(module, answer=leave).separate(song)
    module.exits = leave
    spec = BackendSpec(name="exits", load=f"{MODULE}:exits", summary="", stems=("a",))
    with pytest.raises(BackendError, match=r"exits.*SystemExit"):
        plugins.load_backend(spec, weights=None, device=torch.device("cpu"), dtype=torch.float32)


def test_an_encoder_that_exits_or_cannot_be_hashed_is_no_matter() -> None:
    with pytest.raises(EncoderError, match="SystemExit"):
        call_encoder(ToyEncoder(), "encode_text", leave, ["a"])

    @dataclass
    class Equal(ToyEncoder):
        pass

    parsed_queries = parse_queries(["a", "b"])
    assert encode_queries(parsed_queries, [Equal(), Equal()], lambda _: song).queries.shape[0] == 2


def step_of(module: Any, function: Any) -> Separator:
    module.halves, module.step = (lambda **_: Halves()), function
    backend = BackendSpec(name="halves", load=f"{MODULE}:halves", summary="", stems=("a", "b"))
    result = ResultSpec(name="step", load=f"{MODULE}:step", summary="")
    hooks = {"unisep_backends": hookimpl(lambda: [backend]), "unisep_results": hookimpl(lambda: [result])}
    return Separator("halves", plugins=[SimpleNamespace(**hooks)])


def test_errors_of_result_steps(module: Any) -> None:
    with pytest.raises(PluginError, match=r"SystemExit.*leave out plugins="):
        step_of(module, leave).separate(song)

    def refuses(targets: Any, mixture: Audio) -> Any:
        raise OptionError("the gate must be below 1")

    with pytest.raises(OptionError, match="gate must be below 1"):
        step_of(module, refuses).separate(song)


def test_what_a_step_gives_back_unchanged_can_be_written_to(module: Any) -> None:
    before = song.samples.copy()
    for step in (lambda targets, mixture: targets, lambda targets, mixture: dict.fromkeys(targets, mixture)):
        parts = step_of(module, step).separate(song)
        parts["a"].samples[:] = 0
        assert np.array_equal(song.samples, before)


@pytest.mark.parametrize(
    "changed",
    [
        {"sample_rate_hz": 8_000.0}, {"sample_rate_hz": "8000"}, {"sample_rate_hz": None}, {"sample_rate_hz": np.int64(8_000)},
        {"segment_seconds": float("inf")}, {"segment_seconds": "7.8"}, {"segment_seconds": [1]}, {"segment_seconds": True},
        {"channels": 2.0}, {"channels": True}, {"sources": None}, {"sources": (1, 2)}, {"sources": "ab"},
    ],
)  # fmt: skip
def test_facts_of_the_wrong_type_are_named(module: Any, changed: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match=f"cannot be right: {next(iter(changed))}"):
        using(module, info=replace(INFO, **changed)).separate(song)


def test_facts_that_cannot_be_read_are_named(module: Any) -> None:
    class Hidden(Halves):
        info = property(lambda self: 1 / 0)  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

    module.hidden = lambda **_: Hidden()
    spec = BackendSpec(name="hidden", load=f"{MODULE}:hidden", summary="", stems=("a",))
    with pytest.raises(BackendError, match="`info` failed with ZeroDivisionError"):
        plugins.load_backend(spec, weights=None, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (lambda: 1 / 0, r"for_sources\(.*failed: ZeroDivisionError"), (lambda: None, "returned NoneType"),
        (lambda: Halves(replace(INFO, channels=7)), "channels is 7"), (leave, "SystemExit"),
    ],
)  # fmt: skip
def test_views_are_checked(module: Any, view: Any, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        using(module, view=view).separate(song, stems=["a"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda out: Output(out.sources.numpy()), "sources of ndarray"),
        (lambda out: Output(out.sources.to(torch.int16)), "sources of torch.int16"),
        (lambda out: Output(out.sources.to(torch.complex64)), "sources of torch.complex64"),
        (lambda out: Output(out.sources, [1.0]), "presence of list"),
        (lambda out: Output(out.sources, torch.full((1, 2), 3.0)), r"from 3 to 3; \[batch, outputs\] = \(1, 2\)"),
        (lambda out: Output(out.sources, torch.zeros(1, 0)), r"presence \(1, 0\)"),
        (lambda out: None, "returned NoneType"),
    ],
)  # fmt: skip
def test_outputs_of_the_wrong_type_are_named(module: Any, answer: Any, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        using(module, answer=answer).separate(song)


def test_a_huge_output_is_finite_all_the_same(module: Any) -> None:
    huge = using(module, answer=lambda out: Output(torch.full_like(out.sources, 1e38)))
    assert np.isfinite(huge.separate(song)["a"].samples).all()
    for bad in (float("nan"), float("inf")):

        def one_bad(out: Output, bad: float = bad) -> Output:
            out.sources[0, 1, 0, 7] = bad
            return out

        with pytest.raises(BackendError, match=r"NaN or infinity at 0\.0 s"):
            using(module, answer=one_bad).separate(song)


def test_memory_that_a_backend_uses_again_harms_no_result(module: Any) -> None:
    kept = torch.empty(1, 2, 2, 4_000)

    def again(out: Output) -> Output:
        return Output(kept.copy_(out.sources))

    for info in (INFO, replace(INFO, normalisation="song")):
        plain = using(module, info=info).separate(song)
        assert np.array_equal(using(module, info=info, answer=again).separate(song)["a"].samples, plain["a"].samples)


def test_weights_for_what_takes_none_are_refused(module: Any) -> None:
    module.Bare = type("Bare", (Halves,), {"__init__": lambda self: Halves.__init__(self)})
    spec = BackendSpec(name="bare", load=f"{MODULE}:Bare", summary="", stems=("a", "b"))
    given: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
    assert plugins.load_backend(spec, weights=None, **given).info == INFO
    with pytest.raises(WeightsError, match="'bare' takes no weights"):
        plugins.load_backend(spec, weights=Path("x"), **given)


def test_a_module_without_a_constructor_of_its_own_takes_nothing(module: Any) -> None:
    class Net(Halves, torch.nn.Module):
        info = INFO
        __init__ = torch.nn.Module.__init__

    module.Net = Net
    spec = BackendSpec(name="net", load=f"{MODULE}:Net", summary="", stems=("a", "b"))
    assert plugins.load_backend(spec, weights=None, device=torch.device("cpu"), dtype=torch.float32).info == INFO


def test_one_that_cannot_be_closed_leaves_none_open(module: Any) -> None:
    closed: list[str] = []
    for name in ("first", "second", "third"):
        closing = (lambda: 1 / 0) if name == "second" else (lambda name=name: closed.append(name))
        setattr(module, name, lambda closing=closing, **_: Halves(closing=closing))
    specs = [
        BackendSpec(name=n, load=f"{MODULE}:{n}", summary="", stems=("a", "b")) for n in ("first", "second", "third")
    ]
    ensemble = Ensemble(members=[{"backend": spec.name} for spec in specs])
    separator = Separator(ensemble, plugins=[SimpleNamespace(unisep_backends=hookimpl(lambda: specs))])
    separator.separate(song)
    with pytest.warns(UserWarning, match="Closing failed: Halves: ZeroDivisionError"):
        separator.close()
    assert sorted(closed) == ["first", "third"]


def spec_read(spec: Any, hook: str) -> Any:
    return read(Plugin("tried", "tried"), lambda: SimpleNamespace(**{hook: hookimpl(lambda: [spec])}))


def test_lists_of_names_may_be_any_list_but_no_stream(module: Any) -> None:
    for modalities in (("text", "audio"), ["audio", "text"], {"text", "audio"}):
        spec = EncoderSpec(name="e", load="a:b", space=SPACE, modalities=modalities)  # type: ignore[arg-type]
        assert spec_read(spec, "unisep_encoders").state == "ok"
        assert spec.modalities == frozenset({"text", "audio"})
    given: dict[str, Any] = {"name": "b", "load": "a:b", "summary": ""}
    assert BackendSpec(**given, stems=["a", "b"]).stems == ("a", "b")
    for stems in ((each for each in "ab"), {"a": 1}.keys(), "ab", {"a"}):
        assert spec_read(BackendSpec(**given, stems=stems), "unisep_backends").state == "broken"  # type: ignore[arg-type]


def test_a_spec_with_a_mapping_of_any_kind_is_listed_as_json() -> None:
    given: dict[str, Any] = {"name": "b", "load": "a:b", "summary": "", "stems": ("a",)}
    spec = BackendSpec(**given, auto_precision=MappingProxyType({"cpu": "bfloat16"}))
    found = spec_read(spec, "unisep_backends").to_json()
    assert json.loads(json.dumps(found))["specs"][0]["auto_precision"] == {"cpu": "bfloat16"}


def test_members_of_an_ensemble_in_half_precision_and_without_output(module: Any) -> None:
    mixture = torch.from_numpy(song.samples[None, :, :4_000])
    half = Halves(answer=lambda out: Output(out.sources.half()))
    weights = {"a": 1.0, "b": 1.0}
    parts = [EnsemblePart(half, weights), EnsemblePart(Halves(), weights)]
    for domain in ("waveform", "spectrogram"):
        found = EnsembleBackend(parts, domain=domain).separate(mixture).sources  # type: ignore[arg-type]
        assert torch.allclose(found, Halves().separate(mixture).sources, atol=1e-3)
    nothing = EnsemblePart(Halves(answer=lambda out: None), weights, name="the second")
    with pytest.raises(BackendError, match="'the second' of an ensemble returned NoneType"):
        EnsembleBackend([parts[1], nothing]).separate(mixture)


@pytest.mark.parametrize(("stems", "message"), [({"drums": "aa"}, "has no 'aa'"), ({"b": "a"}, "has a 'b' of its own")])
def test_stems_of_a_member_that_lose_something_are_refused(stems: dict[str, str], message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        EnsembleMember(backend="x", stems=stems).weights_among(("a", "b"))


def test_one_stem_may_stand_for_several() -> None:
    member = EnsembleMember(backend="x", stems={"p": "a", "q": "a"})
    assert member.weights_among(("a", "b")) == {"p": 1.0, "q": 1.0, "b": 1.0}


def test_weights_too_large_to_add_up_and_unknown_domains_are_refused() -> None:
    part = EnsemblePart(Halves(), {"a": 1e308, "b": 1.0})
    with pytest.raises(EnsembleError, match="No member counts for 'a'"):
        EnsembleBackend([part, part])
    with pytest.raises(EnsembleError, match="domain='time'"):
        EnsembleBackend([part], domain="time")  # type: ignore[arg-type]
