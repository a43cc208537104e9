"""Training examples mixed on the fly: a mixture, what is asked for, and the sum of all that answers.

stream = ExampleStream(Store("store"), MixConfig(batch=8), seed=0)
batch = stream.batch(step)      # the same for the same seed and step
"""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np
from numpy.typing import NDArray

from unisep_train.data import labels
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store, StoreError
from unisep_train.mixing import augment, prompts, sources
from unisep_train.mixing.augment import Sound
from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.drawing import Wishes
from unisep_train.mixing.sources import Variation

__all__ = ["Batch", "ExampleStream", "MixConfig", "Variation"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Examples: `mixture` and `target` are `[batch, channels, samples]` float32.

    `examples` are mono clips `[samples]` of the same name from elsewhere, or None; `names` the canonical
    names asked for (`-name` for everything but it); `present` is False where the target is silence; `negatives`
    prompts for what is to be left out, or None.
    """

    mixture: NDArray[np.float32]
    target: NDArray[np.float32]
    prompts: list[str]
    names: list[str]
    present: NDArray[np.bool_]
    examples: list[NDArray[np.float32] | None]
    source_ids: list[str]
    negatives: list[str | None]


@dataclasses.dataclass(frozen=True)
class _Example:
    target: Sound
    rest: Sound
    prompt: str
    name: str
    present: bool
    clip: NDArray[np.float32] | None
    source_id: str
    negative: str | None


@final
class ExampleStream:
    """Batches of examples from a store, the same for the same seed and step; pickles without the audio."""

    def __init__(self, store: Store, config: MixConfig | None = None, seed: int = 0) -> None:
        self.config = config or MixConfig()
        self.seed = seed
        self.sample_rate_hz = store.sample_rate_hz
        self.catalogue = Catalog(store)
        self.wishes = Wishes(self.catalogue, self.config)
        self.n_samples = round(self.config.segment_seconds * store.sample_rate_hz)
        self._tags_of: dict[str, frozenset[str]] = {}

    def batch(self, step: int, items: range | None = None) -> Batch:
        """The batch of `step`, or the `items` of it that are asked for."""
        examples = [
            self._example(np.random.default_rng((self.seed, step, index)))
            for index in (range(self.config.batch) if items is None else items)
        ]
        target = np.stack([example.target for example in examples])
        mixture = target + np.stack([example.rest for example in examples])
        return Batch(
            mixture=self._channels(mixture),
            target=self._channels(target),
            prompts=[example.prompt for example in examples],
            names=[example.name for example in examples],
            present=np.array([example.present for example in examples]),
            examples=[example.clip for example in examples],
            source_ids=[example.source_id for example in examples],
            negatives=[example.negative for example in examples],
        )

    def _channels(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        return sound.mean(axis=1, keepdims=True) if self.config.n_channels == 1 else sound

    def _example(self, rng: np.random.Generator) -> _Example:
        """One example; draws again when the drawn window turns out silent."""
        for _ in range(20):
            name, index = self.wishes.wish(rng)
            target, rest, left_out = self._target_and_rest(name, index, rng)
            if augment.level_db(target) > -90 and augment.level_db(rest) > -90:
                return self._finished(name, index, target, rest, left_out, rng)
        raise StoreError(f"{self.catalogue.store.folder}: 20 draws in a row gave silence. Is the store damaged?")

    def _target_and_rest(self, name: str, index: int, rng: np.random.Generator) -> tuple[Sound, Sound, str | None]:
        """What answers, what does not, and the part of what would answer that is to be left out, if any."""
        song = self.catalogue.songs.get(self.catalogue.items[index].song)
        own_song = self.config.vocals_own_song_probability if _is_vocal(name) else self.config.own_song_probability
        if song and rng.random() < own_song:
            target, rest, left_out = self._own_song(name, index, song, rng)
            if augment.level_db(rest) > -70:
                return target, rest, left_out
        target = self._lone_target(name, index, song, rng)
        return *self._among_others(name, target, rng), None

    def _own_song(
        self, name: str, index: int, song: list[int], rng: np.random.Generator
    ) -> tuple[Sound, Sound, str | None]:
        """What answers in a window of the song, and its other stems; both as in the song but for gains."""
        catalogue, remix_db = self.catalogue, self.config.source_level_db
        start = catalogue.start(index, self.n_samples, rng)
        sounding = [i for i in song if catalogue.sounds_in(i, start, self.n_samples)]
        answering = [i for i in song if name in catalogue.tags[i]]
        left_out = self._part_to_leave_out(answering, rng)
        matching = [i for i in answering if left_out not in catalogue.tags[i]]
        others = [i for i in sounding if i not in answering and not self._unclear(name, i)]
        if len(others) > 2 and rng.random() < 0.3:
            others = list(rng.choice(others, size=rng.integers(1, len(others)), replace=False))
        others += [i for i in answering if i not in matching]
        target, rest = (
            sources.stems(catalogue, chosen, start, self.n_samples, rng, remix_db) for chosen in (matching, others)
        )
        semitones = sources.drawn_semitones(self.config.variation, rng)
        target, rest = (augment.repitch(part, semitones) for part in (target, rest))
        if rng.random() < 0.5:
            target, rest = target[::-1], rest[::-1]
        return target, rest, left_out

    def _part_to_leave_out(self, answering: list[int], rng: np.random.Generator) -> str | None:
        """A name that some of the stems answer to, while the others plainly do not; sometimes, else None."""
        if rng.random() >= self.config.negative_probability:
            return None
        each = [self.catalogue.tags[i] for i in answering]
        parts = frozenset().union(*each) - frozenset.intersection(*each) - labels.NOT_PROMPTS
        clear = [n for n in sorted(parts) if not any(self._unclear(n, i) for i in answering)]
        return clear[rng.integers(len(clear))] if clear else None

    def _lone_target(self, name: str, index: int, song: list[int] | None, rng: np.random.Generator) -> Sound:
        """The sound alone, or with the stems of its song that answer too."""
        catalogue, variation = self.catalogue, self._variation(name)
        if not song or rng.random() < 0.3:
            return sources.one_sound(catalogue, index, self.n_samples, variation, rng)
        n_read = sources.varied_length(self.n_samples, variation, rng)
        start = catalogue.start(index, n_read, rng)
        matching = [i for i in song if name in catalogue.tags[i]]
        sound = sources.stems(catalogue, matching, start, n_read, rng, self.config.source_level_db)
        return sources.varied(augment.respeed(sound, self.n_samples), catalogue, variation, rng)

    def _variation(self, name: str) -> Variation:
        return self.config.vocals_variation if _is_vocal(name) else self.config.variation

    def _among_others(self, name: str, target: Sound, rng: np.random.Generator) -> tuple[Sound, Sound]:
        """The target with sounds from elsewhere; those that answer as well are added to it."""
        config = self.config
        spread_db = config.source_level_db
        target = augment.to_level(target, rng.uniform(-spread_db, spread_db) - 20)
        rest = np.zeros_like(target)
        n_others = int(rng.integers(config.n_sources[0], config.n_sources[1] + 1)) - 1
        while n_others > 0:
            sound, matches, weight = self._other(name, rng)
            n_others -= weight
            sound = augment.to_level(sound, rng.uniform(-spread_db, spread_db) - 20)
            if matches:
                target = target + sound
            else:
                rest += sound
        return target, rest

    def _other(self, name: str, rng: np.random.Generator) -> tuple[Sound, bool, int]:
        """A sound beside the target, whether it answers to `name` too, and how many sources it counts for."""
        if self.catalogue.songs and rng.random() < self.config.bundle_probability:
            bundle = self._bundle(name, rng)
            if bundle is not None:
                return bundle, False, 3
        for _ in range(20):
            index = self.wishes.beside(name, rng)
            if not self._unclear(name, index):
                sound = sources.one_sound(self.catalogue, index, self.n_samples, self.config.variation, rng)
                return sound, name in self.catalogue.tags[index], 1
        return np.zeros((2, self.n_samples), dtype=np.float32), False, 1

    def _bundle(self, name: str, rng: np.random.Generator) -> Sound | None:
        """A window of a song without what answers, or might answer, to `name`: a full accompaniment."""
        catalogue = self.catalogue
        song = catalogue.songs[catalogue.draw_song(rng)]
        others = [i for i in song if name not in catalogue.tags[i] and not self._unclear(name, i)]
        if not others:
            return None
        start = catalogue.start(others[rng.integers(len(others))], self.n_samples, rng)
        sounding = [i for i in others if catalogue.sounds_in(i, start, self.n_samples)]
        sound = sources.stems(catalogue, sounding, start, self.n_samples, rng, self.config.source_level_db)
        return sound[::-1] if rng.random() < 0.5 else sound

    def _unclear(self, name: str, index: int) -> bool:
        return labels.unclear(name, self.catalogue.items[index].label, self.catalogue.tags[index])

    def _finished(
        self, name: str, index: int, target: Sound, rest: Sound, left_out: str | None, rng: np.random.Generator
    ) -> _Example:
        """The example at its final levels, with prompts, presence and example clip."""
        config = self.config
        limit = config.max_target_rest_db
        difference_db = augment.loudness_db(target) - augment.level_db(rest)
        target = target * augment.gain(np.clip(difference_db, -limit, limit) - difference_db)
        prompt, shown = prompts.phrase(name, rng), name
        clip = self._clip(name, index, rng) if rng.random() < config.example_probability else None
        negative = self._negative(name, left_out, rng)
        roll = rng.random()
        if name in prompts.COMPLEMENTS and negative is None and roll < config.complement_probability:
            target, rest, prompt, shown, clip = rest, target, prompts.complement(name, rng), f"-{name}", None
        elif roll > 1 - config.absent_probability:
            target = np.zeros_like(target)
        elif roll > 1 - config.absent_probability - config.target_only_probability:
            rest = np.zeros_like(rest)
        level_db = augment.level_db(target + rest)
        factor = augment.gain(rng.uniform(*config.mixture_level_db) - level_db)
        present = bool(target.any())
        return _Example(
            target * factor, rest * factor, prompt, shown, present, clip, self.catalogue.items[index].id, negative
        )

    def _negative(self, name: str, left_out: str | None, rng: np.random.Generator) -> str | None:
        """A prompt for what is left out, or now and then for a sound that has nothing to do with `name`."""
        if left_out is None and rng.random() < self.config.negative_probability / 3:
            other = self.catalogue.names[self.wishes.beside(name, rng)]
            apart = self._heard_as(name).isdisjoint({other, *labels.ancestors(other)})
            left_out = other if apart and other not in labels.MIXED else None
        return None if left_out is None else prompts.phrase(left_out, rng)

    def _heard_as(self, name: str) -> frozenset[str]:
        """All that sounds which answer to `name` answer to, and what contains it."""
        if name not in self._tags_of:
            tags = (self.catalogue.tags[i] for i in self.catalogue.by_tag.get(name, ()))
            self._tags_of[name] = frozenset({name, *labels.ancestors(name)}).union(*tags)
        return self._tags_of[name]

    def _clip(self, name: str, index: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """A mono clip of the same name from another song or file, or None."""
        catalogue = self.catalogue
        item = catalogue.items[index]
        same = catalogue.by_name[catalogue.names[index]] if name == catalogue.names[index] else catalogue.by_tag[name]
        elsewhere = [
            i for i in same
            if i != index and (not item.song or catalogue.items[i].song != item.song)
        ]  # fmt: skip
        if not elsewhere:
            return None
        n_samples = round(self.config.example_seconds * catalogue.store.sample_rate_hz)
        chosen = catalogue.draw(elsewhere, rng)
        sound = sources.one_sound(catalogue, chosen, n_samples, self.config.variation, rng)
        return augment.to_level(sound, -20.0).mean(axis=0)


def _is_vocal(name: str) -> bool:
    return name == "vocals" or "vocals" in labels.ancestors(name)
