"""How training examples are mixed: one frozen value."""

from __future__ import annotations

import dataclasses

from pydantic import PositiveFloat, PositiveInt

from unisep_train.mixing.sources import Variation

PLAIN_VARIATION = Variation()
# Free recordings of singing are few: each is changed more.
VOCALS_VARIATION = Variation(respeed_probability=0.5, respeed_range=0.15, colour_probability=0.4)


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """How examples are mixed. Probabilities are of one example; levels in dB.

    negative_probability: of leaving a part out ("drums" without "kick drum") where the song holds it apart from others
        that answer; a third as often, of leaving out what is not part of the target, which changes nothing.
    """

    segment_seconds: PositiveFloat = 4.0
    batch: PositiveInt = 8
    n_channels: int = 2
    n_sources: tuple[int, int] = (2, 6)
    own_song_probability: float = 0.5
    vocals_own_song_probability: float = 0.35
    bundle_probability: float = 0.35
    absent_probability: float = 0.0
    target_only_probability: float = 0.03
    complement_probability: float = 0.08
    drums_share: float = 0.12
    vocals_share: float = 0.14
    bass_share: float = 0.10
    speech_share: float = 0.06
    universal_share: float = 0.14
    source_level_db: float = 5.0
    max_target_rest_db: float = 10.0
    mixture_level_db: tuple[float, float] = (-28.0, -16.0)
    variation: Variation = PLAIN_VARIATION
    vocals_variation: Variation = VOCALS_VARIATION
    negative_probability: float = 0.0
    example_seconds: float = 3.0
    example_probability: float = 1.0
