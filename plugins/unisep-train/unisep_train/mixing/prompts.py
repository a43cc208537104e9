"""What a user may type for a sound: spellings, templates and whole-song phrases."""

from __future__ import annotations

import numpy as np

from unisep_train.data import labels

TEMPLATES = (
    "the {}", "{} sound", "sound of {}", "the sound of {}", "isolate the {}", "only the {}", "extract {}",
    "{} track", "{} stem", "solo {}", "just the {}", "a recording of {}", "please separate the {}", "{} part",
)  # fmt: skip

# Prompts for all but one of the four stems.
COMPLEMENTS: dict[str, tuple[str, ...]] = {
    "vocals": ("instrumental", "accompaniment", "everything but the vocals", "backing track", "karaoke track",
               "music without vocals", "no vocals"),
    "drums": ("everything but the drums", "music without drums", "no drums", "everything except the drums"),
    "bass": ("everything but the bass", "music without bass", "no bass", "everything except the bass"),
}  # fmt: skip


def phrase(name: str, rng: np.random.Generator, plain_probability: float = 0.65) -> str:
    """A prompt for the canonical `name`: mostly the plain name, else another spelling or a template."""
    known = labels.spellings(name)
    text = known[0] if len(known) == 1 or rng.random() < 0.6 else known[rng.integers(1, len(known))]
    if rng.random() > plain_probability:
        text = TEMPLATES[rng.integers(len(TEMPLATES))].format(text).replace("the the ", "the ")
    return text.capitalize() if rng.random() < 0.07 else text


def complement(name: str, rng: np.random.Generator) -> str:
    """A prompt for everything but `name` (vocals, drums or bass)."""
    known = COMPLEMENTS[name]
    return known[rng.integers(len(known))]
