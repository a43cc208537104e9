"""The backend, and weights files that are damaged, hostile, or simply wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import unisep_film
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from unisep_film.backend import WEIGHTS_FILE, FilmBackend, load
from unisep_film.checkpoints import FORMAT, load_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.exclusion import without
from unisep_film.model import FilmHTDemucs

from unisep.errors import AudioError, BackendError, EmbeddingError, WeightsError

CONFIG = FilmConfig(
    demucs={"channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "segment": "1/2",
            "t_layer_scale_init": 1.0, "use_train_segment": False},
    output="mask", spaces={"toy-1": 6, "toy-2": 4}, condition_channels=16,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_model(tmp_path / WEIGHTS_FILE, FilmHTDemucs(CONFIG), torch.float32)


@pytest.fixture
def backend(file: Path) -> FilmBackend:
    loaded = load(weights=file, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, FilmBackend)
    return loaded


def vectors(n: int, n_dims: int = 6) -> torch.Tensor:
    return normalize(torch.randn(n, n_dims, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_info_says_what_the_model_is(backend: FilmBackend) -> None:
    assert (backend.info.sources, backend.info.sample_rate_hz, backend.info.channels) == ((), 44100, 2)
    assert backend.info.segment_seconds == 0.5


def test_quiet_recordings_are_heard_as_loud_ones_are() -> None:
    package = Path(unisep_film.__file__).parent
    embedded = load(weights=package / "weights", device=torch.device("cpu"), dtype=torch.float32)
    loud = 0.1 * torch.randn(1, 2, 44_100, generator=torch.Generator().manual_seed(0))
    queries = vectors(3, 256)
    found, quiet = (embedded.separate(gain * loud, queries) for gain in (1.0, 1e-3))
    assert found.presence is not None and quiet.presence is not None
    assert torch.allclose(found.presence, quiet.presence, atol=0.02)
    assert torch.allclose(found.sources, 1e3 * quiet.sources, atol=0.02 * float(found.sources.abs().max()))


def test_shapes_presence_and_determinism(backend: FilmBackend) -> None:
    mixture = torch.randn(3, 2, 9001)
    before = mixture.clone()
    out = backend.separate(mixture, vectors(2))
    assert out.sources.shape == (3, 2, 2, 9001)
    assert out.presence is not None and out.presence.shape == (3, 2)
    assert ((out.presence >= 0) & (out.presence <= 1)).all()
    assert torch.equal(mixture, before)
    assert torch.equal(out.sources, backend.separate(mixture, vectors(2)).sources)


def test_one_sample_is_enough(backend: FilmBackend) -> None:
    assert backend.separate(torch.ones(1, 2, 1), vectors(1)).sources.shape == (1, 1, 2, 1)


def test_other_spaces_are_served_by_their_projector(backend: FilmBackend) -> None:
    other = backend.for_space("toy-2")
    assert other.separate(torch.randn(1, 2, 900), vectors(1, 4)).sources.shape == (1, 1, 2, 900)
    with pytest.raises(EmbeddingError, match=r"toy-1, toy-2"):
        backend.for_space("unknown")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees(file: Path, backend: FilmBackend, dtype: torch.dtype) -> None:
    half = load(weights=file.parent, device=CPU, dtype=dtype)
    mixture = torch.randn(1, 2, 22050, generator=torch.Generator().manual_seed(1))
    exact = backend.separate(mixture, vectors(1)).sources
    error = half.separate(mixture, vectors(1)).sources - exact
    assert 10 * torch.log10(exact.square().sum() / error.square().sum()) > 20
    assert error.dtype == torch.float32


@pytest.mark.parametrize(
    ("mixture", "queries", "negatives", "error"),
    [
        (torch.ones(1, 2, 10), None, None, BackendError),
        (torch.ones(2, 10), vectors(1), None, AudioError),
        (torch.ones(1, 1, 10), vectors(1), None, AudioError),
        (torch.ones(1, 2, 0), vectors(1), None, AudioError),
        (torch.ones(1, 2, 10), vectors(1, 5), None, EmbeddingError),
        (torch.ones(1, 2, 10), vectors(2), vectors(1), EmbeddingError),
    ],
)
def test_wrong_input_is_refused(backend: FilmBackend, mixture, queries, negatives, error) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error):
        backend.separate(mixture, queries, negatives)


def test_saved_in_half_precision_it_stays_close(tmp_path: Path) -> None:
    model = FilmHTDemucs(CONFIG).eval()
    again = load_model(save_model(tmp_path / "half.safetensors", model))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def rewritten(file: Path, config: str | None = None, **changes: torch.Tensor) -> Path:
    state = {**load_file(file), **changes}
    text = FilmConfig.model_dump_json(CONFIG) if config is None else config
    save_file(state, file, metadata={"format": FORMAT, "config": text})
    return file


def test_weights_that_are_missing_or_not_given(tmp_path: Path) -> None:
    for weights in (None, tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(WeightsError):
            load(weights=weights, device=CPU, dtype=torch.float32)


def test_truncated_and_foreign_files(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.ones(1)}, foreign)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 64)
    for path in (file, foreign, garbage):
        with pytest.raises(WeightsError, match=path.name):
            load_model(path)


def test_wrong_shapes_extra_parameters_and_nan(file: Path) -> None:
    with pytest.raises(WeightsError, match="extra"):
        load_model(rewritten(file, extra=torch.ones(1)))


def test_a_parameter_that_is_not_finite(file: Path) -> None:
    with pytest.raises(WeightsError, match="not finite"):
        load_model(rewritten(file, **{"mix.bias": torch.tensor([float("nan")])}))


def test_a_config_that_claims_a_giant_takes_no_memory(file: Path) -> None:
    giant = json.loads(CONFIG.model_dump_json())
    giant["demucs"]["channels"] = 4096
    with pytest.raises(WeightsError, match="of another shape"):
        load_model(rewritten(file, config=json.dumps(giant)))


@pytest.mark.parametrize(
    "change",
    [
        {"output": "anything"}, {"spaces": {}}, {"spaces": {"a": -1}}, {"unknown": 1}, {"bands": [[100, 1]]},
        {"demucs": {"no_such_field": 1}}, {"demucs": {"t_layers": 0}}, {"demucs": {"segment": "no number"}},
        {"demucs": {"channels": "many"}}, {"demucs": {"sources": 3}}, {"demucs": {"segment": "1e30000000"}},
        {"demucs": {"segment": "1/0"}}, {"demucs": {"segment": "-6"}}, {"demucs": {"segment": True}},
        {"calibration": {"toy-1": [1, 0]}}, {"calibration": {"other-1": [1, 0]}}, {"calibration": {"toy-1": [1e9] * 8}},
        {"calibration": {"toy-1": ["nan"] * 8}}, {"calibration": {"toy-1": 1}},
    ],
)  # fmt: skip
def test_a_config_that_makes_no_model(file: Path, change: dict[str, object]) -> None:
    config = {**json.loads(CONFIG.model_dump_json()), **change}
    with pytest.raises(WeightsError):
        load_model(rewritten(file, config=json.dumps(config)))


def test_presence_is_calibrated_by_the_numbers_in_the_config_and_targets_stay(file: Path, backend: FilmBackend) -> None:
    config = json.dumps(CONFIG.model_dump() | {"calibration": {"toy-1": [2.0, -0.5, *range(6)]}})
    calibrated = load(weights=rewritten(file, config=config), device=CPU, dtype=torch.float32)
    mixture, queries = torch.randn(2, 2, 9001), vectors(3)
    plain, found = (each.separate(mixture, queries, queries.roll(1, 0)) for each in (backend, calibrated))
    assert torch.equal(plain.sources, found.sources)
    assert plain.presence is not None and found.presence is not None
    expected = 2 * torch.logit(plain.presence) - 0.5 + queries @ torch.arange(6.0)
    torch.testing.assert_close(torch.logit(found.presence), expected, rtol=0, atol=1e-4)
    other = calibrated.for_space("toy-2").separate(mixture, vectors(1, 4)).presence
    assert other is not None and torch.equal(
        other, backend.for_space("toy-2").separate(mixture, vectors(1, 4)).presence
    )


def test_weights_of_an_earlier_format_are_refused(file: Path, tmp_path: Path) -> None:
    """Their presence was told from what the transformer gives, by parameters that are gone."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    earlier = tmp_path / "earlier.safetensors"
    save_file(load_file(file), earlier, metadata | {"format": "unisep-film-1"})
    with pytest.raises(WeightsError, match=r"format 'unisep-film-1', not 'unisep-film-2'"):
        load_model(earlier)


def test_a_zero_negative_changes_nothing_and_another_only_its_own_row(backend: FilmBackend) -> None:
    mixture = torch.randn(2, 2, 22050, generator=torch.Generator().manual_seed(5))
    plain = backend.separate(mixture, vectors(2))
    silent = backend.separate(mixture, vectors(2), torch.zeros(2, 6))
    assert torch.equal(plain.sources, silent.sources)
    negatives = torch.stack([torch.zeros(6), vectors(3)[2]])
    excluded = backend.separate(mixture, vectors(2), negatives)
    assert excluded.sources.shape == plain.sources.shape
    assert excluded.presence is not None and excluded.presence.shape == (2, 2)
    torch.testing.assert_close(excluded.sources[:, 0], plain.sources[:, 0], rtol=0, atol=1e-5)
    assert energy(excluded.sources[:, 1]) < 0.7 * energy(plain.sources[:, 1])


def energy(samples: torch.Tensor) -> float:
    return float(samples.square().sum())


def test_what_is_excluded_is_taken_from_the_target() -> None:
    time = torch.arange(44100) / 44100
    low, high = torch.sin(2 * torch.pi * 220 * time), torch.sin(2 * torch.pi * 3000 * time)
    kept = without((low + high)[None, None], high[None, None])[0, 0]
    middle = slice(5000, -5000)
    assert energy((kept - low)[middle]) < 0.3 * energy(high[middle])
    assert 10 * torch.log10(torch.tensor(energy(kept[middle]) / energy(low[middle]))) < 1.5
    untouched = without(low[None, None], torch.zeros(1, 1, 44100))[0, 0]
    torch.testing.assert_close(untouched, low, rtol=0, atol=1e-5)
    assert energy(without(low[None, None], low[None, None])) == pytest.approx(0.01 * energy(low), rel=1e-3)


def test_loading_and_separating_do_not_make_torch_import_its_compiler(file: Path) -> None:
    """That alone takes longer than all the rest of a first separation."""
    program = (
        "import sys, torch; from pathlib import Path; from unisep_film.backend import load; "
        "backend = load(weights=Path(sys.argv[1]), device=torch.device('cpu'), dtype=torch.float32); "
        "space = backend.model.config.spaces[backend.space]; "
        "backend.separate(torch.ones(1, 2, 9000), torch.ones(1, space)); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
