"""A routing rule of one's own: questions in German.

unisep separate song.flac -q Schlagzeug --plugin german.py
"""

from unisep import Direction, Question, RouteSpec, hookimpl

ENGLISH = {
    "gesang": "vocals",
    "schlagzeug": "drums",
    "bass": "bass",
    "e-gitarre": "electric guitar",
    "geige": "violin",
    "klavier": "piano",
}


def ask_in_english(question: Question) -> Direction | None:
    """Return the English word for a German one; any other question is left to unisep."""
    if len(question.texts) != 1 or question.texts[0].casefold() not in ENGLISH:
        return None
    word = question.texts[0]
    english = ENGLISH[word.casefold()]
    return Direction(text=english, reason=f"'{word}' is German for '{english}'")


@hookimpl
def unisep_routes():
    return [RouteSpec(name="german", load="german:ask_in_english", summary="questions in German")]
