"""How training examples are mixed: frozen values, as they stand in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Variation:
    """How strongly a drawn sound may be changed.

    Attributes:
        respeed_range: as a share, up or down; pitch and tempo change together.
    """

    respeed_probability: float = 0.2
    respeed_range: float = 0.1
    colour_probability: float = 0.15


PLAIN_VARIATION = Variation()
UNCHANGED = Variation(respeed_probability=0.0, colour_probability=0.0)
# Free recordings of singing are few: each is changed more.
VOCALS_VARIATION = Variation(respeed_probability=0.5, respeed_range=0.15, colour_probability=0.4)


@dataclass(frozen=True)
class MixConfig:
    """How examples are mixed. Probabilities are of one example; levels in dB.

    Attributes:
        raised: how many times as often to draw sounds that answer to a name, among those of their domain.
        wording_probability: of asking in words of unisep's table of concepts, never those it holds out.
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
    raised: dict[str, PositiveFloat] = field(default_factory=dict)
    source_level_db: float = 5.0
    max_target_rest_db: float = 10.0
    mixture_level_db: tuple[float, float] = (-28.0, -16.0)
    variation: Variation = PLAIN_VARIATION
    vocals_variation: Variation = VOCALS_VARIATION
    wording_probability: float = 0.0
    example_seconds: float = 3.0
    example_probability: float = 1.0

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio in a batch."""
        return self.batch * self.segment_seconds


@dataclass(frozen=True)
class QueryMix:
    """How an item is asked for: shares of text and audio alone (the rest interpolates), and noise.

    Attributes:
        audio_from: the step before which all queries are text.
        noise: largest length of the random vector added to the unit query before it is brought back to length 1.
    """

    text_share: float = 0.5
    audio_share: float = 0.25
    audio_from: int = 0
    noise: float = 0.35
