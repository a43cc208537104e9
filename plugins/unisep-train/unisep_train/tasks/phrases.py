"""Short phrases to learn language from: names of sounds first, then the whole dictionary."""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from hashlib import md5
from importlib import resources
from itertools import permutations
from pathlib import Path

from unisep_evaluate.datasets import ManifestLine

_WORDS = tomllib.loads(resources.files(__package__).joinpath("phrases.toml").read_text(encoding="utf-8"))
TEMPLATES: tuple[str, ...] = tuple(_WORDS["templates"])
# Names of sounds that training never sees, to measure and test what the tower makes of new words.
HELD_OUT_WORDS: frozenset[str] = frozenset(_WORDS["held_out"])
_SYNONYM, _BROADER = 1.0, 0.25


@dataclass(frozen=True)
class Links:
    """Names of sounds and which of them mean the same: (name, other name, strength 0..1)."""

    names: tuple[str, ...]
    pairs: tuple[tuple[str, str, float], ...]


def is_held_out(phrase: str, keep: frozenset[str], one_in: int = 40) -> bool:
    """Tell whether a word of the phrase is one that training must never see (chosen by its hash)."""
    words = set(re.findall(r"[a-z]+", phrase.lower()))
    drawn = (word for word in words - keep if len(word) > 3)
    hashes = (int(md5(word.encode(), usedforsecurity=False).hexdigest(), 16) for word in drawn)
    return bool(words & HELD_OUT_WORDS) or any(number % one_in == 0 for number in hashes)


def sound_links(manifest: Path | None) -> Links:
    """Link synonyms, and labels with their synonyms from a corpus manifest.

    A synonym that many labels share ("guitar") is a broader word: it links weakly.
    """
    pairs = [(*pair, _SYNONYM) for group in _WORDS["synonyms"] for pair in permutations(group, 2)]
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest else []
    rows = [ManifestLine.model_validate_json(line) for line in lines]
    synonyms = {row.label: sorted({*row.synonyms} - {row.label}) for row in rows}
    n_labels = Counter(synonym for of_label in synonyms.values() for synonym in of_label)
    for label, of_label in synonyms.items():
        pairs += [(label, name, _BROADER if n_labels[name] > 2 else _SYNONYM) for name in of_label]
    names = sorted({name for first, second, _ in pairs for name in (first, second)})
    return Links(tuple(names), tuple(pairs))


def split(links: Links, more: list[str], wordnet: Path, words: Path | None) -> tuple[list[str], list[str], list[str]]:
    """Return names of sounds and all phrases to learn, and phrases held out.

    No word of the linked names is held out but for `HELD_OUT_WORDS`. `more` are further names of sounds.
    """
    keep = frozenset(re.findall(r"[a-z]+", " ".join(links.names).lower()))
    sounds = [*links.names, *(name.strip().lower() for name in more if name.strip() not in ("", *links.names))]
    listed = dictionary_phrases(wordnet, words, sounds)
    held_out = [phrase for phrase in listed if is_held_out(phrase, keep)]
    known = [phrase for phrase in listed if not is_held_out(phrase, keep)]
    return [name for name in sounds if not is_held_out(name, keep)], known, held_out


def dictionary_phrases(wordnet: Path, extra_words: Path | None, sounds: list[str], seed: int = 0) -> list[str]:
    """List nouns, two-word phrases, things doing something and modified sounds, in a fixed order."""
    generator = random.Random(seed)
    nouns = _wordnet_lemmas(wordnet / "data.noun", _WORDS["noun_files"])
    sounding = _wordnet_lemmas(wordnet / "data.noun", _WORDS["sounding_files"])
    adjectives = [word for word in _wordnet_lemmas(wordnet / "data.adj", None) if " " not in word]
    gerunds = [_gerund(verb) for verb in _wordnet_lemmas(wordnet / "data.verb", None) if " " not in verb]
    words = extra_words.read_text(encoding="utf-8").split() if extra_words else []
    words = [word.lower() for word in words if "'" not in word]

    def pick(n: int, first: list[str], second: list[str]) -> list[str]:
        return [f"{generator.choice(first)} {generator.choice(second)}" for _ in range(n)]

    phrases = nouns + gerunds + generator.sample(words, min(len(words), 15_000))
    phrases += pick(25_000, adjectives, nouns) + pick(12_000, sounding, gerunds) + pick(8_000, nouns, nouns)
    phrases += pick(15_000, _WORDS["modifiers"], sounds)
    pairs = zip(generator.choices(sounds, k=4_000), generator.choices(sounds, k=4_000), strict=True)
    phrases += [f"{first} and {second}" for first, second in pairs]
    return sorted(set(phrases))


def _wordnet_lemmas(path: Path, files: list[str] | None) -> list[str]:
    """Read lower-case lemmas of a WordNet data file (licence notice lines start with a space)."""
    lemmas: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        _, file, _, n_words, *rest = line.split(" ")
        if files is None or file in files:
            lemmas.update(word.split("(")[0] for word in rest[: 2 * int(n_words, 16) : 2])
    return sorted(lemma.replace("_", " ") for lemma in lemmas if lemma.islower() and not re.search(r"\d", lemma))


def _gerund(verb: str) -> str:
    return (verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) else verb) + "ing"
