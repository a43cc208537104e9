from __future__ import annotations

import io
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unisep
from unisep import (
    Audio,
    Backend,
    BackendInfo,
    BackendSpec,
    Embedding,
    Ensemble,
    Output,
    Progress,
    Query,
    Separator,
    Statistics,
    files,
    hookimpl,
    plugins,
)
from unisep.engine.device import cpu_computes_bfloat16
from unisep.errors import (
    AudioError,
    BackendError,
    Cancelled,
    DownloadError,
    EmbeddingError,
    OptionError,
    PluginError,
    QueryError,
    UnisepError,
    WeightsError,
)
from unisep.separation import total
from unisep.testing import mix, noise, tone
from unisep.testing.toy import SPACE, ToyBackend, ToyEncoder, toy_plugin
from unisep.weights.store import WeightsStore

BASS, HAT = tone(100, 1.5), tone(8_000, 1.5)
SONG = mix(BASS, HAT)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    with toy_plugin():
        yield


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))


def toy_separator(**options: object) -> Separator:
    return Separator("toy", query_backend="toy", encoder="toy", offline=True, **options)  # type: ignore[arg-type]


def error_inside(one: Audio, other: Audio) -> float:
    return float(np.abs(one.samples - other.samples)[:, 4_000:-4_000].max())


# what the blueprint promises


def test_fixed_stems_and_their_rest() -> None:
    stems = toy_separator().separate(SONG)
    assert list(stems) == ["low", "high"]
    assert error_inside(stems["low"], BASS) < 0.01
    assert error_inside(stems["high"], HAT) < 0.01
    assert float(np.abs(stems.rest.samples).max()) < 1e-5
    assert stems.presence == {"low": None, "high": None}


def test_a_text_an_example_and_a_vector() -> None:
    separator = toy_separator()
    by_text = separator.separate(SONG, query="bass")
    assert error_inside(by_text.target, BASS) < 0.02
    assert error_inside(by_text.rest, HAT) < 0.02
    assert list(by_text) == ["bass"]
    presence = by_text.presence["bass"]
    assert presence is not None
    assert 0 <= presence <= 1
    by_example = separator.separate(SONG, query=tone(80, 0.2))
    assert list(by_example) == ["example-1"]
    assert error_inside(by_example.target, BASS) < 0.02
    vector = separator.embed("bass")
    assert vector.space == SPACE
    by_vector = separator.separate(SONG, query=vector)
    assert np.array_equal(by_vector.target.samples, by_text.target.samples)


def test_the_users_own_example_runs_as_written() -> None:
    separator = toy_separator()
    audio, guitar_sample = noise(32.0, 1_000), tone(440, 0.5)
    separator.separate(SONG, query="electric guitar")
    separator.separate(SONG, query=guitar_sample)
    result = separator.separate(
        audio, query={"text": "electric guitar", "audio": guitar_sample, "time_range": (30, 60)}
    )
    assert not result.target.samples[:, :29_900].any()
    assert np.array_equal(result.rest.samples[:, :29_900], audio.samples[:, :29_900])
    assert result.target.samples[:, 30_000:].any()


def test_a_range_may_end_far_beyond_the_recording() -> None:
    audio, separator = noise(1.0, 8_000), toy_separator()
    whole, far, open_ended = (
        separator.separate(audio, {"text": "bass", "time_range": (0, stop)}).target.samples
        for stop in (2.0, 1e308, None)
    )
    assert np.array_equal(whole, far) and np.array_equal(whole, open_ended)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("stop", [0.9, 2.0, 2.5, 2.9, 2.999, 3.0])
def test_a_time_range_may_end_anywhere_at_any_rate(rate_hz: int, stop: float) -> None:
    audio = noise(3.0, rate_hz)
    whole = toy_separator().separate(audio, "bass").target.samples
    part = toy_separator().separate(audio, {"text": "bass", "time_range": (0.5, stop)}).target.samples
    inside = slice(round(0.6 * rate_hz), round((stop - 0.1) * rate_hz))
    assert part.shape == whole.shape and not part[:, : round(0.5 * rate_hz)].any()
    assert not part[:, round(stop * rate_hz) :].any()
    assert np.abs(part - whole)[:, inside].max() < 0.02 < np.abs(whole[:, inside]).max()


def test_everything_at_once() -> None:
    result = toy_separator().separate(
        SONG,
        {
            "text": ["bass", "kick"],
            "audio": tone(90, 0.3),
            "embedding": Embedding(np.array([1.0, 0, 0, 0]), SPACE),
            "weights": {"text": 0.2, "audio": 0.5, "embedding": 0.3},
            "exclude": ["hat", tone(9_000, 0.1)],
            "time_range": (0.5, 1.0),
            "example_range": (0.1, 0.2),
            "name": "the low end",
        },
    )
    assert list(result) == ["the low end"]
    inside = slice(22_500, 43_650)  # without the fades
    assert float(np.abs(result.target.samples - BASS.samples)[:, inside].max()) < 0.03


def test_a_part_of_the_mixture_can_be_the_example() -> None:
    parts = Audio(np.concatenate([BASS.samples, HAT.samples], axis=1), 44_100)
    result = toy_separator().separate(parts, {"example_range": (0, 1.4)})
    half = BASS.n_samples
    assert float(np.abs(result.target.samples[:, 4_000 : half - 4_000]).max()) > 0.4
    assert float(np.abs(result.target.samples[:, half + 4_000 :]).max()) < 0.05


def test_targets_and_rest_bring_back_the_mixture() -> None:
    for rate_hz in (44_100, 16_000):
        for channels in (1, 2):
            mixture = noise(0.5, rate_hz, channels, deviation=0.9)  # beyond full scale now and then
            result = toy_separator().separate(mixture, ["bass", "hat", "oboe"])
            back = total([*result.values(), result.rest])
            assert np.abs(back.samples - mixture.samples).max() <= 4 * np.finfo(np.float32).eps * 4


def test_excluding_takes_away() -> None:
    both = {"text": ["bass", "hat"]}
    with_hat = toy_separator().separate(SONG, both).target
    without = toy_separator().separate(SONG, {**both, "exclude": "hat"}).target
    assert error_inside(with_hat, SONG) < 0.05
    assert error_inside(without, BASS) < 0.05


# what goes in


def test_every_kind_of_audio_gives_the_same(tmp_path: Path) -> None:
    path = files.write(tmp_path / "my song.wav", SONG)
    separator = toy_separator()
    expected = separator.separate(SONG, "bass")
    data = path.read_bytes()
    pipe = SimpleNamespace(read=io.BytesIO(data).read)  # cannot be searched
    sources = [path, str(path), data, io.BytesIO(data), pipe, SONG.samples, torch.from_numpy(SONG.samples)]
    for source in [*sources, SONG.samples.astype(np.float64)]:
        result = separator.separate(source, "bass", sample_rate_hz=44_100)
        assert np.array_equal(result.target.samples, expected.target.samples)
        assert result.target.sample_rate_hz == 44_100
    mono = separator.separate(SONG.samples[0], "bass", sample_rate_hz=44_100)
    assert mono.target.n_channels == 1


def test_a_bare_array_has_the_rate_that_is_said() -> None:
    result = toy_separator().separate(SONG.samples, "bass", sample_rate_hz=22_050)
    assert result.target.sample_rate_hz == 22_050
    as_integers = (SONG.samples[0] * 32_767).astype(np.int16)
    assert toy_separator().separate(as_integers, sample_rate_hz=48_000).target.sample_rate_hz == 48_000
    # an example array has that rate too: at 4 kHz these samples are a tone of 100 Hz
    example = tone(1_102.5, 0.5, channels=1).samples
    heard = toy_separator().embed(example, sample_rate_hz=4_000)
    assert heard.vector.argmax() == 0
    assert toy_separator().embed(example, sample_rate_hz=44_100).vector.argmax() == 2


def test_a_bare_array_without_a_rate_is_refused() -> None:
    separator, array = toy_separator(), SONG.samples
    calls: list[Callable[[], object]] = [
        lambda: separator.separate(array, "bass"),
        lambda: separator.separate(torch.from_numpy(array)),
        lambda: separator.separate(SONG, array),
        lambda: separator.separate(SONG, {"text": "bass", "exclude": array}),
        lambda: separator.embed(array),
        lambda: unisep.explain(array),
    ]
    for call in calls:
        with pytest.raises(AudioError, match=r"sample_rate_hz=44100, or Audio\(array, 44100\)"):
            call()
    assert unisep.explain(array, sample_rate_hz=8_000).answers[0].name == "example-1"
    assert Statistics.of(array) == Statistics.of(SONG)  # the same at any rate


def test_a_rate_that_is_not_that_of_the_recording_is_refused(tmp_path: Path) -> None:
    path = files.write(tmp_path / "song.wav", SONG)
    for source in (path, path.read_bytes(), SONG):
        with pytest.raises(AudioError, match=r"sample_rate_hz=48000, but this recording has 44100 Hz\. Leave it out"):
            toy_separator().separate(source, "bass", sample_rate_hz=48_000)
    # where the recording is an array, examples may have rates of their own
    found = toy_separator().separate(
        SONG.samples, files.write(tmp_path / "a.wav", tone(80, 0.2)), sample_rate_hz=48_000
    )
    assert found.target.sample_rate_hz == 48_000


def test_the_files_name_and_format_are_kept(tmp_path: Path) -> None:
    path = files.write(tmp_path / "my song.flac", SONG, subtype="PCM_16")
    written = toy_separator().separate(path, "bass").save(tmp_path / "out")
    assert [file.relative_to(tmp_path).as_posix() for file in written.paths] == [
        "out/my song/bass.flac",
        "out/my song/rest.flac",
    ]
    assert files.probe(written.paths[0]).subtype == "PCM_16"


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros((0, 100)),
        np.zeros((2, 0)),
        np.zeros((3, 1000)),
        np.zeros((1000, 2)),
        np.array([0.0, np.nan]),
        np.array([0.0, np.inf]),
        np.array(["a"]),
        "no such file.wav",
        b"",
        b"no audio",
        None,
        3,
        object(),
    ],
)
def test_audio_that_cannot_be_used_is_refused(audio: object) -> None:
    with pytest.raises(AudioError):
        toy_separator().separate(audio, "bass")


@pytest.mark.parametrize("rate_hz", [0, -1, 1.5, "fast", True, 10**9])
def test_rates_that_cannot_be_used_are_refused(rate_hz: object) -> None:
    with pytest.raises(AudioError):
        toy_separator().separate(SONG.samples, sample_rate_hz=rate_hz)  # type: ignore[arg-type]


def test_bad_queries_are_refused() -> None:
    separator = toy_separator()
    for query in ("", {"txt": "a"}, {"text": "a", "time_range": (90, 95)}, {"example_range": (90, 95)}, []):
        with pytest.raises(QueryError):
            separator.separate(SONG, query)
    with pytest.raises(EmbeddingError, match="Encoders that would do: toy"):
        separator.separate(SONG, Embedding(np.ones(4), "another space"))
    with pytest.raises(EmbeddingError, match="have 4 values"):
        separator.separate(SONG, Embedding(np.ones(7), SPACE))


@pytest.mark.parametrize("query", [np.zeros((2, 4000)), {"text": "low", "exclude": np.zeros((1, 4000))}])
def test_a_silent_example_is_refused(query: object) -> None:
    with pytest.raises(QueryError, match="silent"):
        toy_separator().separate(SONG, query, sample_rate_hz=44_100)


def test_short_clips_and_recordings_work() -> None:
    separator = toy_separator()
    assert separator.separate(np.zeros((2, 1)), "bass", sample_rate_hz=8_000).target.n_samples == 1
    assert separator.separate(SONG, np.array([0.5]), sample_rate_hz=44_100).target.n_samples == SONG.n_samples


def test_a_text_that_is_a_file_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bass").write_text("")
    separator = toy_separator()
    for call in (separator.separate, separator.separate):
        call(SONG, "bass")
    separator.embed("bass")
    assert ["taken as text" in message for message in caplog.messages] == [True]
    toy_separator().embed("bass")
    assert len(caplog.messages) == 2, "another Separator says it again"


# options


def test_unknown_names_and_options_are_refused_at_once(tmp_path: Path) -> None:
    for options, kind in (
        ({"backend": "tox"}, PluginError),
        ({"query_backend": "tox"}, PluginError),
        ({"encoder": "tox"}, PluginError),
        ({"device": "abacus"}, OptionError),
        ({"device": "cuda:99"}, OptionError),
        ({"precision": "float8"}, OptionError),
        ({"licences": []}, OptionError),
        ({"licences": "not stated"}, OptionError),
        ({"precision": "float16", "device": "cpu"}, OptionError),
        ({"overlap_fraction": 0.51}, OptionError),
        ({"backend": "toy", "weights": tmp_path / "none.pt"}, WeightsError),
        ({"query_backend": "toy", "query_weights": tmp_path / "none.pt"}, WeightsError),
    ):
        with pytest.raises(kind):
            Separator(**options)  # type: ignore[arg-type]


def test_stems_can_be_chosen() -> None:
    separator = toy_separator()
    assert list(separator.separate(SONG, stems=["high"])) == ["high"]
    assert list(separator.separate(SONG, stems="high")) == ["high"]
    with pytest.raises(OptionError, match="Its stems: low, high"):
        separator.separate(SONG, stems=["vocals"])


def test_a_query_that_names_a_stem_goes_there() -> None:
    result = toy_separator().separate(SONG, ["low", "oboe"])
    assert result.plan["low"].encoder is None
    assert result.plan["oboe"].encoder == "toy"
    by_query = toy_separator().separate(SONG, "low", route="conditioned")
    assert by_query.plan["low"].encoder == "toy"


@pytest.mark.parametrize(
    ("precision", "vouched_for", "is_computed", "expected"),
    [
        ("bfloat16", {}, True, torch.bfloat16),
        ("float32", {"cpu": "bfloat16"}, True, torch.float32),
        ("auto", {"cpu": "bfloat16"}, True, torch.bfloat16),
        ("auto", {"cpu": "bfloat16"}, False, torch.float32),
        ("auto", {"cuda": "float16"}, True, torch.float32),
        ("auto", {"cpu": "float16"}, True, torch.float32),
        ("auto", {}, True, torch.float32),
    ],
)
def test_the_precision_reaches_the_backend(
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    vouched_for: dict[str, str],
    is_computed: bool,
    expected: torch.dtype,
) -> None:
    seen = {}

    def load(*, weights: object, device: object, dtype: torch.dtype) -> Backend:
        seen["dtype"] = dtype
        return ToyBackend()

    monkeypatch.setattr("unisep.engine.device.cpu_computes_bfloat16", lambda: is_computed)
    with registered_backend(load, auto_precision=vouched_for):
        Separator("mine", precision=precision, device="cpu").separate(SONG)
    assert seen["dtype"] == expected


def test_a_type_that_the_processor_would_imitate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisep.engine.device.cpu_computes_bfloat16", lambda: False)
    with pytest.raises(OptionError, match="no bfloat16 arithmetic"):
        Separator("toy", precision="bfloat16", device="cpu")


@pytest.mark.parametrize(
    ("capability", "has_bf16", "has_amx", "onednn", "expected"),
    [
        ("AVX512", False, False, True, False),  # Skylake to Ice Lake: oneDNN says yes and imitates it
        ("AVX512", True, False, True, True),
        ("AVX512", False, True, True, True),
        ("AVX2", False, False, False, False),
        ("DEFAULT", False, False, True, True),  # ARM with bfloat16
    ],
)
def test_only_instructions_of_its_own_count_as_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: str, has_bf16: bool, has_amx: bool, onednn: bool, expected: bool
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: onednn)
    assert cpu_computes_bfloat16() is expected


# trust


def test_the_same_input_gives_the_same_bits() -> None:
    for shifts in (0, 2):
        first = toy_separator(shifts=shifts).separate(SONG, ["bass", "hat"])
        second = toy_separator(shifts=shifts).separate(SONG, ["bass", "hat"])
        for name in first:
            assert np.array_equal(first[name].samples, second[name].samples)


def test_global_state_and_inputs_are_left_alone() -> None:
    samples = SONG.samples.copy()
    tensor = torch.from_numpy(samples).clone().requires_grad_()
    state = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    settings = (torch.get_num_threads(), torch.is_grad_enabled(), list(warnings.filters), torch.get_default_dtype())
    toy_separator(shifts=2).separate(samples, ["bass", samples[:, :500]], sample_rate_hz=44_100)
    toy_separator().separate(tensor, "bass", sample_rate_hz=44_100)
    assert np.array_equal(samples, SONG.samples)
    assert state == (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    assert settings == (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        torch.get_default_dtype(),
    )


def test_one_separator_serves_many_threads() -> None:
    n_loads = []

    def load(*, weights: object, device: object, dtype: torch.dtype) -> Backend:
        n_loads.append(1)
        return ToyBackend()

    songs = [noise(0.4, seed=seed) for seed in range(8)]
    alone = [toy_separator().separate(song, ["low", "oboe"]) for song in songs]
    with registered_backend(load):
        separator = Separator("mine", query_backend="toy", encoder="toy")
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda song: separator.separate(song, ["low", "oboe"]), songs))
    assert len(n_loads) == 1
    for one, other in zip(alone, together, strict=True):
        for name in one:
            assert np.array_equal(one[name].samples, other[name].samples)


def test_progress_is_reported_by_stage() -> None:
    seen: list[Progress] = []
    toy_separator().separate(SONG, "bass", on_progress=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen))[-2:] == ["separating", "done"]
    assert seen[-1].fraction == 1.0
    assert seen[-1].seconds_done == pytest.approx(1.5)


def test_it_can_be_cancelled() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        toy_separator().separate(SONG, "bass", cancel=cancel)


def test_closing_frees_each_thing_once_and_it_can_be_used_again() -> None:
    closed = []

    class Closing(ToyBackend):
        def close(self) -> None:
            closed.append(self)

    with registered_backend(lambda **_: Closing()):
        with Separator("mine") as separator:
            separator.separate(SONG)
            separator.separate(SONG, stems="low")
        assert len(closed) == 1
        separator.close()
        assert len(closed) == 1
        assert list(separator.separate(SONG)) == ["low", "high"]


def test_errors_of_a_backend_reach_the_caller_typed() -> None:
    class Nan(ToyBackend):
        def separate(self, *inputs: torch.Tensor) -> Output:
            return Output(super().separate(*inputs).sources * float("nan"))

    with registered_backend(lambda **_: Nan()), pytest.raises(BackendError, match=r"'mine' returned NaN.* at 0\.0 s"):
        Separator("mine").separate(SONG)


# weights


class FourStems(Backend):
    """Four equal parts, or as many as its weights file has letters."""

    def __init__(self, names: str = "") -> None:
        sources = tuple(names) or ("drums", "bass", "other", "vocals")
        self.info = BackendInfo(sources=sources, sample_rate_hz=44_100, channels=2)

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        n_sources = len(self.info.sources)
        return Output(torch.stack([mixture / n_sources] * n_sources, dim=1))


def registered_backend(load: object, card: str = "", name: str = "mine", **more: object):  # type: ignore[no-untyped-def]
    """The backend `name` for a `with` block, loaded by the function `load`."""
    module = sys.modules[__name__]
    module.current_load = load  # type: ignore[attr-defined]
    stems = ("drums", "bass", "other", "vocals") if name == "htdemucs" else ("low", "high")

    class Hooks:
        @hookimpl
        def unisep_backends(self) -> list[BackendSpec]:
            target = f"{__name__}:current_load"
            return [BackendSpec(name=name, load=target, summary="", stems=stems, card=card, **more)]  # type: ignore[arg-type]

    return plugins.registered(Hooks(), name)


@pytest.fixture
def only_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no plugin but those registered here were installed."""
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    yield
    monkeypatch.undo()
    plugins.refresh()


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A card whose weights nobody serves."""
    package = tmp_path / "site" / "carded"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "card.toml").write_text(
        'name = "htdemucs"\nsummary = "s"\nlicence = "MIT"\nsources = ["a"]\n'
        '[[files]]\nname = "w.safetensors"\nurl = "http://127.0.0.1:9/w.safetensors"\n'
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr("unisep.weights.download.PAUSE_SECONDS", 0)
    return "carded:card.toml"


def test_own_weights_are_opened_at_once_and_state_the_stems(tmp_path: Path) -> None:
    path = tmp_path / "xyz.txt"
    path.write_text("xyz")

    def load(*, weights: Path, device: object, dtype: object) -> Backend:
        if weights.read_text() == "broken":
            raise WeightsError("broken weights")
        return FourStems(weights.read_text())

    with registered_backend(load):
        separator = Separator("mine", weights=path)
        result = separator.separate(SONG)
        assert list(result) == ["x", "y", "z"]
        assert result.plan["x"].weights == "local"
        assert separator.separate(SONG, "y").plan["y"].backend == "mine"
        path.write_text("broken")
        with pytest.raises(WeightsError, match="broken weights"):
            Separator("mine", weights=str(path))


@pytest.mark.usefixtures("only_toys")
def test_licences_choose_who_answers_and_spare_own_weights(card: str, tmp_path: Path) -> None:
    def load(*, weights: Path | None, device: object, dtype: object) -> Backend:
        return FourStems("xyz")

    with registered_backend(load, card=card):  # its licence is MIT, and its weights are not here
        Separator("mine", licences=["MIT"])
        with pytest.raises(
            OptionError, match=r"licence of 'mine' is MIT, which licences= does not allow\. Allowed: ISC\."
        ):
            Separator("mine", licences="ISC")
        with pytest.raises(OptionError, match="licence of 'mine' is MIT"):
            Separator(Ensemble(members=[{"backend": "mine", "weights": {"low": 1}}]), licences="ISC")
        path = tmp_path / "own"
        path.touch()
        result = Separator("mine", weights=path, licences="ISC").separate(SONG)
        assert (list(result), result.plan["x"].weights) == (["x", "y", "z"], "local")
        assert Separator(licences="ISC", query_backend="toy").embed("bass").space == SPACE, "a toy needs no weights"


@pytest.mark.usefixtures("only_toys")
@pytest.mark.parametrize("offline", [True, False])
def test_without_weights_the_query_model_gives_the_stems_and_says_so(
    card: str, offline: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetched: list[object] = []
    ensure = WeightsStore.ensure
    monkeypatch.setattr(WeightsStore, "ensure", lambda *given: (fetched.append(given), ensure(*given))[1])
    with registered_backend(lambda **_: FourStems(), card, "htdemucs"):
        separator = Separator(offline=offline)
        stems = separator.separate(SONG)
        tried = len(fetched)
        separator.separate(SONG)
        Separator(offline=offline).separate(SONG)  # as in another process
    record, again = caplog.records
    assert "unisep models pull htdemucs" in record.getMessage() and "not here" in again.getMessage()
    assert (record.levelname, record.name.split(".")[0]) == ("WARNING", "unisep")
    assert (tried, len(fetched)) == ((0, 0) if offline else (1, 1))  # what failed is not tried again
    assert list(stems) == ["drums", "bass", "other", "vocals"]
    assert not stems.rest.samples.any()
    assert {choice.backend for choice in stems.plan.values()} == {"toy"}
    assert "not here" in stems.plan.reason
    assert stems.presence["other"] is None
    assert stems.presence["bass"] is not None
    assert np.allclose(total(list(stems.values())).samples, SONG.samples, atol=1e-6)


@pytest.mark.usefixtures("only_toys")
@pytest.mark.parametrize("offline", [True, False])
def test_who_names_the_backend_gets_an_error_instead(card: str, offline: bool) -> None:
    with registered_backend(lambda **_: FourStems(), card, "htdemucs"):
        with pytest.raises(DownloadError):
            Separator("htdemucs", offline=offline).separate(SONG)
        with pytest.raises(UnisepError):
            Separator(offline=offline).separate(SONG, route="fixed")


@pytest.mark.usefixtures("only_toys")
def test_routing_a_query_never_downloads(
    card: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_download(*_: object) -> None:
        raise AssertionError("a query was about to download")

    monkeypatch.setattr("unisep.weights.store.WeightsStore.ensure", no_download)
    with registered_backend(lambda **_: FourStems(), card, "htdemucs"):
        separator = Separator(offline=False)
        result, _ = (
            separator.separate(SONG, "drums"),
            separator.separate(SONG, "drums"),
        )  # a Python warning would raise here
    assert ["'htdemucs' was made for that" in message for message in caplog.messages] == [True]
    assert result.plan["drums"].backend == "toy"


@pytest.mark.usefixtures("only_toys")
def test_a_damaged_card_harms_only_its_own_backend(card: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "carded" / "card.toml").write_text("no toml [")
    with registered_backend(lambda **_: FourStems(), card, "htdemucs"):
        assert list(Separator("toy", offline=True).separate(SONG)) == ["low", "high"]
        with pytest.raises(UnisepError):
            Separator("htdemucs", offline=False).separate(SONG)


def test_numbers_of_numpy_are_options_too() -> None:
    options = {
        "seed": np.int64(3),
        "shifts": np.int32(1),
        "overlap_fraction": np.float32(0.25),
        "segment_seconds": np.int64(1),
    }
    plain = {"seed": 3, "shifts": 1, "overlap_fraction": 0.25, "segment_seconds": 1.0}
    found, expected = (toy_separator(**each).separate(SONG, "bass") for each in (options, plain))
    assert np.array_equal(found.target.samples, expected.target.samples)


# embeddings


def test_a_query_becomes_a_portable_vector(tmp_path: Path) -> None:
    separator = toy_separator()
    vector = separator.embed({"text": "bass", "audio": tone(100, 0.2), "weights": {"text": 0.5, "audio": 0.5}})
    assert np.linalg.norm(vector.vector) == pytest.approx(1)
    assert vector.provenance["encoder"] == "toy"
    again = Embedding.load(vector.save(tmp_path / "bass.safetensors"))
    assert np.array_equal(again.vector, vector.vector)
    result = separator.separate(SONG, Query(embedding=again, name="bass"))
    assert error_inside(result.target, BASS) < 0.02


def test_queries_are_encoded_on_the_cpu_in_place_of_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def load(*, weights: Path | None, device: torch.device) -> ToyEncoder:
        devices.append(device.type)
        return ToyEncoder()

    monkeypatch.setattr("unisep.testing.toy.load_encoder", load)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    toy_separator(device="mps").embed("bass")
    assert devices == ["cpu"]


@pytest.mark.parametrize(
    "query", [["a", "b"], {"text": "a", "exclude": "b"}, {"text": "a", "time_range": (0, 1)}, {"example_range": (0, 1)}]
)
def test_what_is_not_one_vector_is_not_embedded(query: object) -> None:
    with pytest.raises(QueryError, match="one vector of one query"):
        toy_separator().embed(query)


@pytest.mark.parametrize("option", ["backend", "query_backend", "weights", "query_weights", "encoder"])
def test_an_option_of_the_wrong_type_is_named(option: str) -> None:
    with pytest.raises(UnisepError, match="5"):
        Separator(**{option: 5}).separate(noise(0.1), "a")  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "value"), [("cancel", True), ("on_progress", 5)])
def test_callbacks_of_the_wrong_type_are_refused_before_the_work(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=option):
        toy_separator().separate(noise(0.1), "a", **{option: value})  # type: ignore[arg-type]
