from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unisep import BackendSpec, Embedding, EncoderSpec, Query
from unisep.errors import DownloadError, EmbeddingError, OptionError, PluginError, QueryError
from unisep.plugins.plugin import Plugin
from unisep.query.parsed import parse_queries
from unisep.routing.catalog import Catalog, build_catalog
from unisep.routing.router import resolve
from unisep.routing.types import Request, Route
from unisep.testing import tone

FOUR = ("drums", "bass", "other", "vocals")
SIX = (*FOUR, "guitar", "piano")


def backend(name: str, stems: tuple[str, ...] = (), spaces: tuple[str, ...] = (), **more: str) -> BackendSpec:
    return BackendSpec(name=name, load="m:f", summary="", stems=stems, spaces=spaces, **more)


def encoder(name: str, space: str, *modalities: str) -> EncoderSpec:
    return EncoderSpec(name=name, load="m:f", space=space, modalities=frozenset(modalities or ("text", "audio")))


HTDEMUCS = backend("htdemucs", FOUR, licence="MIT")
SIX_STEMS = backend("htdemucs_6s", SIX)
FINE_TUNED = backend("htdemucs_ft", FOUR)
FILM = backend("htdemucs-film", spaces=("mini", "clap"), licence="CC0-1.0")
MINI = encoder("clap-mini", "mini")
CLAP = encoder("clap", "clap")
ALL = (HTDEMUCS, SIX_STEMS, FINE_TUNED, FILM, MINI, CLAP)


def installed(*specs: BackendSpec | EncoderSpec, missing: str = "", own: str = "") -> Catalog:
    """One plugin for each spec; the weights of those named in `missing` are not here."""
    plugins = [Plugin(spec.name, f"dist-{spec.name}", "1", "ok", specs=(spec,)) for spec in specs]
    return build_catalog(plugins, own.split(), lambda spec: "missing" if spec.name in missing.split() else "present")


def route_of(query: object = None, here: Catalog | None = None, **options: object) -> Route:
    parsed_queries = None if query is None else parse_queries(query)
    return resolve(Request(parsed_queries=parsed_queries, **options), here or installed(*ALL))  # type: ignore[arg-type]


def who(route: Route) -> dict[str, str]:
    return {name: choice.backend for name, choice in route.plan.items()}


# fixed stems


def test_fixed_stems_come_from_htdemucs() -> None:
    route = route_of()
    assert who(route) == dict.fromkeys(FOUR, "htdemucs")
    assert route.warning == ""
    assert {choice.encoder for choice in route.plan.values()} == {None}
    assert route.plan["bass"].licence == "MIT"


def test_fixed_stems_are_to_be_downloaded_when_online() -> None:
    route = route_of(here=installed(*ALL, missing="htdemucs"))
    assert route.plan["bass"].backend == "htdemucs"
    assert route.plan["bass"].weights == "missing"
    assert route.warning == ""


def test_a_stem_that_only_another_backend_has_goes_there() -> None:
    assert who(route_of(stems=("guitar", "bass"))) == {"guitar": "htdemucs_6s", "bass": "htdemucs_6s"}


def test_capitals_make_no_other_stem() -> None:
    assert who(route_of(stems=("VOCALS", "Bass"))) == {"vocals": "htdemucs", "bass": "htdemucs"}
    assert who(route_of(stems=("Guitar",))) == {"guitar": "htdemucs_6s"}


def test_an_unknown_stem_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"no stem named 'kazoo'\. Its stems: drums, bass, other, vocals"):
        route_of(stems=("kazoo",))
    with pytest.raises(OptionError, match="'htdemucs' has no stem named 'guitar'"):
        route_of(stems=("guitar",), backend="htdemucs")
    for nonsense in ((), ("bass", "bass")):
        with pytest.raises(OptionError, match="empty or doubled"):
            route_of(stems=nonsense)


@pytest.mark.parametrize("why", [{"offline": True}, {"download_failed": "no route to host"}])
def test_without_any_weights_the_query_model_steps_in_and_says_so(why: dict) -> None:
    here = installed(*ALL, missing="htdemucs htdemucs_6s htdemucs_ft")
    route = route_of(here=here, **why)
    assert who(route) == dict.fromkeys(FOUR, "htdemucs-film")
    assert [target.name for task in route.tasks for target in task.targets] == ["drums", "bass", "vocals"]
    assert route.remainder == "other"
    assert "weaker" in route.warning
    assert "unisep models pull htdemucs" in route.warning
    assert why.get("download_failed", "") in route.warning
    assert "In place of a backend with all stems" in route.plan.reason
    assert route.plan["vocals"].encoder == "clap-mini"


def test_in_its_place_only_what_is_needed_is_asked() -> None:
    here = installed(*ALL, missing="htdemucs htdemucs_6s htdemucs_ft")
    vocals = route_of(here=here, offline=True, stems=("vocals",))
    assert [target.name for target in vocals.tasks[0].targets] == ["vocals"]
    assert vocals.remainder == ""
    other = route_of(here=here, offline=True, stems=("other",))
    assert [target.name for target in other.tasks[0].targets] == ["drums", "bass", "vocals"]
    assert (list(other.plan), other.remainder) == (["other"], "other")
    with pytest.raises(OptionError, match="no stem named 'piano'"):
        route_of(here=installed(HTDEMUCS, FILM, MINI, missing="htdemucs"), offline=True, stems=("piano",))


@pytest.mark.parametrize(("figures", "who_gives"), [
    ({"ft": 9.0, "default": 8.8}, "htdemucs_ft"), ({"ft": 8.0, "default": 8.8}, "htdemucs"),
    ({"ft": 9.0}, "htdemucs"), ({"default": 8.8}, "htdemucs"),
])  # fmt: skip
def test_what_is_here_and_known_to_be_as_good_spares_a_download(figures: dict[str, float], who_gives: str) -> None:
    default, tuned = replace(HTDEMUCS, card="default"), replace(FINE_TUNED, card="ft")
    here = installed(default, tuned, SIX_STEMS, FILM, MINI, missing="htdemucs htdemucs_6s")
    here = replace(here, quality=lambda card: dict.fromkeys(FOUR, figures[card]) if card in figures else {})
    route = route_of(here=here)
    assert set(who(route).values()) == {who_gives} and route.warning == ""
    assert set(who(route_of(here=here, offline=True)).values()) == {"htdemucs_ft"}
    assert (route_of(here=here, offline=True).warning == "") is (who_gives == "htdemucs_ft")
    here = replace(here, backends=tuple(replace(entry, weights="present") for entry in here.backends))
    assert set(who(route_of(here=here)).values()) == {"htdemucs"}


def test_another_model_with_these_stems_comes_before_the_query_model() -> None:
    route = route_of(here=installed(*ALL, missing="htdemucs htdemucs_6s"), offline=True)
    assert set(who(route).values()) == {"htdemucs_ft"}
    assert "'htdemucs' are not here" in route.warning
    assert route.warning in route.plan.reason


def test_a_backend_with_other_stems_is_no_substitute() -> None:
    odd = backend("classic", ("harmonic", "percussive"))
    here = installed(odd, HTDEMUCS, FILM, MINI, missing="htdemucs")
    assert set(who(route_of(here=here, offline=True)).values()) == {"htdemucs-film"}
    assert set(who(route_of(here=installed(odd, FILM, MINI))).values()) == {"htdemucs-film"}
    assert list(route_of(here=installed(odd)).plan) == ["harmonic", "percussive"]


def test_who_insists_gets_an_error_rather_than_a_substitute() -> None:
    here = installed(*ALL, missing="htdemucs htdemucs_6s htdemucs_ft")
    for options in ({"backend": "htdemucs"}, {"route": "fixed"}):
        with pytest.raises(DownloadError, match="unisep models pull htdemucs"):
            route_of(here=here, offline=True, **options)
    with pytest.raises(DownloadError, match="the download failed: cut"):
        route_of(here=here, backend="htdemucs", download_failed="cut")


@pytest.mark.parametrize("why", [{"offline": True}, {"download_failed": "cut"}])
def test_a_stem_that_the_query_model_has_not_needs_the_weights(why: dict) -> None:
    here = installed(*ALL, missing="htdemucs htdemucs_6s htdemucs_ft")
    with pytest.raises(DownloadError, match="unisep models pull htdemucs_6s"):
        route_of(here=here, stems=("Guitar", "drums"), **why)
    with pytest.raises(OptionError, match="no stem named 'kazoo'"):
        route_of(here=here, stems=("kazoo",), **why)


def test_with_nothing_to_step_in_both_ways_out_are_named() -> None:
    with pytest.raises(PluginError, match=r"unisep models pull htdemucs.*pip install unisep-film"):
        route_of(here=installed(HTDEMUCS, missing="htdemucs"), offline=True)
    with pytest.raises(PluginError, match="pip install unisep-htdemucs"):
        route_of(here=installed())


def test_without_a_fixed_backend_the_query_model_answers() -> None:
    route = route_of(here=installed(FILM, MINI))
    assert set(who(route).values()) == {"htdemucs-film"}
    assert "pip install unisep-htdemucs" in route.warning


def test_conditioned_stems_on_request_need_no_warning() -> None:
    route = route_of(route="conditioned")
    assert set(who(route).values()) == {"htdemucs-film"}
    assert route.warning == ""


@pytest.mark.parametrize("name", ["htdemucs-film", "dist-htdemucs-film:htdemucs-film"])
def test_the_query_model_may_be_named_for_the_stems(name: str) -> None:
    route = route_of(backend=name)
    assert who(route) == dict.fromkeys(FOUR, "htdemucs-film")
    assert (route.warning, route.remainder) == ("", "other")
    other = backend("other", spaces=("clap",))
    here = installed(*ALL, other)
    assert set(who(route_of(here=here, backend=name, query_backend="other")).values()) == {"htdemucs-film"}
    assert who(route_of("oboe", here, backend=name, query_backend="other")) == {"oboe": "other"}
    assert who(route_of(["oboe", "drums"], here, backend="other")) == {"oboe": "other", "drums": "other"}


# queries


def test_a_backend_for_those_who_name_it_takes_no_query_from_the_query_model() -> None:
    classic = BackendSpec(name="classic", load="m:f", summary="", stems=("percussive", "drums"), only_by_name=True)
    here = installed(classic, *ALL)
    assert who(route_of(["percussive", "drums"], here)) == {"percussive": "htdemucs-film", "drums": "htdemucs"}
    assert who(route_of("percussive", here, backend="classic")) == {"percussive": "classic"}
    assert who(route_of("percussive", here, route="fixed")) == {"percussive": "classic"}
    assert who(route_of("percussive", installed(classic, HTDEMUCS))) == {"percussive": "classic"}


def test_a_query_goes_to_the_query_model_with_its_first_space() -> None:
    route = route_of("electric guitar")
    assert who(route) == {"electric guitar": "htdemucs-film"}
    assert (route.tasks[0].space, route.plan["electric guitar"].encoder) == ("mini", "clap-mini")
    assert route.warning == ""


@pytest.mark.parametrize("text", ["vocals", "Vocals", " the vocals ", "singing"])
def test_a_query_that_names_a_stem_goes_to_the_model_that_has_it(text: str) -> None:
    route = route_of(text)
    (name,) = route.plan
    assert route.plan[name].backend == "htdemucs"
    assert "which gives it directly" in route.plan[name].reason
    assert route.tasks[0].targets[0].stem == "vocals"


@pytest.mark.parametrize("query", ["backing vocals", "kick drum", {"text": "vocals", "exclude": "choir"}])
def test_a_query_that_names_a_part_of_a_stem_does_not(query: object) -> None:
    assert set(who(route_of(query)).values()) == {"htdemucs-film"}


def test_a_time_range_may_go_to_a_stem() -> None:
    (target,) = route_of({"text": "drums", "time_range": (1, 2)}).tasks[0].targets
    assert (target.stem, target.time_range) == ("drums", (1.0, 2.0))


def test_several_queries_are_split_and_stay_in_order() -> None:
    route = route_of(["electric guitar", "drums", "piano", "hi-hat"])
    assert list(who(route).items()) == [
        ("electric guitar", "htdemucs-film"),
        ("drums", "htdemucs"),
        ("piano", "htdemucs_6s"),
        ("hi-hat", "htdemucs-film"),
    ]
    assert [len(task.targets) for task in route.tasks] == [1, 1, 2]


def test_routing_a_query_never_downloads_and_says_what_would_be_better() -> None:
    route = route_of(["drums", "oboe"], installed(*ALL, missing="htdemucs htdemucs_6s htdemucs_ft"))
    assert set(who(route).values()) == {"htdemucs-film"}
    assert "unisep models pull htdemucs" in route.warning
    assert "drums" in route.warning
    assert "oboe" not in route.warning
    assert "weaker" in route.plan["drums"].reason
    assert "weaker" not in route.plan["oboe"].reason


def test_a_backend_that_was_named_may_download_for_a_query() -> None:
    here = installed(*ALL, missing="htdemucs")
    assert who(route_of("drums", here, backend="htdemucs")) == {"drums": "htdemucs"}
    offline = route_of("drums", here, backend="htdemucs", offline=True)
    assert who(offline) == {"drums": "htdemucs-film"}
    assert offline.warning


def test_only_the_named_backend_is_considered_for_stems() -> None:
    assert who(route_of("piano", backend="htdemucs")) == {"piano": "htdemucs-film"}


def test_the_route_can_be_insisted_on() -> None:
    assert who(route_of("drums", route="conditioned")) == {"drums": "htdemucs-film"}
    assert who(route_of("drums", route="fixed")) == {"drums": "htdemucs"}
    with pytest.raises(OptionError, match="names no stem of an installed backend"):
        route_of("oboe", route="fixed")
    with pytest.raises(DownloadError, match="unisep models pull htdemucs"):
        route_of("drums", installed(HTDEMUCS, missing="htdemucs"), route="fixed")
    with pytest.raises(OptionError, match="Possible: auto, fixed, conditioned"):
        route_of("drums", route="fastest")


def test_stems_and_queries_do_not_go_together() -> None:
    with pytest.raises(OptionError, match="leave it out"):
        route_of("drums", stems=("bass",))


def test_the_users_own_weights_state_the_stems() -> None:
    here = installed(*ALL, own="dist-htdemucs:htdemucs")
    options = {"backend": "dist-htdemucs:htdemucs", "own_stems": ("frogs", "rain")}
    assert list(route_of(here=here, **options).plan) == ["frogs", "rain"]
    assert who(route_of("frogs", here, **options)) == {"frogs": "htdemucs"}
    assert who(route_of("drums", here, **options)) == {"drums": "htdemucs-film"}
    assert route_of(here=here, **options).plan["rain"].weights == "local"


# names


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(PluginError, match=r"No backend named 'htdemuc' is installed\. Did you mean 'htdemucs'\?"):
        route_of(backend="htdemuc")
    with pytest.raises(PluginError, match="No encoder named 'clip'"):
        route_of("oboe", encoder="clip")


def test_an_unknown_name_tells_of_broken_plugins() -> None:
    broken = Plugin("film", "unisep-film", "1", "broken", "Traceback ...")
    here = build_catalog([broken], (), lambda spec: "present")
    with pytest.raises(PluginError, match=r"'film' of unisep-film is broken\. Run `unisep plugins`"):
        route_of(here=here, backend="htdemucs")
    with pytest.raises(PluginError, match="unisep-film is installed but broken"):
        route_of("oboe", here)


def test_two_claims_to_a_name_matter_only_when_it_is_asked_for() -> None:
    other = Plugin("x", "impostor", "1", "ok", specs=(backend("htdemucs", FOUR),))
    mine = Plugin("y", "unisep-htdemucs", "1", "ok", specs=(HTDEMUCS,))
    film = Plugin("z", "unisep-film", "1", "ok", specs=(FILM, MINI))
    here = build_catalog([other, mine, film], (), lambda spec: "present")
    assert who(route_of("oboe", here)) == {"oboe": "htdemucs-film"}
    with pytest.raises(
        PluginError, match="'x' of impostor and 'y' of unisep-htdemucs both offer a backend named 'htdemucs'"
    ):
        route_of(here=here, backend="htdemucs")
    chosen = route_of(here=here, backend="unisep-htdemucs:htdemucs")
    assert chosen.tasks[0].backend.distribution == "unisep-htdemucs"


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        (["local one", "local two"], "one.py and two.py both .* Give only one of them with plugins="),
        (["registered A", "registered A-2"], "'A' of registered and 'A-2' of registered both .* Give only one"),
        (["d one", "d two"], "'one' of d and 'two' of d both .* Leave one out, as with UNISEP_PLUGINS=-d:one"),
        (
            ["d x", "local one"],
            "'x' of d and one.py both .* Choose one with 'd:htdemucs' or 'local:htdemucs', or leave",
        ),
        (["local one", "local two", "d x"], "Choose one with 'd:htdemucs', or leave out the others"),
        (["local one", "local one"], "one.py offers the backend 'htdemucs' twice"),
    ],
)
def test_of_two_claims_to_a_name_both_are_named_with_what_can_be_done(owners: list[str], message: str) -> None:
    claims = [Plugin(each.split()[1], each.split()[0], "1", "ok", specs=(HTDEMUCS,)) for each in owners]
    here = build_catalog(claims, (), lambda spec: "present")
    with pytest.raises(PluginError, match=message):
        here.backend("htdemucs")


def test_a_backend_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(OptionError, match="give it as query_backend="):
        route_of(backend="htdemucs-film", route="fixed")
    with pytest.raises(OptionError, match="does not answer queries; give it as backend="):
        route_of("oboe", query_backend="htdemucs")


# query backends, encoders and spaces


def test_a_query_model_without_weights_is_not_chosen_but_may_be_named() -> None:
    big = backend("big", spaces=("mini",))
    assert who(route_of("oboe", installed(FILM, big, MINI, missing="htdemucs-film"))) == {"oboe": "big"}
    with pytest.raises(DownloadError, match="unisep models pull htdemucs-film"):
        route_of("oboe", installed(FILM, MINI, missing="htdemucs-film"))
    here = installed(FILM, MINI, missing="htdemucs-film")
    assert who(route_of("oboe", here, query_backend="htdemucs-film")) == {"oboe": "htdemucs-film"}
    with pytest.raises(DownloadError, match="downloads are off"):
        route_of("oboe", here, query_backend="htdemucs-film", offline=True)


def test_a_vector_chooses_its_space_and_needs_no_encoder() -> None:
    route = route_of({"embedding": Embedding(np.ones(4), "clap")}, installed(FILM))
    assert route.tasks[0].space == "clap"
    assert route.plan["embedding-1"].encoder is None


def test_a_vector_and_a_text_share_a_space() -> None:
    query = {"text": "oboe", "embedding": Embedding(np.ones(4), "clap")}
    assert route_of(query).plan["oboe"].encoder == "clap"


def test_queries_in_two_spaces_are_two_tasks() -> None:
    route = route_of(["oboe", {"embedding": Embedding(np.ones(4), "clap")}, "flute"])
    assert [(task.space, len(task.targets)) for task in route.tasks] == [("mini", 2), ("clap", 1)]


def test_a_vector_chooses_a_backend_that_knows_its_space() -> None:
    other = backend("other-model", spaces=("rare",))
    assert who(route_of({"embedding": Embedding(np.ones(4), "rare")}, installed(FILM, MINI, other))) == {
        "embedding-1": "other-model"
    }


def test_an_unknown_space_is_refused_and_the_encoders_that_would_do_are_named() -> None:
    with pytest.raises(EmbeddingError, match=r"space 'mars', which 'htdemucs-film' does not know.*clap-mini, clap"):
        route_of({"embedding": Embedding(np.ones(4), "mars")})
    with pytest.raises(EmbeddingError, match="'martian' is of the space 'mars'"):
        route_of("oboe", installed(FILM, MINI, encoder("martian", "mars")), encoder="martian")
    vectors = [Embedding(np.ones(4), "mini"), Embedding(np.ones(4), "clap")]
    with pytest.raises(EmbeddingError, match="mixes vectors of the spaces clap, mini"):
        route_of(Query(embedding=vectors[0], exclude=vectors[1]))


def test_the_encoder_can_be_named() -> None:
    assert route_of("oboe", encoder="clap").tasks[0].space == "clap"


def test_an_encoder_must_encode_what_the_query_is_made_of() -> None:
    reader, listener = encoder("reader", "mini", "text"), encoder("listener", "mini", "audio")
    here = installed(FILM, reader, listener)
    assert route_of("oboe", here).plan["oboe"].encoder == "reader"
    assert route_of(tone(), here).plan["example-1"].encoder == "listener"
    together = route_of(["oboe", tone()], here)
    assert [target.encoder.name for target in together.tasks[0].targets if target.encoder] == ["reader", "listener"]
    with pytest.raises(QueryError, match=r"takes audio and text for 'oboe'.*listener \(audio\)"):
        route_of({"text": "oboe", "audio": tone()}, here)
    with pytest.raises(QueryError, match="'reader' encodes text, and 'example-1' needs audio"):
        route_of(tone(), here, encoder="reader")


def test_an_encoder_without_weights_is_not_chosen() -> None:
    assert route_of("oboe", installed(*ALL, missing="clap-mini")).plan["oboe"].encoder == "clap"
    with pytest.raises(DownloadError, match="unisep models pull clap-mini"):
        route_of("oboe", installed(FILM, MINI, missing="clap-mini"))
    with pytest.raises(PluginError, match="pip install unisep-clap"):
        route_of("oboe", installed(FILM))


def test_a_card_that_cannot_be_read_counts_as_weights_that_are_not_here() -> None:
    film = Plugin("z", "unisep-film", "1", "ok", specs=(FILM, MINI))
    here = build_catalog([film], (), lambda spec: "broken" if spec is FILM else "present")
    with pytest.raises(DownloadError, match="pip install --force-reinstall --no-deps unisep-film"):
        route_of("oboe", here)


def test_routing_is_pure() -> None:
    here = installed(*ALL)
    assert who(route_of(["drums", "oboe"], here)) == who(route_of(["drums", "oboe"], here))
