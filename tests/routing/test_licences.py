"""Licences as a filter: only what they allow may answer, and what they leave out is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unisep import BackendSpec, Direction, EncoderSpec, RouteSpec
from unisep.ensemble.assembly import assemble
from unisep.ensemble.definition import Ensemble
from unisep.errors import DownloadError, OptionError, PluginError
from unisep.plugins.plugin import Plugin
from unisep.query.parsed import parse_queries
from unisep.routing.catalog import Catalog, CatalogEntry, build_catalog
from unisep.routing.licences import COMMERCIAL, allows, checked_licences
from unisep.routing.router import candidates, resolve, stronger
from unisep.routing.types import Request, Route

FOUR = ("drums", "bass", "other", "vocals")


def backend(name: str, licence: str, stems: tuple[str, ...] = (), spaces: tuple[str, ...] = ()) -> BackendSpec:
    return BackendSpec(name=name, load="m:f", summary="", stems=stems, spaces=spaces, licence=licence)


def encoder(name: str, licence: str) -> EncoderSpec:
    return EncoderSpec(name=name, load="m:f", space="space", licence=licence)


HTDEMUCS = backend("htdemucs", "", FOUR)
SPLEETER = backend("spleeter", "MIT", FOUR)
FILM = backend("htdemucs-film", "CC-BY-SA-4.0", spaces=("space",))
ENCODER, OTHER_ENCODER = encoder("a-encoder", "CC-BY-NC-4.0"), encoder("b-encoder", "Apache-2.0")
ALL = (HTDEMUCS, SPLEETER, FILM, ENCODER, OTHER_ENCODER)


def installed(
    *specs: BackendSpec | EncoderSpec | RouteSpec, missing: str = "", bare: str = "", own: str = ""
) -> Catalog:
    """One plugin for each spec, whose weights are here but for those in `missing`; those in `bare` need none."""
    plugins = [Plugin(spec.name, f"dist-{spec.name}", "1", "ok", specs=(spec,)) for spec in specs]

    def state(spec: BackendSpec | EncoderSpec) -> str:
        return "missing" if spec.name in missing.split() else "none" if spec.name in bare.split() else "present"

    return build_catalog(plugins, own.split(), state)


def route_of(
    query: object = None, here: Catalog | None = None, licences: object = "commercial", **more: object
) -> Route:
    parsed_queries = None if query is None else parse_queries(query)  # type: ignore[arg-type]
    request = Request(parsed_queries=parsed_queries, licences=checked_licences(licences), **more)  # type: ignore[arg-type]
    return resolve(request, here or installed(*ALL))


@pytest.mark.parametrize(("licences", "licence", "is_allowed"), [
    ("MIT", "MIT", True), ("mit", "MIT", True), ("MIT", "Apache-2.0", False), ("MIT", "", False),
    (["MIT", "ISC"], "ISC", True), ("MIT", "MIT OR GPL-3.0-only", True), ("MIT", "MIT AND CC-BY-4.0", False),
    (["MIT", "CC-BY-4.0"], "MIT AND CC-BY-4.0", True), ("CC-BY-4.0", "MIT AND ISC OR CC-BY-4.0", True),
    ("commercial", "CC-BY-SA-4.0", True), ("Commercial", "MIT OR Apache-2.0", True), ("commercial", "", False),
    ("commercial", "CC-BY-NC-4.0", False), ("commercial", "MIT AND CC-BY-NC-4.0", False),
    (["commercial", "CC-BY-NC-4.0"], "CC-BY-NC-4.0", True), (None, "", True), (None, "CC-BY-NC-4.0", True),
])  # fmt: skip
def test_a_licence_is_allowed_by_its_name(licences: object, licence: str, is_allowed: bool) -> None:
    entry = CatalogEntry(backend("x", licence), "dist", "present")
    assert allows(checked_licences(licences), entry) is is_allowed


def test_commercial_is_spelt_out_and_others_can_stand_beside_it() -> None:
    assert checked_licences(["commercial", "GPL-3.0-only"]) == (*COMMERCIAL, "GPL-3.0-only")
    assert (checked_licences("MIT"), checked_licences(None)) == (("MIT",), ())


def test_no_licence_for_commercial_use_forbids_it() -> None:
    assert {"MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0"} <= set(COMMERCIAL)
    assert not [name for name in COMMERCIAL if "NC" in name or " " in name]


@pytest.mark.parametrize(
    "licences", ["", [], (), [""], ["MIT", 1], [None], 3, b"MIT", "not stated", "MIT,ISC", {"MIT": 1}]
)
def test_what_names_no_licence_is_refused(licences: object) -> None:
    with pytest.raises(OptionError, match=r"licences=.*SPDX names"):
        checked_licences(licences)


def test_stems_come_from_who_is_allowed_and_the_plan_names_who_is_not() -> None:
    route = route_of()
    assert {choice.backend for choice in route.plan.values()} == {"spleeter"}
    assert route.plan.reason == "'spleeter' gives these stems directly. licences= leaves out 'htdemucs' (not stated)."
    assert route.plan.is_complete and not route.warning, "the caller wanted it so"
    assert "licences" not in route_of(licences=None).plan.reason
    assert route_of(licences=None).plan["bass"].backend == "htdemucs"


def test_a_query_goes_to_who_is_allowed() -> None:
    assert route_of("bass").plan["bass"].backend == "spleeter"
    assert "leaves out 'htdemucs' (not stated)." in route_of("bass").plan["bass"].reason
    oboe = route_of("oboe").plan["oboe"]
    assert (oboe.backend, oboe.encoder) == ("htdemucs-film", "b-encoder")
    assert oboe.reason.endswith("licences= leaves out 'a-encoder' (CC-BY-NC-4.0).")


def test_nobody_is_named_who_would_not_answer() -> None:
    assert route_of("oboe", installed(HTDEMUCS, FILM, OTHER_ENCODER)).plan.reason == "'htdemucs-film' answers queries."
    away = installed(HTDEMUCS, FILM, OTHER_ENCODER, missing="htdemucs")
    assert route_of("bass", away).warning == "", "who may not answer is not advised"
    assert "unisep models pull htdemucs" in route_of("bass", away, None).warning


def test_the_query_model_steps_in_for_stems_that_nobody_else_may_give() -> None:
    route = route_of(here=installed(HTDEMUCS, FILM, OTHER_ENCODER))
    assert {choice.backend for choice in route.plan.values()} == {"htdemucs-film"}
    assert route.warning == (
        "The stems come from 'htdemucs-film', weaker than a model for all stems, since no backend with fixed stems is allowed "
        "(licences= leaves out 'htdemucs' (not stated))."
    )


def test_what_has_no_weights_and_the_users_own_is_always_allowed() -> None:
    assert route_of(here=installed(HTDEMUCS, SPLEETER, bare="htdemucs")).plan["bass"].backend == "htdemucs"
    own = installed(HTDEMUCS, SPLEETER, own="dist-htdemucs:htdemucs")
    route = route_of(here=own, backend="dist-htdemucs:htdemucs", own_stems=("x",))
    assert list(route.plan) == ["x"]


@pytest.mark.parametrize("options", [
    {"backend": "htdemucs"}, {"backend": "dist-htdemucs:htdemucs", "query": "bass"},
    {"query_backend": "htdemucs-film", "licences": "MIT", "query": "oboe"}, {"encoder": "a-encoder", "query": "oboe"},
])  # fmt: skip
def test_who_is_named_must_be_allowed(options: dict) -> None:
    licence = {"htdemucs-film": "CC-BY-SA-4.0", "a-encoder": "CC-BY-NC-4.0"}
    name = (options.get("backend") or options.get("query_backend") or options["encoder"]).split(":")[-1]
    message = f"The licence of '{name}' is {licence.get(name, 'not stated')}, which licences= does not allow. Allowed: "
    with pytest.raises(OptionError, match=f"{message}.*MIT"):
        route_of(**options)


def test_where_nobody_is_allowed_the_error_says_who_is_left_out() -> None:
    with pytest.raises(PluginError, match=r"licences= leaves out 'htdemucs-film' \(CC-BY-SA-4.0\)\)"):
        route_of("oboe", installed(FILM, OTHER_ENCODER), "Apache-2.0")
    with pytest.raises(
        PluginError, match=r"No installed encoder gives the space space \(licences= leaves out 'a-encoder'"
    ):
        route_of("oboe", installed(FILM, ENCODER))
    many = [backend(f"nc-{number}", "CC-BY-NC-4.0", spaces=("space",)) for number in range(5)]
    with pytest.raises(
        DownloadError, match=r"never downloads \(licences= leaves out .*'nc-2' \(CC-BY-NC-4.0\), 2 others\)"
    ):
        route_of("oboe", installed(*many, FILM, OTHER_ENCODER, missing="htdemucs-film"))


def test_a_rule_cannot_send_a_query_to_who_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisep.routing.rules.load_function", lambda _: lambda _: Direction(backend="nc"))
    here = installed(
        *ALL, backend("nc", "CC-BY-NC-4.0", spaces=("space",)), RouteSpec(name="rule", load="m:f", summary="")
    )
    route = route_of("oboe", here)
    assert route.plan["oboe"].backend == "htdemucs-film"
    expected = "The rule 'rule' of dist-rule was left out for 'oboe': licences= leaves out 'nc' (CC-BY-NC-4.0)"
    assert route.warning == expected
    assert route_of("oboe", here, None).plan["oboe"].backend == "nc"


def test_candidates_say_who_is_not_allowed() -> None:
    request = Request(licences=("MIT",))
    listed = {candidate.backend.name: candidate for candidate in candidates(None, request, installed(*ALL))}
    assert listed["spleeter"].is_able and not listed["htdemucs"].is_able
    assert listed["htdemucs"].reason == (
        "The licence of 'htdemucs' is not stated, which licences= does not allow. Allowed: MIT."
    )


def better_than_here(query: str, here: Catalog, licences: object = None) -> list[tuple[str, str]]:
    request = Request(licences=checked_licences(licences))
    return [(one.backend.name, one.stem) for one in stronger(query, request, here)]


def test_stronger_are_specialists_that_are_not_here_by_their_figures() -> None:
    figures = {"a": {"vocals": 9.0}, "b": {"vocals": 11.0, "drums": 1.0}, "c": {"vocals": 10.0}}
    a, b, c = (replace(backend(name, "MIT", ("drums", "vocals")), card=name) for name in "abc")
    unmeasured = backend("unmeasured", "ISC", ("vocals",))
    classic = replace(backend("classic", "MIT", ("vocals",)), only_by_name=True)
    specs = (a, b, c, unmeasured, classic, FILM, OTHER_ENCODER)

    def here(missing: str) -> Catalog:
        return replace(installed(*specs, missing=missing), quality=lambda card: figures.get(card, {}))

    nobody = here("a b c unmeasured classic")
    best_first = [("b", "vocals"), ("c", "vocals"), ("a", "vocals"), ("unmeasured", "vocals")]
    assert better_than_here("singing", nobody) == best_first
    assert better_than_here("vocals", nobody, "ISC") == best_first[-1:]
    assert better_than_here("vocals", here("a b unmeasured")) == best_first[:1], "c is here"
    assert better_than_here("vocals", here("a c unmeasured")) == [], "the best is here"
    assert better_than_here("drums", here("a b")) == [("b", "drums")], "of c no figure is known"
    assert better_than_here("backing vocals", nobody) == better_than_here("oboe", nobody) == []


def test_every_member_of_an_ensemble_must_be_allowed(tmp_path: Path) -> None:
    here = installed(HTDEMUCS, SPLEETER)
    both = Ensemble(members=[{"backend": "spleeter"}, {"backend": "htdemucs"}])
    with pytest.raises(OptionError, match="The licence of 'htdemucs' is not stated"):
        assemble(both, here, ("MIT",))
    assert len(assemble(both, here).members) == 2
    (tmp_path / "own").touch()
    own = Ensemble(members=[{"backend": "spleeter"}, {"backend": "htdemucs", "path": str(tmp_path / "own")}])
    assert len(assemble(own, here, ("MIT",)).members) == 2


def test_a_spec_that_states_no_licence_has_that_of_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "licensed"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "card.toml").write_text(
        'name = "x"\nsummary = "s"\nlicence = "MIT"\n[[files]]\nname = "w"\nurl = "https://example.org/w"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    carded = replace(HTDEMUCS, card="licensed:card.toml")
    assert route_of(here=installed(carded, SPLEETER)).plan["bass"].licence == "MIT"
    damaged = replace(HTDEMUCS, card="licensed:nowhere.toml")
    assert route_of(here=installed(damaged, SPLEETER)).plan["bass"].backend == "spleeter"
