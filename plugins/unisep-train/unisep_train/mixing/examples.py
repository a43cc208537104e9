"""Mix training examples on the fly: a mixture, what is asked for, and the sum of all that answers.

stream = ExampleStream(Store("store"), MixConfig(batch=8), seed=0)
batch = stream.batch(step)      # the same for the same seed and step
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate import vocabulary

from unisep.errors import DatasetError
from unisep.query.concepts import concepts
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.mixing import sounds
from unisep_train.mixing.config import MixConfig
from unisep_train.mixing.sounds import Sound

# What a prompt may be besides a name, and prompts for all but one of the four stems.
TEMPLATES = vocabulary.TABLE["prompts"]["templates"]
COMPLEMENTS = vocabulary.TABLE["complements"]
# How often a drum kit, a voice or a bass stands beside a sound; else something of a domain does.
BESIDE = {"drums": 0.22, "vocals": 0.2, "bass": 0.12}
BESIDE_MUSIC = {"music": 0.84, "speech": 0.08, "universal": math.inf}
BESIDE_OTHERS = {"music": 0.4, "speech": 0.2, "universal": math.inf}


def phrase(
    name: str, rng: np.random.Generator, plain_probability: float = 0.65, wording_probability: float = 0.0
) -> str:
    """Draw a prompt for the canonical `name`: mostly the plain name, else a wording, another spelling or a template."""
    if wording_probability and rng.random() < wording_probability and name in concepts():
        return (known := concepts()[name].wordings)[rng.integers(len(known))]
    spellings = (name, *vocabulary.SPELLINGS.get(name, ()))
    text = name if len(spellings) == 1 or rng.random() < 0.6 else spellings[rng.integers(1, len(spellings))]
    if rng.random() > plain_probability:
        text = TEMPLATES[rng.integers(len(TEMPLATES))].format(text).replace("the the ", "the ")
    return text.capitalize() if rng.random() < 0.07 else text


@dataclass(frozen=True)
class Sampler:
    """Draws names and sounds of a catalogue with the shares a config states."""

    catalogue: Catalog
    config: MixConfig

    @cached_property
    def domains(self) -> dict[str, tuple[list[str], NDArray[np.float64]]]:
        """Those of the catalogue, with the names raised that the config raises; the largest factor counts."""
        raised, tags = self.config.raised, self.catalogue.tags
        if not raised:
            return self.catalogue.domains
        out = {}
        for domain, (names, weights) in self.catalogue.domains.items():
            answering = [frozenset().union(*(tags[i] for i in self.catalogue.by_name[name])) for name in names]
            factors = [max((raised[tag] for tag in of_name & raised.keys()), default=1.0) for of_name in answering]
            out[domain] = names, weights * factors / (weights * factors).sum()
        return out

    def target(self, rng: np.random.Generator) -> tuple[str, int]:
        """Draw the canonical name asked for and a sound that answers to it."""
        config, catalogue = self.config, self.catalogue
        roll = rng.random()
        roles = {"drums": config.drums_share, "vocals": config.vocals_share, "bass": config.bass_share}
        for name, share in roles.items():
            if roll < share and name in catalogue.by_tag:
                index = catalogue.draw(catalogue.by_tag[name], rng)
                label = catalogue.names[index]
                return (label if rng.random() >= 0.7 and name in vocabulary.ancestors(label) else name), index
            roll -= share
        roll = rng.random() * (1 - config.drums_share - config.vocals_share - config.bass_share)
        shares = {"speech": config.speech_share, "universal": config.universal_share, "music": math.inf}
        index = self._any_of(shares, roll, rng)
        label = catalogue.names[index]
        others = sorted(catalogue.tags[index] - {label} - vocabulary.NOT_PROMPTS)
        return (label if not others or rng.random() < 0.65 else others[rng.integers(len(others))]), index

    def beside(self, name: str, rng: np.random.Generator) -> int:
        """Draw a sound such as stands beside `name` in music, or anything beside an everyday sound."""
        catalogue, roll = self.catalogue, rng.random()
        for role, share in BESIDE.items():
            if roll < share and role in catalogue.by_tag and role != name:
                return catalogue.draw(catalogue.by_tag[role], rng)
            roll -= share
        is_music = name in catalogue.by_tag and catalogue.domain(catalogue.by_tag[name][0]) == "music"
        return self._any_of(BESIDE_MUSIC if is_music else BESIDE_OTHERS, rng.random(), rng)

    def _any_of(self, shares: dict[str, float], roll: float, rng: np.random.Generator) -> int:
        """Draw a sound of the domain in whose share `roll` falls: first a name, rare ones raised, then a sound of it."""
        domains, limits = self.domains, itertools.accumulate(shares.values())
        domain = next(domain for domain, limit in zip(shares, limits, strict=True) if roll < limit)
        names, weights = domains.get(domain) or next(iter(domains.values()))
        return self.catalogue.draw(self.catalogue.by_name[names[rng.choice(len(names), p=weights)]], rng)


@dataclass(frozen=True)
class Batch:
    """The examples of one step.

    Attributes:
        mixture: `[batch, channels, samples]`, as is `target`.
        names: the canonical names asked for (`-name` for everything but it).
        present: False where the target is silence.
        examples: mono clips `[samples]` of the same name from elsewhere, or None.
    """

    mixture: NDArray[np.float32]
    target: NDArray[np.float32]
    prompts: list[str]
    names: list[str]
    present: NDArray[np.bool_]
    examples: list[NDArray[np.float32] | None]
    source_ids: list[str]


# Target, rest, prompt, name, whether the target sounds, example clip, the sound's name in the store.
_Example = tuple[Sound, Sound, str, str, bool, NDArray[np.float32] | None, str]


@final
class ExampleStream:
    """Batches of examples from a store, the same for the same seed and step; pickles without the audio."""

    def __init__(self, store: Store, config: MixConfig | None = None, seed: int = 0) -> None:
        self.config, self.seed, self.sample_rate_hz = config or MixConfig(), seed, store.sample_rate_hz
        self.catalogue = Catalog(store)
        self.sampler = Sampler(self.catalogue, self.config)
        self.n_samples = round(self.config.segment_seconds * store.sample_rate_hz)

    def batch(self, step: int, items: range | None = None) -> Batch:
        """Mix the batch of `step`, or the `items` of it that are asked for."""
        places = range(self.config.batch) if items is None else items
        examples = [self._example(np.random.default_rng((self.seed, step, place))) for place in places]
        targets, rests, prompts, names, present, clips, ids = map(list, zip(*examples, strict=True))
        target = np.stack(targets)
        mixture = target + np.stack(rests)
        if self.config.n_channels == 1:
            mixture, target = (sound.mean(axis=1, keepdims=True) for sound in (mixture, target))
        return Batch(mixture, target, prompts, names, np.array(present), clips, ids)

    def _example(self, rng: np.random.Generator) -> _Example:
        """Mix one example; draw again when the drawn window turns out silent."""
        for _ in range(20):
            name, index = self.sampler.target(rng)
            target, rest = self._target_and_rest(name, index, rng)
            if sounds.level_db(target) > -90 and sounds.level_db(rest) > -90:
                return self._finished(name, index, target, rest, rng)
        raise DatasetError(f"{self.catalogue.store.folder}: 20 draws in a row gave silence. Is the store damaged?")

    def _target_and_rest(self, name: str, index: int, rng: np.random.Generator) -> tuple[Sound, Sound]:
        """Return what answers, and what does not."""
        song = self.catalogue.songs.get(self.catalogue.items[index].song)
        own_song = self.config.vocals_own_song_probability if _is_vocal(name) else self.config.own_song_probability
        if song and rng.random() < own_song:
            target, rest = self._own_song(name, index, song, rng)
            if sounds.level_db(rest) > -70:
                return target, rest
        target = self._lone_target(name, index, song, rng)
        return self._among_others(name, target, rng)

    def _own_song(self, name: str, index: int, song: list[int], rng: np.random.Generator) -> tuple[Sound, Sound]:
        """Return what answers in a window of the song, and its other stems; both as in the song but for gains."""
        catalogue, remix_db = self.catalogue, self.config.source_level_db
        start = catalogue.start(index, self.n_samples, rng)
        sounding = [i for i in song if catalogue.sounds_in(i, start, self.n_samples)]
        matching = [i for i in song if name in catalogue.tags[i]]
        others = [i for i in sounding if i not in matching and not catalogue.is_unclear(name, i)]
        if len(others) > 2 and rng.random() < 0.3:
            others = list(rng.choice(others, size=rng.integers(1, len(others)), replace=False))
        target, rest = (
            sounds.stems(catalogue, chosen, start, self.n_samples, rng, remix_db) for chosen in (matching, others)
        )
        if rng.random() < 0.5:
            target, rest = target[::-1], rest[::-1]
        return target, rest

    def _lone_target(self, name: str, index: int, song: list[int] | None, rng: np.random.Generator) -> Sound:
        """Return the sound alone, or with the stems of its song that answer too."""
        catalogue = self.catalogue
        variation = self.config.vocals_variation if _is_vocal(name) else self.config.variation
        if not song or rng.random() < 0.3:
            return sounds.one_sound(catalogue, index, self.n_samples, variation, rng)
        n_read = sounds.varied_length(self.n_samples, variation, rng)
        start = catalogue.start(index, n_read, rng)
        matching = [i for i in song if name in catalogue.tags[i]]
        sound = sounds.stems(catalogue, matching, start, n_read, rng, self.config.source_level_db)
        return sounds.varied(sounds.respeed(sound, self.n_samples), catalogue, variation, rng)

    def _among_others(self, name: str, target: Sound, rng: np.random.Generator) -> tuple[Sound, Sound]:
        """Put sounds from elsewhere beside the target; those that answer as well are added to it."""
        config = self.config
        spread_db = config.source_level_db
        target = sounds.to_level(target, rng.uniform(-spread_db, spread_db) - 20)
        rest = np.zeros_like(target)
        n_others = int(rng.integers(config.n_sources[0], config.n_sources[1] + 1)) - 1
        while n_others > 0:
            sound, matches, weight = self._other(name, rng)
            n_others -= weight
            sound = sounds.to_level(sound, rng.uniform(-spread_db, spread_db) - 20)
            if matches:
                target = target + sound
            else:
                rest += sound
        return target, rest

    def _other(self, name: str, rng: np.random.Generator) -> tuple[Sound, bool, int]:
        """Draw a sound beside the target; tell whether it answers too, and how many sources it counts for."""
        is_bundle = self.catalogue.songs and rng.random() < self.config.bundle_probability
        if is_bundle and (bundle := self._bundle(name, rng)) is not None:
            return bundle, False, 3
        for _ in range(20):
            index = self.sampler.beside(name, rng)
            if not self.catalogue.is_unclear(name, index):
                sound = sounds.one_sound(self.catalogue, index, self.n_samples, self.config.variation, rng)
                return sound, name in self.catalogue.tags[index], 1
        return np.zeros((2, self.n_samples), dtype=np.float32), False, 1

    def _bundle(self, name: str, rng: np.random.Generator) -> Sound | None:
        """Draw a window of a song without what answers, or might answer, to `name`: a full accompaniment."""
        catalogue = self.catalogue
        if catalogue.bands and rng.random() < 0.5:
            band = catalogue.bands[rng.integers(len(catalogue.bands))]
            if not catalogue.is_unclear(name, band):
                return sounds.one_sound(catalogue, band, self.n_samples, self.config.variation, rng)
        song = catalogue.songs[catalogue.draw_song(rng)]
        others = [i for i in song if name not in catalogue.tags[i] and not catalogue.is_unclear(name, i)]
        if not others:
            return None
        start = catalogue.start(others[rng.integers(len(others))], self.n_samples, rng)
        sounding = [i for i in others if catalogue.sounds_in(i, start, self.n_samples)]
        sound = sounds.stems(catalogue, sounding, start, self.n_samples, rng, self.config.source_level_db)
        return sound[::-1] if rng.random() < 0.5 else sound

    def _finished(self, name: str, index: int, target: Sound, rest: Sound, rng: np.random.Generator) -> _Example:
        """Bring the example to its final levels and give it prompts, presence and an example clip."""
        config = self.config
        limit = config.max_target_rest_db
        difference_db = sounds.loudness_db(target) - sounds.level_db(rest)
        target = target * sounds.gain(np.clip(difference_db, -limit, limit) - difference_db)
        prompt, shown = phrase(name, rng, wording_probability=config.wording_probability), name
        clip = self._clip(name, index, rng) if rng.random() < config.example_probability else None
        roll = rng.random()
        complements = COMPLEMENTS.get(name, [])
        if complements and roll < config.complement_probability:
            prompt, shown, clip = complements[rng.integers(len(complements))], f"-{name}", None
            target, rest = rest, target
        elif roll > 1 - config.absent_probability:
            target = np.zeros_like(target)
        elif roll > 1 - config.absent_probability - config.target_only_probability:
            rest = np.zeros_like(rest)
        level_db = sounds.level_db(target + rest)
        factor = sounds.gain(rng.uniform(*config.mixture_level_db) - level_db)
        source_id = self.catalogue.items[index].id
        return target * factor, rest * factor, prompt, shown, bool(target.any()), clip, source_id

    def _clip(self, name: str, index: int, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Read a mono clip of the same name from another song or file, or return None."""
        catalogue = self.catalogue
        item = catalogue.items[index]
        same = catalogue.by_name[catalogue.names[index]] if name == catalogue.names[index] else catalogue.by_tag[name]
        elsewhere = [i for i in same if i != index and (not item.song or catalogue.items[i].song != item.song)]
        if not elsewhere:
            return None
        n_samples = round(self.config.example_seconds * catalogue.store.sample_rate_hz)
        chosen = catalogue.draw(elsewhere, rng)
        sound = sounds.one_sound(catalogue, chosen, n_samples, self.config.variation, rng)
        return sounds.to_level(sound, -20.0).mean(axis=0)


def _is_vocal(name: str) -> bool:
    return name == "vocals" or "vocals" in vocabulary.ancestors(name)
