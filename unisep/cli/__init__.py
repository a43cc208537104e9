"""The command line: arguments and printing only. Data goes to stdout, all else to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module

from unisep.cli.arguments import FLAGS, debug_by_environment, parse, plugin_options
from unisep.cli.console import Console
from unisep.errors import EmbeddingError, OptionError, PluginError, QueryError, UnisepError, arguments_named_by
from unisep.plugins.loading import load_function
from unisep.plugins.registry import clash, installed, strictly, using
from unisep.plugins.specs import CommandSpec

__all__ = ["main"]

DONE, FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

_COMMANDS = {
    "separate": "unisep.cli.separate:separate",
    "plugins": "unisep.cli.plugins:plugins",
    "models list": "unisep.cli.models:show_list",
    "models pull": "unisep.cli.models:pull",
    "models verify": "unisep.cli.models:verify",
    "models card": "unisep.cli.models:show_card",
    "models recommend": "unisep.cli.models:recommend",
    "embed": "unisep.cli.questions:embed",
    "learn": "unisep.cli.questions:learn",
    "doctor": "unisep.cli.doctor:doctor",
    "explain": "unisep.cli.explain:explain",
    "new-plugin": "unisep.cli.plugins:new_plugin",
}
_OWN = {name.split()[0] for name in _COMMANDS}
_DISTRIBUTIONS = {name: f"unisep-{name}" for name in ("align", "evaluate", "live", "studio")}  # plugins of their own
_DISTRIBUTIONS |= {"catalogue": "unisep-ray", "export": "unisep-onnx", "serve": "unisep-studio"}
_INSPECTING = ("plugins", "doctor")  # these show a plugin that does not work instead of refusing to start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv`, by default in the arguments of this process, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # read with torch; waiting threads would take the cores of others
    with ExitStack() as stack:
        stack.enter_context(arguments_named_by(FLAGS))
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:  # closed by the caller, or without a console
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # no name of a file makes a success fail
        try:
            arguments = _parse(words, stack)
        except SystemExit as exit:  # argparse has printed the help, the version or what is wrong
            return int(exit.code or DONE)
        except KeyboardInterrupt:  # while a plugin is imported
            Console().say("unisep: interrupted")
            return INTERRUPTED
        except UnisepError as error:
            Console().error(error)
            return exit_code(error)
        return _run(arguments)


def exit_code(error: Exception) -> int:
    """Return what the process should exit with after this error."""
    is_wrong_usage = isinstance(error, OptionError | QueryError) and not isinstance(error, EmbeddingError)
    return WRONG_USAGE if is_wrong_usage else FAILED


def _parse(words: list[str], stack: ExitStack) -> Namespace:
    """Return the arguments; the plugins that they name are in force until `stack` is closed.

    Installed plugins are listed only if their commands matter.
    """
    options, rest = plugin_options().parse_known_args(words)
    name = rest[0] if rest else "--help"
    if name in _OWN or name in _DISTRIBUTIONS:  # a shortened option of another command may be the command's own
        options, rest = plugin_options(allow_abbrev=True).parse_known_args(words)
    if options.plugin:
        stack.enter_context(using(*options.plugin, must_work=name not in _INSPECTING))
    if options.strict_plugins:
        stack.enter_context(strictly())
    if name in _OWN or (name.startswith("-") and name not in ("-h", "--help")):
        return parse(words)
    offers = [(plugin, spec) for plugin in installed() for spec in plugin.specs_of(CommandSpec)]
    matches = [(plugin, spec) for plugin, spec in offers if name in (spec.name, f"{plugin.distribution}:{spec.name}")]
    if len(matches) > 1:
        owners = [(plugin.distribution, plugin.name) for plugin, _ in matches]
        raise PluginError(clash("command", matches[0][1].name, owners))
    if not matches and name in _DISTRIBUTIONS:
        raise PluginError(_how_to_get(name))
    if not matches:
        return parse(words, [(spec.name, spec.summary) for _, spec in offers])
    (plugin, spec), command_words = matches[0], rest[1:]
    if plugin.distribution in _DISTRIBUTIONS.values():  # these put all options into their reports
        strict = ["--strict-plugins"] if options.strict_plugins else []
        command_words = [*(f"--plugin={path}" for path in options.plugin), *strict, *command_words]
    debug = debug_by_environment() or "--debug" in command_words
    key = f"{plugin.distribution}:{spec.name}"
    return Namespace(command=spec, key=key, words=command_words, json=False, quiet=False, debug=debug)


def _how_to_get(name: str) -> str:
    """Return what to say of a command of unisep whose plugin does not work, or is not installed."""
    distribution = _DISTRIBUTIONS[name]
    for plugin in installed():
        if plugin.distribution == distribution and plugin.state != "ok":
            return f"`unisep {name}` is of the plugin {distribution}, which is {plugin.state}: {plugin.complaint}"
    return f"`unisep {name}` is a plugin of its own, and it is not installed. Run: pip install {distribution}"


def _run(arguments: Namespace) -> int:
    """Run the command, and return the exit code for whatever it ends with."""
    console = Console(as_json=arguments.json, quiet=arguments.quiet)
    try:
        with console, _terminated_in_order():
            return _run_command(arguments, console)
    except KeyboardInterrupt:
        console.say("unisep: interrupted")
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except BrokenPipeError:  # the reader of our stdout has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as exit:  # of a plugin at work, since no command of unisep's own exits
        if arguments.debug:
            traceback.print_exc()
        console.say(
            f"unisep: error: The work was not finished, since something called sys.exit({exit.code!r}), most likely a plugin. "
            "Run again with --debug to see where; `unisep plugins` lists the plugins."
        )
        return FAILED
    except Exception as error:
        if arguments.debug:
            raise
        console.error(error)
        return exit_code(error)


def _run_command(arguments: Namespace, console: Console) -> int:
    if isinstance(arguments.command, CommandSpec):
        return _run_of_plugin(arguments, console)
    module_name, _, function_name = _COMMANDS[arguments.command].partition(":")
    try:
        command = getattr(import_module(module_name), function_name)
    except ImportError as error:
        raise UnisepError(f"This installation is incomplete: {error}. Run: unisep doctor") from error
    return int(command(arguments, console))


def _run_of_plugin(arguments: Namespace, console: Console) -> int:
    try:
        code = load_function(arguments.command)(arguments.words)
    except SystemExit as exit:  # of the command's own argparse, say
        code = exit.code
        if isinstance(code, str):
            console.say(code)
            return FAILED
    except (UnisepError, OSError, MemoryError):
        raise
    except Exception as error:
        if arguments.debug:
            raise
        raise PluginError(
            f"The command {arguments.key} failed: {type(error).__name__}: {error}. "
            "Set UNISEP_DEBUG=1 to see where, and tell its author."
        ) from error
    if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
        raise PluginError(f"The command {arguments.key} returned {code!r}, not an exit code. Tell its author.")
    return code or DONE


class _Terminated(BaseException):
    """Somebody asked the process to end; nothing that handles errors may swallow it."""


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Open a `with` block that a SIGTERM leaves in order, so that files being written are removed."""

    def stop(*_: object) -> None:
        raise _Terminated

    may_handle = threading.current_thread() is threading.main_thread()  # Python allows it nowhere else
    before = signal.signal(signal.SIGTERM, stop) if may_handle else None
    try:
        yield
    finally:
        if may_handle:
            signal.signal(signal.SIGTERM, before)
