"""Models of demucs with random parameters, saved as demucs saves them: equal to its `apply_model`, safe to open."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.states import get_state
from safetensors.torch import save_file
from torch import Tensor, nn
from unisep_demucs_classic import backend as backends
from unisep_demucs_classic import plugin
from unisep_demucs_classic.backend import RELEASED, V2_FILES
from unisep_demucs_classic.checkpoints import PUBLISHED_SHA256, build_model, read_checkpoint

from unisep import Audio, Separator
from unisep.errors import AudioError, BackendError, OptionError, WeightsError
from unisep.testing import BackendContract
from unisep.weights.cards import read_card

SOURCES = ["drums", "bass", "other", "vocals"]
CPU = torch.device("cpu")
TIME: dict[str, Any] = {"sources": SOURCES, "channels": 4, "depth": 4, "segment": 0.5, "norm_starts": 2}
HYBRID: dict[str, Any] = {"sources": SOURCES, "channels": 4, "nfft": 1024, "depth": 5, "segment": 0.5}
Load = Callable[..., Any]


def time_model(seed: int = 0, **options: Any) -> nn.Module:
    return telling(seed, Demucs, TIME | {"dconv_lstm": 2, "dconv_attn": 3} | options)


def hybrid_model(seed: int = 0, **options: Any) -> nn.Module:
    return telling(seed, HDemucs, HYBRID | options)


def telling(seed: int, kind: type[nn.Module], options: dict[str, Any]) -> nn.Module:
    """A model with random parameters whose residual branches are far from silent."""
    torch.manual_seed(seed)
    model = kind(**options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.25, 0.75)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model


def save(path: Path, model: Any) -> Path:
    """A package of demucs's, in full precision so that it can be compared exactly."""
    args, kwargs = model._init_args_kwargs
    torch.save({"klass": type(model), "args": args, "kwargs": kwargs, "state": get_state(model, None)}, path)
    return path


def music(n_samples: int, channels: int = 2, batch: int = 1) -> Tensor:
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(1))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def load(path: Path, name: str = "mdx_extra") -> Any:
    function: Load = getattr(backends, f"load_{name}")
    return function(weights=path, device=CPU, dtype=torch.float32)


# -- equal to demucs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [time_model, hybrid_model], ids=["time", "hybrid"])
def test_a_segment_equals_apply_model(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    model = make()
    backend = load(save(tmp_path / "m.th", model))
    for n_samples in (4100, 17_000, 22_050):
        expected = apply_model(model, music(n_samples, batch=2), shifts=0, split=False)
        assert distance(backend.separate(music(n_samples, batch=2)).sources, expected) <= 1e-4


@pytest.mark.parametrize("make", [time_model, hybrid_model], ids=["time", "hybrid"])
def test_a_song_equals_apply_model(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    """As demucs's `separate` does it: the song's mean and deviation, segments, a quarter of overlap, no shifts.

    Up to where the last segment begins, which is always a short one: see `first_short`.
    """
    model = make()
    path = save(tmp_path / "m.th", model)
    segment = Fraction(round(load(path).info.segment_seconds * 44_100), 44_100)
    song = music(50_000)[0] * 0.3 + 0.02
    expected = of_demucs(model, song, segment)
    n_compared = first_short(song.shape[-1], segment)
    assert n_compared > song.shape[-1] // 2
    found = Separator("mdx_extra", weights=path).separate(Audio(song.numpy(), 44_100))
    for index, stem in enumerate(SOURCES):
        compared = torch.from_numpy(found[stem].samples)[:, :n_compared]
        assert distance(compared, expected[index, :, :n_compared]) <= 1e-4


def first_short(n_samples: int, segment: Fraction) -> int:
    """Where the first segment begins that the song does not fill.

    demucs gives a model only what is left of the song; here it also hears what is before, up to a whole segment.
    """
    length = int(segment * 44_100)
    return next(start for start in range(0, n_samples, int(0.75 * length)) if start + length > n_samples)


def of_demucs(model: nn.Module, song: Tensor, segment: Any) -> Tensor:
    mono = song.mean(0)
    normal = (song - mono.mean()) / mono.std()
    outputs: Tensor = apply_model(model, normal[None], shifts=0, split=True, overlap=0.25, segment=segment)[0]
    return outputs * mono.std() + mono.mean()


def test_a_bag_of_both_kinds_equals_apply_model(tmp_path: Path) -> None:
    """The weights of `mdx`, with two models of either kind and the segment of the definition."""
    models = [time_model(0), time_model(1), hybrid_model(2), hybrid_model(3)]
    bag = RELEASED["mdx"]
    for signature, model in zip(bag.signatures, models, strict=True):
        save(tmp_path / f"{signature}.th", model)
    rows = [list(row) for row in bag.weights]
    text = f"models: {list(bag.signatures)}\nweights: {rows}\nsegment: 0.4\n"
    (tmp_path / "mdx.yaml").write_text(text)
    backend = load(tmp_path, "mdx")
    n_segment = round(backend.info.segment_seconds * 44_100)
    assert 0.4 * 44_100 <= n_segment <= 0.41 * 44_100
    song = music(40_000)[0] * 0.3
    expected = of_demucs(BagOfModels(models, rows, Fraction(n_segment, 44_100)), song, None)  # type: ignore[arg-type]
    separator = Separator("mdx", weights=tmp_path)
    found = separator.separate(Audio(song.numpy(), 44_100))
    n_compared = first_short(song.shape[-1], Fraction(n_segment, 44_100))
    for index, stem in enumerate(SOURCES):
        compared = torch.from_numpy(found[stem].samples)[:, :n_compared]
        assert distance(compared, expected[index, :, :n_compared]) <= 1e-4
    bass = separator.separate(Audio(song.numpy(), 44_100), stems="bass")["bass"].samples
    assert np.array_equal(bass, found["bass"].samples)


def test_segments_of_the_released_kind() -> None:
    """44 s of the hybrid models; what a time-domain model of the released depth fills these up to."""
    options = {"sources": SOURCES, "channels": 4}
    hybrid, time = backends._backends([HDemucs(**options), Demucs(**options)], 44.0)
    assert hybrid.info == time.info
    n_samples = round(time.info.segment_seconds * 44_100)  # type: ignore[operator]
    assert Demucs(**options).valid_length(n_samples) == n_samples
    assert 44.0 <= n_samples / 44_100 < 44.05
    assert backends._backends([HDemucs(**options)], None)[0].info.segment_seconds == 40.0


# -- files --------------------------------------------------------------------------------------------------


def test_safetensors_as_demucs_4_1_reads_them(tmp_path: Path) -> None:
    from demucs.hf import load_safetensors_model

    model = hybrid_model()
    options = json.dumps(HYBRID | {"segment": {"_type": "fraction", "numerator": 1, "denominator": 2}})
    about = {"klass": "demucs.hdemucs.HDemucs", "args": "[]", "kwargs": options}
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path, about)
    reference = load_safetensors_model(path).eval()
    expected = apply_model(reference, music(9000), shifts=0, split=False)
    assert distance(load(path).separate(music(9000)).sources, expected) <= 1e-4


def test_the_older_format_and_half_precision(tmp_path: Path) -> None:
    model = time_model()
    args, kwargs = model._init_args_kwargs  # type: ignore[misc]
    package = {"klass": Demucs, "args": args, "kwargs": kwargs, "state": get_state(model, None, half=True)}
    torch.save(package, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    found = load(tmp_path / "old.th").separate(music(9000)).sources
    assert found.dtype == torch.float32
    assert distance(found, apply_model(model, music(9000), shifts=0, split=False)) < 0.05


def test_options_that_demucs_no_longer_has_are_left_out_aloud(tmp_path: Path) -> None:
    model = time_model()
    package = {"klass": Demucs, "args": (), "kwargs": TIME | {"dconv_lstm": 2, "dconv_attn": 3, "old": 1}}
    torch.save(package | {"state": get_state(model, None)}, tmp_path / "m.th")
    with pytest.warns(UserWarning, match="old"):
        found = load(tmp_path / "m.th").separate(music(5000)).sources
    assert distance(found, apply_model(model, music(5000), shifts=0, split=False)) <= 1e-4


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_nothing_that_a_file_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = get_state(time_model(), None)
    for index, package in enumerate(
        [
            {"klass": Demucs, "args": (), "kwargs": TIME, "state": state, "training_args": Evil()},
            {"klass": subprocess.Popen, "args": (), "kwargs": {}, "state": state},
            {"klass": nn.Linear, "args": (1, 1), "kwargs": {}, "state": state},
        ]
    ):
        torch.save(package, tmp_path / f"{index}.th")
        with pytest.raises(WeightsError, match="nothing was run"):
            read_checkpoint(tmp_path / f"{index}.th")
    (tmp_path / "plain.th").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "plain.th")
    about = {"klass": "subprocess.Popen", "args": '["true"]', "kwargs": "{}"}
    save_file({"a": torch.zeros(1)}, tmp_path / "evil.safetensors", about)
    with pytest.raises(WeightsError, match="not for Demucs v3"):
        read_checkpoint(tmp_path / "evil.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": {"__quantized": True}}, "mdx_q"),
        ({"state": None}, "no plain parameters"),
        ({"state": {}}, "does not fit"),
        ({"state": {"a": 1}}, "not a tensor"),
        ({"kwargs": TIME | {"channels": 8}}, "does not fit"),
        ({"kwargs": TIME | {"channels": 1 << 40}}, "which no model has"),
        ({"kwargs": TIME | {"depth": 4000}}, "layers"),
        ({"kwargs": TIME | {"audio_channels": 5}}, "channels"),
        ({"kwargs": TIME | {"stride": "x"}}, "which no model has"),
        ({"kwargs": TIME | {"stride": -1}}, "which no model has"),
        ({"kwargs": TIME | {"dconv_comp": 0}}, "does not make a model"),
        ({"kwargs": {}}, "sources"),
        ({"args": tuple(range(99))}, "options"),
        ({"klass": None}, "no package"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = time_model(dconv_lstm=4, dconv_attn=4)
    package = {"klass": Demucs, "args": (), "kwargs": TIME, "state": get_state(model, None)} | changes
    torch.save(package, tmp_path / "m.th")
    with pytest.raises(WeightsError, match=message):
        build_model(read_checkpoint(tmp_path / "m.th"), CPU)


def test_damaged_and_absent_files_are_refused(tmp_path: Path) -> None:
    model = time_model()
    path = save(tmp_path / "m.th", model)
    (tmp_path / "75fc33f5-1941ce65.th").write_bytes(path.read_bytes())
    (tmp_path / "cut.th").write_bytes(path.read_bytes()[:-5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    for name, message in [
        ("75fc33f5-1941ce65.th", "not the file its name promises"),
        ("cut.th", "damaged"),
        ("cut.safetensors", "cut short"),
        ("none.th", "No checkpoint"),
    ]:
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(tmp_path / name)
    with pytest.raises(WeightsError, match="not finite"):
        build_model(read_checkpoint(save(tmp_path / "nan.th", model)), CPU)
    with pytest.raises(WeightsError, match="unisep models pull mdx"):
        load(None, "mdx")  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="unisep models pull hdemucs_mmi"):
        load(tmp_path / "empty", "hdemucs_mmi")


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.th", hybrid_model())
    with pytest.raises(OptionError, match="float32"):
        backends.load_mdx(weights=path, device=CPU, dtype=torch.bfloat16)
    backend = load(path)
    for shape in [(1, 1, 100), (2, 100), (1, 2, 0), (1, 2, 30_000)]:
        with pytest.raises(AudioError):
            backend.separate(torch.zeros(shape))
    with pytest.raises(BackendError, match="queries"):
        backend.separate(torch.zeros(1, 2, 100), queries=torch.zeros(1, 4))


# -- what the plugin tells ----------------------------------------------------------------------------------


def test_cards_specs_and_bags_agree() -> None:
    specs = {spec.name: spec for spec in plugin.unisep_backends() if spec.name not in V2_FILES}
    assert set(specs) == set(RELEASED)
    used = set()
    for name, spec in specs.items():
        card = read_card(spec.card)
        assert (card.name, card.licence, card.sources) == (name, spec.licence, spec.stems)
        assert [file.name.split("-")[0] for file in card.files] == list(RELEASED[name].signatures)
        for file in card.files:
            used.add(file.name)
            assert file.sha256 == PUBLISHED_SHA256[file.name]
            assert file.name.split("-")[1] == f"{file.sha256[:8]}.th" and file.url.endswith(f"/{file.name}")
        assert callable(getattr(backends, spec.load.split(":")[1]))
    assert used == set(PUBLISHED_SHA256)


def test_bags_are_those_of_demucs() -> None:
    import demucs
    from unisep_htdemucs.bags import read_bag

    folder = Path(demucs.__file__).parent / "remote"
    for name, bag in RELEASED.items():
        defined = read_bag(folder / f"{name}.yaml")
        assert tuple(dict.fromkeys(defined.signatures)) == bag.signatures
        assert len({defined.signatures.count(signature) for signature in bag.signatures}) == 1
        assert (defined.weights, defined.segment_seconds) == (bag.weights, bag.segment_seconds)


def test_listing_loads_no_torch() -> None:
    code = "import sys, unisep_demucs_classic.plugin as p; list(p.unisep_backends()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class TestTimeDomain(BackendContract):
    plugin_module = "unisep_demucs_classic.plugin"
    stays_on_device = True

    def load_backend(self) -> Any:
        return saved([time_model()], "mdx_extra")


class TestBagOfBoth(BackendContract):
    def load_backend(self) -> Any:
        return saved([time_model(0), hybrid_model(1)], "repro_mdx_a_hybrid_only")


def saved(models: list[nn.Module], name: str) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        names = [f"m{index}" for index in range(len(models))]
        for each, model in zip(names, models, strict=True):
            save(Path(folder) / f"{each}.th", model)
        (Path(folder) / f"{name}.yaml").write_text(f"models: {names}\nsegment: 0.3\n")
        return load(Path(folder), name)
