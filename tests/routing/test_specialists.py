from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from unisep import BackendSpec, EncoderSpec
from unisep.errors import OptionError
from unisep.plugins.plugin import Plugin
from unisep.query.concepts import Meaning, concepts, named
from unisep.query.parsed import parse_queries
from unisep.routing import catalog as catalogs
from unisep.routing.catalog import Catalog, build_catalog
from unisep.routing.router import candidates, resolve
from unisep.routing.types import Request, Route

FILM = BackendSpec(name="film", load="m:f", summary="", spaces=("mini",), card="film")
MINI = EncoderSpec(name="mini", load="m:f", space="mini")
FAST = BackendSpec(
    name="fast", load="m:f", summary="", stems=("vocals", "music"), licence="MIT", card="fast",
    stem_queries={"vocals": ("vocals", "speech")},
)  # fmt: skip
STRONG = BackendSpec(name="strong", load="m:f", summary="", stems=("vocals", "drums"), licence="MIT", card="strong")
TALK = BackendSpec(name="talk", load="m:f", summary="", stems=("speech", "noise"), card="talk")
MEANINGS = {"chanteuse nue": Meaning("vocals", ("vocals", "speech")), "asdf": Meaning(None, ("bell", "rain"))}
FIGURES = {
    "film": {"vocals": 2.0, "speech": 4.0},
    "fast": {"vocals": 5.0, "speech": 7.0, "without vocals": 0.3},
    "strong": {"vocals": 8.0},
    "talk": {"speech": 5.0},
}


def catalog_of(
    *specs: BackendSpec | EncoderSpec, missing: str = "", figures: Mapping[str, dict[str, float]] = FIGURES
) -> Catalog:
    plugins = [Plugin(spec.name, f"dist-{spec.name}", "1", "ok", specs=(spec,)) for spec in specs]
    built = build_catalog(plugins, (), lambda spec: "missing" if spec.name in missing.split() else "present")
    return replace(built, quality=lambda card: figures.get(card, {}), meaning=MEANINGS.get)


def route_of(query: object, here: Catalog, **options: object) -> Route:
    return resolve(Request(parsed_queries=parse_queries(query), **options), here)  # type: ignore[arg-type]


ALL = partial(catalog_of, FILM, MINI, FAST, STRONG, TALK)


def test_the_best_of_those_that_are_here_answers() -> None:
    assert route_of("vocals", ALL()).plan["vocals"].backend == "strong"
    assert route_of("vocals", ALL(missing="strong")).plan["vocals"].backend == "fast"
    reason = route_of("the rapper", ALL()).plan["the rapper"].reason
    assert "'vocals' of 'strong'" in reason and "8.0 dB" in reason


def test_words_choose_among_the_figures_of_one_stem() -> None:
    assert route_of("male speech", ALL()).plan["male speech"].backend == "fast"
    assert route_of("speech", ALL(figures={**FIGURES, "talk": {"speech": 9.0}})).plan["speech"].backend == "talk"


def test_a_query_model_that_is_known_to_be_better_answers() -> None:
    figures = {**FIGURES, "film": {"vocals": 9.0}}
    route = route_of("vocals", ALL(figures=figures))
    assert route.plan["vocals"].backend == "film" and route.warning == ""
    assert route_of("vocals", ALL(figures=figures), route="fixed").plan["vocals"].backend == "strong"
    assert route_of("vocals", ALL(figures=figures), backend="fast").plan["vocals"].backend == "fast"


def test_a_specialist_without_figures_still_answers_and_comes_last() -> None:
    assert route_of("drums", ALL()).plan["drums"].backend == "strong"
    figures = {name: values for name, values in FIGURES.items() if name != "strong"}
    assert route_of("vocals", ALL(figures=figures)).plan["vocals"].backend == "fast"


def test_the_query_model_can_be_insisted_on() -> None:
    route = route_of("woman singing", ALL(), route="conditioned")
    assert route.plan["woman singing"].backend == "film" and len(route.tasks) == 1


def test_words_that_no_list_has_are_matched_by_their_meaning() -> None:
    assert route_of("chanteuse nue", ALL()).plan["chanteuse nue"].backend == "strong"
    assert route_of("chanteuse rouge", ALL()).plan["chanteuse rouge"].backend == "film"


def test_candidates_are_ranked_by_their_figures() -> None:
    (parsed,) = parse_queries("vocals")
    listed = candidates(parsed, Request(), ALL(missing="talk"))
    able = [(candidate.backend.name, candidate.level_db) for candidate in listed if candidate.is_able]
    assert able == [("strong", 8.0), ("fast", 5.0), ("film", 2.0)]


def test_words_far_from_every_sound_are_said_to_be_unknown() -> None:
    warning = route_of(["asdf", "violin"], ALL()).warning
    assert "'asdf' is far from all" in warning and "bell, rain" in warning and "violin" not in warning
    assert route_of("asdf", ALL(), query_backend="film").warning == ""


def test_rare_words_are_backed_by_the_name_of_their_concept() -> None:
    route = route_of(["fiddle", "violin", "chanteuse nue"], ALL(missing="strong fast"), route="conditioned")
    asked = {target.name: target.parsed.query.texts for target in route.tasks[0].targets if target.parsed}
    assert asked == {
        "fiddle": ("fiddle", "violin"),
        "violin": ("violin",),
        "chanteuse nue": ("chanteuse nue", "vocals"),
    }
    assert "backed by 'violin'" in route.plan["fiddle"].reason and "backed" not in route.plan["violin"].reason
    (target,) = route_of("fiddle", ALL(), query_backend="film").tasks[0].targets
    assert target.parsed is not None and target.parsed.query.texts == ("fiddle",)


def test_a_card_is_read_once_a_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []
    monkeypatch.setattr(catalogs, "figures_at", lambda place: places.append(place) or {})
    plugins = [Plugin(spec.name, f"dist-{spec.name}", "1", "ok", specs=(spec,)) for spec in (FILM, MINI, FAST, STRONG)]
    here = build_catalog(plugins, (), lambda spec: "present")
    for _ in range(3):
        route_of(["vocals", "violin"], here)
    assert sorted(places) == ["fast", "film", "strong"]


# cascades


def test_vocals_are_taken_out_before_an_instrument_is_looked_for() -> None:
    route = route_of(["synth pad", "organ", "vocals", "rain"], ALL(missing="strong"))
    fast, *film = route.tasks
    assert [(target.name, target.stem, target.is_result) for target in fast.targets] == [
        ("vocals", "vocals", True),
        ("(vocals)", "vocals", False),
    ]
    hears = {target.name: task.without for task in film for target in task.targets}
    assert hears == {"synth pad": fast.targets[1:], "organ": fast.targets[1:], "rain": ()}
    assert list(route.plan) == ["synth pad", "organ", "vocals", "rain"]
    assert "without 'vocals' of 'fast' (MIT, 5.0 dB)" in route.plan["organ"].reason
    assert "without" not in route.plan["rain"].reason


def test_only_a_gain_that_was_measured_makes_a_cascade() -> None:
    for here in (ALL(missing="fast"), ALL(figures={**FIGURES, "fast": {"vocals": 5.0, "without vocals": -0.1}})):
        assert [task.backend.name for task in route_of("piano", here).tasks] == ["film"]


@pytest.mark.parametrize(
    "query, options",
    [
        ("piano", {"cascade": "off"}),
        ("piano", {"route": "conditioned"}),
        ("piano", {"query_backend": "film"}),
        ("backing vocals", {}),
        ("electric guitar", {}),
        ("kick drum", {}),
        ("theremin", {}),
        ("rain", {}),
        ("an unheard-of thing", {}),
        ({"text": ["piano", "a dog barking"]}, {}),
    ],
)
def test_where_there_is_no_cascade(query: object, options: dict[str, str]) -> None:
    assert [task.backend.name for task in route_of(query, ALL(missing="strong"), **options).tasks] == ["film"]


def test_what_is_taken_out_is_computed_only_about_the_times_that_are_asked_for() -> None:
    queries = [{"text": "piano", "time_range": (20, 30)}, {"text": "organ", "time_range": (50, 60)}]
    (hidden,) = route_of(queries, ALL()).tasks[0].targets
    assert hidden.time_range == (8.0, 72.0)
    (hidden,) = route_of([*queries, "synth pad"], ALL()).tasks[0].targets
    assert hidden.time_range is None


def test_an_unknown_cascade_is_refused() -> None:
    with pytest.raises(OptionError, match=r"cascade='always' is unknown\. Possible: auto, off"):
        route_of("piano", ALL(), cascade="always")


def test_fixed_stems_without_a_model_for_all_come_from_whom_there_is() -> None:
    here = ALL(missing="strong")
    route = resolve(Request(offline=True), here)
    assert {name: choice.backend for name, choice in route.plan.items()} == {
        "drums": "film", "bass": "film", "other": "film", "vocals": "fast",
    }  # fmt: skip
    assert route.tasks[1].without == route.tasks[0].targets[1:]
    assert route.remainder == "other" and "'fast' and 'film'" in route.warning
    assert len(resolve(Request(offline=True, cascade="off"), here).tasks[1].without) == 0


# words


def test_known_words_are_looked_up_and_held_out_ones_are_not() -> None:
    assert named("The  SINGER") == "vocals"
    assert all(named(wording) is None for concept in concepts().values() for wording in concept.held_out)


def test_vectors_of_clap_mini_match_words_to_stems() -> None:
    """Measured at the threshold of clap-mini: precision 0.979, recall 0.944."""
    pool = pytest.importorskip("unisep").Separator()._pool
    phrases = tomllib.loads((Path(__file__).parent / "phrases.toml").read_text(encoding="utf-8"))
    stems = set(phrases) - {"none"}
    n_right = n_wrong = n_asked = 0
    for stem, texts in phrases.items():
        for text in texts:
            name = named(text) or pool.meaning(text).concept
            answer = concepts()[name].stem if name else ""
            n_right += answer == stem
            n_wrong += answer in stems and answer != stem
            n_asked += stem in stems
    assert n_asked == 250
    assert n_right / (n_right + n_wrong) >= 0.95
    assert n_right / n_asked >= 0.88
