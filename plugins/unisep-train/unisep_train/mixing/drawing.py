"""Drawing what is asked for, and what stands beside it in a mixture."""

from __future__ import annotations

from typing import final

import numpy as np

from unisep_train.data import labels
from unisep_train.data.catalogue import Catalog
from unisep_train.mixing.config import MixConfig


@final
class Wishes:
    """Draws names and sounds of a catalogue with the shares a config states."""

    def __init__(self, catalogue: Catalog, config: MixConfig) -> None:
        self.catalogue = catalogue
        self.config = config

    def wish(self, rng: np.random.Generator) -> tuple[str, int]:
        """The canonical name asked for and a sound that answers to it."""
        config, catalogue = self.config, self.catalogue
        roll = rng.random()
        for name, share in (("drums", config.drums_share), ("vocals", config.vocals_share),
                            ("bass", config.bass_share)):  # fmt: skip
            if roll < share and name in catalogue.by_tag:
                index = catalogue.draw(catalogue.by_tag[name], rng)
                return (name if rng.random() < 0.7 else self._narrower(name, index)), index
            roll -= share
        index = self.any_of(self._domain(rng), rng)
        return self._name_of(index, rng), index

    def _narrower(self, name: str, index: int) -> str:
        """The sound's own label if that is a kind of `name`."""
        own = self.catalogue.names[index]
        return own if own == name or name in labels.ancestors(own) else name

    def _domain(self, rng: np.random.Generator) -> str:
        config = self.config
        others = 1 - config.drums_share - config.vocals_share - config.bass_share
        roll = rng.random() * others
        wished = "speech" if roll < config.speech_share else "universal"
        wished = wished if roll < config.speech_share + config.universal_share else "music"
        return wished if wished in self.catalogue.domains else next(iter(self.catalogue.domains))

    def any_of(self, domain: str, rng: np.random.Generator) -> int:
        """A sound of a domain: first a name, rare ones raised, then a sound of that name."""
        names, shares = self.catalogue.domains[domain]
        return self.catalogue.draw(self.catalogue.by_name[names[rng.choice(len(names), p=shares)]], rng)

    def _name_of(self, index: int, rng: np.random.Generator) -> str:
        """What to ask for to get this sound: mostly its label, else a synonym or a wider name."""
        own = self.catalogue.names[index]
        others = sorted(self.catalogue.tags[index] - {own} - labels.NOT_PROMPTS)
        return own if not others or rng.random() < 0.65 else others[rng.integers(len(others))]

    def beside(self, name: str, rng: np.random.Generator) -> int:
        """A sound such as stands beside `name` in music, or anything beside an everyday sound."""
        roll = rng.random()
        for role, share in (("drums", 0.22), ("vocals", 0.2), ("bass", 0.12)):
            if roll < share and role in self.catalogue.by_tag and role != name:
                return self.catalogue.draw(self.catalogue.by_tag[role], rng)
            roll -= share
        is_music = name in self.catalogue.by_tag and self.catalogue.domain(self.catalogue.by_tag[name][0]) == "music"
        music, speech = (0.84, 0.08) if is_music else (0.4, 0.2)
        roll = rng.random()
        domain = "music" if roll < music else "speech" if roll < music + speech else "universal"
        return self.any_of(domain if domain in self.catalogue.domains else next(iter(self.catalogue.domains)), rng)
