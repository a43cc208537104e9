"""Maps between embedding spaces: fitted, measured, kept, used, and refused where they are unfit.

The probe encoders share one latent vector for a text or a clip; each sees it through a random matrix of its
own, with a shift for audio as contrastive encoders have.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from unisep_align import align, alignment, fit_map, plugin, sounds
from unisep_align.captions import captions, compose
from unisep_align.fit import Pairs, RidgePath, agreement, fold_of, predicted, unit

from unisep import (
    Audio,
    Backend,
    BackendInfo,
    BackendSpec,
    Embedding,
    EncoderSpec,
    Output,
    Query,
    QueryEncoder,
    Separator,
    hookimpl,
    plugins,
)
from unisep.cli import main
from unisep.engine.device import Precision
from unisep.errors import AudioFileError, EmbeddingError, EncoderError, OptionError, QueryError, WeightsError
from unisep.query.encode import AlignedEncoder
from unisep.query.space_maps import MapStore, SpaceMap
from unisep.testing import EncoderContract, noise, tone

N_LATENT = 16
CPU = torch.device("cpu")
SONG = noise(0.6)


def random(*words: object) -> np.random.Generator:
    digest = hashlib.sha256(" ".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def latent_of_text(text: str) -> np.ndarray:
    return random("text", text).standard_normal(N_LATENT) + 0.5


def latent_of_clip(clip: Audio) -> np.ndarray:
    """The level in each of `N_LATENT` bands, in decibels, so that louder is only a shift."""
    power = np.abs(np.fft.rfft(clip.samples.mean(0), 4_096 * 8)) ** 2
    edges = np.geomspace(8, power.size, N_LATENT + 1).astype(int)
    bands = np.array([power[a:b].sum() for a, b in pairwise(edges)])
    levels = np.log10(bands + 1e-9 * power.sum() + 1e-12)
    return 2 * (levels - levels.mean())


class Probe(QueryEncoder):
    """Sees the latent vectors through a matrix drawn from `seed`.

    dims: of its vectors. unrelated: "text", "audio" or both are drawn from the seed instead.
    apart: axes of the latent space that text and audio do not share.
    """

    def __init__(self, space: str, seed: int = 0, dims: int = 32, unrelated: Sequence[str] = (), apart: bool = False):
        self.space = space
        self._seed, self._dims, self._unrelated, self._apart = seed, dims, unrelated, apart
        self._matrix = random("matrix", seed).standard_normal((2 * N_LATENT, dims)) / np.sqrt(dims)
        self._gap = random("gap", seed).standard_normal(dims) / np.sqrt(dims)

    @property
    def dim(self) -> int:
        return self._dims

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        if "text" in self._unrelated:
            return self._unit([random(self._seed, text).standard_normal(self._dims) for text in texts])
        shared = [np.concatenate([latent_of_text(text), np.zeros(N_LATENT)]) for text in texts]
        return self._unit([latent @ self._matrix for latent in shared])

    def encode_audio(self, clips: Sequence[Audio]) -> torch.Tensor:
        if "audio" in self._unrelated:
            keys = [hashlib.sha256(clip.samples.tobytes()).hexdigest() for clip in clips]
            return self._unit([random(self._seed, key).standard_normal(self._dims) for key in keys])
        halves = [[latent_of_clip(clip), np.zeros(N_LATENT)] for clip in clips]
        latents = [np.concatenate(pair[::-1] if self._apart else pair) for pair in halves]
        return self._unit([latent @ self._matrix + 2 * self._gap for latent in latents])

    def _unit(self, rows: list[np.ndarray]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)).float(), dim=1)


BASE = Probe("base-1", seed=1, dims=32)


class Gauge(Backend):
    """The mixture, as loud as the query points along the first axis; half the mixture at the mean."""

    info = BackendInfo(sources=(), sample_rate_hz=44_100, channels=2, segment_seconds=None)

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        assert queries is not None and queries.shape[1] == BASE.dim
        return Output(torch.einsum("n,bcs->bncs", 0.5 + queries[:, 0] / 2, mixture))


def load_probe(*, weights: Path | None, device: torch.device) -> Probe:
    """Space: the folder's name and the hash of what it holds, as that of `clap` is."""
    if weights is None:
        return Probe("probe-1", seed=5, dims=24)
    content = (weights / "probe.json").read_text()
    space = f"{weights.name}@{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    return Probe(space, **json.loads(content))


class ProbePlugin:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [BackendSpec(name="gauge", load="map_probe:backend", summary="", spaces=("base-1",))]

    @hookimpl
    def unisep_encoders(self) -> list[EncoderSpec]:
        return [
            EncoderSpec(name="base", load="map_probe:base", space="base-1"),
            EncoderSpec(name="probe", load="map_probe:probe", space="probe-1"),
            EncoderSpec(name="reader", load="map_probe:reader", space="reader-1", modalities=frozenset({"text"})),
            EncoderSpec(name="ear", load="map_probe:probe", space="probe-1", modalities=frozenset({"audio"})),
        ]


@pytest.fixture(autouse=True)
def probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    module = ModuleType("map_probe")
    vars(module).update(
        backend=lambda **_: Gauge(), base=lambda **_: BASE, probe=load_probe, reader=lambda **_: Probe("reader-1", 7)
    )
    monkeypatch.setitem(sys.modules, "map_probe", module)
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(alignment, "captions", lambda: captions()[::5])  # fewer, for speed
    monkeypatch.setattr(sounds, "SECONDS", 0.5)
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    with plugins.registered(ProbePlugin(), "probes"), plugins.registered(plugin, "align"):
        yield
    plugins.refresh()


def weights(folder: Path, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probe.json").write_text(json.dumps(options))
    return folder


def write_clips(folder: Path, n_clips: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(n_clips):
        random_clip = random("clip", index)
        tilt = np.fft.irfft(
            np.fft.rfft(random_clip.standard_normal(22_050)) * np.exp(random_clip.standard_normal(11_026).cumsum() / 40)
        )
        soundfile.write(folder / f"{index:03}.wav", 0.3 * tilt / np.abs(tilt).max(), 44_100)
    return folder


def separator(encoder: str) -> Separator:
    return Separator(query_backend="gauge", encoder=encoder, offline=True)


def only_map(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "home" / "weights" / "maps").glob("*/map.json")
    return found


# the captions


def test_the_shipped_captions_are_those_that_the_rule_makes() -> None:
    shipped = captions()
    assert list(shipped) == compose()
    assert len(shipped) >= 1_500
    assert len({caption.text for caption in shipped}) == len(shipped)
    assert len({caption.sound for caption in shipped}) >= 600
    assert all(caption.sound in caption.text and caption.text == caption.text.strip() for caption in shipped)
    assert all("{" not in caption.text and caption.text.isascii() for caption in shipped)


def test_no_sound_is_on_both_sides_of_the_split() -> None:
    folds: dict[str, set[int]] = {}
    for caption in captions():
        folds.setdefault(caption.sound, set()).add(fold_of(caption.sound))
    counts = np.bincount([fold for kept in folds.values() for fold in kept])
    assert all(len(kept) == 1 for kept in folds.values())
    assert counts.shape == (5,) and counts.min() > 0.12 * counts.sum()


# the numbers


def test_a_linear_map_is_found_again() -> None:
    draw = np.random.default_rng(0)
    source, truth = draw.standard_normal((200, 7)), draw.standard_normal((7, 5))
    path = RidgePath(Pairs(source, source @ truth).centred())
    np.testing.assert_allclose(path.matrix(1e-9), truth, atol=1e-6)


def test_ridge_equals_the_normal_equations() -> None:
    draw = np.random.default_rng(1)
    pairs = Pairs(draw.standard_normal((40, 6)), draw.standard_normal((40, 3))).centred()
    gram = pairs.source.T @ pairs.source
    wanted = np.linalg.solve(gram + 0.3 * np.trace(gram) / 6 * np.eye(6), pairs.source.T @ pairs.target)
    np.testing.assert_allclose(RidgePath(pairs).matrix(0.3), wanted, atol=1e-12)


def test_more_axes_than_pairs_stay_finite() -> None:
    draw = np.random.default_rng(2)
    pairs = Pairs(draw.standard_normal((5, 30)), draw.standard_normal((5, 4))).centred()
    assert np.isfinite(RidgePath(pairs).matrix(1e-6)).all()


def test_agreement_by_hand() -> None:
    wanted = np.eye(6)
    assert agreement(wanted, wanted, np.zeros(6)).model_dump() == {
        "n": 6, "top_1": 1.0, "top_5": 1.0, "cosine": 1.0, "centred_cosine": 1.0,
    }  # fmt: skip
    swapped = agreement(wanted[[1, 0, 2, 3, 4, 5]], wanted, np.zeros(6))
    assert (swapped.top_1, swapped.cosine) == (pytest.approx(4 / 6), pytest.approx(4 / 6))
    opposite = agreement(-wanted, wanted, np.zeros(6))
    assert (opposite.top_1, opposite.top_5, opposite.cosine) == (0.0, 0.0, -1.0)


def test_what_all_vectors_share_counts_as_cosine_but_not_as_centred_cosine() -> None:
    draw = np.random.default_rng(3)
    centre = np.eye(64)[0] * 3
    wanted, guess = (unit(centre + 0.2 * draw.standard_normal((300, 64))) for _ in range(2))
    found = agreement(guess, wanted, wanted.mean(0))
    assert found.cosine > 0.7 and abs(found.centred_cosine) < 0.05


def test_mapped_vectors_are_unit_vectors() -> None:
    draw = np.random.default_rng(4)
    found = predicted(draw.standard_normal((9, 4)), draw.standard_normal((4, 3)), (np.zeros(4), np.ones(3)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


# two encoders of one space


@pytest.mark.parametrize(("seed", "dims"), [(2, 32), (3, 48), (4, 17), (5, 256)])
def test_rotations_and_projections_of_one_space_agree(seed: int, dims: int) -> None:
    other = Probe("other", seed, dims)
    card, found = fit_map(other, BASE)
    assert card.text.cosine > 0.95 and card.text.centred_cosine > 0.95 and card.text.top_1 > 0.95
    assert card.audio is not None and card.audio.cosine > 0.95
    assert card.modalities == {"text", "audio"}
    assert (card.clips, card.n_clips, card.n_captions) == ("synthetic", sounds.N_MADE, len(captions()[::5]))
    mapped = AlignedEncoder(other, found, "base-1")
    for texts in (["an unheard sound", "yet another one"], ["piano"]):
        assert (mapped.encode_text(texts) * BASE.encode_text(texts)).sum(1).min() > 0.93
    clips = [noise(0.5, seed=3), tone(700, 0.5)]
    assert (mapped.encode_audio(clips) * BASE.encode_audio(clips)).sum(1).mean() > 0.9


def test_the_means_of_each_modality_matter() -> None:
    other = Probe("other", seed=2)
    _, found = fit_map(other, BASE)
    confused = SpaceMap(found.matrix, {"text": found.means["text"], "audio": found.means["text"]})
    clips = [noise(0.5, seed=seed) for seed in range(4)]
    right, wrong = (
        (AlignedEncoder(other, each, "base-1").encode_audio(clips) * BASE.encode_audio(clips)).sum(1).mean()
        for each in (found, confused)
    )
    assert 1 - right < 0.4 * (1 - wrong)


def test_too_few_dimensions_are_unfit() -> None:
    card, _ = fit_map(Probe("narrow", seed=2, dims=3), BASE)
    assert not card.is_fit


class Constant(Probe):
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), self.dim) / self.dim**0.5


@pytest.mark.parametrize(
    "other", [Probe("u", seed=9, unrelated=("text", "audio")), Probe("u", 9, unrelated=("text",)), Constant("c")]
)
def test_unrelated_encoders_are_unfit(other: QueryEncoder) -> None:
    card, _ = fit_map(other, BASE)
    assert card.text.centred_cosine < 0.2
    assert not card.is_fit and card.modalities == frozenset()


def test_an_encoder_that_breaks_is_reported() -> None:
    class Broken(Probe):
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.full((len(texts), self.dim), float("nan"))

    with pytest.raises(EncoderError, match="NaN"):
        fit_map(Broken("broken"), BASE)


# from the outside


def test_a_separator_works_through_the_map_once_it_is_fitted(tmp_path: Path) -> None:
    own = weights(tmp_path / "own", seed=3, dims=40)
    with pytest.raises(EmbeddingError, match=rf"no map .* run: unisep align probe@{own} --query-backend gauge"):
        separator(f"probe@{own}").separate(SONG, "oboe")
    seen: list[float] = []
    card = align(f"probe@{own}", query_backend="gauge", on_progress=lambda p: seen.append(p.fraction))
    assert card.text.centred_cosine > 0.9 and seen == sorted(seen) and seen[-1] == 1.0

    mapped = separator(f"probe@{own}")
    result = mapped.separate(SONG, ["oboe", Query(audio=tone(440, 0.5), name="tone")])
    plain = separator("base").separate(SONG, ["oboe", Query(audio=tone(440, 0.5), name="tone")])
    for name in ("oboe", "tone"):
        assert np.abs(result[name].samples - plain[name].samples).max() < 0.05 * np.abs(SONG.samples).max()
        assert result.plan[name].encoder == f"probe@{own}"
    assert f"mapped from '{card.source}' to 'base-1', agreement {card.text.centred_cosine:.2f}" in result.plan.reason
    assert "mapped" not in plain.plan.reason
    embedding = mapped.embed("oboe")
    assert (embedding.space, embedding.dim) == ("base-1", BASE.dim)
    assert embedding.provenance["mapped_from"] == card.source
    mapped.close()
    assert np.array_equal(mapped.embed("oboe").vector, embedding.vector)


def test_text_vector_and_example_go_together_through_a_map(tmp_path: Path) -> None:
    align("probe")
    vector = separator("base").embed("oboe")
    result = separator("probe").separate(SONG, Query(text="oboe", embedding=vector, exclude="flute"))
    assert result.plan["oboe"].encoder == "probe"
    with pytest.raises(EmbeddingError, match="'elsewhere'"):
        separator("probe").separate(SONG, Embedding(np.ones(4, np.float32), "elsewhere"))


def test_without_naming_it_a_mapped_encoder_is_never_chosen() -> None:
    align("probe")
    assert Separator(query_backend="gauge").separate(SONG, "oboe").plan["oboe"].encoder == "base"


def test_fixed_stems_by_query_say_that_they_are_mapped(caplog: pytest.LogCaptureFixture) -> None:
    align("probe")
    stems = separator("probe").separate(SONG)
    assert "weaker" in caplog.text
    assert all("mapped from 'probe-1'" in choice.reason for choice in stems.plan.values())


def test_a_new_revision_needs_a_map_of_its_own(tmp_path: Path) -> None:
    own = weights(tmp_path / "own", seed=3)
    first = align(f"probe@{own}")
    weights(own, seed=4)
    with pytest.raises(EmbeddingError, match="no map between them was fitted"):
        separator(f"probe@{own}").embed("oboe")
    second = align(f"probe@{own}")
    assert first.source != second.source and second.is_fit
    store = MapStore()
    assert store.card(first.source, "base-1") == first and store.card(second.source, "base-1") == second


def test_the_same_fit_is_the_same_file() -> None:
    assert align("probe") == align("probe")


def test_an_unfit_map_is_reported_and_refused(tmp_path: Path) -> None:
    own = weights(tmp_path / "own", seed=3, unrelated=["text", "audio"])
    card = align(f"probe@{own}")
    assert not card.is_fit and card.tensors == ""
    assert not list(only_map(tmp_path).parent.glob("*.safetensors"))
    with pytest.raises(
        EmbeddingError, match=r"unfit: .* centred cosine is -?0\.\d\d .* 0\.65 and 0\.8 are needed.*base"
    ):
        separator(f"probe@{own}").separate(SONG, "oboe")


def test_an_unfit_measurement_replaces_a_map_that_was_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    align("probe")
    assert separator("probe").embed("oboe").space == "base-1"
    monkeypatch.setattr(sys.modules["map_probe"], "probe", lambda **_: Probe("probe-1", 9, unrelated=("text",)))
    align("probe")
    assert not list(only_map(tmp_path).parent.glob("*.safetensors"))
    with pytest.raises(EmbeddingError, match="unfit"):
        separator("probe").embed("oboe")


def test_a_map_fit_for_text_only_refuses_audio(tmp_path: Path) -> None:
    own = weights(tmp_path / "own", seed=3, unrelated=["audio"])
    card = align(f"probe@{own}")
    assert card.modalities == {"text"}
    loaded = separator(f"probe@{own}")
    assert loaded.separate(SONG, "oboe").plan["oboe"].encoder == f"probe@{own}"
    with pytest.raises(QueryError, match=r"fit for text only.*--clips FOLDER"):
        loaded.separate(SONG, tone())
    with pytest.raises(QueryError, match="fit for text only"):
        loaded.separate(SONG, Query(text="oboe", exclude=tone()))


def test_encoders_without_text_or_without_audio() -> None:
    card = align("reader")
    assert card.is_fit and card.audio is None and (card.clips, card.n_clips) == ("none", 0)
    with pytest.raises(OptionError, match="takes no audio"):
        align("reader", clips="anywhere")
    with pytest.raises(OptionError, match="reads no text"):
        align("ear")


def test_an_encoder_of_the_same_space_needs_no_map() -> None:
    with pytest.raises(OptionError, match="needs no map"):
        align("base")


def test_a_query_backend_that_can_be_reached_comes_first() -> None:
    class Another:
        @hookimpl
        def unisep_backends(self) -> list[BackendSpec]:
            return [BackendSpec(name="aardvark", load="map_probe:backend", summary="", spaces=("far-1",))]

    align("probe", query_backend="gauge")
    with plugins.registered(Another(), "another"):
        assert Separator(encoder="probe").separate(SONG, "oboe").plan["oboe"].backend == "gauge"


# clips of the user


def test_clips_of_the_user_fit_what_captions_cannot_tell(tmp_path: Path) -> None:
    base, other = Probe("base-1", 1, apart=True), Probe("other", 2, apart=True)
    by_rule, _ = fit_map(other, base)
    assert by_rule.modalities == {"text"}
    folder = write_clips(tmp_path / "clips" / "inner", 60)
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    soundfile.write(folder / "silent.wav", np.zeros(1_000), 44_100)
    (folder / "notes.txt").write_text("no clip")
    card, found = fit_map(other, base, clips=folder.parent)
    assert (card.clips, card.n_clips) == ("own", 60)
    assert card.modalities == {"text", "audio"}
    assert card.audio is not None and card.audio.n == 60 and card.audio.centred_cosine > 0.9
    clip = noise(0.4, seed=8)
    mapped = AlignedEncoder(other, found, "base-1").encode_audio([clip])
    assert (mapped * base.encode_audio([clip])).sum() > 0.9


def test_only_the_beginning_of_a_long_clip_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "LONGEST_SECONDS", 0.25)
    (path,) = write_clips(tmp_path / "clips", 1).iterdir()
    clip = sounds.read_clip(path)
    assert clip is not None and clip.n_samples == round(0.25 * 44_100)


def test_a_folder_with_too_few_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="no folder"):
        align("probe", clips=tmp_path / "nowhere")
    folder = write_clips(tmp_path / "clips", 9)
    with pytest.raises(AudioFileError, match="holds 9 clips"):
        align("probe", clips=folder)
    (folder / "broken.wav").write_bytes(b"nothing")
    with pytest.raises(AudioFileError, match="holds 9 clips"):
        align("probe", clips=folder)
    assert not (tmp_path / "home").exists()
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(AudioFileError, match="holds 0 clips"):
        align("probe", clips=folder)


# the cache


def truncated(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-8])


def flipped(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(bytes(content))


def gone(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    tensors.unlink()


def no_json(folder: Path) -> None:
    (folder / "map.json").write_text("{")


def edited(folder: Path, **values: object) -> None:
    card = json.loads((folder / "map.json").read_text())
    (folder / "map.json").write_text(json.dumps({**card, **values}))


def of_another_pair(folder: Path) -> None:
    edited(folder, source="another")


def outside(folder: Path) -> None:
    edited(folder, tensors="../../x.safetensors")


def unknown_key(folder: Path) -> None:
    edited(folder, surprise=1)


def not_finite(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    (tensors,) = folder.glob("*.safetensors")
    values = load_file(tensors)
    values["matrix"][0, 0] = np.nan
    save_file(values, tensors)
    edited(folder, tensors_sha256=hashlib.sha256(tensors.read_bytes()).hexdigest())


def not_tensors(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    tensors.write_bytes(b"not tensors at all")
    edited(folder, tensors_sha256=hashlib.sha256(tensors.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "harm",
    [truncated, flipped, gone, no_json, of_another_pair, outside, unknown_key, not_finite, not_tensors],
    ids=lambda harm: harm.__name__,
)
def test_a_damaged_map_is_refused_and_can_be_fitted_again(harm: Callable[[Path], None], tmp_path: Path) -> None:
    align("probe")
    harm(only_map(tmp_path).parent)
    with pytest.raises(WeightsError, match=r"damaged.*unisep align"):
        separator("probe").separate(SONG, "oboe")
    align("probe")
    assert separator("probe").embed("oboe").space == "base-1"
    assert len(list(only_map(tmp_path).parent.glob("*.safetensors"))) == 1


def test_a_map_of_another_size_than_the_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    align("probe")
    monkeypatch.setattr(sys.modules["map_probe"], "probe", lambda **_: Probe("probe-1", 5, dims=25))
    with pytest.raises(WeightsError, match="vectors of 24 numbers, the encoder gives 25"):
        separator("probe").embed("oboe")


def test_a_map_that_vanishes_between_planning_and_loading_is_an_error(tmp_path: Path) -> None:
    from unisep.progress import ProgressReporter
    from unisep.session.models import ModelPool
    from unisep.weights.store import WeightsStore

    pool = ModelPool(WeightsStore(offline=True), Precision("float32", CPU))
    with pytest.raises(WeightsError, match="no fitted map from 'probe-1' to 'base-1' any more"):
        pool.encoder_for(pool.open_encoder("probe", ProgressReporter()), "base-1", ProgressReporter())


def test_a_failed_write_leaves_the_old_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = align("probe")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(WeightsError, match="disk full"):
        broken.setattr(Path, "replace", fail)
        broken.setattr(sys.modules["map_probe"], "probe", lambda **_: Probe("probe-1", 6, dims=24))
        align("probe")
    store = MapStore()
    assert store.card("probe-1", "base-1") == before
    assert store.load(before).dims == (24, 32)


# what the encoder of a map keeps


class TestAlignedEncoder(EncoderContract):
    """An aligned encoder is an encoder like any other."""

    def load_encoder(self) -> QueryEncoder:
        other = Probe("other", seed=2)
        return AlignedEncoder(other, fit_map(other, BASE)[1], "base-1")


def test_an_aligned_encoder_without_audio_says_so() -> None:
    other = Probe("other", seed=2, unrelated=("audio",))
    card, found = fit_map(other, BASE)
    assert card.modalities == {"text"}
    with pytest.raises(EncoderError, match="not fit for audio"):
        AlignedEncoder(other, found, "base-1").encode_audio([tone()])


# the command line


def test_the_command_prints_what_was_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["align", "probe"]) == 0
    out, err = capsys.readouterr()
    assert "from probe-1" in out and "to   base-1" in out
    assert "captions held out" in out and "clips (synthetic)" in out
    assert "Ask with --encoder probe" in err
    assert main(["embed", "oboe", "--encoder", "probe", "-o", str(tmp_path / "oboe.safetensors")]) == 0
    assert Embedding.load(tmp_path / "oboe.safetensors").provenance["mapped_from"] == "probe-1"


def test_the_command_fails_for_an_unfit_map(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = weights(tmp_path / "own", unrelated=["text", "audio"])
    assert main(["align", f"probe@{own}", "--json"]) == 1
    out, err = capsys.readouterr()
    printed = SimpleNamespace(**json.loads(out))
    assert printed.is_fit is False and printed.modalities == [] and printed.text["n"] > 50
    assert "unfit" in err and "refused" in err


def test_wrong_usage_and_failures_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "base"]) == 2
    assert main(["align", "prob"]) == 1
    assert main(["align", "probe@./nowhere"]) == 1
    assert "no file or folder" in capsys.readouterr().err
