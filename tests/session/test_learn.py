"""A sound is learnt from clips: the vector alone is tuned, what is reported was measured on clips left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unisep import Audio, BackendSpec, Embedding, Output, Progress, Separator, hookimpl
from unisep.errors import AudioError, BackendError, OptionError, QueryError
from unisep.session import learn
from unisep.testing import ToyBackend, signals, toy, toy_plugin

RATE_HZ = ToyBackend.info.sample_rate_hz
# The toy gives each band by its share of the query. These lie in its second band, and an example of them
# lets a third of the fourth band through.
CLIPS = [signals.mix(signals.tone(hz, 1.0), signals.tone(9_000, 1.0)) for hz in (400, 500, 600)]
HISS = signals.noise(1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"N_PASSES": 3, "N_WINDOWS": 8, "N_TESTS": 4, "WINDOW_SECONDS": 0.2}.items():
        monkeypatch.setattr(learn, name, value)
    with toy_plugin():
        yield


def separator(**options: Any) -> Separator:
    return Separator(query_backend="toy", encoder="toy", **options)


def error_db(vector: Embedding, target: Audio, rest: Audio) -> float:
    """How far what is found is from the target, in decibels."""
    estimate = separator().separate(signals.mix(target, rest), vector).target.samples
    return 10 * float(np.log10(np.sum((estimate - target.samples) ** 2) / np.sum(target.samples**2)))


def test_what_is_learnt_finds_the_sound_better_than_the_plain_example_where_it_was_never_heard() -> None:
    others = [signals.tone(hz, 1.0) for hz in (2_000, 2_500)]
    clips = [signals.mix(signals.tone(hz, 1.0), signals.noise(1.0, seed=hz)) for hz in (400, 500, 600)]
    target, rest = signals.mix(signals.tone(450, 1.0), signals.noise(1.0, seed=1)), signals.tone(2_200, 1.0)
    learnt, plain = separator().learn(clips, others), separator().embed({"audio": clips[0]})
    assert error_db(learnt, target, rest) < error_db(plain, target, rest) - 1


def test_it_is_an_ordinary_embedding_that_says_how_it_was_learnt(tmp_path: Path) -> None:
    learnt = separator(seed=3).learn(CLIPS, HISS, name="two tones")
    assert learnt.space == toy.SPACE and np.linalg.norm(learnt.vector) == pytest.approx(1, abs=1e-5)
    expected = {"query": "two tones", "encoder": "toy", "backend": "toy", "clips": "3", "others": "1", "seed": "3"}
    assert expected.items() <= learnt.provenance.items() and "dB on clips left out" in learnt.provenance["learnt"]
    loaded = Embedding.load(learnt.save(tmp_path / "tones.safetensors"))
    assert (loaded.vector == learnt.vector).all() and loaded.provenance == learnt.provenance


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads() -> None:
    one, two = (separator(threads=threads).learn(CLIPS[:2]).vector for threads in (1, 2))
    assert (one == two).all()
    assert not (separator(seed=1).learn(CLIPS[:2]).vector == one).all()


def test_it_learns_after_the_models_have_separated_in_inference_mode() -> None:
    with separator() as shared:
        shared.separate(CLIPS[0], "bass")
        first = shared.learn(CLIPS[:2])
    assert (first.vector == separator().learn(CLIPS[:2]).vector).all()


def test_one_clip_is_enough() -> None:
    assert separator().learn(CLIPS[0]).provenance["clips"] == "1"


def test_where_nothing_better_is_learnt_the_plain_example_is_kept_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn, "LEAST_GAIN_DB", 1e3)
    learnt = separator().learn(CLIPS[:1])
    assert np.allclose(learnt.vector, separator().embed({"audio": CLIPS[0]}).vector, atol=1e-6)
    assert "was kept" in learnt.provenance["learnt"] and "plain example" in caplog.text


def test_progress_goes_from_0_to_1() -> None:
    steps: list[Progress] = []
    separator().learn(CLIPS[:2], on_progress=steps.append)
    fractions = [step.fraction for step in steps if step.stage == "learning"]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert steps[-1].stage == "done"


@pytest.mark.parametrize(
    ("clips", "others", "error", "words"),
    [
        ([], None, QueryError, "1 to 10 clips, not 0"),
        ([HISS] * 11, None, QueryError, "not 11"),
        ([HISS, signals.silence(1.0)], None, QueryError, "Clip 2 of clips= is silent"),
        ([signals.tone(500, 0.05)], None, QueryError, "shorter than 0.1 s"),
        (CLIPS, [signals.silence(1.0)], QueryError, "Clip 1 of others= is silent"),
        ([np.full((1, RATE_HZ), np.nan)], None, AudioError, "NaN"),
        ([Path("nowhere.wav")], None, AudioError, "nowhere.wav"),
    ],
)
def test_clips_that_nothing_can_be_learnt_from_are_refused(
    clips: list[Any], others: list[Any] | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        separator().learn(clips, others, sample_rate_hz=RATE_HZ)


class Detached(ToyBackend):
    """Gives targets that no gradient leads to."""

    def __init__(self) -> None:
        super().__init__()

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        output = super().separate(mixture, queries, negatives)
        return replace(output, sources=output.sources.detach())


class Hooks:
    """The backend above, which declares gradients or does not."""

    def __init__(self, differentiable: bool) -> None:
        self._differentiable = differentiable

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        load = f"{__name__}:Detached"
        spec = BackendSpec(name="detached", load=load, summary="", spaces=(toy.SPACE,))
        return [replace(spec, differentiable=self._differentiable)]


def test_a_backend_without_gradients_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(OptionError, match=r"declares no gradients.*query_backend="):
        Separator(query_backend="detached", encoder="toy", plugins=[Hooks(False)]).learn(CLIPS)


def test_a_backend_that_promises_gradients_and_gives_none_is_named() -> None:
    with pytest.raises(BackendError, match=r"through Detached.*BackendContract"):
        Separator(query_backend="detached", encoder="toy", plugins=[Hooks(True)]).learn(CLIPS)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2)])
def test_backgrounds_made_by_rule_are_sound_and_differ(rate_hz: int, channels: int) -> None:
    random = np.random.default_rng(0)
    made = [learn.background(random, rate_hz, channels, rate_hz) for _ in range(20)]
    assert all(sound.shape == (channels, rate_hz) and np.isfinite(sound).all() for sound in made)
    levels = [np.sqrt(np.mean(sound**2)) for sound in made]
    assert min(levels) > 0.1 and len(set(levels)) == len(made)
