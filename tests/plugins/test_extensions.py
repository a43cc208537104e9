"""The hooks beside backends and encoders, and the examples that show them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from unisep import (
    Audio,
    BackendSpec,
    CommandSpec,
    Direction,
    EncoderSpec,
    Question,
    ResultSpec,
    RouteSpec,
    Separator,
    hookimpl,
    plugins,
)
from unisep.cli import main
from unisep.errors import AudioFileError, OptionError, PluginError
from unisep.query.parsed import parse_queries
from unisep.routing.catalog import build_catalog
from unisep.routing.router import resolve
from unisep.routing.types import Request
from unisep.separation import total
from unisep.testing import signals
from unisep.testing.toy import SPACE, toy_plugin

HOOKS = Path(__file__).parents[2] / "examples" / "hooks"
ASKED: list[object] = []  # what the hooks below were called with


@pytest.fixture(autouse=True)
def only_toys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    plugins.refresh()
    ASKED.clear()
    with toy_plugin():
        yield
    plugins.refresh()
    for name in {"level", "german", "gate"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mixture = signals.mix(signals.tone(80, 1.2), signals.noise(1.2), signals.tone(9_000, 1.2, peak=0.2))
    soundfile.write(tmp_path / "song.wav", mixture.samples.T, 44_100, subtype="FLOAT")
    return tmp_path / "song.wav"


def extended(hook: str, *specs: object, name: str = "extra"):
    """A `with` block in which a plugin returns `specs` from one hook."""
    module = SimpleNamespace(**{hook: hookimpl(lambda: list(specs))})
    return plugins.registered(module, name)


def here(name: str) -> str:
    """The load string of a function of this file."""
    setattr(sys.modules.setdefault("extension_hooks", SimpleNamespace()), name, globals()[name])  # type: ignore[arg-type]
    return f"extension_hooks:{name}"


# --- commands


def hello(arguments: list[str]) -> int | None:
    ASKED.append(arguments)
    match arguments[:1]:
        case ["fail"]:
            raise AudioFileError("no such song")
        case ["crash"]:
            return 1 // 0
        case ["exit"]:
            sys.exit(int(arguments[1]))
        case ["say"]:
            sys.exit("in words")
        case ["code"]:
            return int(arguments[1])
        case ["disk"]:
            raise OSError("no space left")
        case ["nonsense"]:
            return "yes"  # type: ignore[return-value]
    return None


def command(name: str = "hello") -> CommandSpec:
    return CommandSpec(name=name, load=here("hello"), summary="say hello")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, ""),
        (["--json", "-q"], 0, ""),
        (["code", "7"], 7, ""),
        (["exit", "3"], 3, ""),
        (["say"], 1, "in words"),
        (["fail"], 1, "unisep: error: no such song"),
        (["crash"], 1, "The command registered:hello failed: ZeroDivisionError"),
        (["crash"], 1, "UNISEP_DEBUG=1"),
        (["-x", "--strict", "b"], 0, ""),
        (["--plug", "zz", "--s"], 0, ""),
        (["nonsense"], 1, "returned 'yes', not an exit code"),
        (["disk"], 1, "unisep: error: no space left. Check the disk"),
    ],
)
def test_a_command_gets_its_words_and_gives_the_exit_code(words, code, said, capsys) -> None:
    with extended("unisep_commands", command()):
        assert main(["hello", *words]) == code
    assert [words] == ASKED
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_debug_shows_where_a_command_failed(monkeypatch) -> None:
    monkeypatch.setenv("UNISEP_DEBUG", "1")
    with extended("unisep_commands", command()):
        with pytest.raises(ZeroDivisionError):
            main(["hello", "crash"])
        monkeypatch.delenv("UNISEP_DEBUG")
        with pytest.raises(AudioFileError):
            main(["hello", "fail", "--debug"])


@pytest.mark.parametrize("name", ["align", "evaluate"])
def test_a_command_of_unisep_that_is_a_plugin_of_its_own_says_how_to_get_it(name, capsys, monkeypatch) -> None:
    for words in ([name], [name, "--help"], [name, "x", "--json"]):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert not out and "not installed" in err and err.rstrip().endswith(f"Run: pip install unisep-{name}")
    monkeypatch.undo()
    monkeypatch.setenv("UNISEP_PLUGINS", f"-unisep-{name}")
    plugins.refresh()
    assert main([name]) == 1
    assert f"unisep-{name}, which is blocked: UNISEP_PLUGINS='-unisep-{name}' leaves it out." in capsys.readouterr().err


def test_a_command_of_unisep_that_is_a_plugin_of_its_own_gets_the_options_on_plugins(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("unisep.cli._DISTRIBUTIONS", {"hello": "registered"})
    with extended("unisep_commands", command()):
        assert main(["hello", "--plug", str(HOOKS / "gate.py"), "--strict-plugins", "x"]) == 0
    assert [[f"--plugin={HOOKS / 'gate.py'}", "--strict-plugins", "x"]] == ASKED


def test_commands_are_in_the_help_and_an_unknown_one_is_refused(capsys) -> None:
    with extended("unisep_commands", command()):
        assert main(["--help"]) == 0
        assert "say hello (of a plugin)" in capsys.readouterr().out
        assert main([]) == 2
        assert main(["hallo"]) == 2
        assert "hello" in capsys.readouterr().err
    assert main(["hello"]) == 2


def test_a_command_cannot_take_the_name_of_one_of_unisep_or_of_another_plugin(capsys) -> None:
    with (
        extended("unisep_commands", command("plugins"), command("same")),
        extended("unisep_commands", command("same"), name="other"),
    ):
        assert main(["plugins", "--json"]) == 0
        assert ASKED == [] and json.loads(capsys.readouterr().out)
        assert main(["registered:plugins", "x"]) == 0
        assert ASKED == [["x"]]
        assert main(["same"]) == 1
        err = capsys.readouterr().err
        assert "'extra' of registered and 'other' of registered both offer a command named 'same'" in err
        assert "Give only one of them" in err and "registered:same" not in err


def test_the_help_withstands_whatever_commands_plugins_have(capsys) -> None:
    odd = replace(command("odd"), summary="removes 50% of noise, %(prog)s")
    with (
        extended("unisep_commands", command("separate"), command("same"), odd),
        extended("unisep_commands", command("same"), name="other"),
    ):
        assert main(["--help"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "removes 50% of noise, %(prog)s (of a plugin)" in out
        assert "same" not in out.replace("the same", "") and out.count("(of a plugin)") == 1
        assert main(["nothing-of-this-name"]) == 2
        assert "odd" in capsys.readouterr().err


def test_shortened_options_on_plugins_are_for_commands_of_unisep_alone(capsys) -> None:
    assert main(["explain", "--plug", "nowhere.py"]) == 1
    assert "nowhere.py" in capsys.readouterr().err
    with extended("unisep_commands", command()):
        assert main(["--plug", "nowhere.py", "hello"]) == 2


def test_commands_of_one_name_in_two_files_are_told_apart(tmp_path: Path, capsys) -> None:
    words = ["same"]
    for name in ("here_first", "here_second"):
        (tmp_path / f"{name}.py").write_text(
            "from unisep import CommandSpec, hookimpl\n@hookimpl\ndef unisep_commands():\n"
            "    return [CommandSpec(name='same', load='json:loads', summary='')]\n"
        )
        words += ["--plugin", str(tmp_path / f"{name}.py")]
    assert main(words) == 1
    assert "here_first.py and here_second.py both offer a command" in capsys.readouterr().err


def test_plugins_are_not_listed_for_a_command_of_unisep(monkeypatch) -> None:
    monkeypatch.setattr(plugins, "installed", lambda *_, **__: pytest.fail("listed"))
    assert main(["separate", "--help"]) == 0
    assert main(["--version"]) == 0


# --- routes


def rule(question: Question) -> Direction | None:
    ASKED.append(question)
    return DIRECTIONS[question.name]


DIRECTIONS: dict[str, Direction | None] = {}


def planned(query: object = "x", *rules: RouteSpec, direction: object = None, **request: object):
    """The route of a query under a rule that answers `direction`."""
    DIRECTIONS.clear()
    parsed_queries = parse_queries(query)
    DIRECTIONS.update({parsed.name: direction for parsed in parsed_queries})  # type: ignore[dict-item]
    specs = rules or (RouteSpec(name="mine", load=here("rule"), summary=""),)
    with extended("unisep_routes", *specs):
        known = build_catalog(plugins.installed(), (), lambda spec: MISSING.get(spec.name, "none"))
    return resolve(Request(parsed_queries=parsed_queries, **request), known)  # type: ignore[arg-type]


MISSING: dict[str, str] = {}


def test_a_rule_knows_the_question_and_may_leave_it() -> None:
    route = planned({"text": "x", "exclude": "y"})
    assert [
        Question("x", ("x",), frozenset({"text"}), True, {"toy": ("low", "high"), "toy-pan": ("left", "right")})
    ] == ASKED
    assert route.plan["x"].reason == "'toy' answers queries."


def test_a_rule_sends_a_query_to_a_stem_and_says_why() -> None:
    route = planned(direction=Direction(stem="left", reason="x is on the left."))
    assert route.plan["x"].backend == "toy-pan" and route.plan["x"].encoder is None
    assert route.tasks[0].targets[0].stem == "left"
    assert "The rule 'mine' of registered sent it there: x is on the left." in route.plan["x"].reason
    assert route.warning == ""


def test_a_rule_gives_other_words_and_the_result_keeps_its_name() -> None:
    route = planned("links", direction=Direction(text="left"))
    assert route.plan["links"].backend == "toy-pan", "the new words plainly name a stem"
    assert "asks for the stem 'left' of 'toy-pan'" in route.plan["links"].reason
    route = planned("Trommel", direction=Direction(text="drums"))
    (target,) = route.tasks[0].targets
    assert target.name == "Trommel" and target.parsed is not None and target.parsed.query.texts == ("drums",)


def test_what_the_caller_chose_is_not_overruled() -> None:
    route = planned(direction=Direction(stem="left"), route="conditioned")
    assert route.plan["x"].backend == "toy"
    route = planned(direction=Direction(stem="low"), backend="toy")
    assert route.plan["x"].backend == "toy" and route.tasks[0].targets[0].stem == "low"
    route = planned(direction=Direction(backend="nowhere", encoder="nobody"), query_backend="toy", encoder="toy")
    assert route.plan["x"].backend == "toy" and route.warning == ""


def test_queries_may_go_to_several_backends() -> None:
    from unisep import BackendSpec

    second = BackendSpec(name="zweit", load="unisep.testing.toy:load_backend", summary="", spaces=("toy-bands-1",))
    with extended("unisep_backends", second, name="two"):
        route = planned(["x", "y"], direction=Direction(backend="zweit", encoder="toy"))
        assert {choice.backend for choice in route.plan.values()} == {"zweit"}
        DIRECTIONS["y"] = None
        with extended("unisep_routes", RouteSpec(name="mine", load=here("rule"), summary="")):
            song = signals.noise(0.3)
            both = Separator().separate(song, query=["x", "y"])
        assert (both.plan["x"].backend, both.plan["y"].backend) == ("zweit", "toy")
        assert np.abs(total([*both.values(), both.rest]).samples - song.samples).max() < 1e-6


@pytest.mark.parametrize(
    ("direction", "why"),
    [
        (Direction(stem="middle"), "no backend whose weights are here has the stem 'middle'"),
        (Direction(stem="left", backend="toy"), "'toy' has no stem 'left'"),
        (Direction(backend="nowhere"), "No backend named 'nowhere'"),
        (Direction(backend="toy-pan"), "'toy-pan' answers no queries"),
        (Direction(encoder="nobody"), "No encoder named 'nobody'"),
        (Direction(text=7), "neither a Direction of texts nor None"),  # type: ignore[arg-type]
        ("left", "neither a Direction of texts nor None"),
    ],
)
def test_a_direction_that_cannot_be_followed_is_left_out_aloud(direction: object, why: str) -> None:
    route = planned(direction=direction)
    assert route.plan["x"].reason == "'toy' answers queries."
    assert "The rule 'mine' of registered was left out for 'x': " in route.warning
    assert why in route.warning


@pytest.mark.parametrize(
    ("direction", "request_", "query"),
    [
        (Direction(encoder="foreign"), {"query_backend": "toy"}, "x"),
        (Direction(encoder="deaf"), {"query_backend": "toy"}, {"audio": signals.noise(0.2), "name": "x"}),
        (Direction(backend="foreign"), {"encoder": "toy"}, "x"),
    ],
)
def test_a_direction_that_does_not_fit_is_left_out_aloud(direction, request_, query) -> None:
    encoders = [
        EncoderSpec(name="foreign", load="a:b", space="other-1"),
        EncoderSpec(name="deaf", load="a:b", space=SPACE, modalities=frozenset({"text"})),
    ]
    backend = BackendSpec(name="foreign", load="a:b", summary="", spaces=("other-1",))
    with extended("unisep_encoders", *encoders, name="one"), extended("unisep_backends", backend, name="two"):
        route = planned(query, direction=direction, **request_)
    assert route.plan["x"].backend == "toy"
    assert "The rule 'mine' of registered was left out for 'x': " in route.warning


def test_a_rule_never_sends_where_weights_are_missing(monkeypatch) -> None:
    monkeypatch.setitem(MISSING, "toy-pan", "missing")
    route = planned(direction=Direction(stem="left"))
    assert route.plan["x"].backend == "toy" and "whose weights are here" in route.warning
    route = planned("links", direction=Direction(text="left", reason="it is German"))
    assert "a weaker model for this stem" in route.plan["links"].reason, "a substitute is never silent"
    assert "The rule 'mine' of registered sent it there: it is German." in route.plan["links"].reason


def failing(question: Question) -> Direction:
    raise ValueError("oops")


def test_a_rule_that_fails_is_left_out_aloud_and_the_next_is_asked() -> None:
    first = RouteSpec(name="first", load=here("failing"), summary="")
    lost = RouteSpec(name="lost", load="nowhere:at_all", summary="")
    second = RouteSpec(name="mine", load=here("rule"), summary="")
    route = planned("x", first, lost, second, direction=Direction(stem="right"))
    assert route.tasks[0].targets[0].stem == "right"
    assert "'first' of registered was left out for 'x': it failed with ValueError: oops" in route.warning
    assert "Cannot load 'lost'" in route.warning


def test_words_for_a_query_without_any_are_refused() -> None:
    clip = signals.tone(80, 0.2)
    route = planned(clip, direction=Direction(text="drums"))
    assert "it gives other words for a query without any" in route.warning


def test_embed_asks_the_rules_too() -> None:
    DIRECTIONS.update({"Trommel": Direction(text="drums")})
    plain = Separator().embed("drums")
    with extended("unisep_routes", RouteSpec(name="mine", load=here("rule"), summary="")):
        assert np.array_equal(Separator().embed("Trommel").vector, plain.vector)


# --- results


def halved(targets, mixture):
    ASKED.append((targets, mixture))
    return {name: Audio(audio.samples / 2, audio.sample_rate_hz) for name, audio in reversed(targets.items())}


def step(function: str = "halved") -> ResultSpec:
    return ResultSpec(name="mine", load=here(function), summary="half as loud")


@pytest.mark.parametrize("query", [None, "drums", ["drums", "bass"]])
def test_results_go_through_a_step_and_still_sum_to_the_recording(query: object) -> None:
    song = signals.mix(signals.noise(1.3), signals.tone(80, 1.3))
    before = song.samples.copy()
    plain = Separator("toy").separate(song, query=query)
    with extended("unisep_results", step()):
        stepped = Separator("toy").separate(song, query=query)
    assert list(stepped) == list(plain)
    for name in plain:
        assert np.array_equal(stepped[name].samples, plain[name].samples / 2)
        assert stepped.plan[name].reason == f"{plain.plan[name].reason} Then: 'mine' of registered."
    assert np.abs(total([*stepped.values(), stepped.rest]).samples - song.samples).max() < 1e-6
    assert not np.array_equal(stepped.rest.samples, plain.rest.samples)
    assert np.array_equal(song.samples, before)


def test_what_a_step_gets_is_read_only() -> None:
    with extended("unisep_results", step()):
        Separator("toy-pan").separate(signals.noise(0.3))
    (targets, mixture), *_ = ASKED  # type: ignore[misc]
    for audio in (*targets.values(), mixture):
        with pytest.raises(ValueError, match="read-only"):
            audio.samples[0, 0] = 1
    with pytest.raises(TypeError):
        targets["left"] = mixture


def shorter(targets, mixture):
    return {name: Audio(audio.samples[:, 1:], audio.sample_rate_hz) for name, audio in targets.items()}


def slower(targets, mixture):
    return {name: Audio(audio.samples, 8_000) for name, audio in targets.items()}


def fewer(targets, mixture):
    return dict(list(targets.items())[1:])


def not_finite(targets, mixture):
    return {name: Audio(audio.samples / 0, audio.sample_rate_hz) for name, audio in targets.items()}


def nothing(targets, mixture):
    return None


def arrays(targets, mixture):
    return {name: audio.samples for name, audio in targets.items()}


def in_place(targets, mixture):
    for audio in targets.values():
        audio.samples[:] = 0
    return targets


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("shorter", "came back as Audio"),
        ("slower", "8000 Hz"),
        ("fewer", "it returned right, and was given left, right"),
        ("nothing", "returned NoneType"),
        ("arrays", "not a mapping of names to Audio"),
        ("not_finite", "NaN or infinity"),
        ("in_place", "read-only"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_step_that_breaks_its_promise_is_named(function: str, why: str) -> None:
    with extended("unisep_results", step(function)), pytest.raises(PluginError) as error:
        Separator("toy-pan").separate(signals.noise(0.3))
    assert "The result step 'mine' of registered failed" in str(error.value)
    assert why in str(error.value) and "leave out plugins=" in str(error.value)


def test_a_stream_says_how_to_go_without_a_step() -> None:
    with extended("unisep_results", step()), pytest.raises(OptionError, match="leave out plugins="):
        Separator("toy-pan").stream([], sample_rate_hz=44_100)


def test_steps_follow_each_other() -> None:
    song = signals.noise(0.3)
    with extended("unisep_results", step(), replace(step(), name="again")):
        stepped = Separator("toy-pan").separate(song)
    assert np.array_equal(stepped["left"].samples[0], song.samples[0] / 4)
    assert "Then: 'mine' of registered, 'again' of registered." in stepped.plan.reason


# --- the examples, by the command line alone


def test_the_example_of_a_command(song: Path, capsys) -> None:
    assert main(["level", "song.wav", "--plugin", str(HOOKS / "level.py")]) == 0
    samples = soundfile.read(song)[0]
    peak = 20 * np.log10(np.abs(samples).max())
    assert f"song.wav: peak {peak:.1f} dB, mean " in capsys.readouterr().out
    assert main(["level", "nowhere.wav", "--plugin", str(HOOKS / "level.py")]) == 1
    assert "nowhere.wav" in capsys.readouterr().err
    assert main(["level", "--help", "--plugin", str(HOOKS / "level.py")]) == 0
    assert "Say how loud" in capsys.readouterr().out
    assert main(["--help", "--plugin", str(HOOKS / "level.py")]) == 0
    assert "say how loud recordings are (of a plugin)" in capsys.readouterr().out


def test_the_example_of_a_rule(song: Path, capsys) -> None:
    asked = ["separate", "song.wav", "-q", "Schlagzeug", "--json", "-o"]
    assert main([*asked, "out", "--plugin", str(HOOKS / "german.py")]) == 0
    plan = json.loads(capsys.readouterr().out)["files"][0]["plan"]
    assert "'Schlagzeug' is German for 'drums'" in plan["Schlagzeug"]["reason"]
    assert main(["separate", "song.wav", "-q", "drums", "-o", "plain"]) == 0
    german, english = (soundfile.read(place)[0] for place in ("out/song/Schlagzeug.wav", "plain/song/drums.wav"))
    assert np.array_equal(german, english)


def test_the_example_of_a_step(song: Path) -> None:
    low, high = (signals.tone(hertz, 0.6).samples.T for hertz in (80, 9_000))
    soundfile.write(song, np.concatenate([low, high]), 44_100, subtype="FLOAT")
    asked = ["separate", "song.wav", "-q", "hat", "--query-backend", "toy", "-o"]
    assert main([*asked, "plain"]) == 0
    assert main([*asked, "gated", "--plugin", str(HOOKS / "gate.py")]) == 0
    mixture, _ = soundfile.read(song, dtype="float32")
    parts = {
        (folder, name): soundfile.read(f"{folder}/song/{name}.wav", dtype="float32")[0]
        for folder in ("plain", "gated")
        for name in ("hat", "rest")
    }
    assert parts["plain", "hat"][:20_000].any() and not parts["gated", "hat"][:20_000].any()
    assert np.array_equal(parts["plain", "hat"][-20_000:], parts["gated", "hat"][-20_000:])
    for folder in ("plain", "gated"):
        assert np.abs(parts[folder, "hat"] + parts[folder, "rest"] - mixture).max() < 1e-6


def test_resume_notices_a_plugin_that_has_changed(song: Path, tmp_path: Path, capsys) -> None:
    mine = tmp_path / "mine" / "gate.py"
    mine.parent.mkdir()
    mine.write_text((HOOKS / "gate.py").read_text())
    asked = ["separate", "song.wav", "--backend", "toy-pan", "--json", "-o", "out", "--resume", "--plugin", str(mine)]

    def state(*more: str) -> str:
        assert main([*asked, *more]) == 0
        return json.loads(capsys.readouterr().out)["files"][0]["state"]

    assert [state(), state(), state("--strict-plugins")] == ["done", "skipped", "skipped"]
    mine.write_text(mine.read_text().replace("-30.0", "-20.0"))
    assert state() == "done"


def test_the_step_of_the_example_silences_what_is_far_below(monkeypatch) -> None:
    song = signals.tone(440, 0.5, channels=1)
    quiet = Audio(song.samples * np.float32(0.01), song.sample_rate_hz)
    with plugins.using(HOOKS / "gate.py"):
        from unisep.session.compose import run_step

        known = build_catalog(plugins.installed(), (), lambda spec: "none")
        gated = run_step(known.steps[0], {"quiet": quiet, "loud": song}, song)
    assert not gated["quiet"].samples.any()
    assert np.array_equal(gated["loud"].samples, song.samples)


@pytest.mark.parametrize("name", ["level", "german", "gate"])
def test_an_example_imports_nothing_heavy_to_be_listed(name: str) -> None:
    code = (
        f"import sys; from unisep import plugins; (p,) = plugins.given([{str(HOOKS / name)!r} + '.py']);"
        "print(p.state, [spec.name for spec in p.specs], {'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"ok ['{name}'] set()"
