import json
import math
import os
import signal
import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

import unisep
from unisep import files
from unisep.cli import arguments as question_arguments
from unisep.cli import console, main
from unisep.errors import AudioFileError, OptionError, QueryError
from unisep.testing import noise


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["separate", "--help"],
        ["plugins", "--help"],
        ["models", "--help"],
        ["models", "pull", "--help"],
        ["models", "recommend", "--help"],
        ["embed", "--help"],
        ["learn", "--help"],
        ["doctor", "--help"],
        ["--version"],
    ],
)
def test_help_and_version_go_to_stdout_with_code_0(argv, capsys):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out and not err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["seperate"], "seperate"),
        ([""], "COMMAND"),
        (["separate"], "INPUT"),
        (["separate", "x.wav", "--nope"], "--nope"),
        (["separate", "x.wav", "--time-range", "60-30"], "30-60"),
        (["separate", "x.wav", "--time-range", "1:2:x-4"], "is no range"),
        (["separate", "x.wav", "--stems", ","], "names nothing"),
        (["separate", "x.wav", "--mix", "text"], "text=0.3"),
        (["separate", "x.wav", "--precision", "half"], "float16"),
        (["separate", "x.wav", "--stems", "drums", "--two-stems", "bass"], "not allowed"),
        (["models"], "ACTION"),
        (["embed", "guitar"], "--out"),
        (["learn", "-o", "x.safetensors"], "CLIP"),
    ],
)
def test_wrong_usage_has_code_2_and_says_what_is_possible(argv, message, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2 and "--help" in err, "not a wall of usage"


def test_a_plugin_that_exits_in_the_midst_of_a_command_makes_no_success(monkeypatch, capsys):
    def leave(*_):
        sys.exit(0)

    monkeypatch.setattr("unisep.cli.plugins.plugins", leave)
    assert main(["plugins"]) == 1
    err = capsys.readouterr().err
    assert "something called sys.exit(0)" in err and "Traceback" not in err
    assert main(["plugins", "--debug"]) == 1
    assert "in leave" in capsys.readouterr().err


def test_times_and_ranges():
    assert question_arguments.seconds("90.5") == 90.5
    assert question_arguments.seconds("1:02:30") == 3750
    assert question_arguments.time_range("30-60") == (30, 60)
    assert question_arguments.time_range("0:30 - 1:00") == (30, 60)
    assert question_arguments.time_range("1:30-") == (90, math.inf)
    assert question_arguments.time_range("-30") == (0, 30)
    for text in ("-", "", "30", "60-30", "1-2-3", "a-b", "--3", "1:.-9"):
        with pytest.raises(ArgumentTypeError, match="is no range"):
            question_arguments.time_range(text)
    assert question_arguments.mix("text=0.3,audio=0.7") == {"text": 0.3, "audio": 0.7}


def test_help_plugins_and_models_load_neither_torch_nor_numpy():
    code = (
        "import sys; from unisep.cli import main\n"
        "codes = [main(['--help']), main(['plugins']), main(['plugins', '--json']), main(['models', 'list'])]\n"
        "heavy = {'torch', 'numpy', 'transformers', 'scipy', 'soundfile'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "unisep", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"unisep {unisep.__version__}"


@pytest.mark.parametrize(
    ("error", "code"), [(OptionError("o"), 2), (QueryError("q"), 2), (AudioFileError("a"), 1), (RuntimeError("r"), 1)]
)
def test_an_error_becomes_one_line_and_an_exit_code(error, code, monkeypatch, capsys):
    def failing(_arguments, _console):
        raise error

    monkeypatch.setattr("unisep.cli.plugins.plugins", failing)
    assert main(["plugins"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("unisep: error: ") and "Traceback" not in err
    assert str(error) in err


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_debug_raises_the_error_itself(way, monkeypatch):
    def failing(_arguments, _console):
        raise AudioFileError("here")

    monkeypatch.setattr("unisep.cli.plugins.plugins", failing)
    monkeypatch.setenv("UNISEP_DEBUG", "1" if way == "variable" else "0")
    with pytest.raises(AudioFileError, match="here"):
        main(["plugins", "--debug"] if way == "flag" else ["plugins"])


def test_an_installation_without_one_of_its_modules_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "unisep.cli.doctor", None)
    assert main(["doctor"]) == 1
    assert "This installation is incomplete: import of unisep.cli.doctor halted" in capsys.readouterr().err


def test_interrupt_has_code_130(monkeypatch, capsys):
    def interrupted(_arguments, _console):
        raise KeyboardInterrupt

    monkeypatch.setattr("unisep.cli.plugins.plugins", interrupted)
    assert main(["plugins"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_interrupt_while_a_plugin_is_imported_has_code_130(tmp_path):
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    (tmp_path / "slow_import.py").write_text(code)
    command = [sys.executable, "-m", "unisep", "plugins", "--plugin", str(tmp_path / "slow_import.py")]

    def heed_interrupts():  # also where the tests run in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=heed_interrupts)
    assert (done.returncode, done.stderr) == (130, "unisep: interrupted\n")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_names_that_the_terminal_cannot_show_are_no_failure(tmp_path, more):
    """As on Windows, where a redirected stdout takes the letters of one code page only."""
    song = tmp_path / "日本.wav"
    files.write(song, noise(0.2))
    code = (
        "import sys; from unisep.cli import main; from unisep.testing import toy_plugin\n"
        "with toy_plugin():\n    sys.exit(main(sys.argv[1:]))"
    )
    argv = ["separate", str(song), "--backend", "toy", "--stems", "low", "-o", str(tmp_path / "out"), *more]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u65e5\u672c" in done.stdout
    assert not more or json.loads(done.stdout.decode("cp1252"))["n_done"] == 1


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m unisep plugins --json | head -c 1", shell=True, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr


def test_warnings_and_log_lines_are_plain_lines_on_stderr(capsys):
    import logging
    import warnings

    filters = list(warnings.filters)
    show = warnings.showwarning
    with console.Console():
        for _ in range(2):  # as for each file of a batch
            warnings.warn("a weaker model answers", stacklevel=1)
            logging.getLogger("unisep.session.prepare").warning("a weaker %s answers", "model")
        warnings.showwarning("not for users", DeprecationWarning, "file.py", 1)
        logging.getLogger("unisep.weights.store").info("Fetching %s", "x")
        logging.getLogger("unisep.weights.store").warning("x is damaged")
        print("data")
    out, err = capsys.readouterr()
    assert out == "data\n"
    assert err == "unisep: warning: a weaker model answers\nunisep: Fetching x\nunisep: warning: x is damaged\n"
    assert warnings.filters == filters and warnings.showwarning is show
    assert logging.getLogger("unisep").handlers == []


def test_of_two_consoles_the_inner_one_alone_speaks(capsys):
    import logging

    log = logging.getLogger("unisep.weights.store")
    with console.Console():
        with console.Console(quiet=True):
            log.info("kept to itself")
        with console.Console():
            log.info("said once")
        log.info("said by the outer one")
    assert capsys.readouterr().err == "unisep: said once\nunisep: said by the outer one\n"


def test_a_quiet_console_says_only_what_matters(capsys):
    with console.Console(quiet=True) as quiet:
        quiet.note("in passing")
        quiet.error(AudioFileError("no such file"))
        assert quiet.progress("song") is None
    assert capsys.readouterr().err == "unisep: error: no such file\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_commands_show_progress_only_to_those_who_look(quiet, monkeypatch, capsys):
    from unisep_evaluate import command as evaluating

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert (evaluating._progress(console.Console(quiet=quiet)) is None) == quiet


def test_progress_rewrites_one_line_of_a_terminal(monkeypatch, capsys):
    from unisep.progress import Progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.Console() as terminal:
        show = terminal.progress("song")
        assert show is not None
        show(Progress(0.5, 10.0, 20.0, 7.4, "separating"))
        terminal.note("done")
    err = capsys.readouterr().err
    assert "song: separating  50%, 7 s left" in err
    assert err.endswith("\x1b[2Kdone\n")


def test_json_is_the_only_thing_on_stdout(capsys):
    with console.Console(as_json=True) as machine:
        machine.lines(["for people"])
        machine.data({"name": "é"})
    assert json.loads(capsys.readouterr().out) == {"name": "é"}
