"""The backend: facts, bags, one specialist alone, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.states import get_state
from torch import Tensor
from unisep_htdemucs.backend import HTDemucsBackend, load_htdemucs, load_htdemucs_6s, load_htdemucs_ft
from unisep_htdemucs.bags import RELEASED, Bag, find_bag, read_bag

from unisep import Output
from unisep.engine.device import Options
from unisep.errors import AudioError, BackendError, WeightsError

CPU = torch.device("cpu")
FOUR = ("drums", "bass", "other", "vocals")
SIX = (*FOUR, "guitar", "piano")
Reference = Callable[..., Any]
Music = Callable[..., Tensor]


def save(path: Path, model: Any) -> Path:
    """A package of demucs's, in full precision so that it can be compared exactly."""
    args, kwargs = model._init_args_kwargs
    torch.save({"klass": type(model), "args": args, "kwargs": kwargs, "state": get_state(model, None)}, path)
    return path


@pytest.fixture
def specialists(reference: Reference) -> list[Any]:
    return [reference(seed, t_layers=1) for seed in range(4)]


@pytest.fixture
def bag_folder(tmp_path: Path, specialists: list[Any]) -> Path:
    for signature, model in zip(RELEASED["htdemucs_ft"].signatures, specialists, strict=True):
        save(tmp_path / f"{signature}.th", model)
    return tmp_path


def test_facts_of_one_model(tmp_path: Path, reference: Reference) -> None:
    path = save(tmp_path / "model.th", reference(segment=Fraction(39, 5), t_layers=1))
    backend = load_htdemucs(weights=path, device=CPU, dtype=torch.float32)
    assert backend.info.sources == FOUR
    assert (backend.info.sample_rate_hz, backend.info.channels) == (44100, 2)
    assert backend.info.segment_seconds == 7.8
    assert backend.info.normalisation == "song"


@pytest.mark.parametrize("segment", [0.7, 1.4, Fraction(1, 3)])
def test_a_segment_of_no_whole_samples_is_as_long_as_the_model_takes(
    tmp_path: Path, reference: Reference, segment: float
) -> None:
    path = save(tmp_path / "model.th", reference(segment=segment, t_layers=1))
    info = load_htdemucs(weights=path, device=CPU, dtype=torch.float32).info
    assert Options(CPU).segment_samples(info, "htdemucs") == int(segment * 44_100)


def test_six_sources_and_a_folder_with_one_file(tmp_path: Path, reference: Reference, music: Music) -> None:
    save(tmp_path / "mine.th", reference(sources=list(SIX), t_layers=1))
    backend = load_htdemucs_6s(weights=tmp_path, device=CPU, dtype=torch.float32)
    output = backend.separate(music(13230))
    assert backend.info.sources == SIX
    assert output.sources.shape == (1, 6, 2, 13230) and output.presence is None


@pytest.mark.parametrize("n_samples", [1, 4000, 13229, 13230])
def test_a_short_mixture_lies_where_demucs_puts_it(
    tmp_path: Path, reference: Reference, music: Music, distance: Callable[..., float], n_samples: int
) -> None:
    model = reference(t_layers=1)
    backend = load_htdemucs(weights=save(tmp_path / "m.th", model), device=CPU, dtype=torch.float32)
    mixture = music(n_samples, batch=2)
    before = mixture.clone()
    sources = backend.separate(mixture).sources
    assert distance(sources, apply_model(model, mixture, shifts=0, split=False)) <= 1e-4
    assert torch.equal(mixture, before)
    assert torch.equal(sources, backend.separate(mixture).sources)


def test_a_bag_equals_demucs_and_a_specialist_equals_the_bag(
    bag_folder: Path, specialists: list[Any], music: Music, distance: Callable[..., float]
) -> None:
    backend = load_htdemucs_ft(weights=bag_folder, device=CPU, dtype=torch.float32)
    bag = BagOfModels(specialists, [list(row) for row in RELEASED["htdemucs_ft"].weights])
    mixture = music(9000)
    whole = backend.separate(mixture).sources
    expected = apply_model(bag, mixture, shifts=0, split=False)
    for index, name in enumerate(FOUR):
        assert distance(whole[:, index], expected[:, index]) <= 1e-4
        alone = backend.for_sources((name,))
        assert alone.info.sources == (name,)
        assert distance(alone.separate(mixture).sources[:, 0], whole[:, index]) <= 1e-6


@pytest.mark.parametrize("names", [("vocals",), ("other", "drums"), ("drums", "bass", "vocals")])
def test_a_model_gives_only_what_is_asked(
    tmp_path: Path, reference: Reference, music: Music, distance: Callable[..., float], names: tuple[str, ...]
) -> None:
    path = save(tmp_path / "m.th", reference())
    backend = load_htdemucs(weights=path, device=CPU, dtype=torch.float32)
    part, mixture = backend.for_sources(names), music(9000, batch=2)
    assert isinstance(backend, HTDemucsBackend) and isinstance(part, HTDemucsBackend)
    asked = [index for index, name in enumerate(FOUR) if name in names]
    assert part.info.sources == tuple(FOUR[index] for index in asked)
    found = part.separate(mixture).sources
    assert distance(found, backend.separate(mixture).sources[:, asked]) <= 1e-6
    model, whole = part.model, backend.model
    widths = [each.decoder[-1].conv_tr.weight.shape[1] for each in (model, whole)]
    assert widths == [4 * len(names), 16], "two channels, real and imaginary, for each source"
    shared = "crosstransformer.layers.0.linear1.weight"
    assert model.get_parameter(shared).data_ptr() == whole.get_parameter(shared).data_ptr()


def test_a_model_whose_sources_share_a_norm_gives_all(tmp_path: Path, reference: Reference) -> None:
    path = save(tmp_path / "m.th", reference(norm_starts=0))
    backend = load_htdemucs(weights=path, device=CPU, dtype=torch.float32)
    assert backend.for_sources(("vocals",)) is backend


def test_only_the_models_that_are_needed_run(bag_folder: Path, music: Music, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_htdemucs_ft(weights=bag_folder, device=CPU, dtype=torch.float32)
    two = backend.for_sources(("vocals", "bass"))
    runs: list[tuple[str, ...]] = []
    separate = HTDemucsBackend.separate

    def noted(self: HTDemucsBackend, *given: Any) -> Output:
        runs.append(self.info.sources)
        return separate(self, *given)

    monkeypatch.setattr(HTDemucsBackend, "separate", noted)
    found, whole = (each.separate(music(5000)).sources for each in (two, backend))
    assert runs == [("bass",), ("vocals",), *((name,) for name in FOUR)]
    assert torch.equal(found, whole[:, [1, 3]])
    assert two.info.sources == ("bass", "vocals")
    assert two.for_sources(("vocals",)).info.sources == ("vocals",)
    assert backend.for_sources(FOUR) is backend and backend.for_sources(("kazoo",)) is backend


DESCRIBED = """
training:
  instruments: [vocals, other]
  segment: 0.3
  samplerate: 44100
  channels: 2
  normalize: true
inference:
  num_overlap: 2
model: htdemucs
htdemucs:
  channels: 8
  channels_time:
  num_subbands: 1
  nfft: 4096
  depth: 4
  dconv_mode: 3
  dconv_init: 1e-3
  bottom_channels: 16
  t_layers: 1
  t_heads: 2
  t_lr:
"""


@pytest.mark.parametrize("normalised", [False, True])
def test_what_music_source_separation_training_saves(
    tmp_path: Path, reference: Reference, music: Music, distance: Callable[..., float], normalised: bool
) -> None:
    options = {"channels": 8, "nfft": 4096, "depth": 4, "bottom_channels": 16, "t_layers": 1, "t_heads": 2}
    model = reference(sources=["vocals", "other"], segment=0.3, use_train_segment=False, **options)
    path = tmp_path / "model_vocals_htdemucs.ckpt"
    torch.save({"model_state_dict": model.state_dict(), "best_metric": np.float64(8.7)}, path)
    text = DESCRIBED.replace("num_overlap: 2", "normalize: true") if normalised else DESCRIBED
    (tmp_path / "config_vocals.yaml").write_text(text)
    for place in (tmp_path, path, tmp_path / "config_vocals.yaml"):
        backend = load_htdemucs(weights=place, device=CPU, dtype=torch.float32)
        assert backend.info.sources == ("vocals", "other") and backend.info.segment_seconds == pytest.approx(0.3)
        assert backend.info.normalisation == ("song" if normalised else "none")
    mixture = music(13230)
    with torch.no_grad():
        assert distance(backend.separate(mixture).sources, model(mixture)) <= 1e-4
    assert backend.for_sources(("vocals",)).info.normalisation == backend.info.normalisation


@pytest.mark.parametrize(
    "change",
    [
        ("htdemucs:", "demucs:"),
        ("num_subbands: 1", "num_subbands: 2"),
        ("channels: 8", "channels: [8"),
        ("channels_time:", "a: &many [1]\n  b: *many\n  channels_time:"),
    ],
)
def test_descriptions_of_something_else_are_refused(
    tmp_path: Path, reference: Reference, change: tuple[str, str]
) -> None:
    torch.save(reference(t_layers=1).state_dict(), tmp_path / "a.ckpt")
    (tmp_path / "a.yaml").write_text(DESCRIBED.replace(*change))
    with pytest.raises(WeightsError, match=r"another model's|num_subbands"):
        load_htdemucs(weights=tmp_path, device=CPU, dtype=torch.float32)


def test_a_bag_definition_beside_the_files_is_followed(
    tmp_path: Path, specialists: list[Any], music: Music, distance: Callable[..., float]
) -> None:
    weights = [[1.0, 0.5, 2.0, 1.0], [3.0, 0.5, 0.0, 1.0]]
    (tmp_path / "htdemucs.yaml").write_text(
        "models: ['one', 'two']\nweights: [\n  [1., 0.5, 2, 1],\n  [3, .5, 0., 1],\n]"
    )
    save(tmp_path / "one.th", specialists[0])
    save(tmp_path / "two.th", specialists[1])
    backend = load_htdemucs(weights=tmp_path, device=CPU, dtype=torch.float32)
    mixture = music(5000)
    expected = apply_model(BagOfModels(specialists[:2], weights), mixture, shifts=0, split=False)
    assert distance(backend.separate(mixture).sources, expected) <= 1e-4


def test_a_bag_may_name_a_checkpoint_twice(tmp_path: Path) -> None:
    (tmp_path / "htdemucs.yaml").write_text("models: ['a', 'a']\n")
    (tmp_path / "a.safetensors").touch()
    paths, bag = find_bag("htdemucs", tmp_path)
    assert paths == (tmp_path / "a.safetensors",) * 2 and bag.signatures == ("a", "a")


@pytest.mark.parametrize(
    "text",
    [
        "models: ['a']\nsegment: -1\n",
        "models: ['a']\nmore: 1\n",
        "models: 7\n",
        "models: [a]\nweights: [&row [1, 2], *row]\n",
        "models: [[a]]\n",
        "models: []\n",
        "models: ['../a']\n",
        "models: ['a']\nweights: [[1, 2], [3, 4]]\n",
        "models: ['a']\nweights: [['x']]\n",
        "models: ['a']\nweights: [[-1., 2.]]\n",
        "models: !!python/object/apply:os.system ['true']\n",
        "models: [__import__('os').system('true')]\n",
        "- a\n",
        "models: " + "[" * 5000,
    ],
    ids=lambda text: text[:30],
)
def test_bag_definitions_beyond_lists_and_numbers_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bag.yaml"
    path.write_text(text)
    with pytest.raises(WeightsError, match="bag"):
        read_bag(path)


@pytest.mark.parametrize(
    "text",
    [
        "models: [955717e8, f7e0c4bc]\nweights: [[1, 0], [0, 1.]]\n",
        "---\nmodels: # of mine\n  - 955717e8\n  - 'f7e0c4bc'\nweights:\n- [1., 0.]\n- - 0\n  - 1\n",
        'models: ["955717e8", "f7e0c4bc"]\nweights: [[1, 0],\n  [0, 1]]\n',
    ],
)
def test_bags_are_read_however_yaml_writes_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bag.yaml"
    path.write_text(text)
    assert read_bag(path) == Bag(("955717e8", "f7e0c4bc"), ((1.0, 0.0), (0.0, 1.0)))


@pytest.mark.parametrize(("seconds", "is_shorter"), [(0.2, True), (0.3, False), (7, False)])
def test_a_bag_may_ask_for_no_shorter_segments(
    tmp_path: Path, reference: Reference, seconds: float, is_shorter: bool
) -> None:
    save(tmp_path / "one.th", reference(segment=Fraction(3, 10), t_layers=1))
    (tmp_path / "htdemucs.yaml").write_text(f"models: [one]\nsegment: {seconds}\n")
    with pytest.raises(WeightsError, match="Leave that line out") if is_shorter else nullcontext():
        backend = load_htdemucs(weights=tmp_path, device=CPU, dtype=torch.float32)
        assert backend.info.segment_seconds == pytest.approx(0.3)


def test_the_bags_of_demucs_are_read(tmp_path: Path) -> None:
    import demucs

    folder = Path(demucs.__file__).parent / "remote"
    for name, bag in RELEASED.items():
        assert read_bag(folder / f"{name}.yaml") == bag


def test_bags_that_do_not_fit_together_are_refused(
    tmp_path: Path, reference: Reference, specialists: list[Any]
) -> None:
    save(tmp_path / "one.th", specialists[0])
    save(tmp_path / "two.th", reference(sources=list(SIX), t_layers=1))
    for text, message in [
        ("models: ['one', 'two']", "differ"),
        ("models: ['one']\nweights: [[1., 1.]]", "4 weights"),
        ("models: ['one']\nweights: [[1., 0., 1., 1.]]", "all 0"),
        ("models: ['one', 'three']", "three.safetensors"),
    ]:
        (tmp_path / "htdemucs.yaml").write_text(text)
        with pytest.raises(WeightsError, match=message):
            load_htdemucs(weights=tmp_path, device=CPU, dtype=torch.float32)


def test_absent_weights_name_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="unisep models pull htdemucs"):
        load_htdemucs(weights=None, device=CPU, dtype=torch.float32)
    with pytest.raises(WeightsError, match="unisep models pull htdemucs_ft"):
        load_htdemucs_ft(weights=tmp_path, device=CPU, dtype=torch.float32)
    with pytest.raises(WeightsError, match="No weights at"):
        load_htdemucs(weights=tmp_path / "none", device=CPU, dtype=torch.float32)


def test_what_cannot_be_separated_is_refused(tmp_path: Path, reference: Reference) -> None:
    path = save(tmp_path / "m.th", reference(t_layers=1))
    backend = load_htdemucs(weights=path, device=CPU, dtype=torch.float32)
    for shape in [(1, 1, 100), (2, 100), (1, 2, 0), (1, 2, 13231)]:
        with pytest.raises(AudioError):
            backend.separate(torch.zeros(shape))
    with pytest.raises(BackendError, match="queries"):
        backend.separate(torch.zeros(1, 2, 100), queries=torch.zeros(1, 4))


def test_half_precision_gives_float_sources(tmp_path: Path, reference: Reference, music: Music) -> None:
    path = save(tmp_path / "m.th", reference(t_layers=1))
    full = load_htdemucs(weights=path, device=CPU, dtype=torch.float32).separate(music(9000)).sources
    half = load_htdemucs(weights=path, device=CPU, dtype=torch.bfloat16).separate(music(9000)).sources
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max() / full.abs().max()) < 0.1
